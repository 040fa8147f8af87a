"""Measures the latency of one image by stage, with a model that is already open.

It prints one JSON object: seconds of the text encoder, the denoising loop, the decoder and the whole generation
including the record, each the best of several; and the first generation, which compiles and allocates memory.

    python benchmarks/latency.py [--model nano] [--size 256] [--steps 20] [--cfg 5] [--dtype auto] [--compile]
                                 [--device auto] [--repeat 5] [--threads N] [--attention NAME] [--fp8] [--cache WORD]
                                 [--guided-share 1.0]
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import describe_machine

from leanlens.pipeline.draw import draw
from leanlens.pipeline.open import open_model
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.pipeline.request import ImageRequest
from leanlens.pipeline.speed import Speed

PROMPT = "A flat drawing of a red teapot on a wooden table, a blue cup to its left, on a plain light background."


def seconds_of(work: Callable[[], Any], repeat: int) -> dict[str, float]:
    """Best and median of `repeat` calls."""
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return {"best_s": round(min(taken), 4), "median_s": round(statistics.median(taken), 4)}


def stages_of(opened: OpenedModel, request: ImageRequest, repeat: int) -> dict[str, dict[str, float]]:
    """Each stage by itself, on what the stage before it gives."""
    pipeline = opened.pipeline
    positive, negative = opened.features(request)
    text = {"prompt_embeds": positive.layers, "prompt_mask": positive.mask}
    text |= {"negative_prompt_embeds": negative.layers, "negative_prompt_mask": negative.mask}

    def loop() -> torch.Tensor:
        return pipeline(
            **text, height=request.height, width=request.width, num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale, generator=torch.Generator().manual_seed(request.seed),
            guided_share=opened.speed.guided_share, output_type="latent",
        ).images  # fmt: skip

    latents, grid = loop(), (request.height // 16, request.width // 16)
    return {
        "encode": seconds_of(lambda: pipeline.encode_prompt(request.prompt, request.negative_prompt), repeat),
        "loop": seconds_of(loop, repeat),
        "decode": seconds_of(torch.no_grad()(lambda: pipeline._decode(latents, grid, "pil", None)), repeat),
        "picture": seconds_of(lambda: draw(opened, request), repeat),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=5.0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--attention")
    parser.add_argument("--fp8", action="store_true")
    parser.add_argument("--cache")
    parser.add_argument("--guided-share", type=float, default=1.0)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    machine = describe_machine()
    speed = Speed(attention=options.attention, fp8=options.fp8, cache=options.cache, guided_share=options.guided_share)
    opened = open_model(options.model, options.device, options.dtype, compile=options.compile, speed=speed)
    request = ImageRequest.checked(
        prompt=PROMPT, width=options.size, height=options.size, num_inference_steps=options.steps,
        guidance_scale=options.cfg, seed=1,
    )  # fmt: skip
    began = time.perf_counter()
    draw(opened, request)
    first = round(time.perf_counter() - began, 3)
    found = {
        "benchmark": "one picture on an opened model, by stage",
        "command": " ".join(["python", "benchmarks/latency.py", *sys.argv[1:]]),
        "machine": machine,
        "model": opened.identity() | opened.conditions(),
        "request": {"size": options.size, "steps": options.steps, "guidance": options.cfg},
        "first_picture_s": first,
        "stages": stages_of(opened, request, options.repeat),
    }
    found["machine"]["load_after"] = round(os.getloadavg()[0], 2)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
