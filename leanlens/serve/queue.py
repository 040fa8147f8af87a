"""Who is drawn next: a bounded queue that is fair between owners.

Comes in: tasks. Goes out: the next batch of tasks that can be drawn together. Knows nothing of drawing.

Every owner has a lane; lanes take turns, so one who asks for ten pictures waits behind another's one. Tasks that can
share a batch with the one whose turn it is come along, again lane by lane.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from leanlens.pipeline.draw import can_be_drawn_together
from leanlens.serve.refusal import Refusal
from leanlens.serve.tasks import Job, Task


class FairQueue:
    """Waiting tasks.

    Args:
        bound: tasks that may wait.
        patience: seconds after which a lane whose task wants another model than the opened one is not passed over.
    """

    def __init__(self, bound: int, patience: float = 20.0):
        self.bound = bound
        self.patience = patience
        self._lanes: OrderedDict[str, deque[Task]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._lanes.values()))

    def put(self, job: Job, expected_wait: float | None = None) -> None:
        """Take every task of a job, or none.

        Raises:
            Refusal: no room; it carries the wait that `expected_wait`, seconds, leads to expect.
        """
        with self._changed:
            if self._closed:
                raise Refusal("unavailable", "the server is shutting down", retry_after=10)
            waiting = len(self)
            if waiting + len(job.tasks) > self.bound:
                wait = max(1.0, expected_wait or 1.0)
                raise Refusal(
                    "busy",
                    f"{waiting} pictures are waiting and {len(job.tasks)} more do not fit the queue of {self.bound}; "
                    f"try again in about {wait:.0f} s",
                    retry_after=wait,
                )
            self._lanes.setdefault(job.owner, deque()).extend(job.tasks)
            self._changed.notify()

    def take(self, limit: int = 1, opened: str | None = None, timeout: float | None = None) -> list[Task]:
        """The next tasks, at most `limit`, that can be drawn together; an empty list after `timeout` seconds.

        Args:
            limit: most tasks of a batch.
            opened: the model that the asking worker has open.
            timeout: seconds to wait; None waits until there is one or the queue is closed.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._lanes or self._closed, timeout) or not self._lanes:
                return []
            lane = self._next_lane(opened)
            batch = [self._pop(lane, 0)]
            self._fill(batch, limit)
            if self._lanes:
                self._changed.notify()
            return batch

    def drop(self, unwanted: Callable[[Task], bool]) -> list[Task]:
        """Take tasks out that nobody waits for any more."""
        with self._changed:
            dropped = [task for lane in self._lanes.values() for task in lane if unwanted(task)]
            for owner in [*self._lanes]:
                kept = deque(task for task in self._lanes[owner] if task not in dropped)
                if kept:
                    self._lanes[owner] = kept
                else:
                    del self._lanes[owner]
            return dropped

    def close(self) -> None:
        """Take no more, and let every waiting worker go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def _next_lane(self, opened: str | None) -> str:
        """The lane whose turn it is; those that want another model wait a while for those that want the opened one."""
        late = time.monotonic() - self.patience
        for owner, lane in self._lanes.items():
            if opened is None or lane[0].model == opened or lane[0].since < late:
                return owner
        return next(iter(self._lanes))

    def _pop(self, owner: str, place: int) -> Task:
        """Take a task out; its lane goes to the end of the turns."""
        lane = self._lanes[owner]
        task = lane[place]
        del lane[place]
        if lane:
            self._lanes.move_to_end(owner)
        else:
            del self._lanes[owner]
        return task

    def _fill(self, batch: list[Task], limit: int) -> None:
        """Add what fits, one task of each lane in turn."""
        while len(batch) < limit:
            fitting = (
                (owner, place)
                for owner, lane in self._lanes.items()
                for place, task in enumerate(lane)
                if fits(task, batch)
            )
            found = next(fitting, None)
            if found is None:
                return
            batch.append(self._pop(*found))


def fits(task: Task, batch: Sequence[Task]) -> bool:
    """Whether a task can be drawn together with a batch."""
    return task.model == batch[0].model and can_be_drawn_together([batch[0].request, task.request])
