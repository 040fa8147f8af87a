"""Names the processor or GPU of this machine, and tells how much memory was used."""

import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def processor_name() -> str:
    """As the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()


@cache
def describe_machine() -> str:
    """The GPU, or the processor and the number of its cores."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{processor_name()}, {os.cpu_count()} cores"


def peak_memory(device: "torch.device") -> int:
    """The most bytes that this process has held: of the GPU, or of the machine if there is none."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
