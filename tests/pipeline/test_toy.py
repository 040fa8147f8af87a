"""The toy model is the same one every time."""

from concurrent.futures import ThreadPoolExecutor

import torch

from leanlens.pipeline.toy import toy_pipeline


def test_two_that_are_built_at_once_are_alike():
    with ThreadPoolExecutor(4) as threads:
        built = list(threads.map(toy_pipeline, [0, 1, 0, 1]))
    for one, other in ((built[0], built[2]), (built[1], built[3])):
        for part in ("transformer", "text_encoder", "vae"):
            weights = getattr(other, part).state_dict()
            for name, weight in getattr(one, part).state_dict().items():
                assert torch.equal(weight, weights[name]), name
