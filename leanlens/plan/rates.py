"""Turns operations and bytes into seconds.

Every factor that is not counted is in `ASSUMPTIONS`, with its source; the page of the planner prints the same table.

A stage takes the time of its matrix products, of its attention and of the memory traffic of everything between them,
one after the other, as unfused code runs; and never less than launching its operators takes.
"""

from dataclasses import dataclass

from leanlens.plan.compute import (
    DenoiserSizes,
    autoencoder_flops,
    decoding_flops,
    denoiser_flops,
    text_encoder_flops,
    training_flops,
)
from leanlens.plan.devices import Device
from leanlens.plan.memory import (
    PREFIX_TOKENS,
    AutoencoderSizes,
    EncoderSizes,
    ModelSizes,
    element_bytes,
    part_bytes,
    tiled_share,
)


@dataclass(frozen=True)
class Assumption:
    """A figure, its meaning and its source."""

    value: float
    meaning: str
    source: str


_FA2 = "FlashAttention-2 and -3 papers, forward at head width 64 and 4k tokens"
_OURS = "benchmarks/results/transformer_cpu.json"
_NANO = "benchmarks/results/latency_nano.json"
_MEASURED = "benchmarks/results/memory_cpu.json"
ASSUMPTIONS: dict[str, Assumption] = {
    "matmul": Assumption(0.66, "matrix products on a GPU, share of the 16-bit peak", "650 of 989 TFLOP/s on H100"),
    "matmul_amd": Assumption(0.50, "the same on AMD", "assumed; not measured"),
    "matmul_single": Assumption(0.85, "matrix products on a GPU, share of the float32 peak", "assumed; not measured"),
    "matmul_cpu": Assumption(
        0.7, "matrix products in a block on a CPU, share of the measured matmul rate", f"{_OURS}: 0.70 and 0.71"
    ),
    "attention_hopper": Assumption(
        0.33, "attention, share of the 16-bit peak, Hopper and later", f"{_FA2}: 321 of 989"
    ),
    "attention_ampere": Assumption(0.57, "the same on Ampere and Ada", f"{_FA2}: about 180 of 312 on A100"),
    "attention_other": Assumption(0.30, "the same on AMD, Apple, Turing and Volta", "assumed; not measured"),
    "convolution": Assumption(0.30, "convolutions on a GPU, share of the 16-bit peak", "estimate; not measured"),
    "stream": Assumption(0.80, "elementwise operators, share of the memory bandwidth", "assumed"),
    "passes": Assumption(
        154, "reads and writes of the 16-bit token matrix between products, per block, eager", "counted"
    ),
    "passes_compiled": Assumption(14, "the same, compiled", "estimate; not measured"),
    "launch": Assumption(4e-6, "seconds to launch one operator on a GPU", "typical of current CPUs"),
    "launches": Assumption(142, "operators per denoiser block, eager", "counted"),
    "launches_compiled": Assumption(20, "the same, compiled", "estimate"),
    "launches_encoder": Assumption(60, "operators per text encoder layer, MXFP4 kernels", "estimate"),
    "launches_experts": Assumption(490, "the same, with 32 experts computed one after the other", "estimate"),
    "start": Assumption(
        4.0, "seconds to start Python and import its libraries", "benchmarks/results/startup_nano.json"
    ),
    "operator_cpu": Assumption(16e-6, "seconds per operator on a CPU, minimum", f"{_NANO}: 1.44 s for 40 passes"),
    "convolution_cpu": Assumption(
        0.38, "convolutions on a CPU, share of the rate of matrix products", f"{_NANO}: 0.113 s"
    ),
    "compiling_gpu": Assumption(10, "seconds to compile the blocks on a GPU", "diffusers on FLUX.1: 9.6 s"),
    "compiling_cpu": Assumption(8, "the same on a CPU", f"{_OURS}: 6.3 s for two blocks"),
    "compiled_cpu": Assumption(1.5, "speedup of compiled blocks on a CPU", f"{_OURS}: 1.51 and 2.13"),
    "host": Assumption(20e9, "bytes per second from pinned RAM to a GPU", "PCIe 4.0 x16; assumed"),
    "disk": Assumption(2e9, "bytes per second read from disk", "an NVMe disk; assumed"),
    "unpack": Assumption(30, "bytes that a GPU moves to decode one quantised weight on use", "counted"),
    "unpack_int8": Assumption(1.1e9, "INT8 weights decoded per second and core", "measured on an EPYC core"),
    "unpack_cpu": Assumption(1.5e8, "the same for other formats, MXFP4 included", "measured: 1.3e8 to 2.7e8"),
    "context": Assumption(
        0.5e9, "bytes of GPU memory that CUDA or ROCm uses itself", "typical of torch with cuBLAS and cuDNN"
    ),
    "driver": Assumption(0.983, "share of a GPU's memory that torch can use", "23.65 of 24 GiB on an RTX 4090"),
    "apple": Assumption(0.75, "share of unified memory that the GPU can use", "Metal's recommended working set"),
    "scratch_gpu": Assumption(
        1.0,
        "working memory of the widest convolution on a GPU, as a multiple of its input",
        "fits a user's report on an RTX 4090: 24 GB at 1024, 27 GB at 1440",
    ),
    "scratch_cpu": Assumption(
        2.0,
        "the same on a CPU",
        f"{_MEASURED}: 0 to 2.4 at the released width, including memory not returned to the system",
    ),
    "process": Assumption(
        0.6e9,
        "bytes of Python and its libraries, on a CPU",
        f"{_MEASURED}: 0.53 to 0.56 GB, more at work",
    ),
    "process_gpu": Assumption(3.0e9, "the same with the libraries of CUDA or ROCm", "typical of torch"),
    "system": Assumption(2.0e9, "bytes of RAM left for the rest of the system", "our choice"),
    "backward": Assumption(2.5, "attention, time of a backward pass relative to a forward pass", "5 products to 2"),
    "overlap": Assumption(0.8, "share of a training step that can overlap with communication", "assumed"),
}


def assumed(name: str) -> float:
    """The value of an assumption."""
    return ASSUMPTIONS[name].value


def usable_bytes(device: Device, nominal: float) -> float:
    """How much torch can use of `nominal` bytes: of the card's memory, or of unified or main memory."""
    if device.kind == "cpu":
        return nominal - assumed("system")
    return nominal * assumed("apple" if device.unified else "driver")


def matmul_rate(device: Device, dtype: str) -> float | None:
    """FLOP/s of large matrix products; None if the device has no such arithmetic."""
    if dtype == "float32" or (dtype == "bfloat16" and not device.bfloat16 and device.kind != "cpu"):
        share = {"cpu": "matmul_cpu", "apple": "matmul"}.get(device.kind, "matmul_single")
        return device.single * 1e12 * assumed(share)
    if not device.half or (device.kind == "cpu" and dtype == "float16"):
        return None
    share = {"cpu": "matmul_cpu", "amd": "matmul_amd"}.get(device.kind, "matmul")
    return device.half * 1e12 * assumed(share)


def attention_rate(device: Device, dtype: str) -> float | None:
    """FLOP/s of attention over all pairs of tokens."""
    if device.kind == "cpu":
        return device.attention * 1e12
    if (rate := matmul_rate(device, dtype)) is None or (dtype == "float32" and device.kind != "apple"):
        return None if rate is None else rate / 2
    if not device.bfloat16 and dtype == "bfloat16":
        return rate / 2
    if device.kind == "nvidia" and device.capability >= 8:
        return device.half * 1e12 * assumed("attention_hopper" if device.capability >= 9 else "attention_ampere")
    return device.half * 1e12 * assumed("attention_other")


def forward_seconds(
    device: Device, dtype: str, sizes: DenoiserSizes, image_tokens: int, text_tokens: int, compiled: bool = False
) -> float | None:
    """Seconds of one forward pass of the denoiser over one sample; None if a rate is unknown."""
    products, attention = matmul_rate(device, dtype), attention_rate(device, dtype)
    if not products or not attention:
        return None
    tokens = image_tokens + text_tokens
    pairs = sizes.layers * 4 * tokens**2 * sizes.width
    seconds = (denoiser_flops(sizes, image_tokens, text_tokens) - pairs) / products + pairs / attention
    suffix = "_compiled" if compiled else ""
    if device.kind == "cpu":  # the measured share holds what lies between the products of a wide block
        operators = sizes.layers * assumed(f"launches{suffix}") * assumed("operator_cpu")
        return seconds / (assumed("compiled_cpu") if compiled else 1) + operators
    passes = sizes.layers * assumed(f"passes{suffix}") * tokens * sizes.width * element_bytes(dtype)
    seconds += passes / (device.bandwidth * 1e9 * assumed("stream"))
    return max(seconds, sizes.layers * assumed(f"launches{suffix}") * assumed("launch"))


def training_seconds(
    device: Device,
    dtype: str,
    sizes: DenoiserSizes,
    image_tokens: int,
    text_tokens: int,
    compiled: bool = False,
    recompute: bool = False,
) -> float | None:
    """Seconds of the forward and backward pass of one sample, with `recompute` another forward; None if unknown."""
    products, attention = matmul_rate(device, dtype), attention_rate(device, dtype)
    forward = forward_seconds(device, dtype, sizes, image_tokens, text_tokens, compiled)
    if not products or not attention or forward is None:
        return None
    tokens = image_tokens + text_tokens
    pairs = sizes.layers * 4 * tokens**2 * sizes.width
    seconds = (training_flops(sizes, image_tokens, text_tokens) - 3 * pairs) / products
    seconds += pairs * (1 + assumed("backward")) / attention
    if device.kind != "cpu":
        passes = assumed("passes_compiled" if compiled else "passes") * sizes.layers * tokens * sizes.width
        seconds += 3 * passes * element_bytes(dtype) / (device.bandwidth * 1e9 * assumed("stream"))
    return seconds + (forward if recompute else 0.0)


def encoding_seconds(device: Device, dtype: str, model: ModelSizes, text_tokens: int, packed: bool) -> float | None:
    """Seconds of encoding one prompt: its products, or reading every expert once if that takes longer."""
    sizes, rate = model.encoder, matmul_rate(device, dtype)
    if not rate:
        return None
    flops = text_encoder_flops(sizes.active, text_tokens + PREFIX_TOKENS, sizes.layers, sizes.attention_width)
    read = part_bytes(model, dtype, packed)["text_encoder"] / (device.bandwidth * 1e9 * assumed("stream"))
    launches = 0.0
    if device.kind != "cpu":
        launches = sizes.layers * assumed("launches_encoder" if packed else "launches_experts") * assumed("launch")
    return max(flops / rate, read, launches)


def unpacking_seconds(device: Device, weights: float, quant: str) -> float:
    """Seconds of decoding this many quantised weights."""
    if device.kind == "cpu":
        return weights / assumed("unpack_int8" if quant == "int8" else "unpack_cpu") / device.cores
    return weights * assumed("unpack") / (device.bandwidth * 1e9 * assumed("stream"))


def decoding_seconds(
    device: Device, dtype: str, sizes: AutoencoderSizes, height: int, width: int, tiled: bool = False
) -> float | None:
    """Seconds of decoding one image."""
    rate = matmul_rate(device, dtype)
    if not rate:
        return None
    flops = decoding_flops(height, width, sizes.channels, sizes.layers_per_block, sizes.latent_channels)
    return flops * tiled_share(sizes, height, width, tiled) / _convolution_rate(device, dtype, rate)


def latent_seconds(device: Device, dtype: str, sizes: AutoencoderSizes, height: int, width: int) -> float | None:
    """Seconds of encoding one image into latents, as training does."""
    rate = matmul_rate(device, dtype)
    if not rate:
        return None
    flops = autoencoder_flops(height, width, sizes.channels, sizes.layers_per_block, sizes.latent_channels)
    return flops / _convolution_rate(device, dtype, rate)


def caption_seconds(device: Device, dtype: str, sizes: EncoderSizes, text_tokens: int) -> float | None:
    """Seconds of encoding one caption in a large batch, as training does."""
    rate = matmul_rate(device, dtype)
    if not rate:
        return None
    tokens = text_tokens + PREFIX_TOKENS
    return text_encoder_flops(sizes.active, tokens, sizes.layers, sizes.attention_width) / rate


def _convolution_rate(device: Device, dtype: str, matmul: float) -> float:
    if device.kind == "cpu":
        return matmul * assumed("convolution_cpu")
    if not device.bfloat16 or (dtype == "float32" and device.kind != "apple"):
        return matmul
    return device.half * 1e12 * assumed("convolution")
