"""What is read from a comparison's folder, and what of it is held back."""

import json

import pytest

from leanlens.evaluate.results_file import (
    describe_failed,
    describe_judge,
    describe_rewriting,
    headline,
    image_files,
    is_incomplete,
    read_costs,
    read_results,
)
from tests.evaluate import comparison


def test_results_and_costs_are_read(tmp_path):
    folder = comparison.write(tmp_path / "out", comparison.results(2))
    found = read_results(folder)
    assert image_files(found) == ["images/lens-0.png", "images/flux-0.png", "images/lens-1.png", "images/flux-1.png"]
    assert read_costs(folder)["lens"]["peak_bytes"] == 2 * 10**9
    (folder / "costs.json").unlink()
    assert read_costs(folder) == {}


def test_parts_that_may_be_missing_are_empty(tmp_path):
    found = comparison.results(1)
    for part in ("rates", "categories", "comparisons", "failures"):
        del found[part]
    read = read_results(comparison.write(tmp_path / "out", found))
    assert (read["comparisons"], read["failures"], is_incomplete(read, "lens")) == ([], {}, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "invalid format 1 of .*: expected 2"),
        ({"items": None}, "lacks items"),
        ({"file": "../../etc/passwd"}, "invalid image '../../etc/passwd'"),
        ({"file": "/etc/passwd"}, "expected a path inside the folder"),
    ],
)
def test_wrong_results_are_errors(tmp_path, change, message):
    found = comparison.results(1)
    if "file" in change:
        found["items"][0]["images"]["lens"][0]["file"] = change["file"]
    else:
        found |= change
    found = {key: value for key, value in found.items() if value is not None}
    (tmp_path / "results.json").write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path)


def test_another_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="expected one that `leanlens evaluate` wrote"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="invalid format 'list'"):
        read_results(tmp_path)


def test_above_five_percent_failed_there_is_no_headline():
    found = comparison.results(20)
    assert headline(comparison.fail(found, "lens", 3), "lens")["value"] == 0.9
    assert describe_failed(found, "lens") == "3 of 60 judgements failed (3 x timeout)"
    comparison.fail(found, "lens", 4)
    assert (headline(found, "lens"), is_incomplete(found, "lens")) == (None, True)
    found["failures"]["lens"]["incomplete"] = False  # counted again, not believed
    assert headline(found, "lens") is None
    assert (headline(found, "flux")["value"], describe_failed(found, "flux")) == (0.65, "")


def test_rewriting_is_disclosed():
    found = comparison.results(3)
    assert describe_rewriting(found, "lens") == "prompts drawn as written"
    for index, changed in enumerate((True, True, False)):
        record = {"original": "a", "prompt": "a red a" if changed else "a", "source": "scenes 1"}
        found["items"][index]["images"]["lens"][0]["reasoned"] = record
    assert describe_rewriting(found, "lens") == "2 of 3 prompts rewritten by scenes 1"


def test_a_judge_is_named_with_its_version():
    assert describe_judge("scene", {"identity": {}}) == "scene"
    identity = {"model": "Qwen3-VL", "version": 2, "weights_sha256": "0123456789abcdef"}
    assert describe_judge("vqa", {"identity": identity}) == "vqa (Qwen3-VL, 2, weights 0123456789ab)"
