"""The queue of tasks: bounded, fair between owners, in batches that can be drawn together.

Every owner has a lane, and lanes take turns, so ten images of one owner do not delay a single image of another. Tasks
that can share a batch with the next one join it, again one lane after the other.

When the queue is full, a rejected client gets Retry-After, and places are reserved for it until then and a while after:
for clients that come later, the queue is as full as if those tasks were in it. So no client starves.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leanlens.pipeline.draw import can_be_drawn_together
from leanlens.serve.errors import APIError
from leanlens.serve.tasks import Job, Task

GRACE = 15.0  # seconds that places stay reserved beyond Retry-After: clients round, and networks are slow


@dataclass
class Reservation:
    """Places that are reserved for a rejected owner until a time of the monotonic clock."""

    places: int
    until: float


class FairQueue:
    """Waiting tasks.

    Args:
        bound: tasks that may wait. As many places may be reserved.
        patience: seconds that a task for another model than the open one waits at most before it is preferred.
    """

    def __init__(self, bound: int, patience: float = 20.0):
        self.bound = bound
        self.patience = patience
        self._lanes: OrderedDict[str, deque[Task]] = OrderedDict()
        self._reservations: OrderedDict[str, Reservation] = OrderedDict()  # by owner, in the order of rejection
        self._changed = threading.Condition()
        self._closed = False
        self._taken = 0  # tasks of the last batch, which is being drawn

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._lanes.values()))

    def put(self, job: Job, pace: float = 0.0) -> None:
        """Add every task of a job, or none.

        Args:
            pace: recent seconds per image, from which Retry-After follows.

        Raises:
            APIError: the queue is full. It has a retry_after, until which places are reserved for the owner.
        """
        with self._changed:
            if self._closed:
                raise APIError("unavailable", "the server is shutting down", retry_after=10)
            wanted = len(job.tasks)
            waiting, kept = len(self), self._reserved_before(job.owner)
            over = waiting + kept + wanted - self.bound
            if over > 0:
                wait = max(1.0, (over + self._taken) * pace)
                self._reservation(job.owner, wanted, wait)
                raise APIError(
                    "busy",
                    f"the queue of {self.bound} has no room for {wanted} more: {waiting} wait and {kept} places are "
                    f"reserved for others; try again in about {wait:.0f} s",
                    retry_after=wait,
                )
            self._reservations.pop(job.owner, None)
            self._lanes.setdefault(job.owner, deque()).extend(job.tasks)
            self._changed.notify()

    def take(self, limit: int = 1, opened: str | None = None, timeout: float | None = None) -> list[Task]:
        """The next tasks, at most `limit`, that can share a batch; an empty list after `timeout` seconds.

        Args:
            limit: most tasks of a batch.
            opened: the model that the calling worker has open.
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
        """Remove the tasks that nobody waits for any more."""
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
        """Accept no more tasks, and wake every waiting worker."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def _reserved_before(self, owner: str) -> int:
        """Places reserved for owners who were rejected before this one."""
        now, places = time.monotonic(), 0
        for other, reservation in [*self._reservations.items()]:
            if reservation.until < now:
                del self._reservations[other]
        for other, reservation in self._reservations.items():
            if other == owner:
                break
            places += reservation.places
        return places

    def _reservation(self, owner: str, places: int, wait: float) -> None:
        """Reserve places for an owner, who keeps the place in line. Never more than the queue has."""
        others = sum(reservation.places for other, reservation in self._reservations.items() if other != owner)
        if others + places <= self.bound:
            self._reservations[owner] = Reservation(places, time.monotonic() + wait + GRACE)

    def _next_lane(self, opened: str | None) -> str:
        """The lane whose turn it is; lanes that need another model wait a while for those that need the open one."""
        late = time.monotonic() - self.patience
        for owner, lane in self._lanes.items():
            if opened is None or lane[0].model == opened or lane[0].since < late:
                return owner
        return next(iter(self._lanes))

    def _pop(self, owner: str, place: int) -> Task:
        """Remove a task; its lane goes to the end of the line."""
        lane = self._lanes[owner]
        task = lane[place]
        del lane[place]
        if lane:
            self._lanes.move_to_end(owner)
        else:
            del self._lanes[owner]
        return task

    def _fill(self, batch: list[Task], limit: int) -> None:
        """Add tasks that fit, one of each lane in turn."""
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
    """Whether a task can join a batch."""
    return task.model == batch[0].model and can_be_drawn_together([batch[0].request, task.request])
