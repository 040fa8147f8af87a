"""An engine whose device is at the far end of a Ray Serve deployment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leanlens.log import logger
from leanlens.pipeline.request import ImageRequest
from leanlens.plan.free_memory import FreeMemory
from leanlens.plan.memory import ModelSizes
from leanlens.serve.cluster import Cluster
from leanlens.serve.engine import Drawn, ModelInfo, OnStep, first_line
from leanlens.serve.library import Library
from leanlens.serve.preview import PreviewImage
from leanlens.serve.replica import unpack_result

_TRIES = 2  # a batch is drawn once more when its replica dies; Ray Serve restarts the replica
_TIMEOUT = 600.0  # seconds for every call but drawing; opening a model takes longest


class ReplicaEngine:
    """A device of another process.

    Args:
        name: of its Ray Serve application.
        handle: Ray's handle of the deployment.
        library: resolves names of models; sources are sent along, because the far end has no list.
        cluster: where it runs.
    """

    def __init__(self, name: str, handle: Any, library: Library, cluster: Cluster):
        self.name = name
        self.model: str | None = None
        self._handle = handle
        self._library = library
        self._cluster = cluster

    def open(self, model: str) -> ModelInfo:
        """Open a model, and close any other.

        Raises:
            APIError: it cannot be opened, or its weights do not fit.
        """
        info = unpack_result(self._ask("open", *self._named(model)))
        self.model = model
        return info

    def draw(self, model: str, requests: Sequence[ImageRequest], on_step: OnStep) -> list[Drawn]:
        """Draw requests that share a batch; uploads are sent along.

        Raises:
            APIError, MemoryError, ValueError: as `LocalEngine.draw`.
            RuntimeError: an unexpected error, or a replica that died twice.
        """
        from ray.exceptions import RayError

        files = {path: Path(path).read_bytes() for one in requests for path in (one.image, one.mask) if path}
        for left in reversed(range(_TRIES)):
            try:
                return self._draw(model, requests, files, on_step)
            except RayError as error:
                self.model = None  # a restarted replica has no model open
                logger.warning("%s was lost while drawing (%s)", self.name, first_line(error)[:200])
                if not left:
                    raise RuntimeError(f"{self.name} was lost while drawing") from error
        raise AssertionError

    def _draw(
        self, model: str, requests: Sequence[ImageRequest], files: dict[str, bytes], on_step: OnStep
    ) -> list[Drawn]:
        stream = self._handle.options(stream=True).draw.remote(*self._named(model), list(requests), files)
        answer = ("failed", f"{self.name} ended without an answer")
        ending = False
        for kind, value in stream:
            if kind != "step":
                answer = (kind, value)
                continue
            step, images = value
            try:
                if (
                    on_step(step, [None if image is None else PreviewImage(step, image) for image in images])
                    and not ending
                ):
                    ending = True
                    self._ask("end_early")
            except Exception:  # the batch is cancelled: stop the replica, so that the next batch finds it idle
                self._ask("stop")
                for _ in stream:
                    pass
                raise
        drawn = unpack_result(answer)
        self.model = model
        return drawn

    def free_memory(self) -> FreeMemory | None:
        """Memory that is free now; None while the replica restarts."""
        return self._ask_if_up("free_memory")

    def unload(self) -> None:
        """Unload the model. It counts as open until the far end has unloaded it."""
        try:
            self._ask_if_up("unload")
        finally:
            self.model = None

    def clear_caches(self) -> None:
        """Free what is kept only for speed."""
        self._ask_if_up("clear_caches")

    def close(self) -> None:
        """Remove the replica from the cluster."""
        self._cluster.remove(self.name)

    def location(self) -> str:
        """Process and machine of the replica, for the log."""
        return self._ask("where")

    def _named(self, model: str) -> tuple[str, str, ModelSizes | None]:
        return model, self._library.source(model), self._library.sizes(model)

    def _ask_if_up(self, what: str) -> Any:
        """The answer to `what`; None from a replica that is restarting."""
        from ray.exceptions import RayError

        try:
            return self._ask(what, timeout=5.0)
        except (RayError, TimeoutError):
            return None

    def _ask(self, what: str, *given: Any, timeout: float = _TIMEOUT) -> Any:
        return getattr(self._handle, what).remote(*given).result(timeout_s=timeout)
