"""The process group: who this process is, and sums over all of them.

Comes in: the environment that `torchrun` sets, or none. Goes out: a `Group`, and tensors summed or gathered over it.
One process without a launcher is a group of one and needs no backend. Knows nothing of models or data.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """`rank` of `world_size`, and the device that this process computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0


def join(device: str = "auto", timeout_minutes: float = 30) -> Group:
    """Join the processes that a launcher started, or be a group of one.

    Args:
        device: "auto" (CUDA where there is one, else CPU), "cpu" or "cuda"; with CUDA each process takes the GPU of its
            local rank.

    Raises:
        ValueError: "cuda" where there is none, or fewer GPUs than processes on this machine.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = _local_device(device)
    if world_size > 1 and not dist.is_initialized():
        # Small sums and checkpoints travel between CPUs also where the gradients travel between GPUs.
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    return Group(rank, world_size, chosen)


def leave() -> None:
    """Leave the group; nothing where there is none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def summed(values: Tensor) -> Tensor:
    """The sum of a small CPU tensor over all processes, the same on each."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def gathered(value: Any) -> list[Any]:
    """One small picklable object of every process, in order of rank, on each."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Return when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def leads_here() -> bool:
    """Whether this process leads, of those that were started together; known before the group is joined."""
    return dist.get_rank() == 0 if dist.is_initialized() else int(os.environ.get("RANK", 0)) == 0


def is_first_to_fail() -> bool:
    """Whether no other process of the group has failed yet: the one whose error is worth reading.

    Asked at most once by each process that fails. Where the launcher keeps no store of its own (torchrun does), each
    process is the first.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=5)
        )
        return store.add(f"leanlens/failed/{attempt}", 1) == 1
    except (RuntimeError, OSError, KeyError, ValueError):
        return True


def _local_device(device: str) -> torch.device:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {device!r} is not accepted; use auto, cpu or cuda")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", 0))
    if local >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} is not accepted for local rank {local}: this machine has {torch.cuda.device_count()} "
            "GPUs; start as many processes as there are GPUs"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
