"""Free memory of a device, the sizes of an opened model, and the check that an image fits."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from leanlens.pipeline.opened_model import OpenedModel
from leanlens.pipeline.request import ImageRequest
from leanlens.plan.compute import DenoiserSizes
from leanlens.plan.free_memory import FreeMemory, largest_size, working_bytes
from leanlens.plan.memory import AutoencoderSizes, EncoderSizes, ModelSizes
from leanlens.serve.errors import APIError

_CGROUPS = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> float:
    """Bytes that can be allocated on a device now: on a GPU, what its driver and torch's cache have left."""
    if device.type in ("cuda", "xpu"):
        module = getattr(torch, device.type)
        cached = module.memory_reserved(device) - module.memory_allocated(device)
        return float(module.mem_get_info(device)[0] + cached)
    free = float(psutil.virtual_memory().available)
    if device.type == "mps":
        return min(free, float(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()))
    return min(free, _left_in_container())


def _left_in_container(folder: Path = _CGROUPS) -> float:
    """Bytes left within a container's limit (cgroup 2); infinity without one. Cached files count as free."""
    with suppress(OSError, ValueError, IndexError):
        bound = (folder / "memory.max").read_text().strip()
        used = float((folder / "memory.current").read_text())
        statistics = (folder / "memory.stat").read_text().splitlines()
        cached = float(next(line for line in statistics if line.startswith("inactive_file ")).split()[1])
        return float(bound) - used + cached if bound != "max" else float("inf")
    return float("inf")


def sizes_of(opened: OpenedModel) -> ModelSizes:
    """The sizes of an opened model, from its configurations and its counted parameters."""
    pipeline = opened.pipeline
    part, vae = pipeline.transformer.config, pipeline.vae.config
    encoder: Any = pipeline.text_encoder or pipeline.encoder_loader  # which has its configuration, whether open or not
    text: Any = getattr(encoder.config, "text_config", None) or encoder.config
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    layers = len(part.selected_layer_index)
    counts = [[weight.numel() for weight in model.parameters()] if model else [0] for model in (
        pipeline.transformer, pipeline.text_encoder, pipeline.vae)]  # fmt: skip
    return ModelSizes(
        DenoiserSizes(
            part.num_layers,
            part.num_attention_heads * part.attention_head_dim,
            part.in_channels,
            part.enc_hidden_dim * layers,
        ),
        sum(counts[0]),
        part.num_attention_heads,
        EncoderSizes(
            parameters=sum(counts[1]),
            packed=0,
            active=sum(counts[1]),
            largest=max(counts[1]),
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            heads=text.num_attention_heads,
            attention_width=text.num_attention_heads * head_width,
            selected=layers,
        ),
        AutoencoderSizes(
            sum(counts[2]),
            tuple(getattr(vae, "decoder_block_out_channels", None) or vae.block_out_channels),
            vae.layers_per_block,
            vae.latent_channels,
            vae.sample_size,
        ),
    )


def require_memory(sizes: ModelSizes, memory: FreeMemory, request: ImageRequest) -> None:
    """Raise for an image that needs more memory than there is; the message names a size that fits.

    Raises:
        APIError: of kind memory.
    """
    need = working_bytes(sizes, memory, request.height, request.width)
    if need <= memory.free:
        return
    size = largest_size(sizes, memory, request.height, request.width)
    fits = "no picture of this shape fits now" if size is None else f"{size[1]}x{size[0]} would fit"
    raise APIError(
        "memory",
        f"a picture of {request.width}x{request.height} needs about {in_gb(need)} of memory while it is drawn, and "
        f"{in_gb(memory.free)} are free; {fits}",
        "size",
    )


def in_gb(size: float) -> str:
    """Bytes as GB (10^9), rounded to what a prediction is good for."""
    return f"{max(0.0, size) / 1e9:.2g} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"
