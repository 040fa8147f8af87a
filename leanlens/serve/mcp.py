"""The API for assistants: MCP tools to draw, to list models, and to check and cancel jobs.

They are served over HTTP at `/mcp`, or over standard input and output. The protocol itself is the official SDK's.

Source: Model Context Protocol, revisions 2025-06-18 to 2026-07-28, as the package `mcp` speaks them.
"""

import base64
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import CallToolResult, ImageContent, TextContent, ToolAnnotations
from PIL import Image
from pydantic import Field
from starlette.concurrency import run_in_threadpool

import leanlens
from leanlens.serve.archive import JobRecord
from leanlens.serve.encode import picture_bytes
from leanlens.serve.errors import APIError, with_client_names
from leanlens.serve.follow import follow
from leanlens.serve.parameters import GenerationParameters, parse_size
from leanlens.serve.reasoning import Fixed, not_understood
from leanlens.serve.service import ImageService
from leanlens.serve.tasks import Job, Task

API = "mcp"
_JPEG_QUALITY = 90  # of what an assistant looks at; the file itself stays a PNG and is linked
_INSTRUCTIONS = (
    "Draws pictures with Lens. Describe in the prompt, in plain words and whole sentences, all that is to be seen; "
    "leave steps, guidance and size out unless the user asks for them. Every picture has a seed, which with the same "
    "settings gives the same picture again."
)
# Our names of fields -> those of the tool.
_NAMES = {"num_inference_steps": "steps", "n": "count", "image": "start_from"}
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


def tool_server(service: ImageService) -> MCPServer:
    """The tools of a service."""
    server = MCPServer("leanlens", version=leanlens.__version__, instructions=_INSTRUCTIONS, log_level="WARNING")
    _add_drawing(server, service)
    _add_models(server, service)
    _add_jobs(server, service)
    return server


def _add_drawing(server: MCPServer, service: ImageService) -> None:
    @server.tool(structured_output=False, annotations=ToolAnnotations(destructive_hint=False, open_world_hint=False))
    async def draw(
        ctx: Context,
        prompt: Annotated[str, Field(description="Description of the image.")],
        negative_prompt: Annotated[str, Field(description="What the image should not show.")] = "",
        model: Annotated[str | None, Field(description="A name from list_models.")] = None,
        width: Annotated[int | None, Field(description="Pixels, a multiple of 16. Give both sides or neither.")] = None,
        height: Annotated[int | None, Field(description="Pixels, a multiple of 16.")] = None,
        size: Annotated[str | None, Field(description="WIDTHxHEIGHT, instead of width and height.")] = None,
        steps: Annotated[int | None, Field(description="Denoising steps.")] = None,
        guidance_scale: Annotated[float | None, Field(description="1 turns guidance off.")] = None,
        seed: Annotated[int | None, Field(description="Seed of the first image; later images count up.")] = None,
        count: Annotated[int, Field(description="Number of images.")] = 1,
        start_from: Annotated[str | None, Field(description="Name of an earlier image to alter.")] = None,
        strength: Annotated[float | None, Field(description="With start_from: how much to alter it, up to 1.")] = None,
        loras: Annotated[list[str] | None, Field(description="Names from list_models, each at full strength.")] = None,
        reason: Annotated[
            str,
            Field(description="default may rewrite the prompt in the style of the model's captions; off does not."),
        ] = "default",
        fixed: Annotated[
            Fixed | None, Field(description="Facts of the caption to set, by the keys that a result names.")
        ] = None,
    ) -> CallToolResult:
        """Draw images from a description, or alter an earlier image."""
        with _tool_errors(), with_client_names(_NAMES if size is not None else _NAMES | {"size": "width x height"}):
            if not prompt.strip():
                raise APIError("missing", "prompt is empty", "prompt")
            if size is not None and width is None and height is None:
                width, height = parse_size(size)
            parameters = GenerationParameters(
                prompt, negative_prompt, model, width, height, steps, guidance_scale, seed, count, strength=strength,
                loras=[(name, 1.0) for name in loras or []], reason=reason, fixed=fixed or {},
            )  # fmt: skip
            if start_from is not None:
                parameters.source = partial(_start_from, service, start_from)
            elif strength is not None:
                raise APIError("missing", "start_from is missing: strength needs it", "start_from")
            job = await _run(service, parameters, ctx)
        return await run_in_threadpool(_drawn, service, job, _start_of_links(service, ctx))


def _add_models(server: MCPServer, service: ImageService) -> None:
    @server.tool(annotations=_READS)
    async def list_models() -> dict[str, Any]:
        """List the models with their defaults, and the LoRAs that can be added to them."""
        models = [
            {"name": name, "default": name == service.library.default, **vars(service.library.defaults(name))}
            for name in service.library.models()
        ]
        return {"models": models, "loras": sorted(service.library.loras())}


def _add_jobs(server: MCPServer, service: ImageService) -> None:
    @server.tool(annotations=_READS)
    async def job_status(
        ctx: Context, job: Annotated[str | None, Field(description="An id; without it, your latest jobs.")] = None
    ) -> dict[str, Any]:
        """Show the progress of a job, or list the latest jobs with the names of their images."""
        start = _start_of_links(service, ctx)
        if job is None:
            found = await run_in_threadpool(service.archive.recent, _owner(ctx), 10)
            return {"jobs": [_described(service, one, start) for one in found]}
        known = await run_in_threadpool(service.archive.job, job)
        if known is None or known["owner"] != _owner(ctx):
            raise ToolError("there is no such job")
        return _described(service, known, start)

    @server.tool(annotations=ToolAnnotations(idempotent_hint=True, open_world_hint=False))
    async def cancel_job(
        ctx: Context, job: Annotated[str, Field(description="The id of a running job.")]
    ) -> dict[str, Any]:
        """Cancel a job; finished images stay."""
        running = service.find(job)
        if running is None or running.owner != _owner(ctx):
            raise ToolError("there is no such job, or it has ended")
        service.cancel(running)
        return {"job": job, "state": running.state}


def mount_tools(app: FastAPI, service: ImageService) -> Callable[[], AbstractAsyncContextManager[None]]:
    """Add `/mcp` to an app; returns what opens a context that must be open while the app runs."""
    server = tool_server(service)
    # RequestMiddleware has checked keys and origins. Without sessions, clients do not notice a restart.
    inner = server.streamable_http_app(
        stateless_http=True,
        max_request_body_size=service.settings.max_body,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    app.router.routes.extend(inner.routes)
    return server.session_manager.run


async def serve_over_stdio(service: ImageService) -> None:
    """Serve one assistant over standard input and output until it closes them; opens and closes the service."""
    service.open()
    try:
        await tool_server(service).run_stdio_async()
    finally:
        service.close()


class _tool_errors:
    """Turns an `APIError` into an error of the tool, which the assistant reads."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, APIError):
            raise ToolError(error.message) from None


async def _run(service: ImageService, parameters: GenerationParameters, ctx: Context) -> Job:
    """Run a job to its end, and report its progress."""
    job = await run_in_threadpool(service.prepare, parameters, _owner(ctx), API)
    async for events in follow(service, [job]):
        if any(event.kind != "started" for event in events):
            await ctx.report_progress(job.progress, 1.0)
    return job


def _drawn(service: ImageService, job: Job, start: str | None) -> CallToolResult:
    """The images, and as text their names and settings."""
    done = [task for task in job.tasks if task.picture is not None]
    if not done:
        error = next((task.error for task in job.tasks if task.error), None)
        raise ToolError("the drawing was stopped" if error is None else error.message)
    request = done[0].request
    said = {
        "job": job.id,
        "model": job.model,
        "width": request.width,
        "height": request.height,
        "steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "pictures": [{**_address(service, task.picture.name, start), "seed": task.request.seed, **_rewriting(task)}
                     for task in done if task.picture is not None],
        "not_understood": not_understood([task.request.reasoner for task in done], job.model),
        "missing": [task.error.message for task in job.tasks if task.error is not None],
    }  # fmt: skip
    previews = [_image_content(task) for task in done]
    return CallToolResult(content=[TextContent(type="text", text=json.dumps(said)), *previews], structured_content=said)


def _rewriting(task: Task) -> dict[str, Any]:
    """The caption that was drawn and the reasoner's record, where there is one."""
    record = task.request.reasoner
    if record is None:
        return {}
    return {"prompt": record.prompt, "reasoner": record.model_dump(mode="json", exclude={"prompt", "seconds"})}


def _image_content(task: Task) -> ImageContent:
    assert task.picture is not None
    data = picture_bytes(task.picture, "jpeg", _JPEG_QUALITY)
    return ImageContent(type="image", data=base64.b64encode(data).decode("ascii"), mime_type="image/jpeg")


def _start_from(service: ImageService, name: str, parameters: GenerationParameters) -> None:
    """Set the image to start from, by its name in the archive, which cannot be guessed."""
    path = service.archive.picture(name)
    if path is None:
        raise APIError("unknown", f"start_from {name[:80]!r} is not an image of this server", "image")
    data = path.read_bytes()
    with Image.open(path) as picture:
        picture.load()
        parameters.image, parameters.image_bytes = picture, data


def _described(service: ImageService, known: JobRecord, start: str | None) -> dict[str, Any]:
    state, progress = service.status(known)
    return {
        "job": known["id"],
        "model": known["model"],
        "state": state,
        "progress": progress,
        "error": known["error"],
        "pictures": [_address(service, each["name"], start) for each in known["finished_pictures"]],
    }


def _address(service: ImageService, name: str, start: str | None) -> dict[str, str]:
    """The name of an image with its URL, or its file when the client is on this machine."""
    if start is None:
        return {"name": name, "file": str(service.archive.folder / "pictures" / name)}
    return {"name": name, "url": f"{start}/pictures/{name}"}


def _owner(ctx: Context) -> str:
    """The owner that `RequestMiddleware` found, or "local" over standard input and output."""
    request = ctx.request_context.request
    return "local" if request is None else str(request.state.owner)


def _start_of_links(service: ImageService, ctx: Context) -> str | None:
    request = ctx.request_context.request
    if request is None:
        return None
    return (service.settings.public_url or str(request.base_url)).rstrip("/")
