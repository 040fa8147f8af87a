"""The loop: what it leaves out, what it does not ask of an accelerator, and what it does with a part of its steps."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.utils._python_dispatch import TorchDispatchMode

from leanlens.models.transformer import LensAttnProcessor, LensTransformer2DModel
from leanlens.pipeline import denoise as loop
from leanlens.pipeline.features import TextFeatures
from leanlens.pipeline.start import set_levels

GRID, STEPS = (4, 6), 4


@pytest.fixture(scope="module")
def transformer() -> LensTransformer2DModel:
    torch.manual_seed(0)
    made = LensTransformer2DModel(num_layers=2, num_attention_heads=2, enc_hidden_dim=32, selected_layer_index=(0, 1))
    return made.eval().requires_grad_(False)


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    made = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    set_levels(made, GRID, STEPS)
    return made


def several(lengths=(5, 0, 2)) -> tuple[torch.Tensor, TextFeatures, TextFeatures]:
    """Pictures whose texts differ in length, one of them without any."""
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(len(lengths), GRID[0] * GRID[1], 128, generator=generator)
    layers = [torch.randn(len(lengths), max(lengths), 32, generator=generator) for _ in range(2)]
    features = TextFeatures(layers, torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None])
    return latents, features, features.without_text()


def inputs(device="cpu", text=5) -> tuple[torch.Tensor, TextFeatures, TextFeatures]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, GRID[0] * GRID[1], 128, generator=generator).to(device)
    layers = [torch.randn(1, text, 32, generator=generator).to(device) for _ in range(2)]
    features = TextFeatures(layers, torch.ones(1, text, dtype=torch.bool, device=device))
    return latents, features, features.without_text()


def drawn(transformer, scale=5.0, **options) -> torch.Tensor:
    latents, positive, negative = inputs()
    return loop.denoise(transformer, scheduler(), latents, GRID, positive, negative, scale, **options)


class Calls:
    """Counts the calls of both branches; only the conditional one has text."""

    def __init__(self, transformer):
        self.counts = {"cond": 0, "uncond": 0}
        self.handle = transformer.register_forward_pre_hook(self._count)

    def _count(self, _, args):
        self.counts["cond" if args[1][0].shape[1] else "uncond"] += 1

    def __enter__(self):
        return self.counts

    def __exit__(self, *_):
        self.handle.remove()


def test_no_guidance_leaves_the_unconditional_branch_out(transformer):
    with Calls(transformer) as counts:
        drawn(transformer, scale=1.0)
    assert counts == {"cond": STEPS, "uncond": 0}


def test_guidance_on_the_first_part_of_the_steps(transformer):
    whole = drawn(transformer)
    with Calls(transformer) as counts:
        half = drawn(transformer, guided_share=0.5)
    assert counts == {"cond": STEPS, "uncond": STEPS // 2}
    assert 0 < (half - whole).norm() / whole.norm() < 0.5
    assert torch.equal(drawn(transformer, guided_share=1.0), whole)
    with Calls(transformer) as counts:
        drawn(transformer, guided_share=0.01)
    assert counts["uncond"] == 1


def test_plain_equals_exact_to_rounding(transformer):
    torch.testing.assert_close(drawn(transformer), drawn(transformer, exact=True), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_texts_of_different_lengths_are_drawn_without_a_mask(transformer, scale, monkeypatch):
    latents, positive, negative = several()
    masks, plain = [], LensAttnProcessor.mix
    monkeypatch.setattr(LensAttnProcessor, "mix", lambda *given: masks.append(given[-1]) or plain(*given))
    together = loop.denoise(transformer, scheduler(), latents, GRID, positive, negative, scale)
    assert set(masks) == {None}
    for row in range(3):
        one, none = (
            TextFeatures([x[row : row + 1] for x in t.layers], t.mask[row : row + 1]) for t in (positive, negative)
        )
        alone = loop.denoise(transformer, scheduler(), latents[row : row + 1], GRID, one, none, scale)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-4)


def test_packed_equals_exact_to_rounding(transformer):
    latents, positive, negative = several()
    packed, exact = (
        loop.denoise(transformer, scheduler(), latents, GRID, positive, negative, 5.0, exact=exact)
        for exact in (False, True)
    )
    torch.testing.assert_close(packed, exact, rtol=0, atol=1e-4)


def test_compiled_blocks_keep_the_mask(transformer, monkeypatch):
    """Each set of lengths would be another graph."""
    _, positive, _ = several()
    monkeypatch.setattr(transformer, "blocks_are_compiled", True)
    layers, mask, lengths = loop._text_input(positive, transformer)
    assert (mask.shape, lengths) == ((3, 5), None)
    monkeypatch.setattr(transformer, "blocks_are_compiled", False)
    layers, mask, lengths = loop._text_input(positive, transformer)
    assert (layers[0].shape, mask, lengths) == ((1, 7, 32), None, [5, 0, 2])


class Asked(TorchDispatchMode):
    """Notes what makes a host wait: values read from a tensor, shapes that depend on values, copies across devices."""

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, device = str(func), (kwargs or {}).get("device")
        crossing = "_to_copy" in name and device is not None and torch.device(device).type != args[0].device.type
        if crossing or any(word in name for word in ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select")):
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("scale", "packed"), [(1.0, False), (5.0, False), (5.0, True)])
def test_the_loop_never_waits_for_the_device(transformer, scale, packed, monkeypatch):
    """The meta device holds no values at all: reading one would be an error, sending one is noted."""
    monkeypatch.setattr(loop._FiniteWatch, "report", lambda self: None)  # the one look, after the loop
    monkeypatch.setattr(TextFeatures, "trimmed", lambda self: self)  # before the loop
    ghost = LensTransformer2DModel.from_config(transformer.config).to("meta")
    latents, positive, negative = inputs("meta")
    monkeypatch.setattr(  # before the loop
        loop, "_text_input", lambda text, _: (text.layers, None, [text.mask.shape[1]] if packed else None)
    )
    asked, during = Asked(), []

    def after_step(index, timestep, latents):
        during.append(list(asked.waits))
        return latents

    with asked:
        loop.denoise(ghost, scheduler(), latents, GRID, positive, negative, scale, after_step)
    assert len(during) == STEPS
    assert all(waits == during[0] for waits in during)  # nothing after the first step
    assert len(during[0]) <= 1 + 2  # the levels, and what the tables of two branches need


def test_the_first_step_that_fails_is_named_without_looking_each_time():
    latents = torch.zeros(1, 2, 3)
    watch = loop._FiniteWatch(latents, 5)
    watch.eager = False  # as on an accelerator
    for index, value in enumerate([0.0, 1.0, float("nan"), float("nan"), float("nan")]):
        watch.look(index, latents + value)
    with pytest.raises(FloatingPointError, match="after step 3 of 5"):
        watch.report()
