"""What the page shows of jobs and pictures, as HTML.

Comes in: jobs, grids, the archive's records. Goes out: text in which everything a person wrote is escaped. Pictures are
links to the server's own `/pictures/NAME`, looks at half-drawn ones are inside the text, so nothing is copied.
"""

import base64
import html
from collections.abc import Sequence
from typing import Any

from leanlens.pipeline.metadata import read_record
from leanlens.serve.desk import Desk
from leanlens.serve.encode import preview_bytes
from leanlens.serve.refusal import Refusal
from leanlens.serve.tasks import Job, Task
from leanlens.serve.web_form import Grid

# The page's HTML goes through a template language, in which these would mean something.
_MARKS = {ord(mark): f"&#{ord(mark)};" for mark in "${}`"}

SUGGESTIONS = (
    "a red apple and a yellow banana on a table",
    "two cats in front of a house",
    "a blue car under the moon",
    "a penguin",
)
"""Prompts for whoever does not know yet what to ask for."""


def escaped(text: object) -> str:
    """Text that is text and nothing else, between tags and in quoted attributes."""
    return html.escape(str(text)).translate(_MARKS)


def show_refusal(refusal: Refusal) -> str:
    """Why there is no picture."""
    return _wrapped(f'<p class="wrong" role="alert">{escaped(_sentence(refusal.message))}</p>')


def show_note(text: str) -> str:
    """A sentence."""
    return _wrapped(f'<p role="status">{escaped(text)}</p>')


def show_welcome() -> str:
    """What stands where pictures will, before the first."""
    buttons = "".join(
        f'<button type="button" data-name="{index}">{escaped(prompt)}</button>'
        for index, prompt in enumerate(SUGGESTIONS)
    )
    return _wrapped(f'<div class="welcome"><p>Describe a picture and draw it.</p><div>{buttons}</div></div>')


def show_kept(name: str, record: dict[str, Any], text: str) -> str:
    """A picture of the archive with a sentence above it; `record` is its own, and has been read before."""
    request = record["request"]
    sides = (int(request["width"]), int(request["height"]))
    figure = _finished(name, str(request["prompt"]), sides, int(request["seed"]))
    return _wrapped(f'<p role="status">{escaped(text)}</p><div class="leanlens-pictures one">{figure}</div>')


def show_jobs(jobs: Sequence[Job]) -> str:
    """How far jobs are, with a look at each of their pictures."""
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


def show_history(desk: Desk, owner: str, limit: int) -> str:
    """An owner's newest pictures from the archive, each with a button that brings its settings back."""
    figures = []
    for job in desk.archive.recent(owner, limit):
        figures += [_kept(desk, job, picture["name"]) for picture in job["finished_pictures"]]
    if not any(figures):
        return show_note("Pictures you draw stay here, also after a reload.")
    return _wrapped(f'<div class="leanlens-pictures kept">{"".join(figures[:limit])}</div>')


def _kept(desk: Desk, job: dict[str, Any], name: str) -> str:
    path = desk.archive.picture(name)
    if path is None:
        return ""
    try:
        request = read_record(path)["request"]
        prompt, seed, sides = request["prompt"], request["seed"], (request["width"], request["height"])
    except (ValueError, OSError, KeyError):
        return ""
    said = f'<span class="said" title="{escaped(prompt[:300])}">{escaped(prompt[:100])}</span>'
    caption = f"{said}{escaped(job['model'])}, seed {escaped(seed)}"
    button = f'<button type="button" data-name="{escaped(name)}">use these settings</button>'
    return f"<figure>{_link(name, prompt, sides)}<figcaption>{caption}</figcaption>{button}</figure>"


def _figure(task: Task) -> str:
    """One picture: finished, half-drawn, waiting, or why not."""
    request = task.request
    if task.picture is not None:
        sides = (request.width, request.height)
        return _finished(task.picture.name, request.prompt, sides, request.seed)
    if task.refusal is not None:
        return f'<p class="wrong">{escaped(_sentence(task.refusal.message))}</p>'
    snapshot = task.snapshot
    if snapshot is None:
        return f'<div class="empty" style="aspect-ratio: {request.width} / {request.height}"></div>'
    look = base64.b64encode(preview_bytes(snapshot, None, "png")).decode("ascii")
    style = _measures((request.width, request.height))
    return f'<figure><img alt="half-drawn" style="{style}" src="data:image/png;base64,{look}"></figure>'


def _finished(name: str, prompt: str, sides: tuple[int, int], seed: int) -> str:
    save = f'<a href="pictures/{escaped(name)}" download="{escaped(name)}">save</a>'
    caption = f"seed {seed}, {sides[0]}x{sides[1]}, {save}"
    return f"<figure>{_link(name, prompt, sides)}<figcaption>{caption}</figcaption></figure>"


def _link(name: str, prompt: str, sides: tuple[int, int]) -> str:
    picture = (
        f'<img loading="lazy" src="pictures/{escaped(name)}" width="{int(sides[0])}" height="{int(sides[1])}" '
        f'style="{_measures(sides)}" alt="{escaped(prompt[:300])}">'
    )
    return f'<a href="pictures/{escaped(name)}" target="_blank" title="{escaped(prompt[:300])}">{picture}</a>'


def _measures(sides: tuple[int, int]) -> str:
    """What the style sheet has to know to show a picture as large as fits, and a small one no more than threefold."""
    return f"--ratio: {sides[0] / sides[1]:.4f}; --wide: {sides[0]}"


def _progress(jobs: Sequence[Job], pictures: int) -> str:
    tasks = [task for job in jobs for task in job.tasks]
    ended = sum(task.is_final for task in tasks)
    if tasks and ended == pictures:
        done = sum(task.picture is not None for task in tasks)
        words = f"{done} of {pictures} pictures" if pictures > 1 else "done" if done else "no picture"
        return f'<p role="status">{words}</p>'
    share = sum(job.progress * len(job.tasks) for job in jobs) / pictures if pictures else 0.0
    drawing = [task for task in tasks if task.state == "drawing"]
    if drawing:
        words = f"step {drawing[0].step} of {drawing[0].steps}"
    else:
        words = "waits for its turn, or for the model to open"
    words += f", {ended} of {pictures} pictures done" if pictures > 1 else ""
    return f'<progress max="1" value="{share:.4f}">{share:.0%}</progress><p role="status">{words}</p>'


def _sentence(message: str) -> str:
    return message + ("" if message.endswith(".") else ".")


def _wrapped(inside: str) -> str:
    return f'<div class="leanlens">{inside}</div>'
