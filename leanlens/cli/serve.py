"""Implements `leanlens serve`, one server for browsers, OpenAI and AUTOMATIC1111 clients, and assistants."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from leanlens.cli import options as opt
from leanlens.cli.auto import features_folder, settle
from leanlens.cli.listen import is_local, listen, require_free
from leanlens.install import install_extra
from leanlens.plan.options import AUTO, LoadOptions

if TYPE_CHECKING:
    from leanlens.pipeline.auto import ModelChoice
    from leanlens.serve.settings import ServerSettings

_logger = logging.getLogger("leanlens.serve")


def serve(
    model: opt.OfferedModels = None,
    models: opt.ModelFolders = None,
    loras: opt.LoraFolders = None,
    reason: opt.Reason = "default",
    host: opt.Host = "127.0.0.1",
    port: opt.Port = 8000,
    api_key: opt.ApiKeys = None,
    user: opt.Users = None,
    cors: opt.CorsOrigins = None,
    public_url: opt.PublicUrl = None,
    trusted_proxy: opt.TrustedProxies = None,
    page: opt.WebPage = True,
    tools: opt.Tools = True,
    device: opt.Devices = None,
    replicas: opt.Replicas = None,
    dtype: opt.Dtype = "auto",
    quant: opt.Quant = "auto",
    offload: opt.Offload = "auto",
    encoder_on: opt.EncoderOn = "auto",
    tile_vae: opt.TileVae = False,
    features: opt.Features = None,
    memory_limit: opt.MemoryLimit = None,
    idle_unload: opt.IdleUnload = None,
    compile: opt.Compile = False,
    batch: opt.MaxBatch = 8,
    queue: opt.MaxQueue = 256,
    timeout: opt.Timeout = 600.0,
    rate: opt.Rate = None,
    max_pixels: opt.MaxPixels = 2080 * 1040,
    output: opt.ServedFolder = Path("leanlens-pictures"),
    keep_days: opt.KeepDays = 30.0,
    keep_pictures: opt.KeepPictures = 10_000,
    marking: opt.Marking = True,
    log: opt.LogFormat = AUTO,
    safety: opt.SafetyFilters = "off",
    safety_words: opt.SafetyWords = None,
    safety_scorer: opt.SafetyScorer = "opennsfw",
    safety_threshold: opt.SafetyThreshold = 0.5,
) -> None:
    """Serve images to browsers, to OpenAI and AUTOMATIC1111 clients, and to assistants.

    The web page is at /. OpenAI's routes are under /v1, AUTOMATIC1111's under /sdapi/v1, the assistants' tools at /mcp.
    /health, /ready and /metrics report its state.
    """
    _check_start(log, host, port)
    options = LoadOptions(quant, offload, encoder_on, tile_vae or None, (device or [AUTO])[0], dtype, compile or None)
    settings = _settings(
        model or ["nano"], options, replicas,
        features=features_folder(features), model_folders=tuple(models or ()), lora_folders=tuple(loras or ()),
        reason=reason, output=output, devices=tuple(device or ["auto"]), max_batch=batch, max_queue=queue,
        timeout=timeout, idle_unload=idle_unload, requests_per_minute=rate, max_pixels=max_pixels,
        memory_limit=memory_limit, api_keys=tuple(api_key or ()), users=_users(user or []),
        cors_origins=tuple(cors or ()), public_url=public_url, trusted_proxies=tuple(trusted_proxy or ()),
        loopback_only=is_local(host) and not (api_key or user or public_url or trusted_proxy),
        keep_days=keep_days or None, keep_pictures=keep_pictures or None, tools=tools, marking=marking,
        safety=safety, safety_words=safety_words, safety_scorer=safety_scorer, safety_threshold=safety_threshold,
    )  # fmt: skip
    _fetch(settings, replicas)
    if not is_local(host) and not settings.requires_auth:
        typer.echo(f"Anyone who reaches {host}:{port} can draw; --api-key asks for a key.", err=True)
    _run(settings, _page(settings) if page else None, replicas, host, port, log)


def _check_start(log: str, host: str, port: int) -> None:
    """Raise a ValueError if the server could not start, before models are looked for."""
    _require_packages()
    from leanlens.serve.logging import log_format

    log_format(log)
    require_free(host, port)


def _settings(models: list[str], options: LoadOptions, replicas: int | None, **rest: Any) -> "ServerSettings":
    """The settings of the server, with the load options of each model for this machine."""
    from leanlens.serve.settings import ServerSettings

    settled = _settled(models, options, replicas)
    return ServerSettings.checked(
        models=tuple(one.model for one in settled),
        load=options.without_planning(),
        load_by_model={one.model: one.options for one in settled},
        **rest,
    )


def _run(
    settings: "ServerSettings", mount: Callable[..., Any] | None, replicas: int | None, host: str, port: int, log: str
) -> None:
    """Serve until the process is told to stop."""
    from leanlens.serve.app import make_app
    from leanlens.serve.logging import log_as, log_format

    app = make_app(settings, mount, **_engines(settings, replicas))
    log_as(log_format(log))
    names = ", ".join(app.state.service.library.models())
    _logger.info("Starting with %s; images go to %s", names, settings.output)
    listen(app, host, port, lambda: app.state.service.trouble, _logger.info)
    _logger.info("Stopped")


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
            raise ValueError(f"invalid --user {name!r}: expected NAME:PASSWORD")
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
