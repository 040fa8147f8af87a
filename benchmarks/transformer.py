"""Measures two full-width Lens blocks on the CPU against a lower bound from the CPU's own rates.

It prints one JSON object. Weights are random, so no model files are needed. The bound is the time of the blocks' matrix
products at the fastest rate of any product, plus their attention at the rate of attention alone, and nothing else. All
cases run in the same rounds as these rates. Compare the shares and ratios; the milliseconds depend on the machine and
its load.

Cases: `eager`, the plain form: both streams joined token by token, modulation made of the level's embedding in the
call; `compiled`, the same by torch's compiler; `opened`, the same mathematics as a drawing runs it with
`open_model(..., compile=True)`: compiled for any size, weights laid out for oneDNN, tokens joined head by head,
modulation made of the same embedding beforehand.

    python benchmarks/transformer.py [--quick] [--threads N]
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from machine import describe_machine
from torch.nn.functional import linear, scaled_dot_product_attention

from leanlens.models.attention import WrittenOutAttnProcessor
from leanlens.models.onednn import reorder
from leanlens.models.transformer import LensAttnProcessor, LensRotaryEmbedding, LensTransformerBlock

WIDTH, HEADS, HEAD_DIM, HIDDEN = 1536, 24, 64, 4096
BLOCKS = 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WAYS = ("eager", "compiled", "opened")


def block_flops(image_tokens: int, text_tokens: int) -> tuple[int, int]:
    """Floating-point operations of one block and one sample, two for each multiply-add: of matmuls, of attention.

    Matmuls: every token passes 4 D^2 weights of attention (query, key, value, output) and 3 D * 4096 of the gated MLP.
    Attention: queries on keys and scores on values, over all S = image + text tokens. Modulation is one token, and
    norms, rotary and activations are not matmuls: they are left out, as in the peak that the share is taken of.
    """
    tokens = image_tokens + text_tokens
    matmul = 2 * tokens * (4 * WIDTH**2 + 3 * WIDTH * HIDDEN)
    attention = 2 * 2 * tokens**2 * WIDTH
    return matmul, attention


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_matmuls(dtype: torch.dtype, tokens: int) -> list[tuple[float, Callable[[], object]]]:
    """(GFLOP, work) of large linear layers, among them those of the block itself."""
    works: list[tuple[float, Callable[[], object]]] = []
    for rows, inner, outer in ((tokens, WIDTH, 3 * WIDTH), (tokens, HIDDEN, WIDTH), (2048, 2048, 2048)):
        x, weight = torch.randn(rows, inner).to(dtype), torch.randn(outer, inner).to(dtype)
        works.append((2 * rows * inner * outer / 1e9, partial(linear, x, weight)))
    return works


def peak_reordered(dtype: torch.dtype, tokens: int) -> list[tuple[float, Callable[[], object]]]:
    """The block's own products on weights laid out for oneDNN."""
    works: list[tuple[float, Callable[[], object]]] = []
    for inner, outer in ((WIDTH, 3 * WIDTH), (HIDDEN, WIDTH)):
        layer = torch.nn.Linear(inner, outer).to(dtype).requires_grad_(False)
        reorder(layer)
        works.append((2 * tokens * inner * outer / 1e9, partial(layer, torch.randn(tokens, inner).to(dtype))))
    return works


def attention_alone(dtype: torch.dtype, tokens: int) -> tuple[float, Callable[[], object]]:
    """(GFLOP, work) of one block's attention, its inputs laid out as the kernel likes them."""
    streams = [torch.randn(1, HEADS, tokens, HEAD_DIM).to(dtype) for _ in range(3)]
    return 4 * tokens**2 * WIDTH / 1e9, partial(scaled_dot_product_attention, *streams)


def make_blocks(dtype: torch.dtype) -> torch.nn.ModuleList:
    torch.manual_seed(0)
    blocks = torch.nn.ModuleList(LensTransformerBlock(WIDTH, HEADS, HEAD_DIM) for _ in range(BLOCKS))
    return blocks.to(dtype).eval().requires_grad_(False)


class PlainProcessor(LensAttnProcessor):
    """Joint attention as it is written down: streams joined along tokens, one call."""

    def _attend(self, image, text, mask):
        query, key, value = (torch.cat(pair, dim=1).transpose(1, 2) for pair in zip(image, text, strict=True))
        joint = scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2)
        tokens = image[0].shape[1]
        return joint[:, :tokens], joint[:, tokens:]


def make_pass(blocks: torch.nn.ModuleList, grid: tuple[int, int], text_tokens: int, dtype: torch.dtype, known: bool):
    """A call without arguments that runs the blocks one after the other; `known` makes their modulation beforehand."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, grid[0] * grid[1], WIDTH, generator=generator).to(dtype)
    text = torch.randn(1, text_tokens, WIDTH, generator=generator).to(dtype)
    temb = torch.randn(1, WIDTH, generator=generator).to(dtype)
    rotary = LensRotaryEmbedding((8, 28, 28))(grid, text_tokens, image.device)
    with torch.no_grad():
        levels = [(block.img_mod(temb), block.txt_mod(temb)) if known else temb for block in blocks]

    def run() -> torch.Tensor:
        x, y = image, text
        with torch.no_grad():
            for block, level in zip(blocks, levels, strict=True):
                y, x = block(x, y, temb=level, rotary=rotary)
        return x

    return run


def make_cases(grid: tuple[int, int], text_tokens: int) -> tuple[dict[str, Callable[[], torch.Tensor]], dict]:
    """Title -> pass, warmed up and compiled; and title -> what that took, with the distance from the eager result."""
    runs, notes = {}, {}
    for name, dtype in DTYPES.items():
        for way in WAYS:
            if way != "eager" and not can_compile():
                continue
            blocks = make_blocks(dtype)
            if way == "opened":
                reorder(blocks)
            for block in blocks:
                block.attn.processor = WrittenOutAttnProcessor(one_by_one=True) if way == "opened" else PlainProcessor()
            if way != "eager":
                for block in blocks:
                    block.compile(fullgraph=True, dynamic=way == "opened")
            title = f"{name} {way}"
            runs[title] = make_pass(blocks, grid, text_tokens, dtype, known=way == "opened")
            notes[title] = {"first_call_s": round(seconds_of(runs[title]), 2)}
            eager, result = runs[f"{name} eager"]().float(), runs[title]().float()
            notes[title]["relative_error_to_eager"] = float(f"{((result - eager).norm() / eager.norm()).item():.2e}")
    return runs, notes


def can_compile() -> bool:
    return any(shutil.which(compiler) for compiler in ("g++", "clang++"))


def run_benchmark(quick: bool) -> dict:
    grid, text_tokens, rounds = ((16, 16), 32, 5) if quick else ((32, 32), 128, 15)
    tokens = grid[0] * grid[1] + text_tokens
    matmul, attention = (flops / 1e9 for flops in block_flops(grid[0] * grid[1], text_tokens))
    gflop = matmul + attention
    machine = describe_machine()
    runs, notes = make_cases(grid, text_tokens)
    matmuls = {name: peak_matmuls(dtype, tokens) + peak_reordered(dtype, tokens) for name, dtype in DTYPES.items()}
    alone = {name: attention_alone(dtype, tokens) for name, dtype in DTYPES.items()}
    times: dict[str, list[float]] = {title: [] for title in runs}
    peaks, attentions = dict.fromkeys(DTYPES, 0.0), dict.fromkeys(DTYPES, 0.0)
    # In rounds, each with every case and every matmul: whatever else the machine does then meets all of them alike.
    for _ in range(rounds):
        for title, run in runs.items():
            times[title].append(seconds_of(run))
        for name, works in matmuls.items():
            peaks[name] = max([peaks[name], *(size / seconds_of(work) for size, work in works for _ in range(2))])
        for name, (size, work) in alone.items():
            attentions[name] = max(attentions[name], *(size / seconds_of(work) for _ in range(2)))
    floors = {name: BLOCKS * (matmul / peaks[name] + attention / attentions[name]) for name in DTYPES}
    cases = {}
    for title, taken in times.items():
        rate = BLOCKS * gflop / min(taken)
        cases[title] = {
            "tokens_per_s": round(tokens / min(taken), 1),
            "ms_per_block": round(1000 * min(taken) / BLOCKS, 2),
            "median_ms_per_block": round(1000 * statistics.median(taken) / BLOCKS, 2),
            "gflop_per_s": round(rate, 1),
            "share_of_matmul_peak": round(rate / peaks[title.split()[0]], 3),
            "share_of_floor": round(floors[title.split()[0]] / min(taken), 3),
            **notes[title],
        }
    reason = "no C++ compiler was found, which inductor needs on the CPU"
    return {
        "benchmark": "two consecutive LensTransformerBlocks, forward, no gradient, batch 1",
        "command": " ".join(["python", "benchmarks/transformer.py", *sys.argv[1:]]),
        "machine": machine | {"load_after": round(os.getloadavg()[0], 2)},
        "shape": {
            "width": WIDTH,
            "heads": HEADS,
            "image_tokens": grid[0] * grid[1],
            "text_tokens": text_tokens,
            "gflop_per_block": round(gflop, 2),
        },
        "rounds": rounds,
        "matmul_peak_gflop_per_s": {name: round(peak, 1) for name, peak in peaks.items()},
        "attention_gflop_per_s": {name: round(rate, 1) for name, rate in attentions.items()},
        "floor_ms_per_block": {name: round(1000 * floor / BLOCKS, 2) for name, floor in floors.items()},
        "cases": cases,
        "skipped": {} if can_compile() else {f"{name} {way}": reason for name in DTYPES for way in WAYS[1:]},
        "speedups": speedups(cases),
    }


def speedups(cases: dict) -> dict:
    """How many times faster the first of each pair is."""
    pairs = {
        "compiled / eager, float32": ("float32 compiled", "float32 eager"),
        "compiled / eager, bfloat16": ("bfloat16 compiled", "bfloat16 eager"),
        "opened / eager, float32": ("float32 opened", "float32 eager"),
        "opened / eager, bfloat16": ("bfloat16 opened", "bfloat16 eager"),
        "bfloat16 / float32, eager": ("bfloat16 eager", "float32 eager"),
        "bfloat16 / float32, opened": ("bfloat16 opened", "float32 opened"),
    }
    return {
        title: round(cases[slow]["ms_per_block"] / cases[fast]["ms_per_block"], 2)
        for title, (fast, slow) in pairs.items()
        if fast in cases and slow in cases
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer tokens and repeats, for a look")
    parser.add_argument("--threads", type=int, help="CPU threads; the default is torch's own choice")
    options = parser.parse_args()
    if options.threads is not None:
        if options.threads < 1:
            parser.error(f"--threads {options.threads} is not accepted; give 1 or more")
        torch.set_num_threads(options.threads)
    print(json.dumps(run_benchmark(options.quick), indent=2))


if __name__ == "__main__":
    main()
