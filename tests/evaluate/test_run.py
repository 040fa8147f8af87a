import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from leanlens.evaluate.results import write_results
from leanlens.evaluate.run import begin_folder, evaluate, rebuilt
from tests.evaluate.stub import Brightness, Painter, stub_suite


def run(out, *painters, suite=None, **more):
    suite = suite or stub_suite()
    done = evaluate(suite, [lambda painter=painter: painter for painter in painters], out, **more)
    return write_results(done, out)


def test_models_are_opened_one_after_another_and_closed(tmp_path):
    painters = [Painter("a"), Painter("b")]
    results = run(tmp_path / "out", *painters, seed=7)
    assert [painter.closed for painter in painters] == [1, 1]
    assert [painter.drawn for painter in painters] == [8, 8]  # two images of each prompt
    assert list(results["metrics"]) == ["a", "b"]
    assert [image["seed"] for image in results["items"][1]["images"]["b"]] == [8, 1_000_008]
    written = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_file())
    assert {"costs.json", "evaluation.json", "results.json", "sheet.png", "table.md"} <= set(written)


def test_a_model_is_added_to_a_folder(tmp_path):
    run(tmp_path, Painter("a"))
    added = Painter("b")
    results = run(tmp_path, added)
    assert list(results["metrics"]) == ["a", "b"]
    assert results["comparisons"][0]["first"] == "a"
    assert added.drawn == 8
    before = (tmp_path / "results.json").read_bytes()
    for name in "ab":  # one of them again, with nothing new to draw
        run(tmp_path, Painter(name))
        assert (tmp_path / "results.json").read_bytes() == before


def test_another_evaluation_does_not_mix_in(tmp_path):
    run(tmp_path / "out", Painter())
    with pytest.raises(ValueError, match="holds an evaluation with seed 0, not 1; give another folder"):
        run(tmp_path / "out", Painter(), seed=1)
    with pytest.raises(ValueError, match="with num 4, not 5"):
        run(tmp_path / "out", Painter(), suite=stub_suite(5))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="exists already"):
        begin_folder(tmp_path / "mine", stub_suite(), 0, 1)
    with pytest.raises(ValueError, match="invalid seeds 0"):
        run(tmp_path / "other", Painter(), seeds=0)
    with pytest.raises(ValueError, match="two models are named 'painter'"):
        run(tmp_path / "other", Painter(), Painter())


def test_a_shared_folder_of_images_is_drawn_once_and_results_stay_whole(tmp_path):
    first, second = Painter(), Painter()
    one = run(tmp_path / "a", first, images=tmp_path / "shared")
    two = run(tmp_path / "b", second, images=tmp_path / "shared")
    assert (first.drawn, second.drawn) == (8, 0)
    assert one["items"] == two["items"]
    assert (tmp_path / "b" / two["items"][0]["images"]["painter"][0]["file"]).is_file()


def test_a_control_is_judged_with_other_truths(tmp_path):
    suite = stub_suite()
    suite = replace(suite, control=tuple(replace(item, truth={"shift": 1}) for item in suite.items))
    results = run(tmp_path, Painter(), suite=suite)
    assert list(results["models"]) == ["painter", "painter, control"]
    assert results["models"]["painter, control"]["role"] == "control"
    assert [one["name"] for one in results["metrics"]["painter"]] == ["bright", "bright above control", "even"]
    assert results["comparisons"] == []


def test_tables_are_made_again_from_what_is_kept(tmp_path):
    judge = Brightness()
    suite = stub_suite(judge=judge)
    run(tmp_path, Painter(fails={"prompt 3"}), suite=suite)
    before, counted = (tmp_path / "results.json").read_bytes(), judge.judged
    write_results(rebuilt(suite, tmp_path), tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before
    assert judge.judged == counted
    write_results(rebuilt(suite, tmp_path, ["00001"]), tmp_path)
    assert judge.judged == counted + 2
    assert (tmp_path / "results.json").read_bytes() == before
    with pytest.raises(ValueError, match="invalid item '9': expected an id of the evaluation, such as 00000"):
        rebuilt(suite, tmp_path, ["9"])
    with pytest.raises(ValueError, match="holds other prompts"):
        rebuilt(stub_suite(3), tmp_path)
    file = json.loads(before)["items"][0]["images"]["painter"][0]["file"]
    (tmp_path / file).unlink()
    with pytest.raises(ValueError, match="is missing; run the evaluation again"):
        rebuilt(suite, tmp_path)


SCRIPT = """
import sys, time
from pathlib import Path
from leanlens.evaluate.results import write_results
from leanlens.evaluate.run import evaluate
from tests.evaluate.stub import Brightness, Painter, stub_suite

class Slow(Painter):
    def draw(self, item, seed):
        drawn = super().draw(item, seed)
        time.sleep(0.05)
        with open(sys.argv[2], "a") as file:
            file.write(f"{self.name} {item.id} {seed}\\n")
        return drawn

out = Path(sys.argv[1])
suite = stub_suite(6)
write_results(evaluate(suite, [lambda: Slow("a"), lambda: Slow("b")], out), out)
"""


@pytest.mark.long
def test_five_kills_change_no_bit_and_draw_at_most_one_image_a_kill_twice(tmp_path):
    def start(name):
        path = str(tmp_path / f"{name}.log")
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / name), path]
        return subprocess.Popen(command, env=os.environ, start_new_session=True)

    assert start("whole").wait() == 0
    log, kills = tmp_path / "killed.log", 0
    for drawn in (1, 5, 9, 14, 20):
        process = start("killed")
        while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < drawn):
            time.sleep(0.002)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert start("killed").wait() == 0
    assert kills == 5
    assert (tmp_path / "killed" / "results.json").read_bytes() == (tmp_path / "whole" / "results.json").read_bytes()
    lines = log.read_text().splitlines()
    assert len(set(lines)) == 24
    assert len(lines) <= 24 + kills


def test_an_image_that_a_shared_folder_lacks_or_has_whole_is_taken_from_there(tmp_path):
    out, shared, suite = tmp_path / "out", tmp_path / "shared", stub_suite()
    first = run(out, Painter("a", ["prompt 1"]), suite=suite, images=shared)
    assert write_results(rebuilt(suite, out), out) == first  # the failures are in the folder too
    damaged = next((out / "images").glob("*.png"))
    damaged.write_bytes(damaged.read_bytes()[:60])
    assert run(out, Painter("a", ["prompt 1"]), suite=suite, images=shared) == first
    assert write_results(rebuilt(suite, out), out) == first


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"format": 2, "models": 3}', '{"format": 1}'])
def test_damaged_results_are_named(tmp_path, text):
    run(tmp_path, Painter())
    (tmp_path / "results.json").write_text(text)
    for act in (lambda: rebuilt(stub_suite(), tmp_path), lambda: run(tmp_path, Painter("b"))):
        with pytest.raises(ValueError, match=r"results\.json"):
            act()


def test_damaged_costs_are_named(tmp_path):
    run(tmp_path, Painter())
    (tmp_path / "costs.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"costs\.json is damaged"):
        run(tmp_path, Painter())
