"""The door for assistants: tools of the Model Context Protocol, over HTTP at `/mcp` or over standard input and output.

Comes in: calls of draw, list_models, job_status and cancel_job. Goes out: pictures with their settings, lists, states.
A field that is left out takes the model's default, as at every door. The protocol itself is the official SDK's.

Source: Model Context Protocol, revisions 2025-06-18 to 2026-07-28, as the package `mcp` speaks them.
"""

import base64
import json
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
from leanlens.serve.desk import Desk, Wish, named_size
from leanlens.serve.encode import picture_bytes
from leanlens.serve.follow import follow
from leanlens.serve.jobs import NAME
from leanlens.serve.openai import share_done
from leanlens.serve.reasoning import Fixed, not_understood
from leanlens.serve.refusal import Refusal, in_the_clients_words
from leanlens.serve.tasks import Job, Task

DOOR = "mcp"
_JPEG_QUALITY = 90  # of what an assistant looks at; the file itself stays a PNG and is linked
_INSTRUCTIONS = (
    "Draws pictures with Lens. Describe in the prompt, in plain words and whole sentences, all that is to be seen; "
    "leave steps, guidance and size out unless the user asks for them. Every picture has a seed, which with the same "
    "settings gives the same picture again."
)
# Our names of fields -> those of the tool.
_NAMES = {"num_inference_steps": "steps", "n": "count", "image": "start_from"}
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


def tool_server(desk: Desk) -> MCPServer:
    """The tools, on a desk."""
    server = MCPServer("leanlens", version=leanlens.__version__, instructions=_INSTRUCTIONS, log_level="WARNING")

    @server.tool(structured_output=False, annotations=ToolAnnotations(destructive_hint=False, open_world_hint=False))
    async def draw(
        ctx: Context,
        prompt: Annotated[str, Field(description="What is to be seen.")],
        negative_prompt: Annotated[str, Field(description="What to keep away from.")] = "",
        model: Annotated[str | None, Field(description="A name from list_models.")] = None,
        width: Annotated[int | None, Field(description="Pixels, a multiple of 16; give both sides or none.")] = None,
        height: Annotated[int | None, Field(description="Pixels, a multiple of 16.")] = None,
        size: Annotated[str | None, Field(description="WIDTHxHEIGHT, instead of the two.")] = None,
        steps: Annotated[int | None, Field(description="Noise levels to walk.")] = None,
        guidance_scale: Annotated[float | None, Field(description="1 is no guidance.")] = None,
        seed: Annotated[int | None, Field(description="Fixes the picture; random without it, or with -1.")] = None,
        count: Annotated[int, Field(description="Pictures, with seeds counting up.")] = 1,
        start_from: Annotated[str | None, Field(description="The name of a picture drawn before, to alter.")] = None,
        strength: Annotated[float | None, Field(description="With start_from: how far it is altered, to 1.")] = None,
        loras: Annotated[list[str] | None, Field(description="Names from list_models, at their full strength.")] = None,
        reason: Annotated[
            str, Field(description="default: the prompt may be rewritten into the captions that the model learnt; off.")
        ] = "default",
        fixed: Annotated[
            Fixed | None, Field(description="Facts of the caption to set, by the keys that a result names.")
        ] = None,
    ) -> CallToolResult:
        """Draw pictures from a description, or alter one that was drawn before."""
        with _told(), in_the_clients_words(_NAMES if size is not None else _NAMES | {"size": "width x height"}):
            if not prompt.strip():
                raise Refusal("missing", "prompt is empty; say what is to be seen", "prompt")
            if size is not None and width is None and height is None:
                width, height = named_size(size)
            wish = Wish(
                prompt, negative_prompt, model, width, height, steps, guidance_scale, seed, count, strength=strength,
                loras=[(name, 1.0) for name in loras or []], reason=reason, fixed=fixed or {},
            )  # fmt: skip
            if start_from is not None:
                wish.source = partial(_start_from, desk, start_from)
            elif strength is not None:
                raise Refusal("missing", "start_from is missing beside strength", "start_from")
            job = await run_in_threadpool(desk.prepare, wish, _owner(ctx), DOOR)
            async for event in follow(desk, job):
                if event.kind != "started":
                    await ctx.report_progress(job.progress, 1.0)
        return await run_in_threadpool(_drawn, desk, job, _start_of_links(desk, ctx))

    @server.tool(annotations=_READS)
    async def list_models() -> dict[str, Any]:
        """List the models with what they do by default, and the LoRAs that can be added to them."""
        models = [
            {"name": name, "default": name == desk.library.default, **vars(desk.library.defaults(name))}
            for name in desk.library.models()
        ]
        return {"models": models, "loras": sorted(desk.library.loras())}

    @server.tool(annotations=_READS)
    async def job_status(
        ctx: Context, job: Annotated[str | None, Field(description="An id; without it, your latest ones.")] = None
    ) -> dict[str, Any]:
        """Say how far a job is, or list the latest ones with the names of their pictures."""
        start = _start_of_links(desk, ctx)
        if job is None:
            found = await run_in_threadpool(desk.archive.recent, _owner(ctx), 10)
            return {"jobs": [_described(desk, one, start) for one in found]}
        known = await run_in_threadpool(desk.archive.job, job)
        if known is None or known["owner"] != _owner(ctx):
            raise ToolError("there is no such job")
        return _described(desk, known, start)

    @server.tool(annotations=ToolAnnotations(idempotent_hint=True, open_world_hint=False))
    async def cancel_job(
        ctx: Context, job: Annotated[str, Field(description="The id of a job that runs.")]
    ) -> dict[str, Any]:
        """Stop a job; pictures that are finished stay."""
        running = desk.find(job)
        if running is None or running.owner != _owner(ctx):
            raise ToolError("there is no such job, or it has ended")
        desk.cancel(running)
        return {"job": job, "state": running.state}

    return server


def mount_tools(app: FastAPI, desk: Desk) -> Any:
    """Add `/mcp` to an app; gives what has to run while the app does, as an asynchronous context."""
    server = tool_server(desk)
    # The server's own guard has looked at keys and origins. Without sessions, a restart is not noticed by clients.
    inner = server.streamable_http_app(
        stateless_http=True,
        max_request_body_size=desk.settings.max_body,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    app.router.routes.extend(inner.routes)
    return server.session_manager.run


async def serve_on_pipes(desk: Desk) -> None:
    """Answer one assistant over standard input and output until it closes them; the desk is opened and closed."""
    desk.open()
    try:
        await tool_server(desk).run_stdio_async()
    finally:
        desk.close()


class _told:
    """A refusal inside becomes an error of the tool, which the assistant reads."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Refusal):
            raise ToolError(error.message) from None


def _drawn(desk: Desk, job: Job, start: str | None) -> CallToolResult:
    """The pictures to look at, and beside them what they are called and how they were drawn."""
    done = [task for task in job.tasks if task.picture is not None]
    if not done:
        refusal = next((task.refusal for task in job.tasks if task.refusal), None)
        raise ToolError("the drawing was stopped" if refusal is None else refusal.message)
    request = done[0].request
    said = {
        "job": job.id,
        "model": job.model,
        "width": request.width,
        "height": request.height,
        "steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "pictures": [{**_address(desk, task.picture.name, start), "seed": task.request.seed, **_rewriting(task)}
                     for task in done if task.picture is not None],
        "not_understood": not_understood([task.request.reasoner for task in done], job.model),
        "missing": [task.refusal.message for task in job.tasks if task.refusal is not None],
    }  # fmt: skip
    looks = [_look(task) for task in done]
    return CallToolResult(content=[TextContent(type="text", text=json.dumps(said)), *looks], structured_content=said)


def _rewriting(task: Task) -> dict[str, Any]:
    """The caption that was drawn and the reasoner's record, where there is one."""
    record = task.request.reasoner
    if record is None:
        return {}
    return {"prompt": record.prompt, "reasoner": record.model_dump(mode="json", exclude={"prompt", "seconds"})}


def _look(task: Task) -> ImageContent:
    assert task.picture is not None
    data = picture_bytes(task.picture, "jpeg", _JPEG_QUALITY)
    return ImageContent(type="image", data=base64.b64encode(data).decode("ascii"), mime_type="image/jpeg")


def _start_from(desk: Desk, name: str, wish: Wish) -> None:
    """Put a picture of the archive into a wish, by its name, which cannot be guessed."""
    path = desk.archive.picture(name) if NAME.fullmatch(name) else None
    if path is None:
        raise Refusal(
            "unknown", f"start_from {name[:80]!r} is no picture of this server; give the name of one", "image"
        )
    data = path.read_bytes()
    with Image.open(path) as picture:
        picture.load()
        wish.image, wish.image_bytes = picture, data


def _described(desk: Desk, known: dict[str, Any], start: str | None) -> dict[str, Any]:
    running = desk.find(known["id"])
    return {
        "job": known["id"],
        "model": known["model"],
        "state": running.state if running else known["state"],
        "progress": running.progress if running else share_done(known),
        "error": known["error"],
        "pictures": [_address(desk, each["name"], start) for each in known["finished_pictures"]],
    }


def _address(desk: Desk, name: str, start: str | None) -> dict[str, str]:
    """A picture's name with its link, or on one's own machine its file."""
    if start is None:
        return {"name": name, "file": str(desk.archive.folder / "pictures" / name)}
    return {"name": name, "url": f"{start}/pictures/{name}"}


def _owner(ctx: Context) -> str:
    """Who asks: as the guard says, or the one at the other end of the pipes."""
    request = ctx.request_context.request
    return "local" if request is None else str(request.state.owner)


def _start_of_links(desk: Desk, ctx: Context) -> str | None:
    request = ctx.request_context.request
    if request is None:
        return None
    return (desk.settings.public_url or str(request.base_url)).rstrip("/")
