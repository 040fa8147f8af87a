"""The web page of the server, for people without a client: mounted at `/`, one more API to the service.

Comes in: a FastAPI app and its service. Goes out: the app with a Gradio page behind its other routes. The page asks for
pictures as the other APIs do, so limits, archive, queue and bytes are theirs. It loads nothing from elsewhere: fonts
are the system's, Gradio's measuring of use is off, and the browser is told to refuse what comes from another origin.
"""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
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
from leanlens.serve.errors import APIError
from leanlens.serve.estimate import Estimates
from leanlens.serve.parameters import GenerationParameters
from leanlens.serve.service import ImageService
from leanlens.serve.tasks import Job
from leanlens.serve.uploads import open_upload, to_png
from leanlens.web.estimate import estimate_line, larger_models_line
from leanlens.web.form import (
    ASPECTS,
    OWN,
    SETTINGS,
    Form,
    form_from,
    grid_from,
    parameters_from,
    size_of,
    with_seed,
)
from leanlens.web.reasoning import reading, suggestions
from leanlens.web.routes import PageRoutes, log_briefly
from leanlens.web.run import run
from leanlens.web.show import (
    SUGGESTIONS,
    escaped,
    show_error,
    show_grid,
    show_history,
    show_jobs,
    show_kept,
    show_note,
    show_queue,
    show_welcome,
)
from leanlens.web.style import (
    BEGIN,
    END,
    ON_LOAD,
    ONE_STOP,
    PRESSED,
    SOURCE_ADDED,
    SOURCE_CLEARED,
    TELL,
    TOGGLE,
    WAITING,
    press,
    remember,
    restore,
    style_sheet,
    theme,
)

Answers = AsyncGenerator[tuple[Any, Any, Any]]
"""The stage, the history and the button under it, again and again while something is drawn."""

Source = tuple[bytes, list[bytes]] | APIError | None
"""The editor's picture and its layers of paint, or why they cannot be had."""

_HISTORY = 24  # pictures, and how many more at a time
_SESSIONS = (
    500  # open tabs whose state is kept, about 100 KB each; Gradio's 10,000 would let a stranger fill a gigabyte
)
# Programs have the other APIs; how many draw at once is the service's to say.
_QUIET: Any = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
_PLANNED = ("model", "aspect", "base", "size", "steps", "guidance", "count")  # what the planner asks of a form
_HEAD = "<h1>leanlens<small>images from words</small></h1>"
_ICON = Path(__file__).with_name("icon.svg")


def mount_page(app: FastAPI, service: ImageService) -> None:
    """Put the page behind the routes that `app` has; what begins like one of those never reaches it."""
    # What is dropped on the page lies beside the pictures, not in a folder that all users of the machine share.
    os.environ.setdefault("GRADIO_TEMP_DIR", str(service.archive.folder / "page"))
    log_briefly()
    apis = {path.split("/")[1] for path in (*app.openapi()["paths"], app.openapi_url or "/")}
    page = Page(service).build()
    page.state_session_capacity = _SESSIONS
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=service.settings.max_upload,
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
        _PageMount("/", app=PageRoutes(mounted.app, Path(os.environ["GRADIO_TEMP_DIR"])), name="page", apis=apis)
    )


class _PageMount(Mount):
    """A mount that leaves the other APIs alone: their unknown routes and wrong methods are theirs to answer."""

    def __init__(self, path: str, app: ASGIApp, name: str, apis: set[str]):
        super().__init__(path, app=app, name=name)
        self.apis = apis

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["path"].split("/")[1] in self.apis:
            return Match.NONE, {}
        return super().matches(scope)


@dataclass(eq=False)
class _Order:
    """What one press of Draw asks for: the jobs, as far as they have begun, how they are shown, whether it is over."""

    prompt: str
    show: Callable[[Sequence[Job]], str]
    jobs: list[Job] = field(default_factory=list)
    ended: bool = False

    @property
    def is_seen(self) -> bool:
        """Whether there is a picture of it, finished or as far as it came."""
        return any(task.picture or task.preview for job in self.jobs for task in job.tasks)


class Page:
    """The page's parts and what they do; one for all who look at it.

    Args:
        service: draws.
    """

    def __init__(self, service: ImageService):
        self.service = service
        self.estimates = Estimates(service.settings)
        self._orders: dict[str, list[_Order]] = {}
        """What each browser tab asked for since it last waited for nothing. The oldest open one is on its stage."""

    # ---------------------------------------------------------------------------------------- what it does

    async def draw(self, request: gr.Request, limit: float, favourites: bool, source: Any, *fields: Any) -> Answers:
        """Draw what the form says, after what this tab draws already; yields the stage, and at the end the history."""
        try:
            opened = _once(source, self.service)
            parameters = await run_in_threadpool(parameters_from, Form(*fields), self.service, opened)
        except APIError as error:
            yield self._refused(error, request)
            return
        async for answer in self._follow([parameters], request, show_jobs, limit, favourites):
            yield answer

    async def draw_grid(
        self, request: gr.Request, limit: float, favourites: bool, x: str | None, x_values: str, y: str | None,
        y_values: str, source: Any, *fields: Any,
    ) -> Answers:  # fmt: skip
        """Draw every combination of two settings; yields as `draw` does."""
        try:
            asked = await run_in_threadpool(with_seed, Form(*fields), self.service, source is not None)
            grid = grid_from(asked, x or None, x_values, y or None, y_values)
            opened = _once(source, self.service)
            forms = [form for row in grid.forms for form in row]
            parameter_sets = [await run_in_threadpool(parameters_from, form, self.service, opened) for form in forms]
        except APIError as error:
            yield self._refused(error, request)
            return
        async for answer in self._follow(
            parameter_sets, request, lambda jobs: show_grid(grid, jobs), limit, favourites
        ):
            yield answer

    async def _follow(
        self,
        parameter_sets: Sequence[GenerationParameters],
        request: gr.Request,
        show: Callable[[Sequence[Job]], str],
        limit: float,
        favourites: bool,
    ) -> Answers:
        session = request.session_hash or ""
        orders, order = self._orders.setdefault(session, []), _Order(parameter_sets[0].prompt, show)
        orders.append(order)
        steps = run(self.service, parameter_sets, _owner(request), order.jobs)
        failure: APIError | None = None
        try:
            async for _ in steps:
                first, *waiting = (one for one in orders if not one.ended)
                if first is order:
                    queue = show_queue([one.prompt for one in waiting])
                    yield await run_in_threadpool(show, order.jobs) + queue, gr.skip(), gr.skip()
        except APIError as error:
            failure = error
        finally:
            await steps.aclose()  # a browser that went away stops its pictures now
            order.ended = True
            is_over = all(one.ended for one in orders)
            if is_over:
                self._orders.pop(session, None)
        # While another is open, the stage is its own, and what is finished stands in the history.
        stage: Any = gr.skip()
        if is_over:
            shown = next((one for one in reversed(orders) if one.is_seen), orders[-1])
            stage = "" if failure is None else show_error(failure)
            stage += await run_in_threadpool(shown.show, shown.jobs) if shown.jobs else ""
        elif failure is not None:
            gr.Warning(escaped(failure.message))
        yield stage, *await run_in_threadpool(self.history, limit, favourites, request)

    def _refused(self, error: APIError, request: gr.Request) -> tuple[Any, Any, Any]:
        """Why nothing is drawn: on the stage, or beside it where something else is being drawn there."""
        if not self._orders.get(request.session_hash or ""):
            return show_error(error), gr.skip(), gr.skip()
        gr.Warning(escaped(error.message))
        return gr.skip(), gr.skip(), gr.skip()

    def stop(self, request: gr.Request) -> None:
        """Stop what this browser tab draws, at the next step, and what it has queued."""
        for order in reversed(self._orders.get(request.session_hash or "", ())):
            for job in order.jobs:
                self.service.cancel(job)

    def history(self, limit: float, favourites: bool, request: gr.Request) -> tuple[str, Any]:
        """The newest pictures of whoever asks, or only favourites; and the button for more, where there are more."""
        text, more = show_history(self.service, _owner(request), int(limit), favourites)
        return text, gr.Button(visible=more)

    def older(self, limit: float, favourites: bool, request: gr.Request) -> tuple[Any, ...]:
        """More of them."""
        limit = min(int(limit) + _HISTORY, 1000)
        return limit, *self.history(limit, favourites, request)

    def keep(self, limit: float, favourites: bool, request: gr.Request, event: gr.EventData) -> tuple[str, Any]:
        """A picture of the history made a favourite, or none, or deleted."""
        action, _, name = _pressed(event).partition(":")
        if action in ("favour", "unfavour"):
            self.service.archive.favour(_owner(request), name, action == "favour")
        elif action == "remove":
            self.service.archive.remove(_owner(request), name)
        else:
            return gr.skip(), gr.skip()
        return self.history(limit, favourites, request)

    def suggest(self, event: gr.EventData) -> Any:
        """The prompt of a suggestion that was pressed."""
        name = _pressed(event)
        return SUGGESTIONS[int(name)] if name in map(str, range(len(SUGGESTIONS))) else gr.skip()

    def take(self, event: gr.EventData) -> list[Any]:
        """A picture of the history and its settings: what the stage shows, then the form's fields."""
        action, _, name = _pressed(event).partition(":")
        if action != "use":
            return [gr.skip()] * (1 + len(Form().__dict__))
        path = self.service.archive.picture(name)
        if path is None:
            return self._unchanged(APIError("unknown", "this image no longer exists"))
        return self._recovered(path, lambda text, record: show_kept(name, record, text))

    def recover(self, path: str | None) -> list[Any]:
        """The settings of a dropped picture: a note, then the form's fields."""
        if path is None:
            return [gr.skip()] * (1 + len(Form().__dict__))
        try:
            open_upload(Path(path).read_bytes(), self.service.settings)
        except APIError as error:
            return self._unchanged(error)
        return self._recovered(Path(path), lambda text, record: show_note(text))

    def _recovered(self, path: Path, show: Callable[[str, dict[str, Any]], str]) -> list[Any]:
        try:
            record = read_record(path)
            form, notes = form_from(record, self.service)
        except APIError as error:
            return self._unchanged(error)
        except ValueError:
            return self._unchanged(APIError("invalid", "this image carries no leanlens settings"))
        return [show(" ".join(["These are the settings of this image.", *notes]), record), *_values(form)]

    def _unchanged(self, error: APIError) -> list[Any]:
        return [show_error(error), *[gr.skip()] * len(Form().__dict__)]

    def choose_model(self, model: str) -> tuple[int, float, int]:
        """Steps, guidance and base size of a model."""
        defaults = self.service.library.defaults(self.service.library.find_model(model))
        return defaults.num_inference_steps, defaults.guidance_scale, defaults.side

    def predict(self, *fields: Any) -> str:
        """The planner's line for the fields of `_PLANNED`; nothing where it cannot tell."""
        form = Form(**dict(zip(_PLANNED, fields, strict=True)))
        try:
            model = self.service.library.find_model(form.model)
            defaults = self.service.library.defaults(model)
            width, height = size_of(form, self.service)
            plan = self.estimates.plan(
                self.service.library.source(model), width or defaults.side, height or defaults.side,
                form.steps or defaults.num_inference_steps,
                defaults.guidance_scale if form.guidance is None else form.guidance, int(form.count or 1),
            )  # fmt: skip
        except (ValueError, APIError):
            return ""
        return show_note(estimate_line(plan))

    # ---------------------------------------------------------------------------------------- how it looks

    def build(self) -> gr.Blocks:
        """The page."""
        with gr.Blocks(
            title="leanlens", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
        ) as page:  # fmt: skip
            with gr.Row(elem_id="head"):
                gr.HTML(_HEAD, padding=False)
                gr.Button("Light or dark", size="sm", elem_id="theme").click(None, js=TOGGLE, queue=False)
            with gr.Row(elem_id="columns"):
                with gr.Column(min_width=300, scale=2, elem_id="asked"):
                    with gr.Column(elem_id="first"):
                        prompt, draw, stop, reason, choices, line = self._prompt()
                    with gr.Column(elem_id="settings"):
                        fields = self._fields(prompt, reason, choices, line)
                        source = self._source()
                        grid, draw_grid = self._grid()
                        drop = _drop()
                with gr.Column(min_width=300, scale=3, elem_id="seen"):
                    stage = gr.HTML(show_welcome(), padding=False, elem_id="stage", js_on_load=PRESSED)
                    with gr.Column(elem_id="kept"):
                        with gr.Row(elem_id="kept-head"):
                            gr.Markdown("### History")
                            favourites = gr.Checkbox(label="Favourites only", container=False, elem_id="favourites")
                        history = gr.HTML(padding=False, elem_id="history", js_on_load=PRESSED)
                        limit = gr.State(_HISTORY)
                        older = gr.Button("Show more", size="sm", elem_id="older", visible=False)
            values, seen, kept = list(fields.values()), [limit, favourites], [history, older]
            drawing: dict[str, Any] = {"trigger_mode": "multiple", "js": press(len(values)), **_QUIET}
            gr.on([draw.click, prompt.submit], self.draw, [*seen, source, *values], [stage, *kept], api_name="draw",
                  **drawing)  # fmt: skip
            draw_grid.click(self.draw_grid, [*seen, *grid, source, *values], [stage, *kept], api_name="grid", **drawing)
            # First, since the events of one click are run one after another.
            for said, function, given, answered, name in (
                ([stage.click], self.suggest, None, prompt, "suggest"),
                ([history.click], self.take, None, [stage, *values], "take"),
                ([drop.upload], self.recover, drop, [stage, *values], "recover"),
            ):
                _fill(
                    gr.on(said, function, given, answered, api_name=name, trigger_mode="multiple", js=BEGIN, **_QUIET)
                )
            for said, show, given, answered, name in (
                ([page.load, favourites.input], self.history, seen, kept, "history"),
                ([older.click], self.older, seen, [limit, *kept], "older"),
                ([history.click], self.keep, seen, kept, "keep"),
            ):
                # "multiple": what is pressed while something is drawn is drawn after it.
                gr.on(said, show, given, answered, api_name=name, trigger_mode="multiple", **_QUIET)
            places = {name: place for place, name in enumerate(fields)}
            kept_by_browser = restore(list(self.service.library.models()), places["model"], places["reason"])
            page.load(None, values, values, js=kept_by_browser, queue=False)
            page.load(None, values, None, js=TELL, queue=False)
            changed = [part.change for part in values]
            gr.on(changed, None, values, None, js=remember(places["reason"]), queue=False)
            source.upload(None, js=SOURCE_ADDED, queue=False)
            source.clear(None, js=SOURCE_CLEARED, queue=False)
            page.load(None, js=ONE_STOP, queue=False)
            page.load(None, js=WAITING, queue=False)
            # Beside the queue, in which it would wait for what it is to stop.
            stop.click(self.stop, api_name="stop", queue=False, **_QUIET)
        for part in page.blocks.values():  # a field of any kind may hold what looks like a file
            move: Any = part.async_move_resource_to_block_cache
            part.async_move_resource_to_block_cache = partial(_move_local, move)
        return page

    def _prompt(self) -> tuple[Any, ...]:
        """The prompt, the buttons under it, what is understood of it, and the planner's line."""
        prompt = gr.Textbox(
            label="Prompt", lines=3, max_lines=12, max_length=self.service.settings.max_prompt, autofocus=True,
            placeholder="What should the image show?", info="Shift+Enter draws.", elem_id="prompt",
        )  # fmt: skip
        suggestions()
        with gr.Row():
            draw = gr.Button("Draw", variant="primary", min_width=80, elem_id="draw")
            stop = gr.Button("Stop", min_width=80, elem_id="stop")
        gr.HTML('<div class="leanlens"><p></p></div>', padding=False, elem_id="waiting")
        reason, choices = reading(self.service)
        line = gr.HTML(padding=False, elem_id="estimate")
        return prompt, draw, stop, reason, choices, line

    def _fields(self, prompt: Any, reason: Any, choices: Any, line: Any) -> dict[str, Any]:
        """The fields of `Form`, in its order."""
        service, settings = self.service, self.service.settings
        steps, guidance, side = self.choose_model(service.library.default)
        with gr.Row():
            models = list(service.library.models())
            model = gr.Dropdown(models, value=service.library.default, label="Model", min_width=140, scale=2)
            # Without bounds of its own: a field that has some says so twice, and the service says it once.
            count = gr.Number(1, label="Images", precision=0, min_width=90, info=f"up to {settings.max_count}")
        larger = larger_models_line(self.estimates.larger_models())
        gr.HTML(show_note(larger), padding=False, elem_id="better", visible=bool(larger))
        aspect = gr.Radio(list(ASPECTS), value=OWN, label="Aspect", elem_id="aspect",
                          info="auto: the model's own square, or the shape of the source image")  # fmt: skip
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            negative = gr.Textbox(label="Negative prompt", lines=2, max_length=settings.max_prompt)
            with gr.Row():
                steps_field = gr.Number(steps, label="Steps", precision=0, info="more take longer", min_width=90)
                guidance_field = gr.Number(guidance, label="Guidance", info="1 turns it off", min_width=90)
                seed = gr.Textbox(label="Seed", placeholder="random", max_length=20, info="empty: random", min_width=90)
            with gr.Row():
                base = gr.Number(side, label="Base size", precision=0, step=16, info="side of a square, pixels",
                                 min_width=140)  # fmt: skip
                size = gr.Textbox(label="Size", placeholder="WIDTHxHEIGHT", info="overrides aspect and base size",
                                  min_width=140)  # fmt: skip
            loras = gr.Dropdown(
                sorted(service.library.loras()), multiselect=True, allow_custom_value=True, value=[], label="LoRAs",
                info="name:0.8 sets the strength", visible=bool(service.library.loras()), elem_id="loras",
            )  # fmt: skip
            # Text, as the seed is: a number field that is left blank says 0 as soon as it is seen.
            strength = gr.Textbox(label="Strength", placeholder="0.6, or 1 with a mask", max_length=20,
                                  info="0 to 1: how far to depart from the source image")  # fmt: skip
        parts = (
            prompt, negative, model, aspect, base, size, steps_field, guidance_field, seed, count, loras, strength,
            reason, choices,
        )  # fmt: skip
        fields = dict(zip(Form().__dict__, parts, strict=True))
        _fill(model.input(self.choose_model, model, [steps_field, guidance_field, base], api_name="model", js=BEGIN,
                          **_QUIET))  # fmt: skip
        # Without a trigger it is shown when the page opens, and whenever one of them changes.
        gr.on(None, self.predict, [fields[name] for name in _PLANNED], line, api_name="predict",
              trigger_mode="always_last", **_QUIET)  # fmt: skip
        return fields

    def _source(self) -> Any:
        with gr.Accordion("Start from an image", open=False, elem_id="source"):
            gr.Markdown("Paint over the part to change. Without paint, all of it changes.")
            editor: Any = gr.ImageEditor(
                label="Source image and mask", sources=("upload", "clipboard"), image_mode="RGBA", format="png",
                transforms=(), layers=False, brush=gr.Brush(colors=["#e11d48"], color_mode="fixed"), buttons=[],
            )  # fmt: skip
            # Without a listener to its changes it sends what is painted with a drawing, not ahead of one.
            editor.accept_blobs = None
            editor.preprocess = _parts
            return editor

    def _grid(self) -> tuple[list[Any], gr.Button]:
        with gr.Accordion("Compare settings in a grid", open=False, elem_id="grid"):
            names = [("nothing", ""), *((name, name) for name in SETTINGS)]
            parts: list[Any] = []
            for axis, first in (("X", "guidance"), ("Y", "")):
                with gr.Row():
                    parts.append(gr.Dropdown(names, value=first, label=f"{axis} varies", min_width=120))
                    parts.append(gr.Textbox(label=f"{axis} values", lines=2, info="one per line", min_width=120))
            return parts, gr.Button("Draw the grid", elem_id="draw-grid")


def _drop() -> Any:
    """Where a picture is dropped to recover its settings."""
    drop: Any = gr.Image(
        label="Reuse settings", show_label=False, sources=["upload", "clipboard"], image_mode=None, type="filepath",
        height=140, buttons=[], elem_id="drop", placeholder="Drop an image here to reuse its settings",
    )  # fmt: skip
    drop.preprocess = _path  # the dropped file as it is, for our own bounded reader
    return drop


def _fill(event: Any) -> None:
    """Have a press on Draw wait for an event that fills in the form."""
    event.then(None, js=END, queue=False)


def _pressed(event: gr.EventData) -> str:
    """The name of the button that was pressed inside a piece of HTML."""
    return str(event._data.get("name", "")) if isinstance(event._data, dict) else ""


def _owner(request: gr.Request) -> str:
    """Who asks, as the middleware has found out."""
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


def _parts(payload: Any) -> Source:
    """The editor's picture and what was painted over it, as bytes that nobody has unpacked; None without a picture.

    With an `id` in place of both, the editor shows a picture that the page could not read from it.
    """
    if payload is None or (payload.background is None and payload.id is None):
        return None
    if payload.background is None:
        return APIError("missing", "the source image could not be read; add it again, or clear the editor", "image")
    return _bytes(payload.background), [_bytes(layer) for layer in payload.layers if layer is not None]


def _values(form: Form) -> list[Any]:
    values = {**form.__dict__, "loras": list(form.loras), "reason": gr.skip() if form.reason is None else form.reason}
    return list(values.values())


def _bytes(part: Any) -> bytes:
    return part if isinstance(part, bytes) else _upload(part.path).read_bytes()


def _once(source: Source, service: ImageService) -> Callable[[GenerationParameters], None] | None:
    """What puts the editor's image and mask into generation parameters; decoded once and shared by all."""
    if source is None:
        return None
    if isinstance(source, APIError):
        raise source
    opened: list[tuple[Image.Image, bytes, Image.Image | None]] = []

    def put(parameters: GenerationParameters) -> None:
        if not opened:
            picture, mask = _opened(source, service)
            opened.append((picture, to_png(picture), mask))
        parameters.image, parameters.image_bytes, parameters.mask = opened[0]

    return put


def _opened(source: tuple[bytes, list[bytes]], service: ImageService) -> tuple[Image.Image, Image.Image | None]:
    """The picture, and where it was painted over as a mask; without paint there is none."""
    background, layers = source
    image = open_upload(background, service.settings).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    picture = Image.alpha_composite(white, image).convert("RGB")
    mask = Image.new("L", picture.size, 0)
    for layer in layers:
        painted = open_upload(layer, service.settings, "mask").convert("RGBA").getchannel("A")
        if painted.size != mask.size:
            painted = painted.resize(mask.size, Image.Resampling.NEAREST)
        mask = ImageChops.lighter(mask, painted.point(lambda level: 255 if level > 0 else 0))
    return picture, mask if mask.getbbox() is not None else None
