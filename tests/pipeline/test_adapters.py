"""The LoRA calls that diffusers' pipelines have."""

import inspect

import pytest
import torch
from diffusers.loaders import Flux2LoraLoaderMixin
from diffusers.loaders.lora_base import LoraBaseMixin
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from leanlens.pipeline.toy import toy_pipeline

TARGETS = ["img_qkv", "to_out.0"]


@pytest.fixture
def pipeline():
    made = toy_pipeline()
    made.set_progress_bar_config(disable=True)
    return made


def drawn(pipeline, **options) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    size = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "latent"}
    return pipeline("a", generator=generator, **size, **options).images


def trained(pipeline, seed=0, rank=4, alpha=8):
    """(tensors, PEFT configuration, latents that it draws) of a random adapter; the pipeline is left without it."""
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS, init_lora_weights=False)
    pipeline.transformer.add_adapter(config, "made")
    tensors = get_peft_model_state_dict(pipeline.transformer, adapter_name="made")
    made = {name: tensor.clone() for name, tensor in tensors.items()}
    latents, config = drawn(pipeline), pipeline.transformer.peft_config["made"].to_dict()
    pipeline.unload_lora_weights()
    return made, config, latents


def test_save_and_load_as_diffusers_scripts_do(pipeline, tmp_path):
    plain = drawn(pipeline)
    tensors, config, expected = trained(pipeline)
    assert torch.equal(drawn(pipeline), plain)
    pipeline.save_lora_weights(tmp_path, transformer_lora_layers=tensors, transformer_lora_adapter_metadata=config)
    pipeline.load_lora_weights(tmp_path)
    assert torch.equal(drawn(pipeline), expected)
    pipeline.load_lora_weights(str(tmp_path), weight_name="pytorch_lora_weights.safetensors", low_cpu_mem_usage=True)
    assert pipeline.get_list_adapters() == {"transformer": ["default_0", "default_1"]}
    assert pipeline.get_active_adapters() == ["default_1"]  # the last one alone, as in diffusers
    assert torch.equal(drawn(pipeline), expected)
    pipeline.set_adapters(["default_0", "default_1"])
    assert not torch.allclose(drawn(pipeline), expected)
    pipeline.set_adapters("default_1")
    assert torch.equal(drawn(pipeline), expected)
    pipeline.disable_lora()
    assert torch.equal(drawn(pipeline), plain)
    pipeline.enable_lora()
    pipeline.set_adapters(["default_0", "default_1"], [0.25, 0.75])
    torch.testing.assert_close(drawn(pipeline), expected, rtol=0, atol=1e-4)
    pipeline.delete_adapters("default_0")
    pipeline.load_lora_weights(tmp_path)
    assert pipeline.get_list_adapters() == {"transformer": ["default_1", "default_2"]}
    pipeline.set_lora_device(["default_1"], "cpu")
    pipeline.unload_lora_weights()
    assert torch.equal(drawn(pipeline), plain)


def test_the_last_one_loaded_acts_alone_also_in_layers_that_it_does_not_change(pipeline):
    """The same adapters through diffusers' own call give the same."""
    both, _, _ = trained(pipeline, seed=1, alpha=4)
    one, _, _ = trained(pipeline, seed=2, alpha=4)
    one = {name: tensor for name, tensor in one.items() if "img_qkv" in name}
    pipeline.transformer.load_lora_adapter(dict(both), prefix=None, adapter_name="both")
    with pytest.warns(UserWarning, match="peft_config"):
        pipeline.transformer.load_lora_adapter(dict(one), prefix=None, adapter_name="one")
    assert pipeline.get_active_adapters() == ["one"]
    expected = drawn(pipeline)
    pipeline.unload_lora_weights()
    pipeline.load_lora_weights(both, "both")
    pipeline.load_lora_weights(one, "one")
    assert pipeline.get_active_adapters() == ["one"]
    assert torch.equal(drawn(pipeline), expected)


def test_layers_of_a_lora_are_offloaded_in_groups_too(pipeline):
    tensors, _, _ = trained(pipeline, alpha=4)
    pipeline.load_lora_weights(tensors)
    expected = drawn(pipeline)
    pipeline.unload_lora_weights()
    cpu = torch.device("cpu")
    pipeline.transformer.enable_group_offload(cpu, cpu, offload_type="leaf_level")
    pipeline.load_lora_weights(tensors)
    added = [module for name, module in pipeline.transformer.named_modules() if name.endswith("lora_A.default_0")]
    assert added
    assert all(hasattr(module, "_diffusers_hook") for module in added)
    assert torch.equal(drawn(pipeline), expected)


def test_diffusers_reads_what_is_saved(pipeline, tmp_path):
    tensors, config, _ = trained(pipeline)
    pipeline.save_lora_weights(tmp_path, tensors, weight_name="a.safetensors", transformer_lora_adapter_metadata=config)
    theirs, metadata = Flux2LoraLoaderMixin.lora_state_dict(
        str(tmp_path), weight_name="a.safetensors", return_lora_metadata=True
    )
    ours, own = pipeline.lora_state_dict(tmp_path, weight_name="a.safetensors", return_lora_metadata=True)
    assert theirs.keys() == ours.keys() == {f"transformer.{name}" for name in tensors}
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert metadata["transformer.lora_alpha"] == own["transformer.lora_alpha"] == 8
    assert metadata["transformer.r"] == own["transformer.r"] == 4


def test_a_state_dict_with_and_without_prefix(pipeline, tmp_path):
    tensors, _, expected = trained(pipeline, alpha=4)
    for prefix in ("", "transformer.", "diffusion_model."):
        pipeline.load_lora_weights({prefix + name: tensor for name, tensor in tensors.items()})
        assert torch.equal(drawn(pipeline), expected)
        pipeline.unload_lora_weights()
    alphas = {f"{name.removesuffix('.lora_A.weight')}.alpha": torch.tensor(8.0) for name in tensors if "lora_A" in name}
    save_file({f"diffusion_model.{name}": x for name, x in (tensors | alphas).items()}, tmp_path / "style.safetensors")
    pipeline.load_lora_weights(tmp_path, adapter_name="file")  # the only file of its folder
    strong = drawn(pipeline)
    assert not torch.allclose(strong, expected)
    state = pipeline.lora_state_dict(tmp_path)
    pipeline.unload_lora_weights()
    pipeline.load_lora_weights(state)  # keeps its alpha on the way
    assert torch.equal(drawn(pipeline), strong)


def test_fuse_and_unfuse_without_arguments(pipeline, tmp_path):
    plain = drawn(pipeline)
    tensors, config, expected = trained(pipeline)
    pipeline.save_lora_weights(tmp_path, tensors, transformer_lora_adapter_metadata=config)
    pipeline.load_lora_weights(tmp_path, "style")
    pipeline.fuse_lora()
    assert (pipeline.num_fused_loras, pipeline.fused_loras) == (1, {"style"})
    torch.testing.assert_close(drawn(pipeline), expected, rtol=0, atol=1e-4)
    pipeline.unfuse_lora()
    assert pipeline.num_fused_loras == 0
    torch.testing.assert_close(drawn(pipeline), expected, rtol=0, atol=1e-4)
    pipeline.fuse_lora(lora_scale=0.5, adapter_names=["style"])
    assert not torch.allclose(drawn(pipeline), expected, atol=1e-3)
    pipeline.unfuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    torch.testing.assert_close(drawn(pipeline), plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prepared", [False, True])
def test_hotswap_takes_the_place_of_a_loaded_adapter(pipeline, prepared):
    """Another rank and another alpha, and later scales are those of the new one."""
    first, _, _ = trained(pipeline, seed=1, rank=4, alpha=4)
    second, _, expected = trained(pipeline, seed=2, rank=2, alpha=2)
    if prepared:
        pipeline.enable_lora_hotswap(target_rank=8)
    pipeline.load_lora_weights(first, "style")
    pipeline.load_lora_weights({**second}, "style", hotswap=True)
    assert pipeline.get_list_adapters() == {"transformer": ["style"]}
    torch.testing.assert_close(drawn(pipeline), expected, rtol=0, atol=1e-4)
    pipeline.set_adapters("style", 0.5)
    half = drawn(pipeline)
    pipeline.unload_lora_weights()
    pipeline.load_lora_weights(second, "style", scale=0.5)
    torch.testing.assert_close(half, drawn(pipeline), rtol=0, atol=1e-4)


def test_each_argument_of_diffusers_is_there(pipeline):
    for name in ("load_lora_weights", "lora_state_dict", "save_lora_weights", "fuse_lora", "unfuse_lora"):
        theirs = inspect.signature(getattr(Flux2LoraLoaderMixin, name)).parameters
        ours = inspect.signature(getattr(type(pipeline), name)).parameters
        assert [one for one in theirs if one != "kwargs" and one not in ours] == [], name
    assert isinstance(pipeline, LoraBaseMixin)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (({"x": 1},), {}, "has a int at 'x'"),
        (({"x": torch.zeros(1)},), {}, "the state dict has no LoRA of a Lens layer"),
        (("nowhere",), {"use_safetensors": False}, "invalid use_safetensors False"),
        (("nowhere",), {"weight_name": "../a.bin"}, "invalid weight_name '../a.bin'"),
        (("nowhere",), {"network_alphas": {}}, "network_alphas is not a known option"),
        (({"x": torch.zeros(1)},), {"hotswap": True}, None),
        (("nowhere.safetensors",), {}, "nowhere.safetensors does not exist"),
        (("a b",), {}, "'a b' not found: expected a local file or folder"),
        (("a b/lens-1.5",), {}, "'a b/lens-1.5' not found: expected a local file or folder"),  # no file suffix
        (("nowhere.bin",), {}, "nowhere.bin"),
    ],
)
def test_what_is_wrong_is_named(pipeline, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline.load_lora_weights(*arguments, **options)
    assert pipeline.get_list_adapters() == {}


def test_hotswap_without_something_to_replace(pipeline):
    tensors, _, _ = trained(pipeline)
    with pytest.raises(ValueError, match="hotswap needs adapter_name"):
        pipeline.load_lora_weights(tensors, hotswap=True)
    with pytest.raises(ValueError, match="cannot hotswap 'style', which is not loaded; loaded are none"):
        pipeline.load_lora_weights(tensors, "style", hotswap=True)


def test_only_safetensors_are_written(pipeline, tmp_path):
    tensors, _, _ = trained(pipeline)
    with pytest.raises(ValueError, match="invalid safe_serialization False"):
        pipeline.save_lora_weights(tmp_path / "a", tensors, safe_serialization=False)
    with pytest.raises(ValueError, match=r"invalid weight_name 'a\.bin'"):
        pipeline.save_lora_weights(tmp_path / "a", tensors, weight_name="a.bin")
    with pytest.raises(ValueError, match="transformer_lora_layers is missing"):
        pipeline.save_lora_weights(tmp_path / "a")
    pipeline.save_lora_weights(tmp_path / "a", tensors, is_main_process=False)
    assert not (tmp_path / "a").exists()
