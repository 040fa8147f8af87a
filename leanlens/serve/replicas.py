"""Devices of other processes and other machines, through Ray Serve. The only file here with Ray.

Comes in: a number of replicas. Goes out: as many engines, each the far end of a Ray Serve deployment with one replica.

    this process                                     the cluster
    APIs - service - queue - worker 1 - ReplicaEngine ... Replica on device 1
                 \\ archive  \\ worker 2 - ReplicaEngine ... Replica on device 2

APIs, queue, jobs and archive stay in one process, so turns are fair, progress and cancelling are right and no picture
is lost whichever device draws. Who draws what is the queue's to say: it knows batches and opened models. That is why
every replica is an application of its own, which the router in front of several equal ones could not decide better.
Ray Serve finds the devices, starts the replicas on them, watches them, and starts one anew that has died.
"""

import asyncio
import hashlib
import logging
import os
import platform
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from leanlens.install import install_extra
from leanlens.log import logger
from leanlens.pipeline.draw import DrawnPicture
from leanlens.pipeline.request import ImageRequest
from leanlens.plan.free_memory import FreeMemory
from leanlens.plan.memory import ModelSizes
from leanlens.serve.engine import Drawn, Engine, EngineFactory, LocalEngine, Opening, first_line
from leanlens.serve.errors import APIError
from leanlens.serve.keeper import Keeper
from leanlens.serve.library import Library
from leanlens.serve.preview import Look, Seen
from leanlens.serve.settings import ServerSettings

_TRIES = 2  # a replica that dies while it draws is started anew, and the batch is drawn once more
_PATIENCE = 600.0  # seconds for what is no drawing, opening a model the longest of it


def replica_engines(count: int) -> EngineFactory:
    """What makes `count` engines on a Ray cluster: the one that RAY_ADDRESS names, or one on this machine.

    Raises (when called):
        ValueError: Ray is not installed, or the cluster has fewer devices.
    """

    def make(settings: ServerSettings, library: Library) -> list[Engine]:
        cluster = Cluster()
        engines: list[Engine] = []
        prefix = _prefix(settings)
        try:
            device = _device(settings, count)
            _delete_old(prefix)
            for index in range(count):
                engines.append(_started(f"{prefix}-{index}", settings, library, device, count, cluster))
        except Exception:
            _delete_old(prefix)
            cluster.end()
            raise
        return engines

    return make


class ReplicaEngine:
    """A device elsewhere.

    Args:
        name: of its Ray Serve application.
        handle: of the deployment.
        library: what models' names mean; sources are sent along, as the far end has no list of its own.
        cluster: where it is.
    """

    def __init__(self, name: str, handle: Any, library: Library, cluster: "Cluster"):
        self.name = name
        self.model: str | None = None
        self._handle = handle
        self._library = library
        self._cluster = cluster

    def open(self, model: str) -> Opening:
        """Have a model open, and no other.

        Raises:
            APIError: it cannot be opened, or its weights do not fit.
        """
        opening = _unpacked(self._ask("open", *self._named(model)))
        self.model = model
        return opening

    def draw(self, model: str, requests: Sequence[ImageRequest], on_step: Any) -> list[Drawn]:
        """Draw requests that share a batch; uploads are sent along.

        Raises:
            APIError, MemoryError, ValueError: as `LocalEngine.draw`.
            RuntimeError: an error that nobody foresaw, or a replica that died twice.
        """
        from ray.exceptions import RayError

        files = {path: Path(path).read_bytes() for one in requests for path in (one.image, one.mask) if path}
        for left in reversed(range(_TRIES)):
            try:
                return self._draw(model, requests, files, on_step)
            except RayError as error:
                self.model = None  # whatever was open there is gone
                logger.warning("%s was lost while it drew (%s)", self.name, first_line(error)[:200])
                if not left:
                    raise RuntimeError(f"{self.name} was lost while it drew") from error
        raise AssertionError

    def _draw(self, model: str, requests: Sequence[ImageRequest], files: dict[str, bytes], on_step: Any) -> list[Drawn]:
        stream = self._handle.options(stream=True).draw.remote(*self._named(model), list(requests), files)
        answer = ("failed", f"{self.name} ended without an answer")
        ending = False
        for kind, value in stream:
            if kind != "step":
                answer = (kind, value)
                continue
            step, images = value
            try:
                if on_step(step, [None if image is None else Seen(step, image) for image in images]) and not ending:
                    ending = True
                    self._ask("end_early")
            except Exception:  # nobody waits any more: the replica is told, and the next batch finds it idle
                self._ask("stop")
                for _ in stream:
                    pass
                raise
        drawn = _unpacked(answer)
        self.model = model
        return drawn

    def free_memory(self) -> FreeMemory | None:
        """What is free now; None while that cannot be asked."""
        return self._ask_if_there("free_memory")

    def unload(self) -> None:
        """Let the model go; it counts as opened until the far end has."""
        try:
            self._ask_if_there("unload")
        finally:
            self.model = None

    def tidy(self) -> None:
        """Let go what is kept only for speed."""
        self._ask_if_there("tidy")

    def close(self) -> None:
        """Take the replica off the cluster."""
        self._cluster.leave(self.name)

    def _named(self, model: str) -> tuple[str, str, ModelSizes | None]:
        return model, self._library.source(model), self._library.sizes(model)

    def _ask_if_there(self, what: str) -> Any:
        """What a replica that is being started anew has not got to answer; None from it."""
        from ray.exceptions import RayError

        try:
            return self._ask(what, patience=5.0)
        except (RayError, TimeoutError):
            return None

    def _ask(self, what: str, *given: Any, patience: float = _PATIENCE) -> Any:
        return getattr(self._handle, what).remote(*given).result(timeout_s=patience)


class Replica:
    """The far end: a local engine on the device that Ray has given this process.

    Args:
        settings: the server's.
        device: cpu or cuda.
    """

    def __init__(self, settings: ServerSettings, device: str):
        self._known: dict[str, tuple[str, ModelSizes | None]] = {}
        self._engine = LocalEngine(device, settings, self)
        self._hands = ThreadPoolExecutor(1, thread_name_prefix="leanlens-draw")
        self._stopped = threading.Event()
        self._ending = threading.Event()

    def source(self, model: str) -> str:
        """What `open_model` takes, as the server has said."""
        return self._known[model][0]

    def sizes(self, model: str) -> ModelSizes | None:
        """The model in plain numbers, as the server has said."""
        return self._known[model][1]

    async def where(self) -> str:
        """For the log: which process of which machine this is."""
        return f"process {os.getpid()} of {platform.node()}"

    async def open(self, model: str, source: str, sizes: ModelSizes | None) -> tuple[str, Any]:
        """See `LocalEngine.open`; the answer is packed."""
        self._known[model] = (source, sizes)
        return await self._in_thread(lambda: _packed(lambda: self._engine.open(model)))

    async def draw(
        self, model: str, source: str, sizes: ModelSizes | None, requests: list[ImageRequest], files: dict[str, bytes]
    ) -> AsyncIterator[tuple[str, Any]]:
        """See `LocalEngine.draw`: a ("step", (number, looks)) after each step, then the packed answer."""
        self._known[model] = (source, sizes)
        self._stopped.clear()
        self._ending.clear()
        loop, news = asyncio.get_running_loop(), asyncio.Queue[tuple[str, Any]]()

        def tell(kind: str, value: Any) -> None:
            loop.call_soon_threadsafe(news.put_nowait, (kind, value))

        def on_step(step: int, looks: Sequence[Look | None]) -> bool:
            if self._stopped.is_set():
                raise APIError("cancelled", "the drawing was stopped")
            tell("step", (step, [None if look is None else look.look() for look in looks]))
            return self._ending.is_set()

        drawing = self._in_thread(lambda: tell(*_packed(lambda: self._draw(model, requests, files, on_step))))
        try:
            while True:
                kind, value = await news.get()
                yield kind, value
                if kind != "step":
                    return
        finally:  # the server is gone, or all is said
            self._stopped.set()
            await drawing

    def _draw(self, model: str, requests: list[ImageRequest], files: dict[str, bytes], on_step: Any) -> list[Drawn]:
        """Draw from copies of the uploads; the records name the server's own files."""
        with TemporaryDirectory(prefix="leanlens-inputs-") as folder:
            copies = {}
            for index, (path, data) in enumerate(files.items()):
                copies[path] = str(Path(folder) / f"{index}{Path(path).suffix}")
                Path(copies[path]).write_bytes(data)
            here = [
                one.model_copy(update={part: copies.get(getattr(one, part)) for part in ("image", "mask")})
                for one in requests
            ]
            found = self._engine.draw(model, here, on_step)
        return [
            Drawn(
                DrawnPicture(one.picture.image, {**one.picture.record, "request": request.model_dump(mode="json")}),
                one.text_tokens,
            )
            for one, request in zip(found, requests, strict=True)
        ]

    async def stop(self) -> None:
        """End the drawing at its next step."""
        self._stopped.set()

    async def end_early(self) -> None:
        """End the drawing at its next step with the pictures that are expected then."""
        self._ending.set()

    async def free_memory(self) -> FreeMemory | None:
        """See `LocalEngine.free_memory`."""
        return self._engine.free_memory()

    async def unload(self) -> None:
        """See `LocalEngine.unload`."""
        await self._in_thread(self._engine.unload)

    async def tidy(self) -> None:
        """See `LocalEngine.tidy`."""
        await self._in_thread(self._engine.tidy)

    def _in_thread(self, work: Any) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().run_in_executor(self._hands, work)


def _packed(work: Any) -> tuple[str, Any]:
    """What `work` gives, or how it failed, in words that survive the way to another process."""
    try:
        return "done", work()
    except APIError as error:
        return "refused", (error.kind, error.message, error.field)
    except Exception as error:
        from leanlens.serve.worker import is_out_of_memory

        if is_out_of_memory(error):
            return "memory", first_line(error)
        if isinstance(error, ValueError | FloatingPointError):
            return "invalid", str(error)
        import traceback

        return "failed", traceback.format_exc()


def _unpacked(answer: tuple[str, Any]) -> Any:
    """The other end of `_packed`."""
    kind, value = answer
    if kind == "done":
        return value
    if kind == "refused":
        raise APIError(*value)
    raise {"memory": MemoryError, "invalid": ValueError}.get(kind, RuntimeError)(value)


# ------------------------------------------------------------------------------------------- the cluster


class Cluster:
    """The cluster that RAY_ADDRESS names, which stays as it is, or one of this machine, which ends with this process.

    Raises:
        ValueError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports home otherwise
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
            from ray import serve
        except ImportError as error:
            extra = install_extra("scale")
            raise ValueError(f"replicas need the package {error.name}; install it with: {extra}") from None
        self._keeper: Keeper | None = None
        self._names: set[str] = set()
        if not ray.is_initialized():
            try:
                self._connect()
            except ConnectionError as error:
                raise ValueError(f"the Ray cluster cannot be reached: {first_line(error)}") from None
        serve.start(proxy_location="Disabled")  # the APIs are here; nothing else listens
        logging.getLogger("ray.serve").setLevel(logging.WARNING)

    def _connect(self) -> None:
        import ray

        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
        if os.environ.get("RAY_ADDRESS") not in (None, "", "local"):
            ray.init(**quiet)
            return
        self._keeper = Keeper()
        with self._keeper.marked():
            ray.init("local", _temp_dir=self._keeper.folder, **quiet)

    def enter(self, name: str) -> None:
        """A replica has been started."""
        self._names.add(name)

    def leave(self, name: str) -> None:
        """Take a replica off; with the last one, a cluster of this server's own ends."""
        self._names.discard(name)
        if self._keeper is None:
            from ray import serve

            serve.delete(name, _blocking=False)  # a stop has seconds; the cluster goes on by itself
        elif not self._names:
            self.end()

    def end(self) -> None:
        """End a cluster of this server's own; another one stays."""
        if self._keeper is not None:
            import ray

            ray.shutdown()
            self._keeper.end()


def _device(settings: ServerSettings, count: int) -> str:
    """cpu or cuda, of which the cluster has one for each replica."""
    import ray

    (asked,) = settings.devices
    there = ray.cluster_resources()
    device = ("cuda" if there.get("GPU") else "cpu") if asked == "auto" else asked
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} is not accepted with replicas; give auto, cpu or cuda, Ray chooses which")
    found = int(there.get("GPU" if device == "cuda" else "CPU", 0))
    if found < count:
        what = "GPUs" if device == "cuda" else "processor cores"
        raise ValueError(f"replicas {count} is not accepted: each takes one of the cluster's {found} {what}")
    return device


def _prefix(settings: ServerSettings) -> str:
    """Names this server's applications: a folder of pictures has one server at a time."""
    return f"leanlens-{hashlib.sha256(f'{platform.node()}:{settings.output.resolve()}'.encode()).hexdigest()[:8]}"


def _delete_old(prefix: str) -> None:
    """Take away what a server of the same folder left when it was killed."""
    from ray import serve

    for name in serve.status().applications:
        if name.startswith(f"{prefix}-"):
            serve.delete(name)


def _started(
    name: str, settings: ServerSettings, library: Library, device: str, count: int, cluster: Cluster
) -> ReplicaEngine:
    try:
        return _deploy(name, settings, library, device, count, cluster)
    except Exception as error:
        raise ValueError(f"replica {name.rpartition('-')[2]} cannot be started: {first_line(error)}") from error


def _deploy(
    name: str, settings: ServerSettings, library: Library, device: str, count: int, cluster: Cluster
) -> ReplicaEngine:
    """Start one replica and wait until it answers."""
    from ray import serve

    # Ray gives a process with one core one thread; a replica on a processor takes its share of all.
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    options = {
        "num_cpus": 1,
        "num_gpus": int(device == "cuda"),
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads}},
    }
    deploy = serve.deployment(name="engine", num_replicas=1, max_ongoing_requests=16, ray_actor_options=options)
    handle = serve.run(deploy(Replica).bind(settings, device), name=name, route_prefix=None)
    engine = ReplicaEngine(name, handle, library, cluster)
    cluster.enter(name)
    logger.info("%s runs on %s in %s", name, device, engine._ask("where"))
    return engine
