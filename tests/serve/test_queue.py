"""Who is drawn next."""

import threading
import time

import pytest

from leanlens.pipeline.request import ImageRequest
from leanlens.serve.queue import FairQueue
from leanlens.serve.refusal import Refusal
from leanlens.serve.tasks import Job

GOOD = {"prompt": "a", "width": 64, "height": 64, "num_inference_steps": 2, "guidance_scale": 2.0, "seed": 3}


def job(owner: str, count: int = 1, model: str = "toy", **fields) -> Job:
    return Job([ImageRequest.checked(**{**GOOD, **fields}) for _ in range(count)], model, owner, "test")


def owners(queue: FairQueue, **options) -> list[str]:
    return [task.job.owner for task in queue.take(**options)]


def test_owners_take_turns():
    queue = FairQueue(100)
    for one in (job("many", 3), job("late", 2), job("last", 1)):
        queue.put(one)
    order = [owners(queue)[0] for _ in range(6)]
    assert order == ["many", "late", "last", "many", "late", "many"]


def test_a_batch_takes_from_every_lane_in_turn_and_only_what_fits():
    queue = FairQueue(100)
    for one in (job("a", 4), job("b", 1, width=128), job("c", 2)):
        queue.put(one)
    assert owners(queue, limit=4) == ["a", "c", "a", "c"]
    assert [task.request.width for task in queue.take(limit=4)] == [128]
    assert owners(queue, limit=4) == ["a", "a"]
    assert len(queue) == 0


@pytest.mark.parametrize(
    "other",
    [{"width": 80}, {"num_inference_steps": 3}, {"guidance_scale": 1.0}, {"loras": [{"path": "x"}]}, {"exact": True}],
)
def test_what_differs_is_not_drawn_together(other):
    queue = FairQueue(100)
    queue.put(job("a"))
    queue.put(job("b", **other))
    assert len(queue.take(limit=8)) == 1


def test_the_bound_is_kept_and_the_wait_is_told():
    queue = FairQueue(3)
    queue.put(job("a", 2))
    with pytest.raises(Refusal, match="2 pictures are waiting and 2 more do not fit the queue of 3") as refused:
        queue.put(job("b", 2), expected_wait=12.4)
    assert refused.value.retry_after == pytest.approx(12.4)
    assert len(queue) == 2


def test_the_opened_model_goes_first_but_not_for_ever():
    queue = FairQueue(100, patience=0.05)
    queue.put(job("other", 1, model="big"))
    queue.put(job("same", 2))
    assert owners(queue, opened="toy") == ["same"]
    time.sleep(0.06)
    assert owners(queue, opened="toy") == ["other"]


def test_dropped_tasks_are_gone_and_a_closed_queue_lets_go():
    queue = FairQueue(100)
    first, second = job("a", 2), job("b", 1)
    queue.put(first)
    queue.put(second)
    assert len(queue.drop(lambda task: task.job is first)) == 2
    assert owners(queue) == ["b"]
    waiting = threading.Thread(target=queue.take)
    waiting.start()
    queue.close()
    waiting.join(5)
    assert not waiting.is_alive()
    with pytest.raises(Refusal, match="shutting down"):
        queue.put(job("c"))
