"""The parts of DPG-Bench's script that need neither the vision model nor its environment."""

import hashlib
import json

import numpy as np
from PIL import Image

from leanlens.evaluate.scorers.dpg.answer import COLORS, answer, checksum, self_test


def sees_colors(image, question):
    """Knows the colour of the middle of an image."""
    middle = image.getpixel((image.width // 2, image.height // 2))
    seen = COLORS[int(np.argmax([-np.abs(np.subtract(middle, color)).sum() for _, color in COLORS]))][0]
    return "yes" if seen in question else "no"


def test_every_question_is_answered(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (8, 8), (220, 20, 20)).save(path)
    questions = [{"id": "1", "question": "is it red?"}, {"id": "2", "question": "is it blue?"}]
    line = json.dumps({"id": 7, "image": str(path), "truth": {"questions": questions}})
    assert answer(line, sees_colors) == {
        "id": 7, "score": {"answered": 2}, "raw": {"answers": {"1": "yes", "2": "no"}},
    }  # fmt: skip
    path.unlink()
    assert answer(line, sees_colors)["failed"].startswith("FileNotFoundError: ")


def test_the_self_test_holds_for_a_model_that_sees_and_not_for_one_that_always_agrees():
    assert all(case["expected"] == case["found"] for case in self_test(sees_colors))
    assert sum(case["expected"] == case["found"] for case in self_test(lambda image, question: "yes")) == 3


def test_the_checksum_is_that_of_the_whole_file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(3 << 20))
    assert checksum(path) == hashlib.sha256(bytes(3 << 20)).hexdigest()
