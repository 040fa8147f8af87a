"""Judges images with a scorer in a process of its own, which may need another environment than this one.

The process speaks JSON lines. It begins with one line `{"name", "version", "weights_sha256", "criteria": [...]}`; then
it answers each line `{"id", "image": PATH, "prompt", "truth"}` with `{"id", "score": {...}, "raw": ...}` or
`{"id", "failed": REASON}`, until its input ends. All else goes to its standard error.
"""

import math
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from leanlens.evaluate.judges.blind import blind_png
from leanlens.evaluate.judges.child import Child, ChildFailed
from leanlens.evaluate.judges.self_test import kept_self_test, run_self_test
from leanlens.evaluate.suite import Item, Judgement
from leanlens.log import logger
from leanlens.score.protocol import Failed, Score

TRIES = 2  # of an image: once more after a restart
INTRODUCTION = ("name", "version", "weights_sha256", "criteria")
BARREN = 2  # starts in a row without a single answer, after which the process is not started again


class ProcessJudge:
    """A scorer behind a command.

    A process that ends, is late or answers something else is started again, and the image is tried once more; then its
    score is `Failed` with the last line of the errors. After two starts without an answer the images that are left fail
    too.

    Args:
        command: of the scorer, in the form that the module describes.
        name: of the judge; the scorer's own without it.
        startup, timeout: seconds for the first line and for each image.
        test_timeout: seconds for the self-test.
        kept: folder where results of self-tests are kept; `scorers_folder() / "self-tests"` without it.

    Raises:
        ValueError: the process does not start, or does not pass its self-test. The result of that is kept under the
            command, version and weights, and the test is run again when one of these changes.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str | None = None,
        startup: float = 900.0,
        timeout: float = 120.0,
        test_timeout: float = 1800.0,
        kept: Path | None = None,
    ):
        self.command, self.startup, self.timeout = list(command), startup, timeout
        self._child: Child | None = None
        self._introduction: dict[str, Any] | None = None
        self._barren, self._last_reason = 0, ""
        try:
            self._introduction = self._running().introduction
        except ChildFailed as error:
            raise ValueError(f"the scorer {' '.join(command)} does not start: {error}") from None
        self.name: str = name or self._introduction["name"]
        self.criteria: tuple[str, ...] = tuple(self._introduction["criteria"])
        self._require_self_test(test_timeout, kept)

    def identity(self) -> dict[str, Any]:
        """Everything that decides a judgement besides image and item, as JSON values."""
        named = [Path(part).name if Path(part).is_file() else part for part in self.command]
        return {"kind": "process", "command": named, **(self._introduction or {})}

    def __call__(self, images: Sequence[Image.Image], items: Sequence[Item]) -> list[Judgement]:
        """A judgement for each image, which was drawn for the item at its place.

        Raises:
            ValueError: the lists differ in length.
        """
        if len(images) != len(items):
            raise ValueError(f"items has {len(items)} entries for {len(images)} images: expected one per image")
        with tempfile.TemporaryDirectory(prefix="leanlens-") as folder:
            judged = []
            for number, (image, item) in enumerate(zip(images, items, strict=True)):
                path = Path(folder) / f"{number}.png"
                path.write_bytes(blind_png(image))
                judged.append(
                    self._judge({"id": number, "image": str(path), "prompt": item.prompt, "truth": item.truth})
                )
                path.unlink()
        return judged

    def close(self) -> None:
        """End the process. It is started again by the next call."""
        if self._child is not None:
            self._child.close()
        self._child, self._barren = None, 0

    def __enter__(self) -> "ProcessJudge":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _require_self_test(self, timeout: float, kept: Path | None) -> None:
        """Raise a ValueError unless the scorer has passed its self-test, now or before."""
        about = self._introduction or {}
        version, weights = about["version"], about["weights_sha256"]
        before = kept_self_test(self.command, kept)
        known = {"passed": True, "version": version, "weights_sha256": weights}
        if before and all(before.get(key) == value for key, value in known.items()):
            return
        self.close()  # there may be memory for one of both only
        logger.info("%s %s: self-test", self.name, version)
        done = run_self_test(self.command, version, weights, timeout, kept)
        if not done["passed"]:
            raise ValueError(f"the scorer {self.name} {version} fails its self-test: {done['reason']}")

    def _judge(self, request: dict[str, Any]) -> Judgement:
        reason = ""
        for _ in range(TRIES):
            try:
                scorer = self._running()
                scorer.send(request)
                answer = scorer.receive(self.timeout)
                if answer.get("id") != request["id"]:
                    raise ChildFailed(f"an answer to {answer.get('id')!r} in place of {request['id']}")
            except ChildFailed as error:
                reason = str(error)
                self._drop(reason)
                continue
            self._barren = 0
            return self._read(answer)
        return self._failed(reason)

    def _running(self) -> "_Introduced":
        """The process, started where there is none.

        Raises:
            ChildFailed: it does not start, or it was started in vain before.
        """
        if isinstance(self._child, _Introduced):
            return self._child
        if self._barren >= BARREN:
            raise ChildFailed(self._last_reason)
        self._barren += 1
        child = _Introduced(self.command, self.startup)
        if self._introduction not in (None, child.introduction):
            child.close(grace=0.0)
            raise ChildFailed(f"it came back as {child.introduction}")
        self._child = child
        return child

    def _drop(self, reason: str) -> None:
        self._last_reason = reason
        if self._child is not None:
            self._child.close(grace=0.0)
        self._child = None

    def _read(self, answer: dict[str, Any]) -> Judgement:
        """A judgement, from an answer to the right question."""
        if "failed" in answer:
            return self._failed(str(answer["failed"]), _finite(answer.get("raw")))
        given = answer.get("score")
        if not isinstance(given, dict):
            return self._failed("an answer without a score")
        score: Score = {name: _value(given[name]) if name in given else _missing(name) for name in self.criteria}
        return Judgement(score, _finite(answer.get("raw")))

    def _failed(self, reason: str, raw: Any = None) -> Judgement:
        return Judgement(dict.fromkeys(self.criteria, Failed(reason)), raw)


class _Introduced(Child):
    """A process that has said what it is."""

    def __init__(self, command: Sequence[str], startup: float):
        super().__init__(command)
        try:
            self.introduction = _introduction(self.receive(startup))
        except ChildFailed:
            self.close(grace=0.0)
            raise


def _introduction(line: dict[str, Any]) -> dict[str, Any]:
    """What a scorer says of itself.

    Raises:
        ChildFailed: another form.
    """
    names, weights = line.get("criteria"), line.get("weights_sha256")
    is_named = all(isinstance(line.get(key), str) and line[key] for key in ("name", "version"))
    has_criteria = isinstance(names, list) and names and all(isinstance(one, str) and one for one in names)
    has_sum = weights is None or (isinstance(weights, str) and re.fullmatch(r"[0-9a-f]{64}", weights))
    if not (is_named and has_criteria and has_sum) or len(set(names or ())) < len(names or ()):
        raise ChildFailed(
            f"it introduces itself as {str(line)[:200]}; expected name, version, weights_sha256, criteria"
        )
    return {key: line.get(key) for key in ("name", "version", "weights_sha256", "criteria")}


def _value(value: Any) -> float | Failed | None:
    if value is None:
        return None
    if isinstance(value, dict) and isinstance(value.get("failed"), str):
        return Failed(value["failed"])
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return Failed(f"a score that is no number: {str(value)[:60]}")


def _missing(name: str) -> Failed:
    return Failed(f"an answer without a score for {name}")


def _finite(value: Any) -> Any:
    """JSON values with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
