"""The web page of the server, for people without a client: mounted at `/`, one more door to the desk.

Comes in: a FastAPI app and its desk. Goes out: the app with a Gradio page behind its other routes. The page asks for
pictures as the other doors do, so limits, archive, queue and bytes are theirs. It loads nothing from elsewhere: fonts
are the system's, Gradio's measuring of use is off, and the browser is told to refuse what comes from another origin.
"""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from PIL import Image, ImageChops
from starlette.concurrency import run_in_threadpool
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Scope

from leanlens.pipeline.metadata import read_record
from leanlens.serve.desk import Desk, Wish
from leanlens.serve.jobs import NAME
from leanlens.serve.refusal import Refusal
from leanlens.serve.tasks import Job
from leanlens.serve.uploads import open_upload, to_png
from leanlens.serve.web_form import ASPECTS, OWN, SETTINGS, Form, form_from, grid_from, size_of, wish_from
from leanlens.serve.web_routes import PageRoutes, log_briefly
from leanlens.serve.web_run import run
from leanlens.serve.web_show import (
    SUGGESTIONS,
    show_grid,
    show_history,
    show_jobs,
    show_kept,
    show_note,
    show_refusal,
    show_welcome,
)
from leanlens.serve.web_style import ON_LOAD, ONE_STOP, PRESSED, TOGGLE, style_sheet, theme

Estimate = Callable[[str, int, int, int, float, int], str]
"""What `leanlens.plan` says of a picture: model, width, height, steps, guidance, count -> a sentence."""

_HISTORY = 24  # pictures, and how many more at a time
# Programs have the other doors; how many draw at once is the desk's to say.
_QUIET: Any = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
_PLANNED = ("model", "aspect", "base", "size", "steps", "guidance", "count")  # what the planner asks of a form
_HEAD = "<h1>leanlens<small>words in, pictures out</small></h1>"
_ICON = Path(__file__).with_name("icon.svg")


def mount_page(app: FastAPI, desk: Desk, estimate: Estimate | None = None) -> None:
    """Put the page behind the routes that `app` has; what begins like one of those never reaches it.

    Args:
        estimate: says what a picture will cost; None leaves that line out. It may raise a ValueError.
    """
    # What is dropped on the page lies beside the pictures, not in a folder that all users of the machine share.
    os.environ.setdefault("GRADIO_TEMP_DIR", str(desk.archive.folder / "page"))
    log_briefly()
    doors = {path.split("/")[1] for path in (*app.openapi()["paths"], app.openapi_url or "/")}
    gr.mount_gradio_app(
        app,
        Page(desk, estimate).build(),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=desk.settings.max_upload,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        favicon_path=str(_ICON),
        theme=theme(),
        css=style_sheet(),
        js=ON_LOAD,
    )
    mounted = app.router.routes.pop()
    assert isinstance(mounted, Mount)
    app.router.routes.append(
        _PageMount("/", app=PageRoutes(mounted.app, Path(os.environ["GRADIO_TEMP_DIR"])), name="page", doors=doors)
    )


class _PageMount(Mount):
    """A mount that leaves the other doors alone: their unknown routes and wrong methods are theirs to answer."""

    def __init__(self, path: str, app: ASGIApp, name: str, doors: set[str]):
        super().__init__(path, app=app, name=name)
        self.doors = doors

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["path"].split("/")[1] in self.doors:
            return Match.NONE, {}
        return super().matches(scope)


class _Newest(dict[str, Any]):
    """What editors sent ahead of a drawing, the last few of them: what is never drawn must not stay in memory."""

    most = 16

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > self.most:
            del self[next(iter(self))]


class Page:
    """The page's parts and what they do; one for all who look at it.

    Args:
        desk: draws.
        estimate: as in `mount_page`.
    """

    def __init__(self, desk: Desk, estimate: Estimate | None = None):
        self.desk = desk
        self.estimate = estimate
        self._running: dict[str, list[Job]] = {}

    # ---------------------------------------------------------------------------------------- what it does

    async def draw(self, request: gr.Request, source: Any, *fields: Any) -> AsyncGenerator[tuple[Any, Any]]:
        """Draw what the form says; yields the stage, and at the end the history."""
        try:
            wish = wish_from(Form(*fields), self.desk, _once(source, self.desk))
        except Refusal as refusal:
            yield show_refusal(refusal), gr.skip()
            return
        async for answer in self._follow([wish], request, show_jobs):
            yield answer

    async def draw_grid(
        self, request: gr.Request, x: str | None, x_values: str, y: str | None, y_values: str, source: Any,
        *fields: Any,
    ) -> AsyncGenerator[tuple[Any, Any]]:  # fmt: skip
        """Draw every combination of two settings; yields as `draw` does."""
        try:
            grid = grid_from(Form(*fields), x or None, x_values, y or None, y_values)
            opened = _once(source, self.desk)
            wishes = [wish_from(form, self.desk, opened) for row in grid.forms for form in row]
        except Refusal as refusal:
            yield show_refusal(refusal), gr.skip()
            return
        async for answer in self._follow(wishes, request, lambda jobs: show_grid(grid, jobs)):
            yield answer

    async def _follow(
        self, wishes: Sequence[Wish], request: gr.Request, show: Callable[[Sequence[Job]], str]
    ) -> AsyncGenerator[tuple[Any, Any]]:
        owner, session = _owner(request), request.session_hash or ""
        jobs: list[Job] = []
        steps = run(self.desk, wishes, owner, jobs)
        try:
            async for _ in steps:
                self._remember(session, jobs)
                yield await run_in_threadpool(show, jobs), gr.skip()
            yield await run_in_threadpool(show, jobs), await run_in_threadpool(self.history, _HISTORY, request)
        except Refusal as refusal:
            yield show_refusal(refusal), await run_in_threadpool(self.history, _HISTORY, request)
        finally:
            await steps.aclose()  # a browser that went away stops its pictures now
            self._remember(session, ())

    def _remember(self, session: str, jobs: Sequence[Job]) -> None:
        """Keep which jobs a browser tab waits for, beside those it waits for already."""
        left = [job for job in {*self._running.pop(session, ()), *jobs} if not job.is_final]
        if left:
            self._running[session] = left

    def stop(self, request: gr.Request) -> None:
        """Stop what this browser tab draws, at the next step."""
        for job in list(self._running.get(request.session_hash or "", ())):
            self.desk.cancel(job)

    def history(self, limit: float, request: gr.Request) -> str:
        """The newest pictures of whoever asks."""
        return show_history(self.desk, _owner(request), int(limit))

    def older(self, limit: float, request: gr.Request) -> tuple[int, str]:
        """More of them."""
        limit = min(int(limit) + _HISTORY, 1000)
        return limit, self.history(limit, request)

    def suggest(self, event: gr.EventData) -> Any:
        """The prompt of a suggestion that was pressed."""
        name = _pressed(event)
        return SUGGESTIONS[int(name)] if name in map(str, range(len(SUGGESTIONS))) else gr.skip()

    def take(self, event: gr.EventData) -> list[Any]:
        """A picture of the history and its settings: what the stage shows, then the form's fields."""
        name = _pressed(event)
        path = self.desk.archive.picture(name) if NAME.fullmatch(name) else None
        if path is None:
            return self._unchanged(Refusal("unknown", "there is no such picture"))
        return self._recovered(path, lambda text, record: show_kept(name, record, text))

    def recover(self, path: str | None) -> list[Any]:
        """The settings of a dropped picture: a note, then the form's fields."""
        if path is None:
            return [gr.skip()] * (1 + len(Form().__dict__))
        try:
            open_upload(Path(path).read_bytes(), self.desk.settings)
        except Refusal as refusal:
            return self._unchanged(refusal)
        return self._recovered(Path(path), lambda text, record: show_note(text))

    def _recovered(self, path: Path, show: Callable[[str, dict[str, Any]], str]) -> list[Any]:
        try:
            record = read_record(path)
            form, notes = form_from(record, self.desk)
        except Refusal as refusal:
            return self._unchanged(refusal)
        except ValueError:
            return self._unchanged(Refusal("invalid", "this picture carries no settings of leanlens"))
        return [show(" ".join(["These are the picture's settings.", *notes]), record), *_values(form)]

    def _unchanged(self, refusal: Refusal) -> list[Any]:
        return [show_refusal(refusal), *[gr.skip()] * len(Form().__dict__)]

    def choose_model(self, model: str) -> tuple[int, float, int]:
        """Steps, guidance and base size of a model."""
        defaults = self.desk.library.defaults(self.desk.library.find_model(model))
        return defaults.num_inference_steps, defaults.guidance_scale, defaults.side

    def predict(self, *fields: Any) -> str:
        """The planner's line for the fields of `_PLANNED`; nothing where it cannot tell."""
        form = Form(**dict(zip(_PLANNED, fields, strict=True)))
        assert self.estimate is not None
        try:
            model = self.desk.library.find_model(form.model)
            defaults = self.desk.library.defaults(model)
            width, height = size_of(form, self.desk)
            text = self.estimate(
                self.desk.library.source(model), width or defaults.side, height or defaults.side,
                form.steps or defaults.num_inference_steps,
                defaults.guidance_scale if form.guidance is None else form.guidance, int(form.count or 1),
            )  # fmt: skip
        except (ValueError, Refusal):
            return ""
        return show_note(text)

    # ---------------------------------------------------------------------------------------- how it looks

    def build(self) -> gr.Blocks:
        """The page."""
        with gr.Blocks(
            title="leanlens", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
        ) as page:  # fmt: skip
            with gr.Row(elem_id="head"):
                gr.HTML(_HEAD, padding=False)
                gr.Button("Dark or light", size="sm", elem_id="theme").click(None, js=TOGGLE, queue=False)
            with gr.Row(elem_id="columns"):
                with gr.Column(min_width=300, scale=2, elem_id="asked"):
                    with gr.Column(elem_id="first"):
                        prompt, draw, stop, line = self._prompt()
                    with gr.Column(elem_id="settings"):
                        fields = self._fields(prompt, line)
                        source = self._source()
                        grid, draw_grid = self._grid()
                        drop = _drop()
                with gr.Column(min_width=300, scale=3, elem_id="seen"):
                    stage = gr.HTML(show_welcome(), padding=False, elem_id="stage", js_on_load=PRESSED)
                    with gr.Column(elem_id="kept"):
                        gr.Markdown("### History")
                        history = gr.HTML(padding=False, elem_id="history", js_on_load=PRESSED)
                        limit = gr.State(_HISTORY)
                        older = gr.Button("Show more", size="sm", elem_id="older")
            values, both = list(fields.values()), [stage, history]
            for said, function, given, answered, name in (
                ([draw.click, prompt.submit], self.draw, [source, *values], both, "draw"),
                ([draw_grid.click], self.draw_grid, [*grid, source, *values], both, "grid"),
                ([page.load], self.history, limit, history, "history"),
                ([older.click], self.older, limit, [limit, history], "older"),
                ([stage.click], self.suggest, None, prompt, "suggest"),
                ([history.click], self.take, None, [stage, *values], "take"),
                ([drop.upload], self.recover, drop, [stage, *values], "recover"),
            ):
                gr.on(said, function, given, answered, api_name=name, **_QUIET)
            page.load(None, js=ONE_STOP, queue=False)
            # Beside the queue, in which it would wait for what it is to stop.
            stop.click(self.stop, api_name="stop", queue=False, **_QUIET)
        for part in page.blocks.values():  # a field of any kind may hold what looks like a file
            move: Any = part.async_move_resource_to_block_cache
            part.async_move_resource_to_block_cache = partial(_move_local, move)
        return page

    def _prompt(self) -> tuple[gr.Textbox, gr.Button, gr.Button, gr.HTML]:
        """The prompt, the buttons under it and the planner's line."""
        prompt = gr.Textbox(
            label="Prompt", lines=3, max_lines=12, max_length=self.desk.settings.max_prompt, autofocus=True,
            placeholder="What is in the picture?", info="Shift and Enter draw.", elem_id="prompt",
        )  # fmt: skip
        with gr.Row():
            draw = gr.Button("Draw", variant="primary", min_width=80, elem_id="draw")
            stop = gr.Button("Stop", min_width=80, elem_id="stop")
        return prompt, draw, stop, gr.HTML(padding=False, elem_id="estimate", visible=self.estimate is not None)

    def _fields(self, prompt: gr.Textbox, line: gr.HTML) -> dict[str, Any]:
        """The fields of `Form`, in its order."""
        desk, settings = self.desk, self.desk.settings
        steps, guidance, side = self.choose_model(desk.library.default)
        with gr.Row():
            models = list(desk.library.models())
            model = gr.Dropdown(models, value=desk.library.default, label="Model", min_width=140, scale=2)
            count = gr.Number(1, label="Pictures", minimum=1, maximum=settings.max_count, precision=0, min_width=90)
        aspect = gr.Radio(list(ASPECTS), value=OWN, label="Aspect", elem_id="aspect",
                          info="own: the model's square, or the shape of the picture to start from")  # fmt: skip
        with gr.Accordion("Advanced settings", open=False, elem_id="advanced"):
            negative = gr.Textbox(label="Negative prompt", lines=2, max_length=settings.max_prompt)
            with gr.Row():
                steps_field = gr.Number(steps, label="Steps", minimum=1, maximum=settings.max_steps, precision=0,
                                        info="more take longer", min_width=90)  # fmt: skip
                guidance_field = gr.Number(guidance, label="Guidance", minimum=0, maximum=100, info="1 is none",
                                           min_width=90)  # fmt: skip
                seed = gr.Textbox(
                    label="Seed", placeholder="random", max_length=20, info="blank is random", min_width=90
                )
            with gr.Row():
                base = gr.Number(side, label="Base size", precision=0, step=16, info="side of the square, pixels",
                                 min_width=140)  # fmt: skip
                size = gr.Textbox(label="Size", placeholder="WIDTHxHEIGHT", info="instead of aspect and base size",
                                  min_width=140)  # fmt: skip
            loras = gr.Dropdown(
                sorted(desk.library.loras()), multiselect=True, allow_custom_value=True, value=[], label="LoRAs",
                info="write name:0.8 for another strength", visible=bool(desk.library.loras()), elem_id="loras",
            )  # fmt: skip
            # Text, as the seed is: a number field that is left blank says 0 as soon as it is seen.
            strength = gr.Textbox(label="Strength", placeholder="0.6, with a mask 1", max_length=20,
                                  info="0 to 1, how far from the picture to start from")  # fmt: skip
        fields = dict(zip(
            Form().__dict__,
            (prompt, negative, model, aspect, base, size, steps_field, guidance_field, seed, count, loras, strength),
            strict=True,
        ))  # fmt: skip
        model.input(self.choose_model, model, [steps_field, guidance_field, base], api_name="model", **_QUIET)
        if self.estimate is not None:
            # Without a trigger it is said when the page opens, and whenever one of them changes.
            gr.on(None, self.predict, [fields[name] for name in _PLANNED], line, api_name="predict",
                  trigger_mode="always_last", **_QUIET)  # fmt: skip
        return fields

    def _source(self) -> Any:
        with gr.Accordion("Start from a picture", open=False, elem_id="source"):
            gr.Markdown("Paint over what is to be drawn anew; without paint all of it is.")
            editor: Any = gr.ImageEditor(
                label="Picture and mask", sources=("upload", "clipboard"), image_mode="RGBA", format="png",
                transforms=(), layers=False, brush=gr.Brush(colors=["#e11d48"], color_mode="fixed"), buttons=[],
            )  # fmt: skip
            editor.blob_storage = _Newest()
            editor.preprocess = partial(_parts, editor.blob_storage)
            return editor

    def _grid(self) -> tuple[list[Any], gr.Button]:
        with gr.Accordion("Compare in a grid", open=False, elem_id="grid"):
            names = [("nothing", ""), *((name, name) for name in SETTINGS)]
            parts: list[Any] = []
            for axis, first in (("X", "guidance"), ("Y", "")):
                with gr.Row():
                    parts.append(gr.Dropdown(names, value=first, label=f"{axis} varies", min_width=120))
                    parts.append(gr.Textbox(label=f"{axis} values", lines=2, info="one a line", min_width=120))
            return parts, gr.Button("Draw the grid", elem_id="draw-grid")


def _drop() -> Any:
    """Where a picture is dropped to recover its settings."""
    drop: Any = gr.Image(
        label="Recover settings", show_label=False, sources=["upload", "clipboard"], image_mode=None, type="filepath",
        height=140, buttons=[], elem_id="drop", placeholder="Drop a picture here to recover its settings",
    )  # fmt: skip
    drop.preprocess = _path  # the dropped file as it is, for our own bounded reader
    return drop


def _pressed(event: gr.EventData) -> str:
    """The name of the button that was pressed inside a piece of HTML."""
    return str(event._data.get("name", "")) if isinstance(event._data, dict) else ""


def _owner(request: gr.Request) -> str:
    """Who asks, as the guard has found out."""
    return str(request.state.owner)


async def _move_local(move: Callable[[Any], Awaitable[str | None]], place: Any) -> str | None:
    """Gradio's own way with a file that a client names, for uploads only.

    By itself it fetches addresses, and as long as it is mounted rather than launched it also takes any file of this
    machine into the folder it serves.
    """
    return None if place is None else await move(str(_upload(str(place))))


def _path(payload: Any) -> str | None:
    return None if payload is None else str(_upload(payload.path))


def _upload(path: str) -> Path:
    """The file of an upload.

    Raises:
        ValueError: any other file, or an address.
    """
    found = Path(path).resolve()
    if not found.is_relative_to(Path(os.environ["GRADIO_TEMP_DIR"]).resolve()):
        raise ValueError("a picture has to be uploaded; no other file and no address is opened")
    return found


def _parts(sent_ahead: dict[str, Any], payload: Any) -> tuple[bytes, list[bytes]] | None:
    """The editor's picture and what was painted over it, as bytes that nobody has unpacked; None without a picture."""
    found = payload
    if payload is not None and payload.id is not None:
        found = sent_ahead.pop(payload.id, None)
    if found is None or found.background is None:
        return None
    return _bytes(found.background), [_bytes(layer) for layer in found.layers if layer is not None]


def _values(form: Form) -> list[Any]:
    return [list(value) if isinstance(value, tuple) else value for value in astuple(form)]


def _bytes(part: Any) -> bytes:
    return part if isinstance(part, bytes) else _upload(part.path).read_bytes()


def _once(source: tuple[bytes, list[bytes]] | None, desk: Desk) -> Callable[[Wish], None] | None:
    """What puts the editor's picture and mask into wishes; unpacked for the first one and shared by all."""
    if source is None:
        return None
    opened: list[tuple[Image.Image, bytes, Image.Image | None]] = []

    def put(wish: Wish) -> None:
        if not opened:
            picture, mask = _opened(source, desk)
            opened.append((picture, to_png(picture), mask))
        wish.image, wish.image_bytes, wish.mask = opened[0]

    return put


def _opened(source: tuple[bytes, list[bytes]], desk: Desk) -> tuple[Image.Image, Image.Image | None]:
    """The picture, and where it was painted over as a mask; without paint there is none."""
    background, layers = source
    image = open_upload(background, desk.settings).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    picture = Image.alpha_composite(white, image).convert("RGB")
    mask = Image.new("L", picture.size, 0)
    for layer in layers:
        painted = open_upload(layer, desk.settings, "mask").convert("RGBA").getchannel("A")
        if painted.size != mask.size:
            painted = painted.resize(mask.size, Image.Resampling.NEAREST)
        mask = ImageChops.lighter(mask, painted.point(lambda level: 255 if level > 0 else 0))
    return picture, mask if mask.getbbox() is not None else None
