"""Names the processor or GPU of this machine, and tells how much memory was used."""

import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATUS, _CLEARED = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PEAK = "5"  # what the kernel calls the peak of memory in _CLEARED


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


def forget_peak_memory() -> None:
    """Let `peak_memory` begin anew, where the system can: on Linux, and on a GPU."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)
    with suppress(OSError):
        _CLEARED.write_text(_PEAK)


def peak_memory(device: "torch.device") -> int:
    """The most bytes that this process has held since `forget_peak_memory`: of the GPU, or of the machine if there is
    none."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    with suppress(OSError, StopIteration):
        lines = _STATUS.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
