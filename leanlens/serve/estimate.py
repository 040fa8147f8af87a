"""What the planner says of an image that a server would draw, and of larger models that its machine could run."""

from dataclasses import replace
from functools import lru_cache

from leanlens.pipeline.auto import ImagePlan, find_machine, plan_image, resolved
from leanlens.plan.choose import Machine
from leanlens.plan.options import LoadOptions
from leanlens.serve.settings import ServerSettings

_LARGER = ("turbo", "rl")
_RELEASED = {*_LARGER, "base"}


class Estimates:
    """Plans for this machine, each model with its own load options.

    Args:
        settings: the operator's.
    """

    def __init__(self, settings: ServerSettings):
        self.settings = settings
        self._machine: Machine | None = None
        self._plan = lru_cache(maxsize=256)(self._planned)

    def plan(self, source: str, width: int, height: int, steps: int, guidance: float, count: int) -> ImagePlan:
        """The plan of `count` images, pixels given, with a model by what `open_model` takes for it.

        Raises:
            ValueError: a model that the planner does not know, or an invalid size or number.
        """
        return self._plan(source, width, height, steps, guidance, count)

    def larger_models(self) -> dict[str, float]:
        """Larger released models that would fit this machine, with seconds per image; empty where one is offered."""
        if _RELEASED & set(self.settings.models):
            return {}
        plans = [plan_image(name, machine=self._find_machine()) for name in _LARGER]
        seconds = {plan.model: plan.seconds_per_image for plan in plans if plan.fits}
        return {name: value for name, value in seconds.items() if value is not None}

    def options(self, source: str) -> LoadOptions:
        """The load options of a model, with the device and dtype that it is opened with."""
        options = self.settings.load_options(source).without_planning()
        return resolved(replace(options, device=self.settings.devices[0]))

    def _planned(self, source: str, width: int, height: int, steps: int, guidance: float, count: int) -> ImagePlan:
        return plan_image(
            source, width=width, height=height, num_inference_steps=steps, guidance_scale=guidance, num_images=count,
            options=self.options(source), machine=self._find_machine(),
        )  # fmt: skip

    def _find_machine(self) -> Machine:
        if self._machine is None:
            self._machine = find_machine()
        return self._machine
