"""Joins the process group that `torchrun` started, and sums or gathers values over it.

A process without a launcher is a group of one and needs no backend.
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
    """The rank and device of this process, and the number of processes."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes logs, records and exports."""
        return self.rank == 0


def join(device: str = "auto", timeout_minutes: float = 30) -> Group:
    """Join the process group of the launcher; without a launcher, return a group of one.

    Args:
        device: "auto" (CUDA if available, otherwise CPU), "cpu" or "cuda". With CUDA, each process uses the GPU of its
            local rank.

    Raises:
        ValueError: CUDA is not available, or this machine has fewer GPUs than processes.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = _local_device(device)
    if world_size > 1 and not dist.is_initialized():
        # Small sums and checkpoints use gloo, also when gradients use NCCL.
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    return Group(rank, world_size, chosen)


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def summed(values: Tensor) -> Tensor:
    """The sum of a small CPU tensor over all processes, the same on each."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def gathered(value: Any) -> list[Any]:
    """One small picklable object from each process, in rank order, on every process."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Wait until every process has called this."""
    if dist.is_initialized():
        dist.barrier()


def leads_here() -> bool:
    """Whether this is rank 0; known before the group is joined."""
    return dist.get_rank() == 0 if dist.is_initialized() else int(os.environ.get("RANK", 0)) == 0


def is_first_to_fail() -> bool:
    """Whether no other process of the group has failed yet, so that only the first error is reported in full.

    Call it at most once per failed process. Without the launcher's store (torchrun has one), every process is first.
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
        raise ValueError(f"invalid device {device!r}: expected auto, cpu or cuda")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", 0))
    if local >= torch.cuda.device_count():
        raise ValueError(
            f"invalid device {device!r} for local rank {local}: this machine has {torch.cuda.device_count()} "
            "GPUs; start at most one process per GPU"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
