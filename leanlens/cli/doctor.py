"""`leanlens doctor`: what a bug report needs, and which commands will work here."""

import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

from leanlens.cli.options import OUTPUT, AsJson, flag

_LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "tokenizers",
    "huggingface-hub",
)


def doctor(
    as_json: AsJson = False,
    share: Annotated[
        bool,
        flag(OUTPUT, "share", "Draw with nano, alone and beside a busy loop, and print one line to paste."),
    ] = False,
) -> None:
    """Print versions, the machine, and which commands will work on it."""
    if share:
        from leanlens.cli.share import as_line, measure

        found = measure()
        print(json.dumps(found) if as_json else as_line(found))
        return
    report = {"versions": _versions(), "machine": _machine(), "commands": _commands()}
    if as_json:
        print(json.dumps(report, indent=2))
        return
    for title, rows in report.items():
        print(title)
        for name, value in rows.items():
            print(f"  {name:16} {value}")


def _versions() -> dict[str, str]:
    import platform
    from importlib import metadata

    import leanlens

    found = {"leanlens": leanlens.__version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = "missing"
    return found


def _machine() -> dict[str, Any]:
    import platform

    import torch

    from leanlens.pipeline.placement import resolve_device, resolve_dtype

    device = resolve_device(None)
    rows: dict[str, Any] = {
        "system": platform.platform(),
        "processor": f"{_processor()}, {os.cpu_count()} logical cores, {torch.get_num_threads()} threads used",
        "vector units": torch.backends.cpu.get_cpu_capability(),
        "memory": _memory(),
        "disk here": f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB free",
        "device": device.type,
        "dtype": str(resolve_dtype(None, device)).removeprefix("torch."),
        "C++ compiler": next(
            filter(None, map(shutil.which, ("g++", "clang++", "c++", "cl"))), "none: models run uncompiled"
        ),
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        rows[f"cuda:{index}"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"compute capability {properties.major}.{properties.minor}"
        )
        rows["MXFP4 kernels"] = _kernels()
    return rows


def _kernels() -> str:
    """Whether a GPU can keep the text encoder as it is released."""
    from leanlens.install import KERNELS
    from leanlens.plan.words import kernels_missing

    missing = kernels_missing()
    if not missing:
        return "yes, if the card has compute capability 7.5"
    return f"no: {' and '.join(missing)} missing; {KERNELS}, or --encoder-on disk"


def _commands() -> dict[str, str]:
    """Which commands will work, and for those that will not, why."""
    from importlib import util

    from leanlens.hub import locate, models_folder
    from leanlens.presets import PRESETS

    rows = {"generate": "with --model toy (random weights), a folder or a file"}
    for name in PRESETS:
        label = f"generate -m {name}"
        try:
            fetched = name == "nano" or (models_folder() / name).is_dir()
            rows[label] = f"yes, {locate(name)}" if fetched else f"after `leanlens weights fetch {name}`"
        except ValueError as error:
            rows[label] = f"no: {error}"
    rows["generate --lora"] = "yes" if util.find_spec("peft") else "no: pip install peft"
    rows["replay"] = "yes, for pictures that leanlens saved"
    rows["weights"] = "yes"
    return rows


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(rows[key].split()[0]) * 1024 / 2**30 for key in ("MemTotal", "MemAvailable"))
        return f"{total:.0f} GiB, {free:.0f} GiB available"
    except (OSError, KeyError):
        return "unknown"
