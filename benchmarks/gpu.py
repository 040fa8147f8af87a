"""Measures speed and memory of the full-size model with random weights on a GPU, relative to the GPU's own limits.

It needs no model files and no network. It prints results as they are measured and writes a JSON file that is complete
after every section. Sections run in order of importance, as long as there is time.

    benchmarks/gpu.sh [--seconds 520] [--only SECTION ...]      SCALE=tiny tests it on a CPU

The limits are measured in the same run: the fastest matrix product, the fastest attention, copying. The `floor` of a
generation is the time of its matrix products and attention at those rates, and nothing else.
"""

import argparse
import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_scale import SCALES, Draw, Scale, build_encoder, build_transformer, build_vae, draw_with, make_text
from machine import describe_machine
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from leanlens.models import vae as autoencoder
from leanlens.pipeline.speed import best_attention, compile_blocks, compile_decoder
from leanlens.plan.compute import decoding_flops, denoiser_flops, training_flops

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


class Bench:
    """The device, the scale, the clock, and what has been found."""

    def __init__(self, scale: Scale, seconds: float, target: Path):
        self.scale, self.target = scale, target
        self.ends = time.monotonic() + seconds
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.found: dict[str, Any] = {
            "benchmark": "the full-size model with random weights, bfloat16, text of true length, no mask",
            "command": " ".join(["benchmarks/gpu.sh", *sys.argv[1:]]),
            "machine": describe_machine(),
        }

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], repeats: int | None = None, warm: int = 1) -> float:
        """The best of several, after warming up."""
        for _ in range(warm):
            work()
        taken = []
        for _ in range(repeats or self.scale.repeats):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - began)
        return min(taken)

    def keep(self, section: str, title: str, value: Any) -> None:
        self.found.setdefault(section, {})[title] = value
        print(f"{section:10} {title}: {json.dumps(value)}", flush=True)
        self.target.write_text(json.dumps(self.found, indent=1) + "\n")

    def clear(self) -> None:
        gc.collect()
        torch._dynamo.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float | None:
        return round(torch.cuda.max_memory_allocated() / 1e9, 2) if self.device.type == "cuda" else None

    def compile(self, transformer: Any, graphs: bool = False) -> None:
        compile_blocks(transformer, self.device, graphs, backend=self.scale.backend)


def measure_ceilings(bench: Bench) -> None:
    device, dtype = bench.device, torch.bfloat16
    for rows, inner, outer in bench.scale.products:
        x, weight = torch.randn(rows, inner, device=device, dtype=dtype), torch.randn(outer, inner, device=device)
        weight, tflop = weight.to(dtype), 2 * rows * inner * outer / 1e12
        name = f"{rows} x {inner} x {outer}"
        rate = tflop / bench.seconds(lambda x=x, weight=weight: F.linear(x, weight), 20, 3)
        bench.keep("ceilings", f"matmul {name}, TFLOP/s", round(rate, 3))
        if device.type == "cpu" or torch.cuda.get_device_capability() >= (8, 9):
            x8, w8 = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn).t()
            ones = torch.ones(rows, 1, device=device), torch.ones(1, outer, device=device)
            rate = tflop / bench.seconds(
                lambda x8=x8, w8=w8, ones=ones: torch._scaled_mm(x8, w8, *ones, out_dtype=torch.bfloat16), 20, 3
            )
            bench.keep("ceilings", f"fp8 matmul {name}, TFLOP/s", round(rate, 3))
    measure_attention(bench)
    source = torch.empty(bench.scale.copied_bytes, dtype=torch.uint8, device=device)
    copied = 2 * source.numel() / bench.seconds(lambda: source.clone(), 5, 2)
    bench.keep("ceilings", "copy, GB/s read and written", round(copied / 1e9, 1))
    if device.type == "cuda":
        pinned = torch.empty(2**30, dtype=torch.uint8, pin_memory=True)
        target = torch.empty_like(pinned, device=device)
        sent = pinned.numel() / bench.seconds(lambda: target.copy_(pinned, non_blocking=True), 5, 1)
        bench.keep("ceilings", "host to device, GB/s", round(sent / 1e9, 1))


def measure_attention(bench: Bench) -> None:
    sizes, draw = bench.scale.sizes, bench.scale.draws[0]
    tokens = draw.grid[0] * draw.grid[1] + bench.scale.text_tokens
    shape = (1, sizes.width // 64, tokens, 64)
    query, key, value = (torch.randn(shape, device=bench.device, dtype=torch.bfloat16) for _ in range(3))
    for name, kernel in KERNELS.items():
        if bench.device.type == "cpu" and name not in ("flash", "math"):
            continue
        try:
            with sdpa_kernel(kernel):
                taken = bench.seconds(lambda: F.scaled_dot_product_attention(query, key, value), 20, 3)
        except RuntimeError as error:
            bench.keep("ceilings", f"attention {name}", str(error).splitlines()[0][:120])
            continue
        rate = 4 * tokens**2 * sizes.width / taken / 1e12
        bench.keep("ceilings", f"attention {name}, {tokens} tokens, TFLOP/s", round(rate, 3))


def best_rate(bench: Bench, kind: str) -> float:
    """FLOP/s of the fastest measured product or attention."""
    rates = bench.found.get("ceilings", {})
    return 1e12 * max(
        (value for name, value in rates.items() if name.startswith(kind) and "TFLOP/s" in name), default=0
    )


def floor_seconds(bench: Bench, draw: Draw) -> float | None:
    """What a drawing's products and attention take at the measured ceilings; with guidance, a pass without text too."""
    products, attention, sizes = best_rate(bench, "matmul"), best_rate(bench, "attention"), bench.scale.sizes
    if not products or not attention:
        return None
    image, total = draw.grid[0] * draw.grid[1], 0.0
    for text in [bench.scale.text_tokens] + [0] * (draw.guidance != 1):
        pairs = sizes.layers * 4 * (image + text) ** 2 * sizes.width
        total += (denoiser_flops(sizes, image, text) - pairs) / products + pairs / attention
    return total * draw.steps * draw.batch


def measure_draws(bench: Bench) -> None:
    """Loops of all cases: eager, compiled, compiled with the best attention kernel; then what the time goes to."""
    transformer = build_transformer(bench.scale, bench.device)
    count_waits(bench, transformer)
    ways = {"eager": lambda: None, "compiled": lambda: bench.compile(transformer)}
    if bench.device.type == "cuda" and best_attention(bench.device) != "native":
        ways["compiled, best attention"] = lambda: transformer.set_attention_backend(best_attention(bench.device))
    for way, prepare in ways.items():
        prepare()
        for draw in bench.scale.draws:
            if time.monotonic() > bench.ends - 60:
                return
            run = draw_with(transformer, bench.scale, draw)
            began = time.monotonic()
            run()  # compiles, builds plans of kernels, takes memory
            first = time.monotonic() - began
            seconds, floor = bench.seconds(run, warm=0), floor_seconds(bench, draw)
            bench.keep("loop", f"{draw.title}, {way}", {
                "seconds": round(seconds, 4), "first_call_s": round(first, 2), "peak_gb": bench.peak_gb(),
                "floor_s": floor and round(floor, 4), "share_of_floor": floor and round(floor / seconds, 3),
            })  # fmt: skip
    profile_step(bench, transformer)


def count_waits(bench: Bench, transformer: Any) -> None:
    """How often the host waits for the device in a loop: the number must not grow with the steps."""
    if bench.device.type != "cuda":
        return
    counts = {}
    for steps in (4, 8):
        run = draw_with(transformer, bench.scale, Draw(bench.scale.small.side, steps, 5))
        run()
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            run()
        torch.cuda.set_sync_debug_mode("default")
        counts[f"{steps} steps"] = sum("synchroniz" in str(wait.message) for wait in waits)
    bench.keep("loop", "times the host waits", counts)


def profile_step(bench: Bench, transformer: Any) -> None:
    """Where one pass of the first case spends its time, by kernel: what separates it from its floor."""
    from torch.profiler import ProfilerActivity, profile

    first = bench.scale.draws[0]
    run = draw_with(transformer, bench.scale, Draw(first.side, 1, 1))
    run()
    kinds = [ProfilerActivity.CUDA] if bench.device.type == "cuda" else [ProfilerActivity.CPU]
    with profile(activities=kinds) as profiler:
        run()
        bench.wait()
    times = {event.key: event.self_device_time_total or event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(times.values()) or 1
    longest = sorted(times.items(), key=lambda item: -item[1])[:12]
    bench.keep("profile", f"one pass at {first.side}, {total / 1000:.1f} ms of kernels", {
        name[:90]: round(taken / total, 3) for name, taken in longest
    })  # fmt: skip


def measure_graphs(bench: Bench) -> None:
    """At small sizes launching takes longer than computing: plain, compiled, and replayed as CUDA graphs."""
    for way in ("eager", "compiled", "compiled, CUDA graphs"):
        if way.endswith("graphs") and bench.device.type != "cuda":
            continue
        transformer = build_transformer(bench.scale, bench.device)
        if way != "eager":
            bench.compile(transformer, graphs=way.endswith("graphs"))
        run, floor = draw_with(transformer, bench.scale, bench.scale.small), floor_seconds(bench, bench.scale.small)
        seconds = bench.seconds(run, warm=3)
        bench.keep("loop", f"{bench.scale.small.title}, {way}", {
            "seconds": round(seconds, 4), "floor_s": floor and round(floor, 4),
        })  # fmt: skip
        del transformer, run
        bench.clear()


def measure_fp8(bench: Bench) -> None:
    """An approximation: products in float8, its speed and how far one velocity is from bfloat16's."""
    from leanlens.models.fp8 import compute_in_fp8

    transformer, draw = build_transformer(bench.scale, bench.device), bench.scale.draws[0]
    once = draw_with(transformer, bench.scale, Draw(draw.side, 1, 1))
    plain = once().float()
    compute_in_fp8(transformer)
    error = ((once().float() - plain).norm() / plain.norm()).item()
    bench.compile(transformer)
    seconds = bench.seconds(draw_with(transformer, bench.scale, draw))
    bench.keep("fp8", draw.title, {"seconds": round(seconds, 4), "relative_error_of_a_step": round(error, 4)})


def measure_decoding(bench: Bench) -> None:
    """Latents to pixels in bfloat16, eager and compiled, and how far that is from float32."""
    vae = build_vae(bench.scale, bench.device, torch.bfloat16)
    exact = build_vae(bench.scale, bench.device, torch.float32)
    exact.load_state_dict({name: value.float() for name, value in vae.state_dict().items()})
    channels = bench.scale.sizes.latent_channels
    for way in ("eager", "compiled"):
        for side in dict.fromkeys(draw.side for draw in bench.scale.draws):
            grid = (side // 16, side // 16)
            latents = torch.randn(1, grid[0] * grid[1], channels, device=bench.device)

            @torch.no_grad()
            def decode(network: Any = vae, latents: Any = latents, grid: Any = grid) -> torch.Tensor:
                return autoencoder.decode(network, latents, grid).float()

            if way == "compiled":
                compile_decoder(vae, bench.scale.backend)
            seconds, reference = bench.seconds(decode), decode(exact)
            error = ((decode() - reference).norm() / reference.norm()).item()
            bench.keep("decoding", f"{side} x {side}, {way}", {
                "seconds": round(seconds, 4), "relative_error_to_float32": round(error, 4), "peak_gb": bench.peak_gb(),
                "tflop_per_s": round(decoding_flops(side, side) / seconds / 1e12, 2) if bench.scale.vae == {} else None,
            })  # fmt: skip


def measure_encoding(bench: Bench) -> None:
    encoder = build_encoder(bench.scale, bench.device)
    tokens = torch.randint(3, bench.scale.encoder["vocab_size"], (1, bench.scale.prompt_tokens), device=bench.device)

    @torch.no_grad()
    def encode() -> Any:
        return encoder(tokens, torch.ones_like(tokens))

    bench.keep("encoding", f"{bench.scale.prompt_tokens} tokens, experts in bfloat16", {
        "seconds": round(bench.seconds(encode), 4), "peak_gb": bench.peak_gb(),
    })  # fmt: skip


def training_step(bench: Bench, transformer: Any, side: int, batch: int) -> Callable[[], None]:
    """Forward, backward, clipping, AdamW; weights, gradients and moments in bfloat16."""
    device, sizes, grid = bench.device, bench.scale.sizes, (side // 16, side // 16)
    weights = [weight for weight in transformer.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=device.type == "cuda")
    text = make_text(bench.scale, batch, device, torch.bfloat16).layers
    shape = (batch, grid[0] * grid[1], sizes.latent_channels)
    clean, noise = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(2))

    def step() -> None:
        level = torch.rand(batch, device=device, dtype=torch.bfloat16)
        mixed = torch.lerp(clean, noise, level[:, None, None])
        velocity = transformer(mixed, text, None, level, [(1, *grid)])
        (velocity.float() - (noise - clean).float()).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure_training(bench: Bench) -> None:
    """Compiled steps of the whole model, the largest batch that fits; share of the measured matmul ceiling."""
    for side, batches in bench.scale.train.items():
        for batch in batches:
            if time.monotonic() > bench.ends - 45:
                return
            bench.clear()
            try:
                transformer = build_transformer(bench.scale, bench.device).train().requires_grad_(True)
                for block in transformer.transformer_blocks:
                    block.compile(fullgraph=True, dynamic=False, backend=bench.scale.backend)
                seconds = bench.seconds(training_step(bench, transformer, side, batch), warm=2)
            except torch.OutOfMemoryError:
                bench.keep("training", f"{side} x {side}, batch {batch}", "out of memory")
                transformer = None
                continue
            flops = batch * training_flops(bench.scale.sizes, (side // 16) ** 2, bench.scale.text_tokens)
            ceiling = best_rate(bench, "matmul")
            bench.keep("training", f"{side} x {side}, batch {batch}", {
                "seconds": round(seconds, 4), "images_per_s": round(batch / seconds, 3), "peak_gb": bench.peak_gb(),
                "tflop_per_s": round(flops / seconds / 1e12, 2),
                "share_of_ceiling": ceiling and round(flops / seconds / ceiling, 3),
            })  # fmt: skip
            transformer = None
            break


def measure_tuning(bench: Bench) -> None:
    """Memory and seconds of fine-tuning on one picture a step, blocks recomputed: all weights, and a LoRA."""
    side = max(bench.scale.train)
    for way in ("all weights", "LoRA of rank 16"):
        bench.clear()
        transformer = build_transformer(bench.scale, bench.device).train().requires_grad_(way == "all weights")
        transformer.enable_gradient_checkpointing()
        if way != "all weights":
            from peft import LoraConfig

            targets = ["img_qkv", "txt_qkv", "to_out.0", "to_add_out", "w1", "w2", "w3"]
            transformer.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=targets))
        seconds = bench.seconds(training_step(bench, transformer, side, 1), 2)
        bench.keep("tuning", f"{side} x {side}, {way}", {"seconds": round(seconds, 4), "peak_gb": bench.peak_gb()})
        del transformer


# Section -> what measures it, and the seconds it needs at full size on an H100.
SECTIONS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "ceilings": (measure_ceilings, 10),
    "draws": (measure_draws, 90),
    "decoding": (measure_decoding, 20),
    "encoding": (measure_encoding, 20),
    "training": (measure_training, 60),
    "tuning": (measure_tuning, 20),
    "fp8": (measure_fp8, 30),
    "graphs": (measure_graphs, 40),
}


def run_sections(bench: Bench, names: list[str]) -> None:
    """Each section in turn; one that fails or has no time left says so and does not stop the others."""
    for name in names:
        measure, needed = SECTIONS[name]
        if time.monotonic() + needed > bench.ends:
            bench.keep("skipped", name, "no time was left")
            continue
        bench.clear()
        began = time.monotonic()
        try:
            measure(bench)
        except Exception as error:  # a section is worth less than those after it
            bench.keep(
                "failed", name, f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
            )
        bench.keep("took_s", name, round(time.monotonic() - began, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=520, help="when to stop beginning anything new")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="these sections and no others")
    parser.add_argument("--output", type=Path, default=None, help="the JSON file")
    options = parser.parse_args()
    scale = os.environ.get("SCALE", "full")
    if scale not in SCALES:
        parser.error(f"SCALE={scale} is not accepted; use one of {', '.join(SCALES)}")
    if scale == "full" and not torch.cuda.is_available():
        parser.error("no CUDA device is here; SCALE=tiny rehearses on a processor")
    target = options.output or Path(__file__).parent / "results" / f"gpu_{scale}.json"
    bench = Bench(SCALES[scale], options.seconds, target)
    run_sections(bench, options.only or list(SECTIONS))
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
