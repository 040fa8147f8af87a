"""Sizes of a model for the planner, from its configurations and the headers of its weight files; nothing is loaded."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leanlens.hub import locate
from leanlens.plan.compute import DenoiserSizes
from leanlens.plan.memory import AutoencoderSizes, EncoderSizes, ModelSizes
from leanlens.presets import PRESETS
from leanlens.weights.assemble import component_paths
from leanlens.weights.layouts import Layout, identify
from leanlens.weights.load import model_config, stored_tensors


def model_sizes(name: str, given: dict[str, str] | None = None) -> tuple[ModelSizes, bool]:
    """Sizes of a model, and whether its text encoder stays in MXFP4: the released ones, or those of files here.

    Args:
        given: paths of single components, for a model that does not bring them.

    Raises:
        ValueError: neither, or a model that is not whole.
    """
    if name in PRESETS and not PRESETS[name].is_small and not given:
        return ModelSizes(), True
    if name in PRESETS:
        path = locate(name)
    else:
        path = Path(name).expanduser()
    if not path.exists():
        presets = ", ".join(name for name, preset in PRESETS.items() if not preset.is_made)
        raise ValueError(f"model {name!r} is not here; give {presets} or a model folder on this machine")
    layout = identify(path)
    given_parts: dict[str, Any] = dict(given or {})
    if layout.component != "pipeline" or given:
        paths = component_paths(path, **given_parts)
        parts = {part: identify(paths[part]) for part in ("transformer", "text_encoder", "vae")}
    else:
        parts = dict(layout.parts)
        if missing := {"transformer", "text_encoder", "vae"} - set(parts):
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; a whole model can be planned")
    encoder = parts["text_encoder"]
    return _sizes_of(parts), encoder.quantisation == "mxfp4" and encoder.path.is_dir()


def _sizes_of(parts: Mapping[str, Layout]) -> ModelSizes:
    """Plain numbers of the parts, from configs and the headers of weight files."""
    part, text, vae = (model_config(parts[key]) for key in ("transformer", "text_encoder", "vae"))
    width = part["num_attention_heads"] * part["attention_head_dim"]
    layers = part.get("selected_layer_index", (5, 11, 17, 23))
    stored = {key: stored_tensors(parts[key]).values() for key in ("transformer", "vae")}
    counts = {key: sum(_elements(tensor.shape) for tensor in tensors) for key, tensors in stored.items()}
    encoder = stored_tensors(parts["text_encoder"])
    weights = {key: _elements(value.shape) for key, value in encoder.items() if not key.startswith("lm_head")}
    share = text.get("num_experts_per_tok", 1) / text.get("num_local_experts", 1)
    met = sum(n * (share if ".experts." in key else 1) for key, n in weights.items() if "embed_tokens" not in key)
    head_dim = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    return ModelSizes(
        DenoiserSizes(part["num_layers"], width, part["in_channels"], part["enc_hidden_dim"] * len(layers)),
        counts["transformer"],
        part["num_attention_heads"],
        EncoderSizes(
            parameters=sum(weights.values()),
            packed=sum(weights[key] for key in weights if encoder[key].quantisation == "mxfp4"),
            active=int(met),
            largest=max(weights.values()),
            layers=text["num_hidden_layers"],
            width=text["hidden_size"],
            heads=text["num_attention_heads"],
            attention_width=text["num_attention_heads"] * head_dim,
            selected=len(layers),
            experts=text.get("num_local_experts", 1),
        ),
        AutoencoderSizes(
            counts["vae"],
            tuple(vae["block_out_channels"]),
            vae["layers_per_block"],
            vae["latent_channels"],
            vae.get("sample_size", 1024),
        ),
        denoiser_file=_read_of(parts["transformer"]),
        encoder_file=_read_of(parts["text_encoder"]),
    )


def _read_of(layout: Layout) -> float:
    """Bytes of a part's tensors in its files, the head of a language model left out."""
    return float(sum(entry.stop - entry.start for name, entry in layout.entries.items() if "lm_head" not in name))


def _elements(shape: tuple[int, ...]) -> int:
    return math.prod(shape)
