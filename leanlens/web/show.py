"""Makes the HTML that shows jobs and images. Everything that a person wrote is escaped.

Images are links to the server's own `/pictures/NAME`; previews are inside the HTML.
"""

import base64
import html
from collections.abc import Sequence
from typing import Any

from leanlens.pipeline.metadata import read_record
from leanlens.pipeline.reasoned import asked_prompt
from leanlens.serve.archive import KeptPicture
from leanlens.serve.encode import preview_bytes
from leanlens.serve.errors import APIError
from leanlens.serve.service import ImageService
from leanlens.serve.tasks import Job, Task
from leanlens.web.form import Grid

# The page's HTML is a template in which these characters have a meaning.
_MARKS = {ord(mark): f"&#{ord(mark)};" for mark in "${}`"}

SUGGESTIONS = (
    "three red apples left of a blue teapot",
    "a yellow duck above two stars",
    "a blue car on a pale pink background",
    "a penguin",
)
"""Example prompts to begin with."""


def escaped(text: object) -> str:
    """Text escaped for use between tags and in quoted attributes."""
    return html.escape(str(text)).translate(_MARKS)


def show_error(error: APIError) -> str:
    """An error instead of an image."""
    return _wrapped(f'<p class="wrong" role="alert">{escaped(_sentence(error.message))}</p>')


def show_note(text: str) -> str:
    """A sentence."""
    return _wrapped(f'<p role="status">{escaped(text)}</p>')


def show_welcome() -> str:
    """The text in place of images, before the first."""
    buttons = "".join(
        f'<button type="button" data-name="{index}">{escaped(prompt)}</button>'
        for index, prompt in enumerate(SUGGESTIONS)
    )
    return _wrapped(f'<div class="welcome"><p>Describe an image, or try one of these:</p><div>{buttons}</div></div>')


def show_queue(prompts: Sequence[str]) -> str:
    """The drawings that this tab has queued; blank without any."""
    if not prompts:
        return ""
    items = "".join(f"<li>{escaped(prompt[:100] or 'an empty prompt')}</li>" for prompt in prompts)
    count = "1 more request" if len(prompts) == 1 else f"{len(prompts)} more requests"
    return f'<div class="leanlens-queue"><p>{count} in the queue:</p><ol>{items}</ol></div>'


def show_kept(name: str, record: dict[str, Any], text: str) -> str:
    """An image of the archive below a sentence; `record` is the record inside it."""
    request = record["request"]
    sides = (int(request["width"]), int(request["height"]))
    figure = _finished(name, asked_prompt(request), str(request["prompt"]), sides, int(request["seed"]))
    return _wrapped(f'<p role="status">{escaped(text)}</p><div class="leanlens-pictures one">{figure}</div>')


def show_jobs(jobs: Sequence[Job]) -> str:
    """The progress of jobs, with each image or its preview."""
    tasks = [task for job in jobs for task in job.tasks]
    kind = "leanlens-pictures one" if len(tasks) == 1 else "leanlens-pictures"
    figures = "".join(_figure(task) for task in tasks)
    return _wrapped(f'{_progress(jobs, len(tasks))}<div class="{kind}">{figures}</div>')


def show_grid(grid: Grid, jobs: Sequence[Job]) -> str:
    """The same as a table, whose cells are drawn row by row; a cell without a job yet is empty."""
    tasks = [job.tasks[0] for job in jobs]
    width = len(grid.columns)
    head = "".join(f'<th scope="col">{escaped(text)}</th>' for text in grid.columns)
    rows = []
    for index, text in enumerate(grid.rows):
        cells = [*tasks[index * width : (index + 1) * width]]
        figures = [_figure(task) for task in cells] + ['<div class="empty"></div>'] * (width - len(cells))
        body = "".join(f"<td>{figure}</td>" for figure in figures)
        rows.append(f'<tr><th scope="row">{escaped(text)}</th>{body}</tr>')
    table = f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return _wrapped(f'{_progress(jobs, width * len(grid.rows))}<div class="wide">{table}</div>')


def show_history(service: ImageService, owner: str, limit: int, favourites: bool = False) -> tuple[str, bool]:
    """An owner's newest images, each with its buttons; and whether there are more."""
    kept = service.archive.kept(owner, limit + 1, favourites)
    figures = [_kept(service, picture) for picture in kept[:limit]]
    if not any(figures):
        empty = "Mark an image with ☆ to find it here." if favourites else "Your images appear here and stay."
        return show_note(empty), False
    return _wrapped(f'<div class="leanlens-pictures kept">{"".join(figures)}</div>'), len(kept) > limit


def _kept(service: ImageService, picture: KeptPicture) -> str:
    path = service.archive.picture(picture["name"])
    if path is None:
        return ""
    try:
        request = read_record(path)["request"]
        prompt, seed, sides = asked_prompt(request), request["seed"], (request["width"], request["height"])
    except (ValueError, OSError, KeyError, TypeError):
        return ""
    name = picture["name"]
    said = f'<span class="said" title="{escaped(prompt[:300])}">{escaped(prompt[:100])}</span>'
    caption = f"{said}{escaped(picture['model'])}, seed {escaped(seed)}"
    star, wanted = ("★", "Remove from favourites") if picture["favourite"] else ("☆", "Add to favourites")
    buttons = (
        _button(f"use:{name}", "Reuse", "Show this image and reuse its settings")
        + _button(f"{'unfavour' if picture['favourite'] else 'favour'}:{name}", star, wanted)
        + _button(f"remove:{name}", "✕", "Delete", "Delete this image? This cannot be undone.")
    )
    under = f'<figcaption>{caption}</figcaption><div class="does">{buttons}</div>'
    return f"<figure>{_link(name, prompt, sides)}{under}</figure>"


def _button(name: str, text: str, title: str = "", question: str = "") -> str:
    """A button that sends `name` to the server, after a yes to `question` if there is one."""
    told = f' title="{escaped(title)}" aria-label="{escaped(title)}"' if title else ""
    asked = f' data-confirm="{escaped(question)}"' if question else ""
    return f'<button type="button" data-name="{escaped(name)}"{told}{asked}>{text}</button>'


def _figure(task: Task) -> str:
    """One image: finished, in progress, waiting, or failed."""
    request = task.request
    if task.picture is not None:
        sides = (request.width, request.height)
        return _finished(task.picture.name, request.asked, request.prompt, sides, request.seed)
    preview = task.preview
    if task.error is not None:
        why = f'<p class="wrong">{escaped(_sentence(_ending(task)))}</p>'
        return why if preview is None else f"<figure>{_look(task)}{why}</figure>"
    if preview is None:
        sides = (request.width, request.height)
        return f'<div class="empty" style="aspect-ratio: {sides[0]} / {sides[1]}; {_measures(sides)}"></div>'
    return f"<figure>{_look(task)}</figure>"


def _ending(task: Task) -> str:
    """Why an image is not finished."""
    assert task.error is not None
    if task.error.kind != "cancelled":
        return task.error.message
    return f"Stopped at step {task.step} of {task.steps}" if task.step else "Stopped before it began"


def _look(task: Task) -> str:
    """The latest preview of an unfinished image."""
    assert task.preview is not None
    look = base64.b64encode(preview_bytes(task.preview, None, "png")).decode("ascii")
    style = _measures((task.request.width, task.request.height))
    return f'<img alt="preview" style="{style}" src="data:image/png;base64,{look}">'


def _finished(name: str, said: str, drawn: str, sides: tuple[int, int], seed: int) -> str:
    save = f'<a href="pictures/{escaped(name)}" download="{escaped(name)}">Download</a>'
    caption = f"Seed {seed}, {sides[0]} × {sides[1]} · {save}"
    words = f"<p>You wrote: {escaped(said)}</p><p>Drawn as: {escaped(drawn)}</p>"
    more = f'<details class="drawn"><summary>Prompt</summary>{words}</details>' if drawn != said else ""
    return f"<figure>{_link(name, said, sides)}<figcaption>{caption}{more}</figcaption></figure>"


def _link(name: str, prompt: str, sides: tuple[int, int]) -> str:
    picture = (
        f'<img loading="lazy" src="pictures/{escaped(name)}" width="{int(sides[0])}" height="{int(sides[1])}" '
        f'style="{_measures(sides)}" alt="{escaped(prompt[:300])}">'
    )
    return f'<a href="pictures/{escaped(name)}" target="_blank" title="{escaped(prompt[:300])}">{picture}</a>'


def _measures(sides: tuple[int, int]) -> str:
    """CSS variables with which the style sheet shows an image as large as fits, but at most three times its size."""
    return f"--ratio: {sides[0] / sides[1]:.4f}; --wide: {sides[0]}"


def _progress(jobs: Sequence[Job], pictures: int) -> str:
    tasks = [task for job in jobs for task in job.tasks]
    ended = sum(task.is_final for task in tasks)
    if tasks and ended == pictures:
        done = sum(task.picture is not None for task in tasks)
        words = f"{done} of {pictures} images done" if pictures > 1 else "Done" if done else "No image"
        return f'<p role="status">{words}</p>'
    share = sum(job.progress * len(job.tasks) for job in jobs) / pictures if pictures else 0.0
    drawing = [task for task in tasks if task.state == "drawing"]
    if drawing:
        words = f"Step {drawing[0].step} of {drawing[0].steps}"
    else:
        words = "Waiting for its turn, or for the model to load"
    words += f" · {ended} of {pictures} images done" if pictures > 1 else ""
    return f'<progress max="1" value="{share:.4f}">{share:.0%}</progress><p role="status">{words}</p>'


def _sentence(message: str) -> str:
    return message + ("" if message.endswith(".") else ".")


def _wrapped(inside: str) -> str:
    return f'<div class="leanlens">{inside}</div>'
