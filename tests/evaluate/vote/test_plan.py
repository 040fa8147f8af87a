import json
from collections import Counter
from itertools import pairwise

import pytest

from leanlens.evaluate.vote.plan import count_missing, plan_of, read_key
from tests.evaluate.vote.folder import write_folder

KEY = bytes(32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("plan") / "out", 30, ("alpha", "beta", "gamma"), 2)


def plan(folder, voter="ann", questions=("prompt",), num=None, key=KEY):
    return plan_of(json.loads((folder / "results.json").read_text()), folder, key, voter, questions, num)


def test_every_pair_comes_up_once_with_repeats_and_gold_pairs(folder):
    tasks = plan(folder)
    kinds = Counter(task.kind for task in tasks)
    assert kinds == {"pair": 180, "repeat": 18, "gold": 9}  # 30 prompts, 3 pairs of models, 2 seeds
    pairs = Counter((t.item, frozenset((t.left.file, t.right.file))) for t in tasks if t.kind == "pair")
    assert set(pairs.values()) == {1}
    assert all(t.left.model != t.right.model and t.left.seed == t.right.seed for t in tasks if t.kind == "pair")
    assert len({task.id for task in tasks}) == len(tasks)
    first = [task.item for task in tasks if task.kind == "pair"][:30]
    assert len(set(first)) == 30  # each prompt before one comes up again


def test_no_prompt_comes_up_twice_in_a_row(folder):
    for voter in ("ann", "bob", "eve"):
        prompts = [task.prompt for task in plan(folder, voter)]
        assert all(one != other for one, other in pairwise(prompts))


def test_a_repeat_is_the_pair_with_sides_swapped_some_time_later(folder):
    tasks = plan(folder)
    place = {(t.left.file, t.right.file): at for at, t in enumerate(tasks) if t.kind == "pair"}
    for at, task in enumerate(tasks):
        if task.kind == "repeat":
            assert at - place[task.right.file, task.left.file] >= 5
    halves = Counter(at > len(tasks) // 2 for at, task in enumerate(tasks) if task.kind == "repeat")
    assert min(halves.values()) >= 6


def test_a_gold_pair_is_an_image_against_one_of_another_prompt_by_the_same_model(folder):
    results = json.loads((folder / "results.json").read_text())
    files = {item["id"]: {row["file"] for rows in item["images"].values() for row in rows} for item in results["items"]}
    golds = [task for task in plan(folder) if task.kind == "gold"]
    for task in golds:
        other = {"left": "right", "right": "left"}[task.answer]
        assert task.picture(task.answer).file in files[task.item]
        assert task.picture(other).file not in files[task.item]
        assert task.left.model == task.right.model
    assert {task.answer for task in golds} == {"left", "right"}
    assert all(not task.answer for task in plan(folder) if task.kind != "gold")


def test_sides_and_order_are_random_but_the_same_every_time(folder):
    tasks = plan(folder)
    assert tasks == plan(folder)
    left = [task.left.model < task.right.model for task in tasks if task.kind == "pair"]
    assert 60 < sum(left) < 120
    other = plan(folder, "bob")
    assert [task.item for task in other] != [task.item for task in tasks]
    assert not {task.id for task in other} & {task.id for task in tasks}
    assert not {task.id for task in plan(folder, key=bytes([1] * 32))} & {task.id for task in tasks}


def test_the_number_of_pairs_is_limited(folder):
    tasks = plan(folder, num=20)
    assert Counter(task.kind for task in tasks) == {"pair": 20, "repeat": 2, "gold": 1}
    assert [task.kind for task in plan(folder, num=2)] == ["pair", "pair"]


def test_questions_are_asked_where_they_apply(tmp_path):
    folder = write_folder(tmp_path / "out", 24, text=True)
    tasks = plan(folder, questions=("looks", "text"))
    asked = Counter((task.kind, task.question) for task in tasks)
    assert asked["pair", "looks"] == 24
    assert asked["pair", "text"] == 12
    assert ("gold", "looks") not in asked
    assert all("OPEN" in task.prompt for task in tasks if task.question == "text")
    pairs = [(t.item, t.left.file, t.question) for t in tasks if t.kind == "pair"]
    at = next(at for at, one in enumerate(pairs) if one[2] == "text")
    assert pairs[at - 1] == (*pairs[at][:2], "looks")  # the same images, one question after the other
    assert all(task.kind != "gold" for task in plan(folder, questions=("looks",)))


def test_what_cannot_be_shown_is_left_out(tmp_path):
    folder = write_folder(tmp_path / "out", 3)
    results = json.loads((folder / "results.json").read_text())
    results["items"][0]["images"]["alpha"][0] = {"seed": 0, "file": None, "failed": "out of memory"}
    (folder / "images" / "beta-1-0.png").unlink()
    results["models"]["reality"] = {"role": "reference"}
    results["items"][2]["images"]["reality"] = results["items"][2]["images"]["alpha"]
    (folder / "results.json").write_text(json.dumps(results))
    assert [task.item for task in plan(folder)] == ["00002"]
    assert count_missing(results, folder) == 2
    results["items"][2]["images"]["beta"] = results["items"][2]["images"]["alpha"]
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match="nothing to vote on"):
        plan(folder)  # one image twice says nothing
    with pytest.raises(ValueError, match="nothing to vote on"):
        plan(folder, questions=("text",))


def test_the_key_is_made_once(tmp_path):
    key = read_key(tmp_path)
    assert len(key) == 32
    assert read_key(tmp_path) == key
    assert (tmp_path / "votes.key").stat().st_mode & 0o077 == 0
    (tmp_path / "votes.key").write_text("secret")
    with pytest.raises(ValueError, match="is not a key of 64 hexadecimal digits"):
        read_key(tmp_path)
