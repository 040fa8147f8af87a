"""The tensors that a callback sees after a step, and what it may change.

Comes in: latents and text features. Goes out: the same, or those that the callback gives back. Knows nothing of loops.

Shapes: B pictures, N selected layers, S text tokens, E text width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from leanlens.pipeline.features import TextFeatures

EMBEDS = ("prompt_embeds", "prompt_mask", "negative_prompt_embeds", "negative_prompt_mask")
Texts = tuple[TextFeatures, TextFeatures]


def call_back(
    callback: Callable[..., Any],
    pipeline: Any,
    index: int,
    timestep: Tensor,
    latents: Tensor,
    names: Sequence[str],
    texts: Texts,
) -> tuple[Tensor, Texts]:
    """Call it with the tensors it asks for.

    Returns:
        The latents to go on with, and the texts: the same object where they were not changed.

    Raises:
        ValueError: a tensor of another shape in place of one that was given.
    """
    given = {"latents": latents, **_stacked(texts, names)}
    given = {name: given[name] for name in names}
    versions = {name: tensor._version for name, tensor in given.items()}
    kept = dict(given)
    returned = {**given, **(callback(pipeline, index, timestep, given) or {})}
    changed = {
        name: returned[name]
        for name in EMBEDS
        if name in kept and not _is_same(kept[name], returned[name], versions[name])
    }
    return returned.get("latents", latents), _replaced(texts, changed) if changed else texts


def _stacked(texts: Texts, names: Sequence[str]) -> dict[str, Tensor]:
    """The named ones of `EMBEDS`; features are (B, N, S, E), so that their first axis is the picture."""
    tensors = {}
    for prefix, text in zip(("prompt", "negative_prompt"), texts, strict=True):
        if f"{prefix}_embeds" in names:
            tensors[f"{prefix}_embeds"] = torch.stack(text.layers, dim=1)
        if f"{prefix}_mask" in names:
            tensors[f"{prefix}_mask"] = text.mask.clone()
    return tensors


def _is_same(given: Tensor, returned: Tensor, version: int) -> bool:
    """Whether a tensor came back as it went.

    So do some of its rows: the callbacks of diffusers that turn guidance off take the last one, because other pipelines
    keep both branches in one tensor.
    """
    shared = returned.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()
    return shared and given._version == version and returned.shape[1:] == given.shape[1:]


def _replaced(texts: Texts, changed: dict[str, Tensor]) -> Texts:
    made = []
    for prefix, text in zip(("prompt", "negative_prompt"), texts, strict=True):
        embeds, mask = changed.get(f"{prefix}_embeds"), changed.get(f"{prefix}_mask")
        layers = text.layers if embeds is None else [layer.contiguous() for layer in embeds.unbind(1)]
        if mask is None:  # a text of another length has no padding
            mask = text.mask if layers[0].shape[:2] == text.mask.shape else text.mask.new_ones(layers[0].shape[:2])
        mask = mask.bool()
        rows = (len(text.mask), len(text.layers))
        if len(layers) != rows[1] or any(layer.shape[:2] != mask.shape or len(layer) != rows[0] for layer in layers):
            raise ValueError(
                f"callback_on_step_end gave {prefix}_embeds or {prefix}_mask of shapes that do not fit each other or "
                f"the {rows[0]} pictures and {rows[1]} layers of this drawing"
            )
        made.append(TextFeatures(layers, mask))
    return made[0], made[1]
