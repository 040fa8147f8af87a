"""`leanlens mcp`: drawing as tools of an assistant that starts this command itself."""

from pathlib import Path
from typing import Annotated

import typer


def mcp(
    model: Annotated[
        list[str] | None,
        typer.Option("-m", "--model", help="A model that may be asked for; may be repeated, the first is the default."),
    ] = None,
    loras: Annotated[
        list[Path] | None, typer.Option(help="A folder whose LoRA files may be asked for by name; may be repeated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for pictures; leanlens-pictures in your home without.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0 and so on.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
    idle_unload: Annotated[float, typer.Option(help="Seconds without work until the model is let go; 0 never.")] = 600,
    safety: Annotated[str, typer.Option(help="Filters: off, prompt, picture or all; pictures say which.")] = "off",
    no_marking: Annotated[
        bool, typer.Option("--no-marking", help="Do not mark pictures as made by a model (IPTC, in XMP).")
    ] = False,
) -> None:
    """Offer tools to an assistant over standard input and output (Model Context Protocol).

    Enter this command where the assistant keeps its list of servers. A running `leanlens serve` offers the same tools
    over HTTP at /mcp.
    """
    from leanlens.cli.serve import _fetch, _sizes, _uvicorn
    from leanlens.serve.settings import ServerSettings

    _uvicorn()  # the packages of the server, or a sentence that says how to get them
    settings = ServerSettings.checked(
        models=tuple(model or ["nano"]),
        lora_folders=tuple(loras or ()),
        output=Path.home() / "leanlens-pictures" if output is None else output,
        devices=(device,),
        dtype=dtype,
        idle_unload=idle_unload or None,
        safety=safety,
        marking=not no_marking,
    )
    _fetch(settings)

    import anyio

    from leanlens.serve.desk import Desk
    from leanlens.serve.tools import serve_on_pipes

    anyio.run(serve_on_pipes, Desk(settings, sizes=_sizes))
