"""An image model and judges that need no weights."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from leanlens.evaluate.metric import mean_metric
from leanlens.evaluate.suite import Drawn, ImageFailed, Item, Judgement, Suite
from leanlens.score.protocol import Failed


class Painter:
    """Paints a colour that depends on prompt, seed and name."""

    def __init__(self, name: str = "painter", fails: Sequence[str] = ()):
        self.name, self.fails, self.drawn, self.closed = name, set(fails), 0, 0

    def identity(self) -> dict[str, Any]:
        return {"kind": "painter", "name": self.name}

    def draw(self, item: Item, seed: int) -> Drawn:
        if item.prompt in self.fails:
            raise ImageFailed("the prompt was refused")
        self.drawn += 1
        color = hashlib.sha256(f"{self.name} {item.prompt} {seed}".encode()).digest()[:3]
        pixels = np.random.default_rng(list(color)).integers(0, 256, (*(item.size or (8, 8)), 3), np.uint8)
        return Drawn(Image.fromarray(pixels), 0.25)

    def costs(self) -> dict[str, Any]:
        return {"flop": 1000, "weight_bytes": 10, "peak_bytes": 5}

    def close(self) -> None:
        self.closed += 1


class Brightness:
    """Says whether an image is bright, and whether its prompt is even; fails where it is told to."""

    name, criteria = "brightness", ("bright", "even")

    def __init__(self) -> None:
        self.fails: set[str] = set()
        self.judged = 0

    def identity(self) -> dict[str, Any]:
        return {"version": 1}

    def __call__(self, images: Sequence[Image.Image], items: Sequence[Item]) -> list[Judgement]:
        return [self._judge(image, item) for image, item in zip(images, items, strict=True)]

    def _judge(self, image: Image.Image, item: Item) -> Judgement:
        self.judged += 1
        if item.id in self.fails:
            return Judgement({"bright": Failed("no answer"), "even": None})
        mean = float(np.asarray(image).mean())
        even = float(int(item.id) % 2 == 0) if "shift" not in item.truth else 0.0
        return Judgement({"bright": float(mean > 127.5), "even": even}, {"mean": round(mean, 3)})


def stub_suite(num: int = 4, judge: Brightness | None = None, **more: Any) -> Suite:
    """A suite of `num` prompts in two categories."""
    items = tuple(Item(f"{index:05d}", f"prompt {index}", ("ab"[index % 2],), {}, (8, 8)) for index in range(num))

    def metrics(items: Sequence[Item], judged: Sequence[dict[str, list[Judgement]]]) -> list[Any]:
        rows = [row["brightness"] for row in judged]
        return [mean_metric(name, [[one.score[name] for one in row] for row in rows]) for name in ("bright", "even")]

    return Suite("stub", "Stub", items, 2, (judge or Brightness(),), metrics, **more)
