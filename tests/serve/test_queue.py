"""Who is drawn next."""

import threading
import time

import pytest

from leanlens.pipeline.request import ImageRequest
from leanlens.serve.errors import APIError
from leanlens.serve.queue import FairQueue
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
    with pytest.raises(APIError, match="queue of 3 has no room for 2 more: 2 wait and 0 places") as refused:
        queue.put(job("b", 2), pace=12.4)
    assert refused.value.retry_after == pytest.approx(12.4)  # one picture has to be drawn for two places
    assert len(queue) == 2


def full(refused: list[tuple[str, int]], bound: int = 4) -> FairQueue:
    """A full queue that has sent these owners away, with so many pictures each."""
    queue = FairQueue(bound)
    queue.put(job("early", bound))
    for owner, count in refused:
        with pytest.raises(APIError):
            queue.put(job(owner, count), pace=2.0)
    return queue


def test_who_was_refused_is_not_overtaken():
    queue = full([("patient", 1)])
    queue.take()
    with pytest.raises(APIError, match="no room for 1 more: 3 wait and 1 places are reserved"):
        queue.put(job("newcomer"), pace=2.0)
    queue.put(job("patient"))
    queue.take()
    queue.put(job("newcomer"))  # it was refused too, and is next


def test_the_wait_told_counts_those_who_were_refused_before():
    queue = FairQueue(4)
    queue.put(job("early", 4))
    waits = []
    for owner in ("a", "b", "a"):  # asking again before the time changes nothing
        with pytest.raises(APIError) as refused:
            queue.put(job(owner), pace=2.0)
        waits.append(refused.value.retry_after)
    assert waits == [2.0, 4.0, 2.0]


def test_the_wait_told_counts_what_is_being_drawn():
    queue = FairQueue(4)
    queue.put(job("early", 4))
    queue.take(limit=3)
    queue.put(job("next", 3))
    with pytest.raises(APIError) as refused:
        queue.put(job("late"), pace=2.0)
    assert refused.value.retry_after == 2.0 * (3 + 1)


def test_places_are_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr("leanlens.serve.queue.GRACE", -10.0)  # every promise has run out
    queue = full([("gone", 4)])
    queue.take()
    queue.put(job("newcomer"))


def test_no_more_places_are_kept_than_there_are():
    """Who asks for more than is left of them is told to come again all the same."""
    queue = full([("a", 3), ("b", 2), ("c", 1)])
    queue.take(limit=4)
    queue.put(job("c"))
    with pytest.raises(APIError, match="4 places are reserved for others"):
        full([("a", 3), ("c", 1)]).put(job("d"))


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
    with pytest.raises(APIError, match="shutting down"):
        queue.put(job("c"))
