"""The loop: from noise to latents.

Comes in: a transformer, a scheduler with its noise levels set, noise, text features. Goes out: latents. Knows nothing
of prompts, pixels or files.

Two ways to the same velocity. The plain one runs the conditional and the unconditional branch each by itself, on text
of its true length and without an attention mask: pictures whose texts differ in length are packed into one row, in
which each attends to itself. It leaves the unconditional branch out at guidance 1, and computes once what every step
would compute again (`models/modulation_cache.py`). A compiled transformer keeps the mask, because each set of lengths
would be another graph to it. `exact` does what the released code did: both branches padded to one length in one masked
batch, always. In float32 they agree to rounding; in bfloat16 the last bits differ.

Within the loop nothing is read from the device or sent to it, so the host runs ahead of an accelerator.

Shapes: B pictures, L image tokens, C channels, S text tokens, N steps.
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
    """What a step hook returns to end the loop with `latents` (B, L, C)."""

    latents: Tensor


class Changed(NamedTuple):
    """What a step's hook may have changed for the steps after it."""

    latents: Tensor
    positive: TextFeatures
    negative: TextFeatures
    guidance_scale: float


# (step index, timestep, latents after the step) -> latents to go on with, or more than them; Stop or None end here.
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
        scheduler: its `timesteps` are the ones to walk; its begin index is set.
        latents: noise, or a noised picture, at the first of these levels.
        grid: (h, w) with h * w = L.
        positive, negative: text of the two branches, B rows each.
        guidance_scale: 1 leaves the unconditional branch out, unless `exact`.
        after_step: called after every step; what it changes holds for the steps that follow.
        exact: both branches in one masked batch, as the released code has it.
        attention_kwargs: passed to the transformer.
        guided_share: share of the steps, from the first on, that are guided; the rest leave the unconditional branch
            out. Below 1 the picture is another one.
        guidance_group: a `torch.distributed` group of two processes that call this with equal arguments: the first
            computes the conditional branch, the second the unconditional one. None computes both here.

    Returns:
        (B, L, C), the dtype of `latents`.

    Raises:
        ValueError: a guidance group that is not one of two processes, or one beside `exact`.
        FloatingPointError: latents that are not finite, with the step and the likely cause.
    """
    given = (positive, negative)
    if transformer.is_cache_enabled:
        transformer._reset_stateful_cache()  # of a drawing that was broken off
    times = _model_times(scheduler.timesteps, latents)
    scales = _scales(guidance_scale, len(times), guided_share)
    _check_group(guidance_group, exact)

    def branches(positive: TextFeatures, negative: TextFeatures) -> Velocity:
        rest = (transformer, grid, positive.trimmed(), negative.trimmed(), scales, times, attention_kwargs)
        return _exact_branches(*rest) if exact else _plain_branches(*rest, guidance_group)

    velocity_at = branches(*given)
    watch = _FiniteWatch(latents, len(times))
    with torch.no_grad():
        for index, timestep in enumerate(scheduler.timesteps):
            velocity = velocity_at(latents, index)
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            watch.look(index, latents)
            if after_step is not None:
                changed = after_step(index, timestep, latents)
                if changed is None:
                    break
                if isinstance(changed, Stop):
                    latents = changed.latents
                    break
                if isinstance(changed, Changed):
                    scales[:] = _scales(changed.guidance_scale, len(times), guided_share)
                    if changed.positive is not given[0] or changed.negative is not given[1]:
                        given = (changed.positive, changed.negative)
                        velocity_at = branches(*given)
                latents = changed.latents if isinstance(changed, Changed) else changed
    watch.report()
    return latents


def _scales(guidance_scale: float, steps: int, guided_share: float) -> list[float]:
    """The guidance of each step; the first is always guided."""
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
    texts = {id(text): _as_it_goes_in(text, transformer) for text in (positive, negative)}
    level_at = _levels(times, transformer)
    modulation_cache = ModulationCache(times)
    sides = (("cond", positive), ("uncond", negative))

    def branch(name: str, text: TextFeatures, latents: Tensor) -> Tensor:
        layers, mask, lengths = texts[id(text)]
        grids = [(1, *grid)] * len(lengths or [None])
        rows = latents if lengths is None else latents.flatten(0, 1)[None]  # (B, L, C) or (1, B L, C)
        with transformer.cache_context(name):
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


def _as_it_goes_in(text: TextFeatures, transformer: Any) -> tuple[list[Tensor], Tensor | None, list[int] | None]:
    """Features with a mask, with lengths (packed, then (1, sum of S, E)), or with neither where nothing is padded."""
    if is_compiled(transformer):  # a graph tells rows that lie close together from those cut out of longer ones
        layers = [layer.clone(memory_format=torch.contiguous_format) for layer in text.layers]
        return layers, None if bool(text.mask.all()) else text.mask.clone(memory_format=torch.contiguous_format), None
    if bool(text.mask.all()):
        return text.layers, None, None
    return [layer[text.mask][None] for layer in text.layers], None, text.mask.sum(1).tolist()


def is_compiled(transformer: Any) -> bool:
    """Whether calls run in graphs: its blocks', its own (`model.compile()`), or those of a wrapper around it."""
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

    A compiled transformer gets copies: a graph also sees the tensor that a view is cut from, so that it could be bound
    to this number of steps.
    """
    compiled = is_compiled(transformer)

    def level_at(step: int, rows: int | None = None) -> Tensor:
        level = times[step] if rows is None else times[step].expand(rows)
        return level.clone(memory_format=torch.contiguous_format) if compiled else level

    return level_at


class _FiniteWatch:
    """Notices the first step whose latents are not finite.

    On the CPU it looks after every step. On an accelerator a look would make the host wait, so the first bad step is
    noted on the device and read once, after the loop.
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
