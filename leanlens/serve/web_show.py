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

CSS = """
.leanlens-pictures { display: grid; gap: .6rem }
.leanlens-pictures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 11rem), 1fr)) }
.leanlens-pictures.one { grid-template-columns: minmax(0, 1fr) }
.leanlens figure { margin: 0 }
.leanlens img { display: block; width: 100%; height: auto; border-radius: 6px }
.leanlens .one img { max-height: 70vh; object-fit: contain }
.leanlens figcaption { font-size: .8rem; overflow-wrap: anywhere; opacity: .85 }
.leanlens button { font: inherit; font-size: .8rem; text-decoration: underline; cursor: pointer; padding: .3rem 0 }
.leanlens a:focus-visible, .leanlens button:focus-visible { outline: 2px solid currentColor; outline-offset: 2px }
.leanlens progress { width: 100%; height: .6rem }
.leanlens .empty { aspect-ratio: 1; border: 1px dashed currentColor; border-radius: 6px; opacity: .3 }
.leanlens .wrong { border-left: 4px solid #c0392b; padding: .4rem .6rem }
.leanlens .wide { overflow-x: auto }
.leanlens table { border-collapse: collapse }
.leanlens th { font-weight: 600; font-size: .8rem; text-align: left; padding: .2rem .4rem; max-width: 14rem }
.leanlens td { padding: .2rem; min-width: 7rem; max-width: 20rem; vertical-align: top }
footer { display: none !important }
"""


def escaped(text: object) -> str:
    """Text that is text and nothing else, between tags and in quoted attributes."""
    return html.escape(str(text)).translate(_MARKS)


def show_refusal(refusal: Refusal) -> str:
    """Why there is no picture."""
    return _wrapped(f'<p class="wrong" role="alert">{escaped(_sentence(refusal.message))}</p>')


def show_note(text: str) -> str:
    """A sentence."""
    return _wrapped(f'<p role="status">{escaped(text)}</p>')


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
    return _wrapped(f'<div class="leanlens-pictures">{"".join(figures[:limit])}</div>')


def _kept(desk: Desk, job: dict[str, Any], name: str) -> str:
    path = desk.archive.picture(name)
    if path is None:
        return ""
    try:
        request = read_record(path)["request"]
        prompt, seed, sides = request["prompt"], request["seed"], (request["width"], request["height"])
    except (ValueError, OSError, KeyError):
        return ""
    caption = f"{escaped(job['model'])}, seed {escaped(seed)}"
    button = f'<button type="button" data-name="{escaped(name)}">use these settings</button>'
    return f"<figure>{_link(name, prompt, sides)}<figcaption>{caption}<br>{button}</figcaption></figure>"


def _figure(task: Task) -> str:
    """One picture: finished, half-drawn, waiting, or why not."""
    request = task.request
    if task.picture is not None:
        sides = (request.width, request.height)
        caption = f"seed {request.seed}, {request.width}x{request.height}"
        return f"<figure>{_link(task.picture.name, request.prompt, sides)}<figcaption>{caption}</figcaption></figure>"
    if task.refusal is not None:
        return f'<p class="wrong">{escaped(_sentence(task.refusal.message))}</p>'
    snapshot = task.snapshot
    if snapshot is None:
        return f'<div class="empty" style="aspect-ratio: {request.width} / {request.height}"></div>'
    look = base64.b64encode(preview_bytes(snapshot, None, "png")).decode("ascii")
    return f'<figure><img alt="half-drawn" src="data:image/png;base64,{look}"></figure>'


def _link(name: str, prompt: str, sides: tuple[int, int]) -> str:
    picture = (
        f'<img loading="lazy" src="pictures/{escaped(name)}" width="{int(sides[0])}" height="{int(sides[1])}" '
        f'alt="{escaped(prompt[:300])}">'
    )
    return f'<a href="pictures/{escaped(name)}" target="_blank" title="{escaped(prompt[:300])}">{picture}</a>'


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
