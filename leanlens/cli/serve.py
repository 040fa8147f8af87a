"""`leanlens serve`: one server for the clients people have."""

import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from leanlens.cli.auto import (
    AUTO,
    EncoderOn,
    Features,
    Offload,
    Quant,
    Settled,
    TileVae,
    Wishes,
    features_folder,
    settle,
)
from leanlens.install import install_extra


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option("-m", "--model", help="A model that may be asked for; may be repeated, the first is the default."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="LEANLENS_API_KEY", help="A key that clients must send; may be repeated."),
    ] = None,
    user: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:PASSWORD", envvar="LEANLENS_USER", help="For clients that speak HTTP Basic."),
    ] = None,
    models: Annotated[
        list[Path] | None, typer.Option(help="A folder whose models may be asked for by name; may be repeated.")
    ] = None,
    loras: Annotated[
        list[Path] | None, typer.Option(help="A folder whose LoRA files may be asked for by name; may be repeated.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for pictures, uploads and the index of jobs.")
    ] = Path("leanlens-pictures"),
    device: Annotated[
        list[str] | None, typer.Option(help="auto, cpu, cuda:0 and so on; repeated, one worker for each.")
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Draw on N devices of a Ray cluster, here or on other machines."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the transformer; pictures say so.")] = False,
    quant: Quant = "auto",
    offload: Offload = "auto",
    encoder_on: EncoderOn = "auto",
    tile_vae: TileVae = False,
    features: Features = None,
    batch: Annotated[int, typer.Option(help="Pictures drawn together at most; 1 turns batching off.")] = 8,
    queue: Annotated[int, typer.Option(help="Pictures that may wait.")] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds a request may take, waiting included.")] = 600.0,
    idle_unload: Annotated[float | None, typer.Option(help="Seconds without work until the model is let go.")] = None,
    rate: Annotated[int | None, typer.Option(help="Requests a minute that one client may send.")] = None,
    max_pixels: Annotated[int, typer.Option(help="Of one picture.")] = 2080 * 1040,
    memory_limit: Annotated[
        float | None,
        typer.Option(metavar="GB", help="That drawing may take of each device; what is free without it, 0 for any."),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="A web page's origin that may call, or *.")
    ] = None,
    public_url: Annotated[str | None, typer.Option(help="What links to pictures begin with, behind a proxy.")] = None,
    keep_days: Annotated[float, typer.Option(help="Days until a picture is removed; 0 for never.")] = 30.0,
    keep_pictures: Annotated[int, typer.Option(help="Newest pictures that are kept; 0 for all.")] = 10_000,
    no_marking: Annotated[
        bool, typer.Option("--no-marking", help="Do not mark pictures as made by a model (IPTC, in XMP).")
    ] = False,
    safety: Annotated[str, typer.Option(help="Filters: off, prompt, picture or all; pictures say which.")] = "off",
    safety_words: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Words that --safety prompt refuses, instead of our list.")
    ] = None,
    safety_scorer: Annotated[
        str, typer.Option(metavar="NAME", help="What --safety picture judges by: opennsfw, or MODULE:NAME of yours.")
    ] = "opennsfw",
    safety_threshold: Annotated[float, typer.Option(help="From 0 to 1; less safe pictures are held back.")] = 0.5,
    no_page: Annotated[bool, typer.Option("--no-page", help="Leave the web page at / out.")] = False,
    no_tools: Annotated[bool, typer.Option("--no-tools", help="Leave the tools for assistants at /mcp out.")] = False,
) -> None:
    """Serve pictures to browsers, to OpenAI and AUTOMATIC1111 clients, and to assistants.

    The web page is at /. OpenAI's routes are under /v1, AUTOMATIC1111's under /sdapi/v1, the assistants' tools at /mcp;
    /health, /ready and /metrics tell how it is.
    """
    uvicorn = _uvicorn()
    _require_free(host, port)
    from leanlens.serve.settings import ServerSettings

    is_local = host in ("127.0.0.1", "localhost", "::1")
    wishes = Wishes((device or [AUTO])[0], dtype, quant, offload, encoder_on, tile_vae, compile)
    settled = _settled(model or ["nano"], wishes, replicas)
    settings = ServerSettings.checked(
        models=tuple(one.model for one in settled),
        held={one.model: one.holding for one in settled},
        quant=quant,
        offload="none" if offload == AUTO else offload,
        encoder_on="device" if encoder_on == AUTO else encoder_on,
        tile_vae=tile_vae,
        features=features_folder(features),
        model_folders=tuple(models or ()),
        lora_folders=tuple(loras or ()),
        output=output,
        devices=tuple(device or ["auto"]),
        dtype=dtype,
        compile=compile,
        max_batch=batch,
        max_queue=queue,
        timeout=timeout,
        idle_unload=idle_unload,
        requests_per_minute=rate,
        max_pixels=max_pixels,
        memory_limit=memory_limit,
        api_keys=tuple(api_key or ()),
        users=_users(user or []),
        cors_origins=tuple(cors or ()),
        public_url=public_url,
        loopback_only=is_local and not (api_key or user or public_url),
        keep_days=keep_days or None,
        keep_pictures=keep_pictures or None,
        tools=not no_tools,
        marking=not no_marking,
        safety=safety,
        safety_words=safety_words,
        safety_scorer=safety_scorer,
        safety_threshold=safety_threshold,
    )
    _fetch(settings, replicas)

    from leanlens.serve.app import make_app
    from leanlens.serve.journal import log_as_json

    page = None if no_page else _page(settings)
    app = make_app(settings, page, sizes=_sizes, **_drawers(settings, replicas))
    if not is_local and not settings.guarded:
        typer.echo(f"Anyone who reaches {host}:{port} can draw; --api-key asks for a key.", err=True)
    typer.echo(f"http://{host}:{port}  {', '.join(app.state.desk.library.models())}  pictures in {output}", err=True)
    log_as_json()
    uvicorn.run(
        app, host=host, port=port, log_config=None, access_log=False, timeout_graceful_shutdown=30,
        server_header=False, http="h11", loop="asyncio", h11_max_incomplete_event_size=64 << 10,
    )  # fmt: skip


def _require_free(host: str, port: int) -> None:
    """Raise a ValueError where the server could not listen; better now than once a model is open."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ValueError(f"port {port} of host {host} cannot be listened to: {error.strerror}; give another") from None


def _uvicorn() -> Any:
    try:
        import fastapi  # noqa: F401
        import mcp  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise ValueError(
            f"the server needs the package {error.name}; install it with: {install_extra('serve')}"
        ) from None
    return uvicorn


def _page(settings: Any) -> Any:
    """What mounts the web page, or None where the package it is made with is not installed."""
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        typer.echo(f"No web page: it needs the package {error.name}; {install_extra('serve')}", err=True)
        return None
    from functools import partial

    from leanlens.serve.web import mount_page

    return partial(mount_page, estimate=_estimate(settings))


def _settled(models: list[str], wishes: Wishes, replicas: int | None) -> list[Settled]:
    """Every named model, held as the planner says for this machine; replicas may be on others, which it cannot see."""
    from dataclasses import replace

    if replicas is not None:
        offload = "none" if wishes.offload == AUTO else wishes.offload
        encoder_on = "device" if wishes.encoder_on == AUTO else wishes.encoder_on
        wishes = replace(wishes, offload=offload, encoder_on=encoder_on)
    return [settle(model, wishes, lambda line: typer.echo(line, err=True)) for model in models]


def _estimate(settings: Any) -> Any:
    """The planner's sentence on a picture of the page, for this machine and the dtype and device of the server."""
    from functools import lru_cache

    from leanlens.cli.plan import find_machine, plan_image
    from leanlens.pipeline.placement import resolve_device, resolve_dtype

    machine = lru_cache(maxsize=1)(lambda: find_machine(None, None, None))
    device = resolve_device(settings.devices[0])
    dtype = str(resolve_dtype(settings.dtype, device)).removeprefix("torch.")
    held = settings.holding(settings.models[0])
    pins: list[Any] = [dtype, None if held.quant == "auto" else held.quant, held.offload, device.type, held.encoder_on]

    @lru_cache(maxsize=256)
    def estimate(model: str, width: int, height: int, steps: int, guidance: float, count: int) -> str:
        plan = plan_image(machine(), model, f"{width}x{height}", steps, guidance, count, pins)
        place = "memory" if plan["settings"]["device"] == "cpu" else "memory of the device"
        size = plan["peak_ram_gb"] if plan["settings"]["device"] == "cpu" else plan["peak_vram_gb"]
        if not plan["fits"]:
            return f"Planned: does not fit here; it needs about {size:g} GB of {place}."
        each = plan["seconds_per_image"]
        pace = "" if each is None else f"about {each:.2g} s a picture, "
        return f"Planned: {pace}{size:g} GB of {place} at the peak. Predicted, not measured."

    return estimate


def _drawers(settings: Any, replicas: int | None) -> dict[str, Any]:
    """What has the devices, where that is not this process."""
    if replicas is None:
        return {}
    if len(settings.devices) > 1:
        raise ValueError(
            f"--replicas {replicas} takes its devices from the cluster; give one --device: auto, cpu, cuda"
        )
    from leanlens.serve.replicas import replica_drawers

    return {"drawers": replica_drawers(replicas)}


def _sizes(source: str) -> Any:
    """The planner's sizes of a model that is not open yet."""
    from leanlens.cli.plan import model_sizes

    return model_sizes(source)[0]


def _users(texts: list[str]) -> dict[str, str]:
    users = {}
    for text in texts:
        name, separator, password = text.partition(":")
        if not (name and separator and password):
            raise ValueError(f"--user {name!r} is not accepted; give NAME:PASSWORD")
        users[name] = password
    return users


def _fetch(settings: Any, replicas: int | None = None) -> None:
    """Have every named model here, and device and dtype right, before clients are let in."""
    from leanlens.hub import locate
    from leanlens.pipeline.placement import resolve_device, resolve_dtype

    for device in settings.devices:  # with replicas, they are of other machines
        resolve_dtype(settings.dtype, resolve_device("cpu" if replicas else device))
    for name in settings.models:
        if name != "toy":
            locate(name)
