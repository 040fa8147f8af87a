"""Has a scorer prove itself on constructed images before any score is believed, and keeps the result."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leanlens.evaluate.judges.child import Child, ChildFailed
from leanlens.files import sha256
from leanlens.store import Store, content_key

MOST_HASHED = 16 * 2**20  # bytes of a file of the command; larger ones are weights, which have a checksum of their own


def scorers_folder() -> Path:
    """Where installed scorers and the results of self-tests are kept: `~/.cache/leanlens/scorers`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leanlens" / "scorers"


def kept_self_test(command: Sequence[str], folder: Path | None = None) -> dict[str, Any] | None:
    """The result of the last self-test of a command whose files are unchanged, or None.

    Returns:
        `passed`, `reason` (why not), `cases`, and `version` and `weights_sha256` of the scorer that was tested.
    """
    kept = _store(folder).load_json(_key(command))
    return kept if isinstance(kept, dict) else None


def run_self_test(
    command: Sequence[str], version: str, weights: str | None, timeout: float, folder: Path | None = None
) -> dict[str, Any]:
    """Run `COMMAND --self-test` and keep what came of it, in the form of `kept_self_test`.

    The answer is `{"passed": bool, "cases": [...]}` on one line. A case is `{"case": TEXT, "better": number, "worse":
    number}`, where the first must be larger, or `{"case": TEXT, "expected": value, "found": value}`, where both must be
    equal. The numbers count, not what the scorer says of them: a test that says it passed with a case that did not, or
    without cases, has failed.
    """
    reason, cases = _run([*command, "--self-test"], timeout)
    done = {"passed": not reason, "reason": reason, "cases": cases, "version": version, "weights_sha256": weights}
    _store(folder).save_json(_key(command), done)
    return done


def _store(folder: Path | None) -> Store:
    return Store(folder or scorers_folder() / "self-tests")


def _key(command: Sequence[str]) -> str:
    files = {one: sha256(one) for one in command if Path(one).is_file() and Path(one).stat().st_size < MOST_HASHED}
    return content_key(kind="self-test", command=list(command), files=files)


def _run(command: Sequence[str], timeout: float) -> tuple[str, list[Any]]:
    """Why a self-test failed, "" where it passed; and its cases."""
    try:
        child = Child(command)
    except ChildFailed as error:
        return str(error), []
    try:
        answer = child.receive(timeout)
        code = child.wait(timeout)
    except ChildFailed as error:
        return str(error), []
    finally:
        child.close(grace=0.0)
    cases = answer.get("cases")
    if not isinstance(cases, list) or not cases:
        return "it has no cases", []
    broken = [
        str(case.get("case", case)) if isinstance(case, dict) else str(case) for case in cases if not _holds(case)
    ]
    if broken:
        return f"{len(broken)} of {len(cases)} cases do not hold: {str(broken[0])[:100]}", cases
    if answer.get("passed") is not True:
        return "it says that it did not pass", cases
    return ("" if code == 0 else f"it ended with code {code}"), cases


def _holds(case: Any) -> bool:
    if not isinstance(case, dict):
        return False
    if {"better", "worse"} <= set(case):
        return all(_is_number(case[name]) for name in ("better", "worse")) and case["better"] > case["worse"]
    return "expected" in case and "found" in case and bool(case["expected"] == case["found"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
