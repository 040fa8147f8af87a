"""Passes the state of a running call to a callback, and takes back what the callback changes.

Shapes: B images, N selected layers, S text tokens, E text width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from leanlens.pipeline.features import TextFeatures

EMBEDS = ("prompt_embeds", "prompt_mask", "negative_prompt_embeds", "negative_prompt_mask")
Texts = tuple[TextFeatures, TextFeatures]


class DrawingStateMixin:
    """The state of a pipeline's running call, by diffusers' names.

    A callback may set `_guidance_scale`, as diffusers' own callbacks do, and `interrupt`.
    """

    _guidance_scale: float = 1.0
    _num_timesteps: int = 0
    _current_timestep: Tensor | None = None
    _attention_kwargs: dict[str, Any] | None = None
    _interrupt: bool = False

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the running or the last call."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the unconditional branch is computed."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Steps of the running or the last call; below strength 1 fewer than `num_inference_steps`."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Timestep of the running call, in 0..1000; None between calls."""
        return self._current_timestep

    @property
    def attention_kwargs(self) -> dict[str, Any] | None:
        """Attention arguments of the running or the last call."""
        return self._attention_kwargs

    @property
    def joint_attention_kwargs(self) -> dict[str, Any] | None:
        """`attention_kwargs`, under the name that some pipelines of diffusers use."""
        return self._attention_kwargs

    @property
    def interrupt(self) -> bool:
        """Set `pipeline.interrupt = True` from another thread or a callback to stop after the running step."""
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = value


def call_back(
    callback: Callable[..., Any],
    pipeline: Any,
    index: int,
    timestep: Tensor,
    latents: Tensor,
    names: Sequence[str],
    texts: Texts,
) -> tuple[Tensor, Texts]:
    """Call a callback with the tensors that it asks for.

    Returns:
        The latents to continue with, and the text features, which are the same object if they are unchanged.

    Raises:
        ValueError: the result is not a mapping from known names to tensors, or a tensor has a wrong shape.
    """
    given = {"latents": latents, **_stacked(texts, names)}
    given = {name: given[name] for name in names}
    versions = {name: tensor._version for name, tensor in given.items()}
    kept = dict(given)
    answer = callback(pipeline, index, timestep, given)
    _check_answer(answer)
    returned = {**given, **(answer or {})}
    changed = {
        name: returned[name]
        for name in EMBEDS
        if name in returned and not (name in kept and _is_same(kept[name], returned[name], versions[name]))
    }
    return returned.get("latents", latents), _replaced(texts, changed) if changed else texts


def _check_answer(answer: Any) -> None:
    if answer is None:
        return
    if not isinstance(answer, Mapping):
        raise ValueError(f"callback_on_step_end gave a {type(answer).__name__}; expected a dict of tensors or None")
    for name, tensor in answer.items():
        if name not in ("latents", *EMBEDS) or not isinstance(tensor, Tensor):
            raise ValueError(
                f"callback_on_step_end gave {name!r}, a {type(tensor).__name__}; expected tensors called latents, "
                f"{', '.join(EMBEDS)}"
            )


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
