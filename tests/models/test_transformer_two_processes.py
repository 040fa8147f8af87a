"""Two processes draw one picture: half of the weights each, or a branch of guidance each. It is what one gives.

diffusers means tensor parallelism for accelerators; the processor is added to its list, because the arithmetic is the
same there.
"""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from leanlens.models.transformer import LensTransformer2DModel
from leanlens.pipeline.denoise import denoise
from leanlens.pipeline.features import TextFeatures
from leanlens.pipeline.start import set_levels
from tests.models.processes import RANKS, found_by_each, join, write_down

GRID = (4, 6)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
]


def make_model() -> LensTransformer2DModel:
    torch.manual_seed(0)
    made = LensTransformer2DModel(num_layers=2, num_attention_heads=6, enc_hidden_dim=32, selected_layer_index=(0, 1))
    torch.nn.init.normal_(made.proj_out.weight)
    return made.eval().requires_grad_(False)


def drawn(model: LensTransformer2DModel, group=None, scale: float = 5.0) -> torch.Tensor:
    """Two pictures whose texts differ in length."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    set_levels(scheduler, GRID, 3)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, GRID[0] * GRID[1], 128, generator=generator)
    layers = [torch.randn(2, 5, 32, generator=generator) for _ in range(2)]
    text = TextFeatures(layers, torch.tensor([[True] * 5, [True] * 3 + [False] * 2]))
    return denoise(model, scheduler, latents, GRID, text, text.without_text(), scale, guidance_group=group)


def share(rank: int, port: int, folder: str) -> None:
    """One process: its findings as JSON."""
    from diffusers import TensorParallelConfig
    from diffusers.hooks import tensor_parallel
    from torch.distributed.device_mesh import init_device_mesh

    join(rank, port)
    tensor_parallel._SUPPORTED_TP_DEVICES += ("cpu",)
    alone, calls, model = drawn(make_model()), [], make_model()
    model.register_forward_pre_hook(lambda _, args: calls.append(args[1][0].shape[1]))
    branch = drawn(model, torch.distributed.group.WORLD)
    model = make_model()
    model.enable_parallelism(config=TensorParallelConfig(mesh=init_device_mesh("cpu", (RANKS,))))
    held = [weight for name, weight in model.named_parameters() if ".attn." in name or "_mlp." in name]
    sharded = drawn(model)
    found = {
        "guidance": (branch - alone).abs().max().item() / alone.abs().max().item(),
        "calls": calls,
        "tensor": (sharded - alone).abs().max().item() / alone.abs().max().item(),
        "share": sum(_local(weight).numel() for weight in held) / sum(weight.numel() for weight in held),
    }
    write_down(found, rank, folder)


def _local(weight):
    return weight.to_local() if hasattr(weight, "to_local") else weight


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_processes_equal_one(tmp_path):
    found = found_by_each(share, tmp_path)
    assert [one["calls"] for one in found] == [[8] * 3, [0] * 3]  # text packed, and none: a branch for each
    for one in found:
        assert one["guidance"] == 0
        assert one["tensor"] < 1e-5
        assert 0.5 <= one["share"] < 0.51  # all but the norms and the biases after sums
