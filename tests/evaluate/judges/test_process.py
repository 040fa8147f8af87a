import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from leanlens.evaluate.judges.blind import blind_png
from leanlens.evaluate.judges.process import ProcessJudge
from leanlens.evaluate.judges.self_test import kept_self_test
from leanlens.evaluate.suite import Item
from leanlens.score.protocol import Failed

SCRIPT = Path(__file__).with_name("scorer_script.py")
RED = Image.new("RGB", (8, 6), (200, 30, 20))
DIED = "the process ended with code 7: CUDA error: an illegal access"


@pytest.fixture
def scorer(tmp_path):
    opened = []

    def open_scorer(how="good", *arguments, **options):
        command = [sys.executable, "-S", str(SCRIPT), how, str(tmp_path), *arguments]
        settings = {"startup": 20.0, "timeout": 10.0, "test_timeout": 20.0, "kept": tmp_path / "kept"}
        opened.append(ProcessJudge(command, **{**settings, **options}))
        return opened[-1]

    yield open_scorer
    for judge in opened:
        judge.close()


def times(tmp_path, what):
    path = tmp_path / what
    return path.stat().st_size if path.exists() else 0


def judge(scorer, *prompts):
    return scorer([RED] * len(prompts), [Item(str(at), prompt) for at, prompt in enumerate(prompts)])


def test_a_scorer_judges_images(scorer):
    opened = scorer()
    assert (opened.name, opened.criteria) == ("mine", ("reward", "style"))
    found = opened([RED, RED], [Item("a", "one"), Item("b", "two", truth={"reward": -2})])
    assert [one.score for one in found] == [{"reward": 1.5, "style": None}, {"reward": -2.0, "style": None}]
    assert found[1].raw == {"bytes": len(blind_png(RED)), "image": "1.png"}
    with pytest.raises(ValueError, match="items has 1 entries for 2 images"):
        opened([RED, RED], [Item("a", "one")])


def test_the_identity_has_name_version_and_weights(scorer):
    opened = scorer("good", "2.1", name="HPS")
    assert opened.name == "HPS"
    about = opened.identity()
    assert (about["name"], about["version"], about["weights_sha256"]) == ("mine", "2.1", "0" * 64)
    assert about["command"][2] == "scorer_script.py"
    assert scorer("good", "2.2").identity() != about


def test_the_self_test_is_not_repeated(scorer, tmp_path):
    for _ in range(2):
        judge(scorer(), "a")
    assert times(tmp_path, "self-tests") == 1
    judge(scorer("good", "2"), "a")
    assert times(tmp_path, "self-tests") == 2


def test_another_version_is_tested_again(scorer, tmp_path):
    """The command and its files are the same; the first start is 1.1, the next 1.2."""
    scorer("changes")
    scorer("changes")
    assert times(tmp_path, "self-tests") == 2


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("lies", "1 of 3 cases do not hold: noise"),
        ("no cases", "it has no cases"),
        ("fails", "it says that it did not pass"),
        ("dies in its test", "the process ended with code 3: CUDA out of memory"),
        ("ends badly", "it ended with code 4"),
    ],
)
def test_a_scorer_that_does_not_pass_is_not_believed(scorer, tmp_path, how, reason):
    for _ in range(2):
        with pytest.raises(ValueError, match=f"the scorer mine 1 fails its self-test: {reason}"):
            scorer(how)
    assert times(tmp_path, "self-tests") == 2
    command = [sys.executable, "-S", str(SCRIPT), how, str(tmp_path)]
    assert kept_self_test(command, tmp_path / "kept")["reason"] == reason


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("odd", "it introduces itself as {'name': 'mine'}; expected name, version, weights_sha256, criteria"),
        ("slow to start", "no answer within 0.3 s"),
    ],
)
def test_a_scorer_that_does_not_start(scorer, how, reason):
    with pytest.raises(ValueError, match=r"the scorer .* does not start: ") as raised:
        scorer(how, startup=0.3 if how == "slow to start" else 20.0)
    assert str(raised.value).endswith(reason)
    with pytest.raises(ValueError, match="does not start: cannot start no-such-command"):
        ProcessJudge(["no-such-command"])


def test_errors_are_drained(scorer):
    assert judge(scorer("floods"), "a")[0].score == {"reward": 1.5, "style": None}


def test_a_crash_is_tried_once_more(scorer, tmp_path):
    found = judge(scorer(), "a", "die once", "b")
    assert [one.score["reward"] for one in found] == [1.5, 1.5, 1.5]
    assert times(tmp_path, "deaths") == 2


def test_a_second_crash_fails_the_image_alone(scorer, tmp_path):
    opened = scorer()
    before = times(tmp_path, "starts")
    found = judge(opened, "a", "die", "b", "die", "c")
    assert [one.score["reward"] for one in found] == [1.5, Failed(DIED), 1.5, Failed(DIED), 1.5]
    assert found[1].score["style"] == Failed(DIED)
    assert times(tmp_path, "starts") == before + 1 + 2 * 2


def test_a_scorer_that_never_answers_is_given_up(scorer, tmp_path):
    opened = scorer()
    before = times(tmp_path, "starts")
    found = judge(opened, "die", "a", "b")
    assert {one.score["reward"] for one in found} == {Failed(DIED)}
    assert times(tmp_path, "starts") == before + 2


def test_a_late_answer(scorer):
    found = judge(scorer(timeout=0.4), "sleep")
    assert found[0].score["reward"] == Failed("no answer within 0.4 s")


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("prose", "an answer that is no JSON object: The reward is 3."),
        ("endless", "an answer that is no JSON object: " + "x" * 200),
        ("other id", "an answer to 99 in place of 1"),
        ("decline", "the image is too small"),
        ("no score", "an answer without a score"),
    ],
)
def test_an_answer_that_is_none(scorer, prompt, reason):
    found = judge(scorer(), "a", prompt, "b")
    assert [one.score["reward"] for one in found] == [1.5, Failed(reason), 1.5]


def test_scores_that_are_none(scorer, tmp_path):
    opened = scorer()
    odd, half = judge(opened, "odd score", "half")
    assert odd.score == {
        "reward": Failed("a score that is no number: high"), "style": Failed("a score that is no number: nan"),
    }  # fmt: skip
    assert odd.raw["odd"] == [None]
    assert half.score == {"reward": 1.0, "style": Failed("an answer without a score for style")}


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(pid):
    deadline = time.monotonic() + 10
    while not is_gone(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_gone(pid)


def test_it_is_ended_with_its_children(scorer, tmp_path):
    with scorer("has children") as opened:
        judge(opened, "a")
        own, child = opened._child.process.pid, int((tmp_path / "child").read_text())
        assert not is_gone(child)
    assert wait_until_gone(own)
    assert wait_until_gone(child)
    assert judge(opened, "a")[0].score["reward"] == 1.5


def test_it_ends_with_this_process_however_that_ends(tmp_path):
    code = f"""
import os, sys
from pathlib import Path
from leanlens.evaluate.judges.process import ProcessJudge
judge = ProcessJudge([sys.executable, "-S", {str(SCRIPT)!r}, "good", {str(tmp_path)!r}], kept=Path({str(tmp_path)!r}))
judge([], [])
judge._running()
print(judge._child.process.pid, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
"""
    for how in ("ends", "killed"):
        run = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, env={**os.environ})
        assert wait_until_gone(int(run.stdout)), run.stderr
