"""What is computed once in a drawing equals what every call computes, and is computed once."""

import pytest
import torch
from accelerate import cpu_offload

from leanlens.models.modulation_cache import ModulationCache
from leanlens.models.transformer import LensTransformer2DModel

BLOCKS, STEPS = 3, 4


@pytest.fixture
def model() -> LensTransformer2DModel:
    torch.manual_seed(0)
    made = LensTransformer2DModel(
        num_layers=BLOCKS, num_attention_heads=2, enc_hidden_dim=32, selected_layer_index=(0, 1)
    )
    return made.eval().requires_grad_(False)


def make_inputs(batch=1, grid=(4, 6), text=5, dtype=torch.float32) -> dict:
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(batch, text, 32, generator=generator).to(dtype) for _ in range(2)]
    return {
        "hidden_states": torch.randn(batch, grid[0] * grid[1], 128, generator=generator).to(dtype),
        "encoder_hidden_states": features,
        "img_shapes": [(1, *grid)],
    }


def levels(dtype=torch.float32) -> torch.Tensor:
    return torch.linspace(1, 0.1, STEPS).to(dtype)


def walk(model, inputs, modulation_cache=None) -> list[torch.Tensor]:
    times, velocities = levels(inputs["hidden_states"].dtype), []
    for step, time in enumerate(times):
        if modulation_cache is not None:
            modulation_cache.step = step
        velocities.append(model(**inputs, timestep=time, modulation_cache=modulation_cache))
    return velocities


def count_calls(model, names) -> dict[str, int]:
    counts = dict.fromkeys(names, 0)
    for name in names:
        module = model.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: counts.__setitem__(name, counts[name] + 1))
    return counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("text", [5, 0])
def test_one_picture_is_the_same_to_the_last_bit(model, dtype, text):
    model.to(dtype)
    inputs = make_inputs(text=text, dtype=dtype)
    for known, plain in zip(walk(model, inputs, ModulationCache(levels(dtype))), walk(model, inputs), strict=True):
        assert torch.equal(known, plain)


def test_a_batch_is_the_same_to_rounding(model):
    inputs = make_inputs(batch=3)
    for known, plain in zip(walk(model, inputs, ModulationCache(levels())), walk(model, inputs), strict=True):
        torch.testing.assert_close(known, plain, rtol=0, atol=1e-5)


def test_samples_in_one_row_are_the_same_to_rounding(model):
    inputs = make_inputs(grid=(4, 6), text=5)
    inputs |= {"img_shapes": [(1, 3, 6), (1, 2, 3)], "text_lengths": [5, 0]}
    for known, plain in zip(walk(model, inputs, ModulationCache(levels())), walk(model, inputs), strict=True):
        torch.testing.assert_close(known, plain, rtol=0, atol=1e-5)


def test_each_thing_is_computed_once(model):
    names = ["txt_in", "transformer_blocks.0.img_mod.1", "transformer_blocks.2.txt_mod.1", "time_text_embed"]
    counts = count_calls(model, names)
    modulation_cache, inputs = ModulationCache(levels()), make_inputs()
    unconditional = inputs | {"encoder_hidden_states": [layer[:, :0] for layer in inputs["encoder_hidden_states"]]}
    walk(model, inputs, modulation_cache)
    walk(model, unconditional, modulation_cache)
    # One row for each level, whatever the number of branches; each branch's text once.
    assert counts == dict.fromkeys(names, STEPS) | {"txt_in": 2}


def test_the_last_block_leaves_out_text_that_nothing_reads(model):
    first, last = (f"transformer_blocks.{index}." for index in (0, BLOCKS - 1))
    counts = count_calls(model, [block + part for block in (first, last) for part in ("attn.to_add_out", "txt_mlp")])
    model(**make_inputs(), timestep=torch.tensor(0.7))
    assert list(counts.values()) == [1, 1, 1, 1]
    model(**make_inputs(), timestep=torch.tensor(0.7), modulation_cache=ModulationCache(levels()))
    assert list(counts.values()) == [2, 2, 1, 1]


def test_compiled_blocks_share_one_graph(model):
    kept = []
    model.compile_repeated_blocks(fullgraph=True, backend=lambda graph, _: kept.append(1) or graph.forward)
    model(**make_inputs(), timestep=torch.tensor(0.7), modulation_cache=ModulationCache(levels()))
    assert len(kept) == 1
    torch._dynamo.reset()


def test_an_adapter_of_the_modulation_acts(model):
    from peft import LoraConfig

    plain = walk(model, make_inputs(), ModulationCache(levels()))
    model.add_adapter(LoraConfig(r=4, target_modules=["img_mod.1"], init_lora_weights=False))
    adapted = walk(model, make_inputs(), ModulationCache(levels()))
    assert torch.equal(adapted[1], walk(model, make_inputs())[1])
    assert not torch.equal(adapted[1], plain[1])


def test_weights_that_are_fetched_for_each_call_are_fetched_once(model):
    plain = walk(model, make_inputs())
    cpu_offload(model, torch.device("cpu"), state_dict={k: v.clone() for k, v in model.state_dict().items()})
    linear, fetched = model.transformer_blocks[1].img_mod[1], []
    fetch = linear._hf_hook.pre_forward
    linear._hf_hook.pre_forward = lambda *args: fetched.append(1) or fetch(*args)
    for known, expected in zip(walk(model, make_inputs(), ModulationCache(levels())), plain, strict=True):
        assert torch.equal(known, expected)
    assert len(fetched) == 1
    assert linear.weight.device.type == "meta"


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offloaded_blocks_do_it_by_themselves(model, kind, tmp_path):
    plain = walk(model, make_inputs())
    cpu = torch.device("cpu")
    options = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    model.enable_group_offload(cpu, cpu, offload_type=kind, offload_to_disk_path=str(tmp_path), **options)
    for known, expected in zip(walk(model, make_inputs(), ModulationCache(levels())), plain, strict=True):
        torch.testing.assert_close(known, expected, rtol=0, atol=1e-5)


def test_a_step_past_the_last_level_is_an_error(model):
    modulation_cache = ModulationCache(levels())
    modulation_cache.step = STEPS
    with pytest.raises(IndexError, match="step 4 is not one of the 4 levels"):
        model(**make_inputs(), timestep=torch.tensor(0.7), modulation_cache=modulation_cache)
