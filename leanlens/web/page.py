"""Handles the events of the page: draw, follow, stop, show the history, fill in the form. `layout` connects them."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.concurrency import run_in_threadpool

from leanlens.pipeline.metadata import read_record
from leanlens.serve.errors import APIError
from leanlens.serve.estimate import Estimates
from leanlens.serve.parameters import GenerationParameters
from leanlens.serve.service import ImageService
from leanlens.serve.tasks import Job
from leanlens.serve.uploads import open_upload
from leanlens.web.estimate import estimate_line
from leanlens.web.form import Form, form_from, grid_from, parameters_from, size_of, with_seed
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
)  # fmt: skip
from leanlens.web.source import source_reader

Answers = AsyncGenerator[tuple[Any, Any, Any]]
"""The stage, the history and the button under it, again and again while something is drawn."""

HISTORY = 24  # images, and how many more at a time
PLANNED = ("model", "aspect", "base", "size", "steps", "guidance", "count")  # fields of a form that the planner needs


@dataclass(eq=False)
class _Order:
    """One press of Draw: the jobs started so far, how they are shown, and whether it has ended."""

    prompt: str
    show: Callable[[Sequence[Job]], str]
    jobs: list[Job] = field(default_factory=list)
    ended: bool = False

    @property
    def is_seen(self) -> bool:
        """Whether there is an image of it, finished or a preview."""
        return any(task.picture or task.preview for job in self.jobs for task in job.tasks)


class Page:
    """The handlers of the page's events, one object for all visitors.

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
        """Draw the form, after the drawings that this tab has queued; yields the stage, and finally the history."""
        try:
            opened = source_reader(source, self.service)
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
            opened = source_reader(source, self.service)
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
            await steps.aclose()  # a browser that disconnects stops its drawing now
            order.ended = True
            is_over = all(one.ended for one in orders)
            if is_over:
                self._orders.pop(session, None)
        # While another drawing is open, the stage belongs to it, and finished images are in the history.
        stage: Any = gr.skip()
        if is_over:
            shown = next((one for one in reversed(orders) if one.is_seen), orders[-1])
            stage = "" if failure is None else show_error(failure)
            stage += await run_in_threadpool(shown.show, shown.jobs) if shown.jobs else ""
        elif failure is not None:
            gr.Warning(escaped(failure.message))
        yield stage, *await run_in_threadpool(self.history, limit, favourites, request)

    def _refused(self, error: APIError, request: gr.Request) -> tuple[Any, Any, Any]:
        """Show an error: on the stage, or beside it while another drawing is shown there."""
        if not self._orders.get(request.session_hash or ""):
            return show_error(error), gr.skip(), gr.skip()
        gr.Warning(escaped(error.message))
        return gr.skip(), gr.skip(), gr.skip()

    def stop(self, request: gr.Request) -> None:
        """Stop the drawing of this browser tab after the current step, and drop those it has queued."""
        for order in reversed(self._orders.get(request.session_hash or "", ())):
            for job in order.jobs:
                self.service.cancel(job)

    def history(self, limit: float, favourites: bool, request: gr.Request) -> tuple[str, Any]:
        """The owner's newest images, or only favourites; and a button for more, if there are more."""
        text, more = show_history(self.service, _owner(request), int(limit), favourites)
        return text, gr.Button(visible=more)

    def older(self, limit: float, favourites: bool, request: gr.Request) -> tuple[Any, ...]:
        """The next images of the history."""
        limit = min(int(limit) + HISTORY, 1000)
        return limit, *self.history(limit, favourites, request)

    def keep(self, limit: float, favourites: bool, request: gr.Request, event: gr.EventData) -> tuple[str, Any]:
        """Mark or unmark an image of the history as a favourite, or delete it."""
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
        """Show an image of the history and its settings: the stage, then the form's fields."""
        action, _, name = _pressed(event).partition(":")
        if action != "use":
            return [gr.skip()] * (1 + len(Form().__dict__))
        path = self.service.archive.picture(name)
        if path is None:
            return self._unchanged(APIError("unknown", "this image no longer exists"))
        return self._recovered(path, lambda text, record: show_kept(name, record, text))

    def recover(self, path: str | None) -> list[Any]:
        """Recover the settings of a dropped image: a note, then the form's fields."""
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
        """Default steps, guidance and base size of a model."""
        defaults = self.service.library.defaults(self.service.library.find_model(model))
        return defaults.num_inference_steps, defaults.guidance_scale, defaults.side

    def predict(self, *fields: Any) -> str:
        """The planner's line for the fields of `PLANNED`; blank if there is no estimate."""
        form = Form(**dict(zip(PLANNED, fields, strict=True)))
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


def _pressed(event: gr.EventData) -> str:
    """The name of the button that was pressed in a piece of HTML."""
    return str(event._data.get("name", "")) if isinstance(event._data, dict) else ""


def _owner(request: gr.Request) -> str:
    """The owner that the middleware found."""
    return str(request.state.owner)


def _values(form: Form) -> list[Any]:
    values = {**form.__dict__, "loras": list(form.loras), "reason": gr.skip() if form.reason is None else form.reason}
    return list(values.values())
