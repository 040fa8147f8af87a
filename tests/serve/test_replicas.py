"""The far end of a worker, without a cluster: everything goes through pickles, and a loop of its own, as with Ray."""

import asyncio
import pickle
import threading

import pytest
import torch
from PIL import Image

ray = pytest.importorskip("ray")

from ray.exceptions import RayActorError  # noqa: E402

from leanlens.pipeline.metadata import read_record  # noqa: E402
from leanlens.serve import engine as engine_module  # noqa: E402
from leanlens.serve import replicas  # noqa: E402
from leanlens.serve.cluster import cluster_device  # noqa: E402
from leanlens.serve.errors import APIError  # noqa: E402
from leanlens.serve.parameters import GenerationParameters  # noqa: E402
from leanlens.serve.replica import Replica  # noqa: E402
from leanlens.serve.replica_engine import ReplicaEngine  # noqa: E402
from leanlens.serve.service import ImageService  # noqa: E402
from tests.serve.test_worker import SMALL, finish  # noqa: E402


def sent(value):
    """As it arrives in another process."""
    return pickle.loads(pickle.dumps(value))


class Handle:
    """A deployment's handle onto a replica of this process; `lose(n)` lets the next n drawings die after two steps."""

    def __init__(self, settings):
        self.settings = sent(settings)
        self.replica = Replica(self.settings, "cpu")
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.losses = 0
        self.asked: list[str] = []

    def options(self, stream):
        return self

    def __getattr__(self, name):
        return Call(self, name)

    def lose(self, times):
        self.losses = times


class Call:
    def __init__(self, handle, name):
        self.handle, self.name = handle, name

    def remote(self, *given):
        self.handle.asked.append(self.name)
        self.given = sent(given)
        if self.name == "draw":
            return self.stream(getattr(self.handle.replica, self.name)(*self.given))
        return self

    def result(self, timeout_s):
        work = getattr(self.handle.replica, self.name)(*self.given)
        return sent(asyncio.run_coroutine_threadsafe(work, self.handle.loop).result(timeout_s))

    def stream(self, items):
        for number in range(10_000):
            try:
                item = asyncio.run_coroutine_threadsafe(anext(items), self.handle.loop).result(60)
            except StopAsyncIteration:
                return
            if self.handle.losses and number == 2:
                self.handle.losses -= 1
                asyncio.run_coroutine_threadsafe(items.aclose(), self.handle.loop).result(60)
                self.handle.replica = Replica(self.handle.settings, "cpu")  # started anew, with nothing open
                raise RayActorError
            yield sent(item)


@pytest.fixture
def far(settings, monkeypatch):
    """`far(**fields)` -> a service whose one device is at the far end, and the handle to it."""
    monkeypatch.setattr(ReplicaEngine, "close", lambda self: None)
    services = []

    def make(**fields):
        handles = []

        def engines(given, library):
            handles.append(Handle(given))
            return [ReplicaEngine("far", handles[0], library, None)]

        service = ImageService(settings(**fields), engines)
        services.append(service)
        service.open()
        return service, handles[0]

    yield make
    for service in services:
        service.close()


def file(job) -> bytes:
    return job.tasks[0].picture.path.read_bytes()


def test_the_same_file_comes_back_as_from_this_process(far, service):
    server, _ = far()
    previews = []
    job = server.prepare(GenerationParameters("a fox", seed=5, **SMALL), "a", "test")
    job.listen(lambda event: previews.append(event.preview) if event.preview else None)
    ended = threading.Event()
    job.listen(lambda event: ended.set() if job.is_final else None)
    server.start(job)
    assert ended.wait(60)
    near = service(output=server.settings.output.with_name("near"))
    (same,) = finish(near, GenerationParameters("a fox", seed=5, **SMALL))
    assert file(job) == file(same)
    assert job.tasks[0].text_tokens == same.tasks[0].text_tokens > 0
    assert [preview.step for preview in previews] == [2, 3]
    assert previews[0].to_image().size == (8, 8)
    assert server.library.sizes("toy") == near.library.sizes("toy")


def test_uploads_go_along_and_the_record_names_the_servers_own_files(far):
    server, _ = far()
    parameters = GenerationParameters(
        "a", seed=1, image=Image.new("RGB", (64, 64), "red"), mask=Image.new("L", (64, 64), 255), **SMALL
    )
    (job,) = finish(server, parameters)
    record = read_record(job.tasks[0].picture.path)
    inputs = server.archive.folder / "inputs"
    assert {record["request"]["image"], record["request"]["mask"]} == {str(path) for path in inputs.iterdir()}
    assert record["inputs"]["image"] is not None


def test_a_cancelled_picture_stops_at_the_far_end_and_the_next_is_drawn(far):
    server, handle = far()
    job = server.prepare(GenerationParameters("a", num_inference_steps=100, width=64, height=64), "a", "test")
    begun = threading.Event()
    job.listen(lambda event: begun.set() if event.kind == "step" else None)
    server.start(job)
    assert begun.wait(60)
    server.cancel(job)
    (after,) = finish(server, GenerationParameters("b", **SMALL))
    assert (job.state, after.state) == ("cancelled", "done")
    assert "stop" in handle.asked


def test_an_interrupted_picture_comes_back_as_it_was_expected_to_become(far):
    server, handle = far(max_batch=1)
    parameters = GenerationParameters("a", num_inference_steps=100, width=64, height=64, seed=5, count=2)
    job = server.prepare(parameters, "a", "test")
    ended = threading.Event()

    def on_event(event) -> None:
        if event.kind == "step" and event.task.step == 3:
            server.end_early(job)
        if job.is_final:
            ended.set()

    job.listen(on_event)
    server.start(job)
    assert ended.wait(60)
    first, second = job.tasks
    record = read_record(first.picture.path)
    assert 3 <= record["stopped_after"] < 100
    assert record["request"]["num_inference_steps"] == 100
    assert (first.state, second.state, second.picture) == ("done", "cancelled", None)
    assert "end_early" in handle.asked
    (after,) = finish(server, GenerationParameters("b", **SMALL))
    assert "stopped_after" not in read_record(after.tasks[0].picture.path)


def test_a_lost_replica_is_asked_again_and_one_that_is_lost_twice_is_told(far):
    server, handle = far()
    (first,) = finish(server, GenerationParameters("a", seed=1, **SMALL))
    handle.lose(1)
    (again,) = finish(server, GenerationParameters("a", seed=1, **SMALL))
    assert file(again) == file(first)
    handle.lose(2)
    (lost,) = finish(server, GenerationParameters("a", seed=1, **SMALL))
    assert (lost.state, lost.tasks[0].error.kind) == ("failed", "failed")
    (after,) = finish(server, GenerationParameters("a", seed=1, **SMALL))
    assert file(after) == file(first)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (APIError("invalid", "not so", "prompt"), "invalid"),
        (ValueError("not so"), "invalid"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (KeyError("secret"), "failed"),
    ],
)
def test_what_goes_wrong_at_the_far_end_is_told_as_here(far, monkeypatch, caplog, error, kind):
    def wrong(*given):
        raise error

    server, _ = far()
    finish(server, GenerationParameters("a", **SMALL))
    monkeypatch.setattr(engine_module, "draw_together", wrong)
    (job,) = finish(server, GenerationParameters("a", **SMALL))
    error = job.tasks[0].error
    assert error.kind == kind
    assert "secret" not in error.message
    assert ("secret" in caplog.text) == (kind == "failed")


def test_memory_is_asked_at_the_far_end(far):
    server, handle = far(memory_limit=0.005)
    finish(server, GenerationParameters("a", **SMALL))
    with pytest.raises(APIError, match="512x512 needs about"):
        server.prepare(GenerationParameters("a", width=512, height=512), "a", "test")
    assert "free_memory" in handle.asked


def test_the_model_is_let_go_when_idle_and_opened_again(far):
    server, handle = far(idle_unload=0.2)
    finish(server, GenerationParameters("a", **SMALL))
    worker = server.workers[0]
    for _ in range(200):
        if worker.model is None:
            break
        threading.Event().wait(0.05)
    assert (worker.model, handle.replica._engine.model) == (None, None)
    (job,) = finish(server, GenerationParameters("a", **SMALL))
    assert job.state == "done"


@pytest.mark.parametrize(
    ("device", "count", "said"),
    [
        ("cuda", 2, "invalid replicas 2: expected at most 1, the GPUs of the cluster"),
        ("cpu", 5, "invalid replicas 5: expected at most 4, the processor cores of the cluster"),
        ("cuda:1", 1, "invalid device 'cuda:1' with replicas"),
    ],
)
def test_a_cluster_with_too_little_is_named(settings, monkeypatch, device, count, said):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 1.0})
    with pytest.raises(ValueError, match=said):
        cluster_device(settings(devices=(device,)), count)
    assert cluster_device(settings(devices=("auto",)), 1) == "cuda"


def test_without_the_package_it_says_what_to_install(settings, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"replicas need the package ray; install it with: pip install .*\[scale\]"):
        replicas.replica_engines(2)(settings(), None)


def test_a_model_counts_as_opened_until_the_far_end_has_let_it_go(monkeypatch):
    near, seen = ReplicaEngine("a", None, None, None), []
    near.model = "toy"
    monkeypatch.setattr(near, "_ask_if_up", lambda what: seen.append((what, near.model)))
    near.unload()
    assert (seen, near.model) == ([("unload", "toy")], None)
