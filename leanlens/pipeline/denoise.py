"""Runs the denoising loop, from noise to latents.

There are two ways to compute the velocity. The plain way runs the conditional and the unconditional branch separately,
on text of its true length and without an attention mask; images whose texts differ in length are packed into one row,
in which each attends only to itself. It skips the unconditional branch at guidance 1, and computes once what is the
same in every step (`models/modulation_cache.py`). A compiled transformer keeps the mask, because every other set of
lengths would need another graph. The `exact` way is that of the released code: both branches are padded to one length
and run in one masked batch, at any guidance. In float32 the two agree up to rounding; in bfloat16 the last bits differ.

The loop itself neither reads from the device nor copies to it, so the host runs ahead of an accelerator.

Shapes: B images, L image tokens, C channels, S text tokens, N steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leanlens.flow.guidance import guided_velocity
from leanlens.models.modulation_cache import ModulationCache
from leanlens.pipeline.features import TextFeatures, join


@dataclass(frozen=True)
class Stop:
    """Returned by a step hook to end the loop with `latents` (B, L, C)."""

    latents: Tensor


class Changed(NamedTuple):
    """Returned by a step hook to change what the following steps use."""

    latents: Tensor
    positive: TextFeatures
    negative: TextFeatures
    guidance_scale: float


# (step index, timestep, latents after the step) -> latents to continue with, or `Changed`. Stop and None end the loop.
StepHook = Callable[[int, Tensor, Tensor], Tensor | Changed | Stop | None]
Velocity = Callable[[Tensor, int], Tensor]  # (latents, step index) -> velocity


def denoise(
    transformer: Any,
    scheduler: Any,
    latents: Tensor,
    grid: tuple[int, int],
    positive: TextFeatures,
    negative: TextFeatures,
    guidance_scale: float,
    after_step: StepHook | None = None,
    exact: bool = False,
    attention_kwargs: dict[str, Any] | None = None,
    guided_share: float = 1.0,
    guidance_group: Any = None,
) -> Tensor:
    """Walk `latents` (B, L, C) down the scheduler's noise levels.

    Args:
        transformer: a `LensTransformer2DModel`.
        scheduler: has the `timesteps` of this call, and its begin index is set.
        latents: noise, or a noised image, at the first of these levels.
        grid: (h, w) with h * w = L.
        positive, negative: text features of the two branches, B rows each.
        guidance_scale: 1 skips the unconditional branch, unless `exact`.
        after_step: called after every step; its changes apply to the steps that follow.
        exact: run both branches in one masked batch, as the released code does.
        attention_kwargs: passed to the transformer.
        guided_share: share of the steps, counted from the first, that use guidance; the others skip the unconditional
            branch. Below 1 the image is a different one.
        guidance_group: a `torch.distributed` group of two processes that call this with equal arguments: the first
            computes the conditional branch, the second the unconditional one. With None both are computed here.

    Returns:
        (B, L, C), the dtype of `latents`.

    Raises:
        ValueError: a guidance group that does not have two processes, or one together with `exact`.
        FloatingPointError: latents are not finite; the message names the step and the likely cause.
    """
    given = (positive, negative)
    if transformer.is_cache_enabled:
        transformer._reset_stateful_cache()  # a call that was interrupted leaves states that this one must not reuse
    times = _model_times(scheduler.timesteps, latents)
    scales = _scales(guidance_scale, len(times), guided_share)
    _check_group(guidance_group, exact)

    def branches(positive: TextFeatures, negative: TextFeatures) -> Velocity:
        rest = (transformer, grid, positive.trimmed(), negative.trimmed(), scales, times, attention_kwargs)
        return _exact_branches(*rest) if exact else _plain_branches(*rest, guidance_group)

    # Text is prepared once, not in each step: trimming and packing read the mask, which makes the host wait.
    velocity_at = branches(*given)
    watch = _FiniteWatch(latents, len(times))
    with torch.no_grad():
        for index, timestep in enumerate(scheduler.timesteps):
            velocity = velocity_at(latents, index)
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            watch.look(index, latents)  # before a hook changes them, so that the step is not blamed for it
            if after_step is not None:
                changed = after_step(index, timestep, latents)
                if changed is None:
                    break
                if isinstance(changed, Stop):
                    latents = changed.latents
                    break
                if isinstance(changed, Changed):
                    # In place, because the velocity's closure holds this list.
                    scales[:] = _scales(changed.guidance_scale, len(times), guided_share)
                    # Compared by identity: comparing values would wait for the device.
                    if changed.positive is not given[0] or changed.negative is not given[1]:
                        given = (changed.positive, changed.negative)
                        velocity_at = branches(*given)
                latents = changed.latents if isinstance(changed, Changed) else changed
    watch.report()  # the only wait for the device, after the last step has been queued
    return latents


def _scales(guidance_scale: float, steps: int, guided_share: float) -> list[float]:
    """The guidance scale of each step; at least the first is guided."""
    guided = max(1, round(steps * guided_share))
    return [guidance_scale] * guided + [1.0] * (steps - guided)


def _check_group(group: Any, exact: bool) -> None:
    if group is None:
        return
    processes = torch.distributed.get_world_size(group)
    if processes != 2:
        raise ValueError(f"guidance_group has {processes} processes; expected 2, one for each branch")
    if exact:
        raise ValueError("guidance_group cannot be combined with exact, which computes both branches in one batch")


def _plain_branches(transformer, grid, positive, negative, scales, times, attention_kwargs, group) -> Velocity:
    texts = {id(text): _text_input(text, transformer) for text in (positive, negative)}
    level_at = _levels(times, transformer)
    modulation_cache = ModulationCache(times)
    sides = (("cond", positive), ("uncond", negative))

    def branch(name: str, text: TextFeatures, latents: Tensor) -> Tensor:
        layers, mask, lengths = texts[id(text)]
        grids = [(1, *grid)] * len(lengths or [None])
        rows = latents if lengths is None else latents.flatten(0, 1)[None]  # (B, L, C) or (1, B L, C)
        with transformer.cache_context(name):  # step caches keep a state for each branch
            velocity = transformer(
                rows, layers, mask, level_at(modulation_cache.step), grids,
                attention_kwargs=attention_kwargs, text_lengths=lengths, modulation_cache=modulation_cache,
            )  # fmt: skip
        return velocity.reshape(*latents.shape[:2], -1)

    def velocity(latents: Tensor, step: int) -> Tensor:
        modulation_cache.step = step
        if scales[step] == 1:
            return branch(*sides[0], latents)
        if group is None:
            conditional, unconditional = (branch(*side, latents) for side in sides)
        else:
            own = branch(*sides[group.rank()], latents)
            conditional, unconditional = torch.empty_like(own), torch.empty_like(own)
            torch.distributed.all_gather([conditional, unconditional], own.contiguous(), group)
        return guided_velocity(conditional, unconditional, scales[step])

    return velocity


def _text_input(text: TextFeatures, transformer: Any) -> tuple[list[Tensor], Tensor | None, list[int] | None]:
    """The text as the transformer takes it: with a mask, with lengths (packed, (1, sum of S, E)), or unpadded."""
    if is_compiled(transformer):  # views of longer rows would be another input, and so another graph
        layers = [layer.clone(memory_format=torch.contiguous_format) for layer in text.layers]
        return layers, None if bool(text.mask.all()) else text.mask.clone(memory_format=torch.contiguous_format), None
    if bool(text.mask.all()):
        return text.layers, None, None
    return [layer[text.mask][None] for layer in text.layers], None, text.mask.sum(1).tolist()


def is_compiled(transformer: Any) -> bool:
    """Whether calls run in compiled graphs: of the blocks, of the whole model, or of a wrapper around it."""
    return (
        transformer.blocks_are_compiled
        or transformer._compiled_call_impl is not None
        or isinstance(transformer, torch._dynamo.OptimizedModule)
        or hasattr(transformer.forward, "_torchdynamo_orig_callable")
    )


def _exact_branches(transformer, grid, positive, negative, scales, times, attention_kwargs) -> Velocity:
    both = join([positive, negative])
    level_at = _levels(times, transformer)

    def velocity(latents: Tensor, step: int) -> Tensor:
        with transformer.cache_context("cond_uncond"):
            output = transformer(
                torch.cat([latents, latents]), both.layers, both.mask, level_at(step, 2 * len(latents)),
                [(1, *grid)], attention_kwargs=attention_kwargs,
            )  # fmt: skip
        conditional, unconditional = output.chunk(2)
        return guided_velocity(conditional, unconditional, scales[step])

    return velocity


def _model_times(timesteps: Tensor, latents: Tensor) -> Tensor:
    """Scheduler timesteps in 0..1000 -> (N,) in 0..1, rounded to the latents' dtype before and after the division.

    The released code rounds there, and in bfloat16 the difference is visible: 994.19 becomes 996.
    """
    return timesteps.to(latents.dtype).to(latents.device) / 1000


def _levels(times: Tensor, transformer: Any) -> Callable[..., Tensor]:
    """(step, rows) -> the step's noise level, a scalar or (rows,).

    A compiled transformer gets copies, since a graph also depends on the tensor behind a view: with views it would be
    compiled again for every number of steps.
    """
    compiled = is_compiled(transformer)

    def level_at(step: int, rows: int | None = None) -> Tensor:
        level = times[step] if rows is None else times[step].expand(rows)
        return level.clone(memory_format=torch.contiguous_format) if compiled else level

    return level_at


class _FiniteWatch:
    """Finds the first step whose latents are not finite.

    On the CPU it checks after every step. On an accelerator that would make the host wait, so the first bad step is
    recorded on the device and read once, after the loop.
    """

    def __init__(self, latents: Tensor, steps: int):
        self.steps = steps
        self.dtype = latents.dtype
        self.eager = latents.device.type == "cpu"
        self.first_bad = torch.full((), steps, device=latents.device)

    def look(self, index: int, latents: Tensor) -> None:
        bad = ~torch.isfinite(latents).all()
        if self.eager:
            if bad:
                self._stop(index)
        else:
            self.first_bad = torch.minimum(self.first_bad, index + self.steps * ~bad)

    def report(self) -> None:
        if not self.eager and (index := int(self.first_bad)) < self.steps:
            self._stop(index)

    def _stop(self, index: int) -> None:
        if self.dtype == torch.float16:
            cause = "float16 does not hold the range of this model; use bfloat16 or float32"
        elif index == 0:
            cause = "a damaged weight file or LoRA is likely; `leanlens weights verify` finds it"
        else:
            cause = "a guidance scale or LoRA scale far from the usual is likely"
        raise FloatingPointError(f"latents are not finite after step {index + 1} of {self.steps}: {cause}")
