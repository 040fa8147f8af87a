"""Lays out the page in Gradio's components and connects their events to what `Page` does."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from leanlens.web.estimate import larger_models_line
from leanlens.web.form import ASPECTS, OWN, SETTINGS, Form
from leanlens.web.page import HISTORY, PLANNED, Page
from leanlens.web.reasoning import reading, suggestions
from leanlens.web.scripts import (
    BEGIN,
    END,
    GROUP_ASPECTS,
    PRESSED,
    SOURCE_ADDED,
    SOURCE_CLEARED,
    TELL,
    TOGGLE_THEME,
    press,
    remember,
    restore,
)  # fmt: skip
from leanlens.web.show import show_note, show_welcome
from leanlens.web.source import editor_source, move_upload, upload_path

# Programs use the other APIs; the service limits how many images are drawn at once.
_QUIET: Any = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
_HEAD = "<h1>leanlens<small>images from words</small></h1>"


def layout(page: Page) -> gr.Blocks:
    """The page's components and its events."""
    with gr.Blocks(
        title="leanlens", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as blocks:  # fmt: skip
        with gr.Row(elem_id="head"):
            gr.HTML(_HEAD, padding=False)
            gr.Button("Light or dark", size="sm", elem_id="theme").click(None, js=TOGGLE_THEME, queue=False)
        with gr.Row(elem_id="columns"):
            with gr.Column(min_width=300, scale=2, elem_id="asked"):
                with gr.Column(elem_id="first"):
                    prompt, draw, stop, reason, choices, line = _prompt(page)
                with gr.Column(elem_id="settings"):
                    fields = _fields(page, prompt, reason, choices, line)
                    source = _source(page)
                    grid, draw_grid = _grid(page)
                    drop = _drop()
            with gr.Column(min_width=300, scale=3, elem_id="seen"):
                stage = gr.HTML(show_welcome(), padding=False, elem_id="stage", js_on_load=PRESSED)
                with gr.Column(elem_id="kept"):
                    with gr.Row(elem_id="kept-head"):
                        gr.Markdown("### History")
                        favourites = gr.Checkbox(label="Favourites only", container=False, elem_id="favourites")
                    history = gr.HTML(padding=False, elem_id="history", js_on_load=PRESSED)
                    limit = gr.State(HISTORY)
                    older = gr.Button("Show more", size="sm", elem_id="older", visible=False)
        _keep_form(blocks, page, fields)
        source.upload(None, js=SOURCE_ADDED, queue=False)
        source.clear(None, js=SOURCE_CLEARED, queue=False)
        values, seen, kept = list(fields.values()), [limit, favourites], [history, older]
        events: list[tuple[list[Any], Callable[..., Any], Any, Any, str]]
        drawing: dict[str, Any] = {"trigger_mode": "multiple", "js": press(len(values)), **_QUIET}
        gr.on([draw.click, prompt.submit], page.draw, [*seen, source, *values], [stage, *kept], api_name="draw",
              **drawing)  # fmt: skip
        draw_grid.click(page.draw_grid, [*seen, *grid, source, *values], [stage, *kept], api_name="grid", **drawing)
        # First, since the events of one click are run one after another.
        events = [
            ([stage.click], page.suggest, None, prompt, "suggest"),
            ([history.click], page.take, None, [stage, *values], "take"),
            ([drop.upload], page.recover, drop, [stage, *values], "recover"),
        ]
        for said, function, given, answered, name in events:
            _fill(gr.on(said, function, given, answered, api_name=name, trigger_mode="multiple", js=BEGIN, **_QUIET))
        events = [
            ([blocks.load, favourites.input], page.history, seen, kept, "history"),
            ([older.click], page.older, seen, [limit, *kept], "older"),
            ([history.click], page.keep, seen, kept, "keep"),
        ]
        for said, function, given, answered, name in events:
            # "multiple": a press during a drawing starts another after it.
            gr.on(said, function, given, answered, api_name=name, trigger_mode="multiple", **_QUIET)
        # Outside the queue, where it would wait for the drawing that it stops.
        stop.click(page.stop, api_name="stop", queue=False, **_QUIET)
    for part in blocks.blocks.values():  # a field of any kind may hold what looks like a file
        move: Any = part.async_move_resource_to_block_cache
        part.async_move_resource_to_block_cache = partial(move_upload, move)
    return blocks


def _keep_form(blocks: gr.Blocks, page: Page, fields: dict[str, Any]) -> None:
    """Let the browser keep the fields, restore them when the page opens, and pass them to the page's scripts."""
    values = list(fields.values())
    places = {name: place for place, name in enumerate(fields)}
    restored = restore(list(page.service.library.models()), places["model"], places["reason"])
    blocks.load(None, values, values, js=restored, queue=False)
    blocks.load(None, values, None, js=TELL, queue=False)
    blocks.load(None, js=GROUP_ASPECTS, queue=False)
    changed = [part.change for part in values]
    gr.on(changed, None, values, None, js=remember(places["reason"]), queue=False)


def _prompt(page: Page) -> tuple[Any, ...]:
    """The prompt, the buttons below it, how it is understood, and the planner's line."""
    prompt = gr.Textbox(
        label="Prompt", lines=3, max_lines=12, max_length=page.service.settings.max_prompt, autofocus=True,
        placeholder="What should the image show?", info="Shift+Enter draws.", elem_id="prompt",
    )  # fmt: skip
    suggestions()
    with gr.Row():
        draw = gr.Button("Draw", variant="primary", min_width=80, elem_id="draw")
        stop = gr.Button("Stop", min_width=80, elem_id="stop")
    gr.HTML('<div class="leanlens"><p></p></div>', padding=False, elem_id="waiting")
    reason, choices = reading(page.service)
    line = gr.HTML(padding=False, elem_id="estimate")
    return prompt, draw, stop, reason, choices, line


def _fields(page: Page, prompt: Any, reason: Any, choices: Any, line: Any) -> dict[str, Any]:
    """The fields of `Form`, in its order."""
    service, settings = page.service, page.service.settings
    steps, guidance, side = page.choose_model(service.library.default)
    with gr.Row():
        models = list(service.library.models())
        model = gr.Dropdown(models, value=service.library.default, label="Model", min_width=140, scale=2)
        # No bounds here: the service reports them, and a field with bounds would report them a second time.
        count = gr.Number(1, label="Images", precision=0, min_width=90, info=f"up to {settings.max_count}")
    larger = larger_models_line(page.estimates.larger_models())
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
        # Text, like the seed: a blank number field becomes 0 as soon as it is shown.
        strength = gr.Textbox(label="Strength", placeholder="0.6, or 1 with a mask", max_length=20,
                              info="0 to 1: how far to depart from the source image")  # fmt: skip
    parts = (
        prompt, negative, model, aspect, base, size, steps_field, guidance_field, seed, count, loras, strength,
        reason, choices,
    )  # fmt: skip
    fields = dict(zip(Form().__dict__, parts, strict=True))
    _fill(model.input(page.choose_model, model, [steps_field, guidance_field, base], api_name="model", js=BEGIN,
                      **_QUIET))  # fmt: skip
    # Without a trigger it runs when the page opens and whenever one of the inputs changes.
    gr.on(None, page.predict, [fields[name] for name in PLANNED], line, api_name="predict",
          trigger_mode="always_last", **_QUIET)  # fmt: skip
    return fields


def _source(page: Page) -> Any:
    with gr.Accordion("Start from an image", open=False, elem_id="source"):
        gr.Markdown("Paint over the part to change. Without paint, all of it changes.")
        editor: Any = gr.ImageEditor(
            label="Source image and mask", sources=("upload", "clipboard"), image_mode="RGBA", format="png",
            transforms=(), layers=False, brush=gr.Brush(colors=["#e11d48"], color_mode="fixed"), buttons=[],
        )  # fmt: skip
        # Without a change listener, a painted mask is sent together with a drawing, not before.
        editor.accept_blobs = None
        editor.preprocess = editor_source
        return editor


def _grid(page: Page) -> tuple[list[Any], gr.Button]:
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
    drop.preprocess = upload_path  # the dropped file as it is, for our own bounded reader
    return drop


def _fill(event: Any) -> None:
    """Let a press on Draw wait for an event that fills in the form."""
    event.then(None, js=END, queue=False)
