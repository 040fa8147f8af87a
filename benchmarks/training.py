"""Measures training throughput in images per second, and the effect of compilation, mixed sizes and packing.

It prints one JSON object. A step is forward, backward, clipping and AdamW of the real denoiser on random latents;
encoders are not included. All cases run in turns in the same process. Compare the ratios; the seconds depend on the
machine and its load.

    python benchmarks/training.py [--quick] [--eager] [--threads N] [--precision bfloat16|float32]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from machine import describe_machine
from transformer import peak_matmuls

from leanlens import dist
from leanlens.batches.encode import EncodedBatch
from leanlens.batches.pack import pack, predict_packed, sample_means, spread
from leanlens.config import checked
from leanlens.pipeline.features import TextFeatures
from leanlens.plan.compute import training_flops
from leanlens.train.config import TrainRecipe
from leanlens.train.denoiser_losses import denoiser_losses
from leanlens.train.denoiser_model import build_denoiser, freeze_unread, sizes_of
from leanlens.train.optim import build_optimizers, clip_gradients
from leanlens.train.parallel import computing, parallelize

# As many image tokens in one step of each case: 4 squares of 256, or one square and three other shapes and areas.
SINGLE = [((16, 16), 4)]
MIXED = [((16, 16), 2), ((12, 20), 1), ((8, 34), 1)]
TEXT_LENGTHS = (180, 60, 120, 90)  # dense captions differ; padding fills up to the longest of a micro-batch


def encoded(shapes: list[tuple[tuple[int, int], int]], quick: bool) -> list[EncodedBatch]:
    """One micro-batch of random latents and text features for each shape."""
    generator = torch.Generator().manual_seed(0)
    lengths = iter(length // (4 if quick else 1) for length in TEXT_LENGTHS)
    batches = []
    for (height, width), count in shapes:
        height, width = (height // 2, width // 2) if quick else (height, width)
        own = [next(lengths) for _ in range(count)]
        mask = torch.arange(max(own))[None] < torch.tensor(own)[:, None]
        layers = [torch.randn(count, max(own), 384, generator=generator) for _ in range(4)]
        latents = torch.randn(count, height * width, 128, generator=generator)
        keys = [str(row) for row in range(count)]
        batches.append(EncodedBatch(latents, (height, width), TextFeatures(layers, mask), keys, 0))
    return batches


def packed_losses(model: torch.nn.Module, batch, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """`denoiser_losses` of a packed row: (N,)."""
    level = spread(t, batch)
    predicted = predict_packed(model, batch, (1 - level) * batch.latents + level * noise, t)
    return sample_means((predicted.float() - (noise - batch.latents)).square(), batch)


class Case:
    """One way to make a step: a model of its own, its optimiser, and the micro-batches it is given."""

    def __init__(self, shapes: list, recipe: TrainRecipe, packed: bool, quick: bool):
        self.recipe, self.group = recipe, dist.join(recipe.run.device)
        model = build_denoiser(recipe.model, 0)
        freeze_unread(model)
        self.model = parallelize(model, self.group, recipe.train)
        self.optimizers = build_optimizers(self.model, recipe.optim)
        batches = encoded(shapes, quick)
        sizes = sizes_of(model)
        self.images = sum(len(batch.keys) for batch in batches)
        self.flops = sum(
            training_flops(sizes, batch.grid[0] * batch.grid[1], int(length))
            for batch in batches
            for length in batch.text.mask.sum(1)
        )
        self.works = [(packed_losses, pack(batches))] if packed else [(denoiser_losses, batch) for batch in batches]

    def step(self) -> None:
        """Forward, backward, clipping, update."""
        for losses, batch in self.works:
            noise = torch.randn_like(batch.latents)
            with computing(self.model, self.group, self.recipe.train):
                loss = losses(self.model, batch, torch.rand(len(batch.keys)), noise).sum() / self.images
            loss.backward()
        clip_gradients(self.model, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad()


def recipe_for(precision: str, compiled: bool, quick: bool) -> TrainRecipe:
    layers, heads = (2, 4) if quick else (4, 8)
    return checked(
        TrainRecipe,
        {
            "run": {"dir": "unused"},
            "model": {
                "num_layers": layers,
                "num_attention_heads": heads,
                "attention_head_dim": 32,
                "axes_dims_rope": [8, 12, 12],
                "enc_hidden_dim": 384,
                "selected_layer_index": [0, 1, 2, 3],
            },
            "data": {"scenes": {"num": 1}, "buckets": [{"base": 256, "batch": 4}]},
            "train": {"steps": 1, "precision": precision, "compile": compiled},
        },
    )


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def run_benchmark(quick: bool, precision: str, eager: bool) -> dict:
    wanted = {
        "single bucket, eager": (SINGLE, False, False),
        "single bucket, compiled": (SINGLE, True, False),
        "mixed buckets, eager": (MIXED, False, False),
        "mixed buckets, compiled": (MIXED, True, False),
        "mixed buckets, eager, packed": (MIXED, False, True),
        "single bucket, eager, packed": (SINGLE, False, True),
    }
    cases, skipped = {}, {}
    for title, (shapes, compiled, packed) in wanted.items():
        if eager and compiled:
            skipped[title] = "--eager"
            continue
        case = Case(shapes, recipe_for(precision, compiled, quick), packed, quick)
        try:
            for _ in range(2):  # compilers and allocators warm up
                case.step()
        except torch._dynamo.exc.BackendCompilerFailed as error:
            skipped[title] = str(error).strip().splitlines()[0]
            continue
        cases[title] = case
    rounds = 3 if quick else 9
    times: dict[str, list[float]] = {title: [] for title in cases}
    # The ceiling: the best rate of large matrix products in the same dtype, found in the same rounds.
    matmuls, ceiling = peak_matmuls(getattr(torch, precision), 1152), 0.0
    for _ in range(rounds):  # in rounds: whatever else the machine does meets all cases alike
        ceiling = max([ceiling, *(size / seconds_of(work) for size, work in matmuls)])
        for title, case in cases.items():
            times[title].append(seconds_of(case.step))
    rates = {
        title: {
            "images_per_s": round(case.images / min(times[title]), 2),
            "median_images_per_s": round(case.images / statistics.median(times[title]), 2),
            "gflop_per_s": round(case.flops / min(times[title]) / 1e9, 1),
        }
        for title, case in cases.items()
    }
    sizes = recipe_for(precision, False, quick).model
    return {
        "benchmark": "training steps of the denoiser, 4 pictures a step, one process",
        "command": " ".join(["python", "benchmarks/training.py", *sys.argv[1:]]),
        "machine": describe_machine(),
        "shape": {"layers": sizes.num_layers, "width": sizes.width, "precision": precision, "quick": quick},
        "rounds": rounds,
        "matmul_peak_gflop_per_s": round(ceiling, 1),
        "cases": rates,
        "skipped": skipped,
        "ratios": ratios(rates),
    }


def ratios(rates: dict) -> dict:
    """Images a second of the first of each pair over the second."""
    pairs = {
        "compiled / eager, single": ("single bucket, compiled", "single bucket, eager"),
        "compiled / eager, mixed": ("mixed buckets, compiled", "mixed buckets, eager"),
        "mixed / single, eager": ("mixed buckets, eager", "single bucket, eager"),
        "mixed / single, compiled": ("mixed buckets, compiled", "single bucket, compiled"),
        "packed / unpacked, mixed": ("mixed buckets, eager, packed", "mixed buckets, eager"),
        "packed / unpacked, single": ("single bucket, eager, packed", "single bucket, eager"),
    }
    return {
        title: round(rates[left]["images_per_s"] / rates[right]["images_per_s"], 2)
        for title, (left, right) in pairs.items()
        if left in rates and right in rates
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller model and fewer rounds, for a look")
    parser.add_argument("--eager", action="store_true", help="leave out what must be compiled, which takes minutes")
    parser.add_argument("--threads", type=int, help="CPU threads; the default is torch's own choice")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="float32")
    options = parser.parse_args()
    if options.threads is not None:
        if options.threads < 1:
            parser.error(f"--threads {options.threads} is not accepted; give 1 or more")
        torch.set_num_threads(options.threads)
    print(json.dumps(run_benchmark(options.quick, options.precision, options.eager), indent=2))


if __name__ == "__main__":
    main()
