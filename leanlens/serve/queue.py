"""Who is drawn next: a bounded queue that is fair between owners.

Comes in: tasks. Goes out: the next batch of tasks that can be drawn together. Knows nothing of drawing.

Every owner has a lane; lanes take turns, so one who asks for ten pictures waits behind another's one. Tasks that can
share a batch with the one whose turn it is come along, again lane by lane.

Who finds the queue full is told when to come again, and has places kept: until then, and a while after, whoever came
later finds the queue as full as if those pictures were waiting already. So nobody is overtaken for ever.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leanlens.pipeline.draw import can_be_drawn_together
from leanlens.serve.errors import APIError
from leanlens.serve.tasks import Job, Task

GRACE = 15.0  # seconds that places are kept for longer than was told: clients round, and come from far


@dataclass
class Promise:
    """Places that are kept for an owner who was refused, until a time of the monotonic clock."""

    places: int
    until: float


class FairQueue:
    """Waiting tasks.

    Args:
        bound: tasks that may wait. As many places may be kept for those who were refused.
        patience: seconds after which a lane whose task wants another model than the opened one is not passed over.
    """

    def __init__(self, bound: int, patience: float = 20.0):
        self.bound = bound
        self.patience = patience
        self._lanes: OrderedDict[str, deque[Task]] = OrderedDict()
        self._promises: OrderedDict[str, Promise] = OrderedDict()  # by owner; whoever was refused first is first
        self._changed = threading.Condition()
        self._closed = False
        self._taken = 0  # tasks of the last batch, which is being drawn

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._lanes.values()))

    def put(self, job: Job, pace: float = 0.0) -> None:
        """Take every task of a job, or none.

        Args:
            pace: seconds for one picture, lately; what a refused owner is told to wait follows from it.

        Raises:
            APIError: no room. It says after which time there will be, and the places are kept for the owner till then.
        """
        with self._changed:
            if self._closed:
                raise APIError("unavailable", "the server is shutting down", retry_after=10)
            wanted = len(job.tasks)
            waiting, kept = len(self), self._kept_before(job.owner)
            over = waiting + kept + wanted - self.bound
            if over > 0:
                wait = max(1.0, (over + self._taken) * pace)
                self._promise(job.owner, wanted, wait)
                raise APIError(
                    "busy",
                    f"the queue of {self.bound} has no room for {wanted} more: {waiting} wait and {kept} places are "
                    f"kept for others; try again in about {wait:.0f} s",
                    retry_after=wait,
                )
            self._promises.pop(job.owner, None)
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
            self._taken = len(batch)
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

    def _kept_before(self, owner: str) -> int:
        """Places that are kept for owners who were refused before this one."""
        now, places = time.monotonic(), 0
        for other, promise in [*self._promises.items()]:
            if promise.until < now:
                del self._promises[other]
        for other, promise in self._promises.items():
            if other == owner:
                break
            places += promise.places
        return places

    def _promise(self, owner: str, places: int, wait: float) -> None:
        """Keep places for an owner; one who has some already stays as far in front. No more are kept than there are."""
        others = sum(promise.places for other, promise in self._promises.items() if other != owner)
        if others + places <= self.bound:
            self._promises[owner] = Promise(places, time.monotonic() + wait + GRACE)

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
