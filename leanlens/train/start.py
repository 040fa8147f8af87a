"""Where the weights of a run start.

Comes in: the `[init]` table and a fresh denoiser. Goes out: the same denoiser with the weights of an earlier run or of
a released model. Knows nothing of training.
"""

from pathlib import Path

import torch
from torch import Tensor

from leanlens.hub import locate
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.train.config import Init
from leanlens.train.export import is_run, run_weights
from leanlens.train.resume import named
from leanlens.weights.layouts import identify
from leanlens.weights.load import open_transformer


def load_start(denoiser: LensTransformer2DModel, init: Init) -> None:
    """Overwrite the weights with those that `init.from` names.

    Raises:
        ValueError: no such run or model, or one of other sizes.
    """
    if init.start is None:
        return
    if init.std is not None and not is_run(Path(init.start)):
        raise ValueError(f"init.std {init.std:g} is not accepted: init.from {init.start!r} is not the folder of a run")
    with named("init.from"):
        weights = start_weights(init.start, init.std)
    own = denoiser.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) or [name for name in own if own[name].shape != weights[name].shape]
    if wrong:
        raise ValueError(
            f"init.from {init.start!r} has other sizes than [model]: {wrong[0]} and {len(wrong) - 1} more differ"
        )
    denoiser.load_state_dict(weights)


def start_weights(start: str, std: float | None = None) -> dict[str, Tensor]:
    """The weights of a denoiser in float32, by name.

    Args:
        start: a run folder, a pipeline folder, a weight file or a preset.
        std: with a run folder, which of its averages.

    Raises:
        ValueError: no such run or model.
    """
    if is_run(Path(start)):
        return run_weights(Path(start), std)
    layout = identify(locate(start))
    path = layout.parts["transformer"].path if layout.component == "pipeline" else layout.path
    return open_transformer(path, torch.float32).state_dict()
