"""Implements `leanlens mcp`, which offers drawing as tools to the assistant that starts it."""

from pathlib import Path
from typing import Annotated

from leanlens.cli.options import (
    DEVICE,
    OUTPUT,
    Device,
    Dtype,
    LoraFolders,
    Marking,
    OfferedModels,
    Reason,
    option,
)
from leanlens.plan.options import LoadOptions


def mcp(
    model: OfferedModels = None,
    loras: LoraFolders = None,
    reason: Reason = "default",
    device: Device = "auto",
    dtype: Dtype = "auto",
    idle_unload: Annotated[
        float, option(DEVICE, "Seconds without work until the model is unloaded; 0 keeps it.")
    ] = 600,
    output: Annotated[
        Path | None,
        option(OUTPUT, "Folder for images. Default: leanlens-pictures in your home folder.", "-o", "--output"),
    ] = None,
    marking: Marking = True,
    safety: Annotated[
        str, option(OUTPUT, "Filters to apply: off, prompt, picture or all. Images say which.")
    ] = "off",
) -> None:  # fmt: skip
    """Offer tools to an assistant over standard input and output (Model Context Protocol).

    Add this command to the list of servers in the settings of the assistant.
    A running `leanlens serve` offers the same tools over HTTP at /mcp.
    """
    from leanlens.cli.serve import _fetch, _require_packages
    from leanlens.serve.settings import ServerSettings

    _require_packages()  # raises an error that says how to install them
    settings = ServerSettings.checked(
        models=tuple(model or ["nano"]),
        lora_folders=tuple(loras or ()),
        reason=reason,
        output=Path.home() / "leanlens-pictures" if output is None else output,
        devices=(device,),
        load=LoadOptions(dtype=dtype),
        idle_unload=idle_unload or None,
        safety=safety,
        marking=marking,
    )
    _fetch(settings)

    import anyio

    from leanlens.serve.mcp import serve_over_stdio
    from leanlens.serve.service import ImageService

    anyio.run(serve_over_stdio, ImageService(settings))
