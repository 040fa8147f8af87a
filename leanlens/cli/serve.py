"""`leanlens serve`: one server for the clients people have."""

import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leanlens.cli.auto import features_folder, settle
from leanlens.cli.listen import listen
from leanlens.cli.options import (
    DEVICE,
    MODEL,
    OUTPUT,
    Compile,
    Dtype,
    EncoderOn,
    Features,
    LoraFolders,
    Marking,
    OfferedModels,
    Offload,
    Quant,
    Reason,
    TileVae,
    flag,
    option,
)
from leanlens.install import install_extra
from leanlens.plan.options import AUTO, LoadOptions

if TYPE_CHECKING:
    from leanlens.pipeline.auto import ModelChoice

_logger = logging.getLogger("leanlens.serve")
NETWORK, LIMITS, SAFETY = "Network and access", "Queue and limits", "Safety filters"


def serve(
    model: OfferedModels = None,
    models: Annotated[list[Path] | None, option(MODEL, "Folder of models to offer by name. Repeatable.")] = None,
    loras: LoraFolders = None,
    reason: Reason = "default",
    host: Annotated[str, option(NETWORK, "Address to listen on; 0.0.0.0 is every address.")] = "127.0.0.1",
    port: Annotated[int, option(NETWORK, "Port to listen on.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        list[str] | None,
        option(NETWORK, "Key that clients must send. Repeatable.", envvar="LEANLENS_API_KEY"),
    ] = None,
    user: Annotated[
        list[str] | None,
        option(NETWORK, "Login for clients that speak HTTP Basic. Repeatable.", metavar="NAME:PASSWORD",
               envvar="LEANLENS_USER"),
    ] = None,
    cors: Annotated[
        list[str] | None, option(NETWORK, "Origin of a web page that may call, or *. Repeatable.", metavar="ORIGIN")
    ] = None,
    public_url: Annotated[
        str | None, option(NETWORK, "Address that links to images begin with, behind a proxy.")
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        option(NETWORK, "Proxy whose X-Forwarded-For is believed. Repeatable.", metavar="ADDRESS"),
    ] = None,
    page: Annotated[bool, flag(NETWORK, "page", "Serve the web page at /.")] = True,
    tools: Annotated[bool, flag(NETWORK, "tools", "Serve the tools for assistants at /mcp.")] = True,
    device: Annotated[
        list[str] | None, option(DEVICE, "Device: auto, cpu, cuda:0 and so on. Repeatable; one worker for each.")
    ] = None,
    replicas: Annotated[
        int | None,
        option(DEVICE, "Number of devices of a Ray cluster to draw on.", metavar="N", min=1),
    ] = None,
    dtype: Dtype = "auto",
    quant: Quant = "auto",
    offload: Offload = "auto",
    encoder_on: EncoderOn = "auto",
    tile_vae: TileVae = False,
    features: Features = None,
    memory_limit: Annotated[
        float | None,
        option(
            DEVICE, "Memory that drawing may take on each device; 0 turns the check off. Default: what is free.",
            metavar="GB",
        ),
    ] = None,
    idle_unload: Annotated[
        float | None, option(DEVICE, "Seconds without work until the model is unloaded. Default: never.")
    ] = None,
    compile: Compile = False,
    batch: Annotated[int, option(LIMITS, "Largest number of images drawn together; 1 turns batching off.")] = 8,
    queue: Annotated[int, option(LIMITS, "Largest number of images that may wait.")] = 256,
    timeout: Annotated[float, option(LIMITS, "Seconds that a request may take, waiting included.")] = 600.0,
    rate: Annotated[int | None, option(LIMITS, "Requests a minute that one client may send. Default: any.")] = None,
    max_pixels: Annotated[int, option(LIMITS, "Largest number of pixels of one image.")] = 2080 * 1040,
    output: Annotated[
        Path, option(OUTPUT, "Folder for images, uploads and the index of jobs.", "-o", "--output")
    ] = Path("leanlens-pictures"),
    keep_days: Annotated[float, option(OUTPUT, "Days until an image is removed; 0 keeps it for ever.")] = 30.0,
    keep_pictures: Annotated[int, option(OUTPUT, "Number of newest images to keep; 0 keeps all.")] = 10_000,
    marking: Marking = True,
    log: Annotated[
        str, option(OUTPUT, "Format of the log: text, json, or auto (text on a terminal, JSON elsewhere).")
    ] = AUTO,
    safety: Annotated[
        str, option(SAFETY, "Filters to apply: off, prompt, picture or all. Images say which.")
    ] = "off",
    safety_words: Annotated[
        Path | None, option(SAFETY, "Words that --safety prompt refuses, instead of our list.", metavar="FILE")
    ] = None,
    safety_scorer: Annotated[
        str,
        option(
            SAFETY,
            "Scorer of --safety picture: opennsfw, one that an installed package adds, or MODULE:NAME of a class.",
            metavar="NAME",
        ),
    ] = "opennsfw",
    safety_threshold: Annotated[
        float, option(SAFETY, "Score from 0 to 1 below which an image is held back.")
    ] = 0.5,
) -> None:  # fmt: skip
    """Serve images to browsers, to OpenAI and AUTOMATIC1111 clients, and to assistants.

    The web page is at /. OpenAI's routes are under /v1, AUTOMATIC1111's under /sdapi/v1, the assistants' tools at /mcp;
    /health, /ready and /metrics report its state.
    """
    _require_packages()
    from leanlens.serve.logging import log_as, log_format

    log_format(log)
    _require_free(host, port)
    from leanlens.serve.settings import ServerSettings

    is_local = host in ("127.0.0.1", "localhost", "::1")
    options = LoadOptions(quant, offload, encoder_on, tile_vae or None, (device or [AUTO])[0], dtype, compile or None)
    settled = _settled(model or ["nano"], options, replicas)
    settings = ServerSettings.checked(
        models=tuple(one.model for one in settled),
        load=options.without_planning(),
        load_by_model={one.model: one.options for one in settled},
        features=features_folder(features),
        model_folders=tuple(models or ()),
        lora_folders=tuple(loras or ()),
        reason=reason,
        output=output,
        devices=tuple(device or ["auto"]),
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
        trusted_proxies=tuple(trusted_proxy or ()),
        loopback_only=is_local and not (api_key or user or public_url or trusted_proxy),
        keep_days=keep_days or None,
        keep_pictures=keep_pictures or None,
        tools=tools,
        marking=marking,
        safety=safety,
        safety_words=safety_words,
        safety_scorer=safety_scorer,
        safety_threshold=safety_threshold,
    )
    _fetch(settings, replicas)

    from leanlens.serve.app import make_app

    mount = _page(settings) if page else None
    app = make_app(settings, mount, **_engines(settings, replicas))
    if not is_local and not settings.requires_auth:
        typer.echo(f"Anyone who reaches {host}:{port} can draw; --api-key asks for a key.", err=True)
    log_as(log_format(log))
    names = ", ".join(app.state.service.library.models())
    _logger.info("Starting with %s; images go to %s", names, output)
    listen(app, host, port, lambda: app.state.service.trouble, _logger.info)
    _logger.info("Stopped")


def _require_free(host: str, port: int) -> None:
    """Raise a ValueError where the server could not listen; better now than once a model is open."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ValueError(f"port {port} of host {host} cannot be listened to: {error.strerror}; give another") from None


def _require_packages() -> None:
    try:
        import fastapi  # noqa: F401
        import mcp  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import sse_starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"the server needs the package {error.name}; install it with: {install_extra('serve')}"
        ) from None


def _page(settings: Any) -> Any:
    """What mounts the web page, or None where the package it is made with is not installed."""
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        typer.echo(f"No web page: it needs the package {error.name}; {install_extra('serve')}", err=True)
        return None
    from leanlens.web.mount import mount_page

    return mount_page


def _settled(models: list[str], options: LoadOptions, replicas: int | None) -> "list[ModelChoice]":
    """Each model with its load options for this machine; replicas may run on others, which the planner cannot see."""
    options = options if replicas is None else options.without_planning()
    return [settle(model, options, lambda line: typer.echo(line, err=True)) for model in models]


def _engines(settings: Any, replicas: int | None) -> dict[str, Any]:
    """What has the devices, where that is not this process."""
    if replicas is None:
        return {}
    if len(settings.devices) > 1:
        raise ValueError(
            f"--replicas {replicas} takes its devices from the cluster; give one --device: auto, cpu, cuda"
        )
    from leanlens.serve.replicas import replica_engines

    return {"engines": replica_engines(replicas)}


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
    from leanlens.hub import model_folder
    from leanlens.pipeline.device import resolve_device, resolve_dtype

    for device in settings.devices:  # with replicas, they are of other machines
        resolve_dtype(settings.load.dtype, resolve_device("cpu" if replicas else device))
    for name in settings.models:
        model_folder(name)
