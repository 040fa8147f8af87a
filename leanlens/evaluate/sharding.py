"""Draws the images of an evaluation on several devices or machines, each of which draws a part.

The parts meet in the folder of images, where each is kept under its key; nothing else is shared. So a process that is
killed takes only the image that it was drawing with it, and the others' parts are complete.
"""

import multiprocessing
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any

from leanlens.evaluate.draw import KeptImage, Say, draw_image, draw_items, find_image, image_key, seeds_of
from leanlens.evaluate.suite import ImageModel, Item

Opener = Callable[[], ImageModel]
Shard = tuple[int, int]  # which, counted from 0, of how many


def parse_shard(text: str) -> Shard:
    """`I/N`, I counted from 1.

    Raises:
        ValueError: it is not of this form, or I is not from 1 to N.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    which, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= which <= count:
        raise ValueError(f"invalid shard {text[:20]!r}: expected I/N with I from 1 to N, such as 2/4")
    return which - 1, count


@dataclass(frozen=True)
class Sharding:
    """Draws as `draw_items` does, on further devices at the same time.

    Attributes:
        others: name of a column -> what opens its model on each further device, in a process of its own; these are
            pickled, so they are functions of a module or `functools.partial` of one.
        shard: the part that this machine draws.
    """

    others: Mapping[str, Sequence[Opener]] = field(default_factory=dict)
    shard: Shard = (0, 1)

    def __call__(
        self, model: ImageModel, items: Sequence[Item], seeds: int, seed: int, folder: Path, say: Say
    ) -> list[list[KeptImage]]:
        """The images of the part, as `draw_items` gives them. What the process of another device leaves is drawn here.

        Raises:
            ValueError: as the model; an error in the process of another device is told, and ends that process alone.
        """
        others = self.others.get(model.name, ())
        if not others:
            return draw_threaded(model, items, seeds, seed, folder, say, self.shard)
        parts = _parts(self.shard, 1 + len(others))
        workers = [
            _Worker(index + 2, opener, (_without_pictures(items), seeds, seed, folder, part))
            for index, (opener, part) in enumerate(zip(others, parts[1:], strict=True))
        ]
        listener = Thread(target=_listen, args=(workers, say), daemon=True)
        listener.start()
        try:
            draw_threaded(model, items, seeds, seed, folder, say, parts[0])
            listener.join()
        finally:
            for worker in workers:
                worker.stop()
        return _collected(model, items, seeds, seed, folder, self.shard)


def draw_threaded(
    model: ImageModel, items: Sequence[Item], seeds: int, seed: int, folder: Path, say: Say, shard: Shard = (0, 1)
) -> list[list[KeptImage]]:
    """As `draw_items`; a model that has `workers`, such as an endpoint, is asked by so many threads."""
    threads = getattr(model, "workers", 1)
    if threads == 1:
        return draw_items(model, items, seeds, seed, folder, say, shard)
    with ThreadPoolExecutor(threads, "draw") as pool:
        parts = list(
            pool.map(lambda part: draw_items(model, items, seeds, seed, folder, say, part), _parts(shard, threads))
        )
    return [next((row for row in rows if row), []) for rows in zip(*parts, strict=True)]


def _parts(shard: Shard, count: int) -> list[Shard]:
    """A shard in `count` parts, which are shards too."""
    which, of = shard
    return [(which + of * index, of * count) for index in range(count)]


def _without_pictures(items: Sequence[Item]) -> list[Item]:
    return [replace(item, picture=None) for item in items]


class _Worker:
    """A process that draws a part on another device."""

    def __init__(self, number: int, opener: Opener, task: tuple[Any, ...]):
        context = multiprocessing.get_context("spawn")
        self.number = number
        self.lines, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(opener, task, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def stop(self) -> None:
        """End it, if it still runs; what it has drawn is kept."""
        self.process.terminate()
        self.process.join()
        self.lines.close()


def _work(opener: Opener, task: tuple[Any, ...], lines: Connection) -> None:
    """What the process does: opens the model, draws the part, and sends a line for each image."""
    items, seeds, seed, folder, shard = task
    try:
        model = opener()
        try:
            draw_threaded(model, items, seeds, seed, folder, lines.send, shard)
        finally:
            model.close()
    except Exception as error:
        lines.send(f"failed: {type(error).__name__}: {error}"[:500])
        raise SystemExit(1) from None


def _listen(workers: Sequence[_Worker], say: Say) -> None:
    """Pass on what the processes say, until all have ended, and tell of those that ended too early."""
    running = {worker.lines: worker for worker in workers}
    while running:
        for ready in wait(list(running)):
            worker = running[ready]  # type: ignore[index]
            try:
                say(f"device {worker.number}: {worker.lines.recv()}")
            except (EOFError, OSError):
                del running[worker.lines]
                worker.process.join()
                if code := worker.process.exitcode:
                    say(f"device {worker.number}: its process ended with {code}; what it left is drawn here")


def _collected(
    model: ImageModel, items: Sequence[Item], seeds: int, seed: int, folder: Path, shard: Shard
) -> list[list[KeptImage]]:
    """All images of a shard from the folder; one that no process has come to is drawn now."""
    identity, rows = model.identity(), []
    for index, item in enumerate(items):
        row = []
        for one in seeds_of(index, seeds, seed) if index % shard[1] == shard[0] else []:
            key = image_key(identity, item, one)
            kept = find_image(folder, key, one, with_failed=True)
            row.append(kept or draw_image(model, item, one, folder, key))
        rows.append(row)
    return rows
