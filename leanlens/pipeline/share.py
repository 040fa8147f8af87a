"""Lets several processes draw each image together, each on its own device.

All processes call the pipeline with equal arguments, and all of them get the image.
"""

from typing import Any

import torch

from leanlens.dist import Group

WAYS = ("guidance", "tensor")


def share_drawing(pipeline: Any, way: str, group: Group) -> None:
    """Make `pipeline` compute only this process's share of every image.

    Args:
        pipeline: a `LensPipeline` whose transformer is on the group's device.
        way: "guidance": each of two processes computes one guidance branch with the whole network. "tensor": each
            process has a share of the heads and of the MLPs' channels.
        group: two processes, or for "tensor" a number that divides the heads.

    Raises:
        ValueError: another word, a number of processes that does not go with it, or a device that diffusers does not
            share tensors on.
    """
    if way not in WAYS:
        raise ValueError(f"invalid share {way!r}: expected one of {', '.join(WAYS)}")
    if group.world_size < 2:
        raise ValueError(
            f"share {way!r} needs several processes; start them with torchrun --nproc-per-node 2 -m leanlens generate"
        )
    if way == "guidance":
        if group.world_size != 2:
            raise ValueError(f"share 'guidance' needs 2 processes, one for each branch; there are {group.world_size}")
        pipeline.guidance_group = torch.distributed.group.WORLD
        return
    heads = pipeline.transformer.config.num_attention_heads
    if heads % group.world_size:
        raise ValueError(
            f"share 'tensor' cannot be done by {group.world_size} processes: the {heads} heads of this model must be "
            "shared evenly"
        )
    from diffusers import TensorParallelConfig

    pipeline.transformer.enable_parallelism(config=TensorParallelConfig(tp_degree=group.world_size))
