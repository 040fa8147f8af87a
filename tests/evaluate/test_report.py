"""One file that holds a comparison: what it says, what it does not, and how large it is."""

import base64
import hashlib
import json
import re

import pytest

from leanlens.evaluate.report import MOST_BYTES, SCRIPTS, write_report
from tests.evaluate import comparison

HOSTILE = (
    "</script><script>alert(1)</script><!--",
    "quotes \" and ' and {{data}} {{pictures}} \\u003c",
    "\u05e9\u05dc\u05d5\u05dd \u202egnp.exe \u2028 \u2029",
    "long " * 2_000,
)


def written(tmp_path, found, **more) -> str:
    folder = comparison.write(tmp_path / "out", found, **more)
    write_report(folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def block(page: str, name: str):
    (text,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_the_report_holds_everything(tmp_path):
    found = comparison.results(3)
    found["items"][0]["images"]["lens"][0]["reasoned"] = {"original": "a", "prompt": "b", "source": "scenes 1"}
    page = written(tmp_path, found)
    data, pictures = block(page, "data"), block(page, "pictures")
    assert (data["suite"]["title"], data["leanlens"], len(data["items"])) == ("GenEval", "1.0", 3)
    lens, flux = data["models"]
    assert (lens["headline"]["value"], flux["headline"]["low"]) == (0.9, 0.6)
    assert (lens["rewriting"], lens["identity"]) == ("1 of 3 prompts rewritten by scenes 1", {"steps": 20})
    assert lens["costs"] == {
        "seconds": {"median": 1.5, "mean": 1.6, "num": 4}, "peak_bytes": 2 * 10**9, "device": "cpu", "machine": "test",
        "flop": 1e12, "weight_bytes": 10**9,
    }  # fmt: skip
    assert data["judges"][0]["title"] == "first (3, weights abababababab)"
    assert data["comparisons"] == found["comparisons"]
    image = data["items"][1]["images"]["flux"][0]
    assert (image["seed"], image["judgements"]["first"]["raw"]) == (2027, {"seen": ["fox"]})
    assert [one[0] for one in pictures] == [
        f"images/{name}-{index}.png" for index in range(3) for name in comparison.MODELS
    ]
    assert all(base64.b64decode(one[3]).startswith(b"RIFF") and one[1:3] == [32, 32] for one in pictures)
    assert "FLUX.1-dev" in [row["model"] for row in data["published"][0]["rows"]]


def test_what_is_written_by_others_cannot_act(tmp_path):
    found = comparison.results(4, prompts=HOSTILE)
    found["suite"]["title"] = "<b>x</b></title>"
    found["items"][0]["images"]["lens"][0]["judgements"]["first"]["raw"] = HOSTILE[0]
    page = written(tmp_path, found)
    data = block(page, "data")
    assert tuple(item["prompt"] for item in data["items"]) == HOSTILE
    assert data["items"][0]["images"]["lens"][0]["judgements"]["first"]["raw"] == HOSTILE[0]
    assert page.count("</script>") == 3
    assert "<!--" not in page
    assert "<b>x" not in page
    assert len(block(page, "pictures")) == 8


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    page = written(tmp_path, comparison.results(2))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    for name, tag in (("script-src", "script"), ("style-src", "style")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        checksum = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
        assert rules[name] == f"'sha256-{checksum}'"
    assert "://" not in page
    assert not re.search(r'(?:src|href)="(?!data:,")', page)
    assert "url(" not in page
    assert "innerHTML" not in page
    assert len(SCRIPTS) == 7


def test_above_five_percent_failed_no_score_is_in_the_file(tmp_path):
    found = comparison.fail(comparison.results(20), "flux", 4)  # of 60
    found["metrics"]["flux"][0]["value"] = 0.654321
    data = block(page := written(tmp_path, found), "data")
    flux = data["models"][1]
    assert (flux["incomplete"], flux["headline"], flux["metrics"], flux["categories"]) == (True, None, [], {})
    assert flux["failed"] == "4 of 60 judgements failed (4 x timeout)"
    assert data["comparisons"] == []
    assert "0.654321" not in page
    assert data["models"][0]["headline"]["value"] == 0.9


def test_up_to_five_percent_failed_there_is_a_score(tmp_path):
    data = block(written(tmp_path, comparison.fail(comparison.results(20), "flux", 3)), "data")
    assert data["models"][1]["headline"]["value"] == 0.65
    assert data["models"][1]["failed"] == "3 of 60 judgements failed (3 x timeout)"


def test_pairs_have_a_number_unless_too_many_failed(tmp_path):
    found = comparison.results(2)
    pair = {"judge": "a", "first": "lens", "second": "flux", "wins_of_second": 0.2, "low": 0.1, "high": 0.3, "num": 19}
    found |= {"pairs": [{**pair, "flips": 0.1, "failed": failed} for failed in (1, 2)], "agreements": []}
    found["items"][0]["pairs"] = [{"judge": "a", "first": "lens", "second": "flux", "result": 1.0, "raw": "a" * 50_000}]
    data = block(written(tmp_path, found), "data")
    assert [(one["incomplete"], one["wins_of_second"]) for one in data["pairs"]] == [(False, 0.2), (True, None)]
    assert data["items"][0]["pairs"][0]["raw"].endswith("more characters are in results.json")


def test_missing_images_costs_and_parts_are_no_error(tmp_path):
    found = comparison.results(2)
    found["items"][0]["images"]["lens"][0] |= {"file": None, "failed": "out of memory", "judgements": {}}
    del found["categories"], found["comparisons"]
    found["suite"]["name"] = "mine"
    folder = comparison.write(tmp_path / "out", found, costs=False)
    (folder / "images" / "flux-1.png").unlink()
    write_report(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert {one[0]: bool(one[3]) for one in block(page, "pictures")} == {
        "images/flux-0.png": True, "images/lens-1.png": True, "images/flux-1.png": False,
    }  # fmt: skip
    assert block(page, "data")["published"] == []
    assert block(page, "data")["items"][0]["images"]["lens"][0]["failed"] == "out of memory"


def test_long_raw_judgements_are_shortened(tmp_path):
    found = comparison.results(2)
    found["items"][0]["images"]["lens"][0]["judgements"]["first"]["raw"] = {"text": "a" * 50_000}
    raw = block(written(tmp_path, found), "data")["items"][0]["images"]["lens"][0]["judgements"]["first"]["raw"]
    assert raw.startswith('{"text": "aaa')
    assert raw.endswith("more characters are in results.json")
    assert len(raw) < 21_000


def test_it_is_the_same_again(tmp_path):
    folder = comparison.write(tmp_path / "out", comparison.results(2))
    write_report(folder)
    first = (folder / "report.html").read_bytes()
    write_report(folder)
    assert (folder / "report.html").read_bytes() == first
    with pytest.raises(ValueError, match="expected one that `leanlens evaluate` wrote"):
        write_report(tmp_path)


def test_noise_keeps_within_the_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("leanlens.evaluate.report.LEAST_FOR_IMAGES", 0)
    folder = comparison.write(tmp_path / "out", comparison.results(2), 192, noise=True)
    write_report(folder, 140_000)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 110_000 < len(page.encode("utf-8")) <= 140_000
    assert all(one[3] for one in block(page, "pictures"))


@pytest.mark.long
def test_three_models_and_200_prompts_of_noise_take_at_most_25_megabytes(tmp_path):
    found = comparison.results(200, ("a", "b", "c"), tuple("word " * 200 for _ in range(200)))
    for item in found["items"]:
        for (image,) in item["images"].values():
            image["judgements"]["first"]["raw"] = {"boxes": [[0.123456, 0.2, 0.3, 0.4]] * 400}
    folder = comparison.write(tmp_path / "out", found, 256, noise=True)
    write_report(folder)
    size = (folder / "report.html").stat().st_size
    assert 0.7 * MOST_BYTES < size <= MOST_BYTES
    assert all(one[3] for one in block((folder / "report.html").read_text(encoding="utf-8"), "pictures"))
