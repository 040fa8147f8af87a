"""Compiles, checkpoints and shards the denoiser for training on one device or many; its weights keep their names.

Order: recomputation, then compilation of each block, then sharding of each block and of the whole (FSDP2). Gradients
are summed, not averaged: the loop has already divided by the global number of samples.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from leanlens.dist import Group
from leanlens.models.attention import write_out_attention
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.train.config import Train

GRAPHS = 64  # shapes that compiled blocks may meet


def parallelize(model: LensTransformer2DModel, group: Group, train: Train) -> LensTransformer2DModel:
    """Place `model` (float32, on the CPU) on the group's devices, ready to train."""
    if train.checkpointing:
        model.enable_gradient_checkpointing()
    if train.compile:
        # A graph for each shape: one for all shapes is slower, and a few buckets already reach the default limit.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        if group.device.type == "cpu":
            write_out_attention(model)
        for block in model.transformer_blocks:
            block.compile(fullgraph=True, dynamic=False)
    if group.world_size == 1:
        return model.to(group.device)
    # The model ends in a linear layer, which FSDP2 sees as a view. Its warning is about changing that in place: the
    # loss does not, and the sampler draws without gradient.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(\w+\) returned a view tensor", UserWarning)
    mesh = init_device_mesh(group.device.type, (group.world_size,))
    dtype = torch.bfloat16 if train.precision == "bfloat16" else None
    # Blocks take float32 rotary tables beside bfloat16 streams, so their inputs must come through as they are.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in model.transformer_blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # By default the root keeps its whole weights after a forward pass. After one without gradient (validation, samples)
    # they would stay, averaged ones even, into the next step.
    root = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    fully_shard(model, mesh=mesh, mp_policy=root, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return model


def computing(model: nn.Module, group: Group, train: Train) -> AbstractContextManager:
    """The precision of matrix products: a sharded model has it in its policy, a single process through autocast."""
    if train.precision == "float32" or isinstance(model, FSDPModule):
        return nullcontext()
    return torch.autocast(group.device.type, torch.bfloat16)


def whole_tensor(weight: Tensor) -> Tensor:
    """A whole tensor on the CPU from one that may be sharded; a copy, which later training does not change."""
    weight = weight.detach()
    whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    return whole.to("cpu", copy=True).contiguous()
