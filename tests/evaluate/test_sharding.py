"""Images drawn in parts, by several processes, threads and machines."""

import os
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest
from PIL import Image

from leanlens.evaluate.draw import draw_items
from leanlens.evaluate.sharding import Sharding, draw_threaded, parse_shard
from leanlens.evaluate.suite import Drawn, ImageFailed, Item

ITEMS = [Item(str(index), f"prompt {index}", picture=Image.new("RGB", (4, 4))) for index in range(7)]


class Painter:
    """Draws a colour of the seed, and notes in a file which process drew which item."""

    def __init__(self, log, name="painter", fails=(), dies_at=None, breaks=False, workers=1):
        self.log, self.name, self.fails, self.dies_at, self.workers = log, name, fails, dies_at, workers
        if breaks:
            raise ValueError("no such device")

    def identity(self):
        return {"kind": "painter"}

    def draw(self, item, seed):
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()} {threading.get_ident()} {item.id} {item.picture is None}\n")
        if item.id == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if item.id in self.fails:
            raise ImageFailed("no colour")
        time.sleep(0.01)
        return Drawn(Image.new("RGB", (8, 8), (seed % 256, 1, 2)))

    def costs(self):
        return {}

    def close(self):
        pass


def drawn(path):
    return [line.split() for line in path.read_text().splitlines()]


def same_images(rows, others):
    return all(
        np.array_equal(np.asarray(one.open()), np.asarray(other.open()))
        for row, more in zip(rows, others, strict=True)
        for one, other in zip(row, more, strict=True)
    )


def test_two_processes_draw_what_one_draws(tmp_path):
    log, said = tmp_path / "log", []
    sharding = Sharding({"painter": [partial(Painter, log)]})
    rows = sharding(Painter(log), ITEMS, 2, 5, tmp_path / "images", said.append)
    assert same_images(rows, draw_items(Painter(tmp_path / "log1"), ITEMS, 2, 5, tmp_path / "alone"))
    lines = drawn(log)
    assert len(lines) == 14
    assert {line[2] for line in lines if line[0] == str(os.getpid())} == {"0", "2", "4", "6"}
    assert {line[3] for line in lines if line[0] != str(os.getpid())} == {"True"}  # pictures stay here
    assert "device 2: painter: image 6 of 6" in said
    assert sharding(Painter(log), ITEMS, 2, 5, tmp_path / "images", said.append) is not None
    assert len(drawn(log)) == 14  # all were there


def test_a_killed_process_is_told_and_what_it_left_is_drawn(tmp_path):
    log, said = tmp_path / "log", []
    sharding = Sharding({"painter": [partial(Painter, log, dies_at="3")]})
    rows = sharding(Painter(log), ITEMS, 1, 0, tmp_path / "images", said.append)
    assert all(image.path is not None for row in rows for image in row)
    assert "device 2: its process ended with -9; what it left is drawn here" in said
    drawings = [line[2] for line in drawn(log)]
    assert sorted(drawings) == sorted([*"0123456", "3"])  # one image was begun twice


def test_a_device_that_cannot_be_opened_is_told(tmp_path):
    log, said = tmp_path / "log", []
    sharding = Sharding({"painter": [partial(Painter, log, breaks=True)]})
    rows = sharding(Painter(log), ITEMS, 1, 0, tmp_path / "images", said.append)
    assert all(image.path is not None for row in rows for image in row)
    assert "device 2: failed: ValueError: no such device" in said


def test_an_image_that_failed_elsewhere_is_not_tried_twice(tmp_path):
    log = tmp_path / "log"
    sharding = Sharding({"painter": [partial(Painter, log, fails=("1",))]})
    rows = sharding(Painter(log, fails=("1",)), ITEMS, 1, 0, tmp_path / "images", lambda line: None)
    assert [row[0].failed for row in rows][:3] == ["", "no colour", ""]
    assert len(drawn(log)) == 7


def test_machines_draw_parts(tmp_path):
    log, images = tmp_path / "log", tmp_path / "images"
    for text, mine in (("1/3", "036"), ("2/3", "14"), ("3/3", "25")):
        rows = Sharding(shard=parse_shard(text))(Painter(log), ITEMS, 1, 0, images, lambda line: None)
        assert "".join(str(index) for index, row in enumerate(rows) if row) == mine
    assert sorted(line[2] for line in drawn(log)) == list("0123456")
    both = Sharding({"painter": [partial(Painter, log)]}, parse_shard("1/2"))
    rows = both(Painter(log), ITEMS, 1, 0, tmp_path / "others", lambda line: None)
    assert [index for index, row in enumerate(rows) if row] == [0, 2, 4, 6]


def test_a_model_that_threads_may_ask_is_asked_by_them(tmp_path):
    log = tmp_path / "log"
    rows = draw_threaded(Painter(log, workers=3), ITEMS, 1, 0, tmp_path / "images", lambda line: None)
    assert [len(row) for row in rows] == [1] * 7
    assert len({line[1] for line in drawn(log)}) == 3


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_is_one_of_several(text):
    with pytest.raises(ValueError, match=r"invalid shard .*: expected I/N with I from 1 to N"):
        parse_shard(text)
