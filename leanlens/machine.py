"""Names the processor or GPU of this machine."""

import os
from functools import cache
from pathlib import Path


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
