"""What diffusers does for the denoiser. Each feature is compared with the plain model, and shown to have acted."""

import copy
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    TextKVCacheConfig,
)
from diffusers.hooks import SeaCacheConfig, apply_pyramid_attention_broadcast
from diffusers.hooks.group_offloading import ModuleGroup
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend
from peft import LoraConfig

from leanlens.models.transformer import SUPPORTED_CACHES, LensTransformer2DModel

BLOCKS = 3
STEPS = 8


@pytest.fixture
def model() -> LensTransformer2DModel:
    torch.manual_seed(0)
    made = LensTransformer2DModel(
        num_layers=BLOCKS, num_attention_heads=2, enc_hidden_dim=32, selected_layer_index=(0, 1)
    )
    return made.eval().requires_grad_(False)


def make_inputs(batch=1, grid=(4, 6), text=5, dtype=torch.float32, seed=1) -> dict:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, grid[0] * grid[1], 128, generator=generator)
    features = [torch.randn(batch, text, 32, generator=generator).to(dtype) for _ in range(2)]
    return {
        "hidden_states": image.to(dtype),
        "encoder_hidden_states": features,
        "timestep": torch.full((batch,), 0.7),
        "img_shapes": [(1, *grid)],
    }


class Counter:
    """Counts forward passes that really ran: step caches replace the forward of a block, not of what is inside."""

    def __init__(self, model: LensTransformer2DModel):
        self.attention = self.mlp = 0
        for block in model.transformer_blocks:
            block.attn.img_qkv.register_forward_hook(self._attention)
            block.img_mlp.w1.register_forward_hook(self._mlp)

    def _attention(self, *_):
        self.attention += 1

    def _mlp(self, *_):
        self.mlp += 1

    def take(self) -> tuple[int, int]:
        counts = self.attention, self.mlp
        self.attention = self.mlp = 0
        return counts


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got.float() - expected.float()).norm() / expected.float().norm()).item()


# Attention backends


@pytest.fixture
def _restored_backend():
    """`set_attention_backend` also sets the backend of the whole process."""
    with attention_backend("native"):
        yield


@pytest.mark.usefixtures("_restored_backend")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backend", ["native", "_native_math", "_native_flash", "flex"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_attention_backends_agree(model, backend, masked, monkeypatch):
    inputs = make_inputs()
    if masked:
        inputs["encoder_hidden_states_mask"] = torch.tensor([[True, True, True, False, False]])
    plain = model(**inputs)
    model.set_attention_backend(backend)
    set_on = {block.attn.processor._attention_backend for block in model.transformer_blocks}
    assert set_on == {AttentionBackendName(backend)}
    used = _watch_backend(backend, monkeypatch)
    if masked and backend == "_native_flash":
        with pytest.raises(ValueError, match="attn_mask"):
            model(**inputs)
        return
    torch.testing.assert_close(model(**inputs), plain, rtol=0, atol=1e-5)
    assert len(used) == BLOCKS
    model.reset_attention_backend()
    assert {block.attn.processor._attention_backend for block in model.transformer_blocks} == {None}


def _watch_backend(name: str, monkeypatch) -> list:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    original, used = _AttentionBackendRegistry._backends[AttentionBackendName(name)], []

    def watched(**kwargs):
        used.append(kwargs["query"].shape)
        return original(**kwargs)

    monkeypatch.setitem(_AttentionBackendRegistry._backends, AttentionBackendName(name), watched)
    return used


def test_unknown_backend_is_refused(model):
    with pytest.raises(ValueError, match="must be one of"):
        model.set_attention_backend("nothing")


def test_fusing_projections_changes_nothing(model):
    names, plain = list(model.state_dict()), model(**make_inputs())
    model.fuse_qkv_projections()
    assert list(model.state_dict()) == names
    assert torch.equal(model(**make_inputs()), plain)
    model.unfuse_qkv_projections()
    assert torch.equal(model(**make_inputs()), plain)


# Training


def test_gradient_checkpointing_gives_the_same_gradients(model):
    model.train().requires_grad_(True)
    counter, gradients = Counter(model), []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        model(**make_inputs(batch=2)).square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        assert counter.take()[0] == BLOCKS * (2 if checkpointing else 1)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        model(**make_inputs())
    assert counter.take()[0] == BLOCKS


LORA_TARGETS = ["img_qkv", "txt_qkv", "to_out.0", "to_add_out", "img_mlp.w1", "img_mod.1"]


def _add_random_lora(model: LensTransformer2DModel) -> None:
    model.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=LORA_TARGETS))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)


def test_fresh_adapter_changes_nothing_and_alone_learns(model):
    plain = model(**make_inputs())
    model.add_adapter(LoraConfig(r=4, target_modules=LORA_TARGETS))
    adapted = model(**make_inputs())
    assert torch.equal(adapted, plain)
    adapted.square().mean().backward()
    learning = {name.split(".")[-3] for name, p in model.named_parameters() if p.grad is not None}
    assert learning == {"lora_A", "lora_B"}
    layers = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert len(layers) == BLOCKS * len(LORA_TARGETS)


def test_adapter_acts_scales_and_leaves(model):
    names, plain = set(model.state_dict()), model(**make_inputs())
    _add_random_lora(model)
    full = model(**make_inputs())
    half = model(**make_inputs(), attention_kwargs={"scale": 0.5})
    none = model(**make_inputs(), attention_kwargs={"scale": 0.0})
    assert relative_error(full, plain) > 1e-3
    assert 0 < relative_error(half, plain) < relative_error(full, plain)
    torch.testing.assert_close(none, plain, rtol=0, atol=1e-6)
    assert torch.equal(model(**make_inputs()), full)  # a scale lasts for its call
    model.disable_adapters()
    assert torch.equal(model(**make_inputs()), plain)
    model.enable_adapters()
    assert torch.equal(model(**make_inputs()), full)
    model.delete_adapters("default")
    assert torch.equal(model(**make_inputs()), plain)
    model.unload_lora()
    assert set(model.state_dict()) == names


def test_fused_adapter_equals_the_adapter(model):
    _add_random_lora(model)
    adapted = model(**make_inputs())
    layer = model.transformer_blocks[0].attn.img_qkv
    weight, runs = layer.base_layer.weight.clone(), []
    layer.lora_A["default"].register_forward_hook(lambda *_: runs.append(1))
    model.fuse_lora()
    torch.testing.assert_close(model(**make_inputs()), adapted, rtol=0, atol=1e-5)
    assert not runs
    assert not torch.equal(layer.base_layer.weight, weight)
    model.unfuse_lora()
    torch.testing.assert_close(model(**make_inputs()), adapted, rtol=0, atol=1e-5)
    assert runs
    torch.testing.assert_close(layer.base_layer.weight, weight, rtol=0, atol=1e-6)


def test_saved_adapter_opens_on_a_fresh_model(model, tmp_path):
    fresh = copy.deepcopy(model)
    _add_random_lora(model)
    model.save_lora_adapter(tmp_path)
    fresh.load_lora_adapter(tmp_path, prefix=None, weight_name="pytorch_lora_weights.safetensors")
    (opened,) = fresh.peft_config.values()
    assert (opened.r, opened.lora_alpha) == (4, 8)
    assert torch.equal(fresh(**make_inputs()), model(**make_inputs()))


# Memory


def test_layerwise_casting_stores_less(model):
    model.to(torch.bfloat16)
    inputs = make_inputs(dtype=torch.bfloat16)
    plain, before = model(**inputs), {name: p.nbytes for name, p in model.named_parameters()}
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    stored = {name: p for name, p in model.named_parameters() if p.dtype == torch.float8_e4m3fn}
    kinds = {name.split(".", 2)[2] for name in stored}
    assert {kind.removesuffix(".weight").removesuffix(".bias") for kind in kinds} == (
        {"attn.img_qkv", "attn.txt_qkv", "attn.to_out.0", "attn.to_add_out"}
        | {f"{stream}_mlp.{w}" for stream in ("img", "txt") for w in ("w1", "w2", "w3")}
    )
    assert all(2 * p.nbytes == before[name] for name, p in stored.items())
    assert {p.dtype for name, p in model.named_parameters() if name not in stored} == {torch.bfloat16}
    cast = model(**inputs)
    assert cast.dtype == torch.bfloat16
    assert 0 < relative_error(cast, plain) < 0.05
    assert all(p.dtype == torch.float8_e4m3fn for name, p in model.named_parameters() if name in stored)


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize(
    ("options", "groups"),
    [({"offload_type": "block_level", "num_blocks_per_group": 2}, 2), ({"offload_type": "leaf_level"}, 10 * BLOCKS)],
    ids=["block", "leaf"],
)
def test_group_offload_moves_weights(model, options, groups, disk, tmp_path, monkeypatch):
    plain = model(**make_inputs())
    weights = sum(parameter.nbytes for parameter in model.parameters())
    moved = _watch_groups(monkeypatch)
    cpu = torch.device("cpu")
    model.enable_group_offload(cpu, cpu, offload_to_disk_path=str(tmp_path) if disk else None, **options)
    for _ in range(2):
        moved.clear()
        torch.testing.assert_close(model(**make_inputs()), plain, rtol=0, atol=1e-5)
        assert moved.count("onload") >= groups
        assert moved.count("offload") >= groups
    files = list(tmp_path.iterdir())
    assert bool(files) == disk
    if disk:
        assert all(file.suffix == ".safetensors" for file in files)
        assert sum(file.stat().st_size for file in files) >= weights


def _watch_groups(monkeypatch) -> list[str]:
    moved = []
    for kind in ("onload", "offload"):
        for place in ("memory", "disk"):
            name = f"_{kind}_{'from' if kind == 'onload' else 'to'}_{place}"
            original = getattr(ModuleGroup, name)

            def watched(group, original=original, kind=kind):
                moved.append(kind)
                return original(group)

            monkeypatch.setattr(ModuleGroup, name, watched)
    return moved


# Step caches


def draw(model, branches=("cond", "uncond"), seed=1) -> torch.Tensor:
    """Eight Euler steps, each branch in its own cache context; the unconditional one has no text tokens."""
    inputs = make_inputs(seed=seed)
    text = {"cond": inputs["encoder_hidden_states"], "uncond": [f[:, :0] for f in inputs["encoder_hidden_states"]]}
    latents, levels = inputs["hidden_states"], torch.linspace(1, 0, STEPS + 1)
    for now, then in pairwise(levels):
        velocities = []
        for branch in branches:
            with model.cache_context(branch):
                step = {"hidden_states": latents, "encoder_hidden_states": text[branch], "timestep": now[None]}
                velocities.append(model(**inputs | step))
        velocity = velocities[0] if len(velocities) == 1 else velocities[1] + 4 * (velocities[0] - velocities[1])
        latents = latents + (then - now) * velocity
    return latents


def _taylor(**options) -> TaylorSeerCacheConfig:
    return TaylorSeerCacheConfig(disable_cache_before_step=2, taylor_factors_dtype=torch.float32, **options)


EXACT_CACHES = {
    "first block": lambda: FirstBlockCacheConfig(threshold=0.0),
    "mag calibration": lambda: MagCacheConfig(calibrate=True, num_inference_steps=STEPS),
    "mag": lambda: MagCacheConfig(threshold=0.0, mag_ratios=[1.1] * STEPS, num_inference_steps=STEPS),
    "taylor": lambda: _taylor(cache_interval=1),
    "taylor lite": lambda: _taylor(cache_interval=1, use_lite_mode=True),
}
# With the share of attention and of MLP passes that may be left.
SKIPPING_CACHES = {
    "first block": (lambda: FirstBlockCacheConfig(threshold=0.9), 0.9, 0.9),
    "mag": (lambda: MagCacheConfig(mag_ratios=[1.0] * STEPS, num_inference_steps=STEPS), 0.5, 0.5),
    "taylor": (lambda: _taylor(cache_interval=2), 0.7, 1.0),
    "taylor lite": (lambda: _taylor(cache_interval=2, use_lite_mode=True), 0.7, 0.7),
}
BRANCHES = pytest.mark.parametrize("branches", [("cond",), ("uncond",), ("cond", "uncond")], ids="+".join)


@BRANCHES
@pytest.mark.parametrize("name", EXACT_CACHES)
def test_cache_that_skips_nothing_equals_plain(model, name, branches):
    counter, plain = Counter(model), draw(model, branches)
    work = counter.take()
    model.enable_cache(EXACT_CACHES[name]())
    assert torch.equal(draw(model, branches), plain)
    assert counter.take() == work == (STEPS * BLOCKS * len(branches),) * 2


@BRANCHES
@pytest.mark.parametrize("name", SKIPPING_CACHES)
def test_cache_skips_work(model, name, branches):
    make_config, attention_left, mlp_left = SKIPPING_CACHES[name]
    counter, plain = Counter(model), draw(model, branches)
    whole = counter.take()[0]
    model.enable_cache(make_config())
    cached = draw(model, branches)
    attention, mlp = counter.take()
    assert attention <= attention_left * whole
    assert mlp <= mlp_left * whole
    assert cached.isfinite().all()
    assert 0 < relative_error(cached, plain) < 0.1
    model.disable_cache()
    assert torch.equal(draw(model, branches), plain)
    assert counter.take() == (whole, whole)


@pytest.mark.parametrize("name", SKIPPING_CACHES)
def test_cache_forgets_the_last_picture(model, name):
    model.enable_cache(SKIPPING_CACHES[name][0]())
    counter, first = Counter(model), draw(model, seed=1)
    work = counter.take()
    model._reset_stateful_cache()
    draw(model, seed=2)
    model._reset_stateful_cache()
    counter.take()
    assert torch.equal(draw(model, seed=1), first)
    assert counter.take() == work


@pytest.mark.parametrize("name", ["first block", "taylor"])
def test_cache_without_a_context_is_refused(model, name):
    model.enable_cache(SKIPPING_CACHES[name][0]())
    with pytest.raises(ValueError, match="cache_context"):
        model(**make_inputs())


def test_mag_calibration_prints_one_ratio_for_each_step(model, capsys):
    model.enable_cache(EXACT_CACHES["mag calibration"]())
    draw(model, ("cond",))
    ratios = capsys.readouterr().out.split("[", 2)[2].split("]")[0].split(",")
    assert len(ratios) == STEPS
    assert float(ratios[0]) == 1.0


@pytest.mark.parametrize(
    "config",
    [
        TextKVCacheConfig(),
        FasterCacheConfig(),
        SeaCacheConfig(),
        PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500),
    ],
    ids=lambda config: type(config).__name__,
)
def test_unfit_caches_are_refused_whole(model, config):
    plain = model(**make_inputs())
    name = type(config).__name__
    assert name not in SUPPORTED_CACHES
    with pytest.raises(ValueError, match=f"{name} cannot be used with Lens"):
        model.enable_cache(config)
    assert not model.is_cache_enabled
    assert not any(module._diffusers_hook.hooks for module in model.modules() if hasattr(module, "_diffusers_hook"))
    assert torch.equal(model(**make_inputs()), plain)


def test_pyramid_broadcast_would_mix_the_branches(model):
    """Why it is refused: the branch that comes second gets the attention of the one that came first."""
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    )
    apply_pyramid_attention_broadcast(model, config)
    counter = Counter(model)
    with model.cache_context("cond"):
        model(**make_inputs(seed=1))
    assert counter.take() == (BLOCKS, BLOCKS)
    with model.cache_context("uncond"):
        model(**make_inputs(seed=2))
    assert counter.take() == (0, BLOCKS)


def test_one_cache_at_a_time(model):
    model.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    with pytest.raises(ValueError, match="already been enabled"):
        model.enable_cache(_taylor(cache_interval=2))


# Compilation


@pytest.fixture
def graphs():
    """A compiler that runs each graph as it is and keeps it, for counting."""
    torch._dynamo.reset()
    kept = []

    def keep(graph, _):
        kept.append(graph)
        return graph.forward

    yield keep, kept
    torch._dynamo.reset()


@torch.no_grad()
def test_the_model_can_be_exported(model):
    """Without a switch of gradients in the graph, which compilers ahead of time take for training."""
    inputs = make_inputs()
    exported = torch.export.export(model, (), inputs)
    assert not [node for node in exported.graph.nodes if "set_grad_enabled" in str(node.target)]
    torch.testing.assert_close(exported.module()(**inputs), model(**inputs))


def test_blocks_compile_into_one_graph(model, graphs):
    keep, kept = graphs
    plain = model(**make_inputs())
    model.compile_repeated_blocks(fullgraph=True, backend=keep)
    assert torch.equal(model(**make_inputs()), plain)
    assert len(kept) == 1


def test_blocks_compile_for_packed_samples(model, graphs):
    keep, kept = graphs
    inputs = make_inputs(grid=(4, 6), text=5)
    row = inputs | {"img_shapes": [(1, 3, 6), (1, 2, 3)], "text_lengths": [5, 0], "timestep": torch.tensor([0.7, 0.2])}
    plain = model(**row)
    model.compile_repeated_blocks(fullgraph=True, backend=keep)
    torch.testing.assert_close(model(**row), plain, rtol=0, atol=1e-5)
    assert len(kept) == 1


def test_compiled_blocks_take_any_size(model, graphs):
    keep, kept = graphs
    sizes = [((4, 6), text) for text in (5, 7, 9, 12)] + [((6, 8), 12), ((2, 10), 3)]
    plain = [model(**make_inputs(grid=grid, text=text)) for grid, text in sizes]
    model.compile_repeated_blocks(fullgraph=True, backend=keep, dynamic=True)
    for (grid, text), expected in zip(sizes, plain, strict=True):
        assert torch.equal(model(**make_inputs(grid=grid, text=text)), expected)
    assert len(kept) <= 2


def test_whole_model_compiles_into_one_graph(model, graphs):
    keep, kept = graphs
    model.transformer_blocks = model.transformer_blocks[:1]  # the graph holds every block: one makes a fast test
    compiled = torch.compile(model, fullgraph=True, backend=keep)
    for count, (grid, text, masked) in enumerate([((4, 6), 5, False), ((4, 6), 0, False), ((6, 4), 7, True)], start=1):
        inputs = make_inputs(grid=grid, text=text)
        if masked:
            inputs["encoder_hidden_states_mask"] = torch.arange(text)[None] < 4
        torch.testing.assert_close(compiled(**inputs), model(**inputs), rtol=0, atol=1e-5)
        assert len(kept) == count


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor on the CPU needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_inductor_blocks_equal_plain(model):
    torch._dynamo.reset()
    sizes = [((4, 6), 5), ((4, 6), 0), ((6, 8), 12)]
    plain = [model(**make_inputs(grid=grid, text=text)) for grid, text in sizes]
    model.compile_repeated_blocks(fullgraph=True)
    for (grid, text), expected in zip(sizes, plain, strict=True):
        torch.testing.assert_close(model(**make_inputs(grid=grid, text=text)), expected, rtol=0, atol=1e-4)
    torch._dynamo.reset()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor on the CPU needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_inductor_trains_like_plain(model):
    torch._dynamo.reset()
    model.train().requires_grad_(True)
    gradients = []
    for compiled in (False, True):
        if compiled:
            model.compile_repeated_blocks(fullgraph=True)
        model.zero_grad()
        model(**make_inputs()).square().mean().backward()
        # Weights that nothing depends on get zeros from the compiler and None without it.
        gradients.append(
            torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])
        )
    assert relative_error(gradients[1], gradients[0]) < 1e-4
    torch._dynamo.reset()


# The page about it


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_examples_of_the_page_run():
    page = Path(__file__).parents[2] / "docs" / "model.md"
    examples = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(examples) >= 8
    names: dict = {}
    torch._dynamo.reset()
    with attention_backend("native"):
        for example in examples:
            exec(compile(example, str(page), "exec"), names)
    torch._dynamo.reset()
