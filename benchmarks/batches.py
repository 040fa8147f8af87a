"""Measures batch loading against pure JPEG decoding, its upper bound, and a packed training step against a plain one.

It prints one JSON object. The images are synthetic: smooth colour noise with edges, saved as JPEG at the usual size of
photos. The best of several rounds counts, and every round runs every case. Compare the ratios; the rates depend on the
machine and its load. CPU time per image excludes other work on the machine; rates do not.

    python benchmarks/batches.py [--quick] [--threads N]
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from PIL import Image

from leanlens.batches.assign import batch_sizes, scaled_table
from leanlens.batches.encode import EncodedBatch
from leanlens.batches.pack import pack, predict_packed, sample_means
from leanlens.batches.stream import Stream
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.pictures.record import Record
from leanlens.pictures.shards import write_shards
from leanlens.pictures.sources import open_source
from leanlens.pipeline.features import TextFeatures, join
from leanlens.resolution import TRAINING_BUCKETS

SIZES = ((1200, 1600), (1600, 1200), (1024, 1024), (900, 1600))
TEXT_WIDTH, TEXT_LAYERS = 384, 4


def measure(cases: dict[str, Callable[[], int]], rounds: int) -> dict[str, dict[str, float]]:
    """The best rate of each case, in whatever its call counts, and the least processor time for one."""
    best = {name: {"images_per_s": 0.0, "cpu_ms_per_image": float("inf")} for name in cases}
    for _ in range(rounds):
        for name, run in cases.items():
            wall, cpu = time.perf_counter(), time.process_time()
            count = run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            best[name]["images_per_s"] = max(best[name]["images_per_s"], round(count / wall, 2))
            best[name]["cpu_ms_per_image"] = min(best[name]["cpu_ms_per_image"], round(1000 * cpu / count, 2))
    return best


def picture(number: int) -> bytes:
    """A JPEG with soft gradients and hard edges, about as many bytes as a photo of its size has."""
    random = np.random.default_rng(number)
    height, width = SIZES[number % len(SIZES)]
    coarse = Image.fromarray(random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    image = coarse.resize((width, height), Image.Resampling.BICUBIC)
    for _ in range(20):
        left, top = int(random.integers(0, width - 100)), int(random.integers(0, height - 100))
        image.paste(tuple(random.integers(0, 256, 3).tolist()), (left, top, left + 90, top + 60))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    return data.getvalue()


def measure_stream(pictures: int, rounds: int) -> dict:
    data = [picture(number) for number in range(pictures)]

    def decode(jpeg: bytes) -> None:
        Image.open(io.BytesIO(jpeg)).load()

    def decode_all(threads: int) -> int:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decode, data))
        return len(data)

    with tempfile.TemporaryDirectory() as folder:
        records = (Record(f"{n:05d}", jpeg, {"dense": f"picture {n}"}) for n, jpeg in enumerate(data))
        write_shards(Path(folder, "shards"), records)
        source = open_source(Path(folder, "shards"))
        sizes = batch_sizes(TRAINING_BUCKETS, 8)
        counted: dict[str, int] = {}

        def stream_all(workers: int) -> int:
            stream = Stream(source, TRAINING_BUCKETS, sizes, seed=0, resolution="draw", workers=workers)
            length = len(stream._plan(0).samples)
            counted["batches"] = length
            return sum(len(batch.keys) for batch in islice(stream, length))

        cases: dict[str, Callable[[], int]] = {}
        for threads in (1, 2):
            cases[f"jpeg decode alone, {threads}"] = lambda threads=threads: decode_all(threads)
            cases[f"stream, {threads}"] = lambda threads=threads: stream_all(threads)
        best = measure(cases, rounds)
    batches = counted["batches"] / pictures
    for name, row in best.items():
        if name.startswith("stream"):
            row["batches_per_s"] = round(row["images_per_s"] * batches, 2)
    return {
        "pictures": pictures,
        "mean_jpeg_kilobytes": round(sum(map(len, data)) / len(data) / 1024),
        "cases": best,
        "ratios": {
            "stream / decode, 1 worker, images_per_s": ratio(best, "stream, 1", "jpeg decode alone, 1", "images_per_s"),
            "stream / decode, 2 workers, images_per_s": ratio(
                best, "stream, 2", "jpeg decode alone, 2", "images_per_s"
            ),
            "decode / stream, 1 worker, cpu_ms_per_image": ratio(
                best, "jpeg decode alone, 1", "stream, 1", "cpu_ms_per_image"
            ),
            "2 workers / 1, images_per_s": ratio(best, "stream, 2", "stream, 1", "images_per_s"),
            "2 threads / 1, decode alone, images_per_s": ratio(
                best, "jpeg decode alone, 2", "jpeg decode alone, 1", "images_per_s"
            ),
        },
    }


def ratio(best: dict[str, dict[str, float]], one: str, two: str, what: str) -> float:
    return round(best[one][what] / best[two][what], 2)


def encoded_batches(base_batch: int) -> list[EncodedBatch]:
    """One random batch of the square bucket of each base, text lengths drawn as dense captions have them."""
    table = scaled_table(1 / 4)
    sizes = batch_sizes(table, base_batch)
    random = torch.Generator().manual_seed(0)
    batches = []
    for base in table:
        lengths = torch.exp(4.9 + 0.4 * torch.randn(sizes[base, base], generator=random)).clamp(20, 400).int().tolist()
        rows = [
            TextFeatures(
                [torch.randn(1, length, TEXT_WIDTH, generator=random) for _ in range(TEXT_LAYERS)],
                torch.ones(1, length, dtype=torch.bool),
            )
            for length in lengths
        ]
        grid = (base // 16, base // 16)
        latents = torch.randn(len(lengths), grid[0] * grid[1], 128, generator=random)
        batches.append(EncodedBatch(latents, grid, join(rows), [f"{base}-{n}" for n in range(len(lengths))], base))
    return batches


def measure_packing(base_batch: int, rounds: int) -> dict:
    torch.manual_seed(0)
    model = LensTransformer2DModel(
        num_layers=6, num_attention_heads=4, enc_hidden_dim=TEXT_WIDTH, selected_layer_index=tuple(range(TEXT_LAYERS))
    )
    batches = encoded_batches(base_batch)
    samples = sum(len(batch.keys) for batch in batches)
    time_of = torch.tensor(0.5)

    def plain_step() -> int:
        model.zero_grad()
        for batch in batches:
            velocity = model(batch.latents, batch.text.layers, batch.text.mask, time_of, [(1, *batch.grid)])
            (velocity.square().mean((1, 2)).sum() / samples).backward()
        return samples

    def packed_step() -> int:
        model.zero_grad()
        packed = pack(batches)
        velocity = predict_packed(model, packed, packed.latents, time_of)
        sample_means(velocity.square(), packed).mean().backward()
        return samples

    def gradient(step: Callable[[], int]) -> torch.Tensor:
        step()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    one, two = gradient(plain_step), gradient(packed_step)
    best = measure({"unpacked": plain_step, "packed": packed_step}, rounds)
    text = [batch.text.mask for batch in batches]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "samples": {f"{batch.index} px": len(batch.keys) for batch in batches},
        "image_tokens": sum(batch.latents.shape[0] * batch.latents.shape[1] for batch in batches),
        "text_tokens": {
            "unpacked": sum(mask.numel() for mask in text),
            "packed": sum(int(mask.sum()) for mask in text),
        },
        "cases": best,
        "ratios": {
            "packed / unpacked, images_per_s": ratio(best, "packed", "unpacked", "images_per_s"),
            "unpacked / packed, cpu_ms_per_image": ratio(best, "unpacked", "packed", "cpu_ms_per_image"),
        },
        "relative_difference_of_gradients": float(f"{((one - two).norm() / one.norm()).item():.1e}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pictures and rounds, for a look")
    parser.add_argument("--threads", type=int, help="CPU threads of the transformer; the default is torch's own choice")
    options = parser.parse_args()
    if options.threads is not None:
        if options.threads < 1:
            parser.error(f"--threads {options.threads} is not accepted; give 1 or more")
        torch.set_num_threads(options.threads)
    pictures, base_batch, rounds = (24, 4, 2) if options.quick else (96, 12, 5)
    result = {
        "benchmark": "pictures to batches, and packed against unpacked training steps (forward and backward, float32)",
        "command": " ".join(["python", "benchmarks/batches.py", *sys.argv[1:]]),
        "machine": describe_machine(),
        "stream": measure_stream(pictures, rounds),
        "packing": measure_packing(base_batch, rounds),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
