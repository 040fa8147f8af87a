"""Published numbers: every one with its source, its date and its settings."""

import datetime
from collections import Counter

import pytest

from leanlens.evaluate.published import NUMBERS, published_numbers, render_published

LENS_PAPER = datetime.date(2026, 5, 20)


def test_the_file_is_sound():
    numbers = published_numbers()
    assert {"geneval", "oneig", "longtext", "cvtg", "wise"} <= {one.suite for one in numbers}
    models = {
        "Lens",
        "Lens-Turbo",
        "FLUX.1-dev",
        "FLUX.2-klein 9B",
        "SD3.5-L",
        "Z-Image",
        "Z-Image-Turbo",
        "Qwen-Image",
    }
    assert models <= {one.model for one in numbers}
    assert all(0 <= one.value <= 1 for one in numbers if one.unit == "share")
    assert all(0 < one.value < 100 for one in numbers if one.unit != "share")
    assert all(datetime.date(2023, 1, 1) < one.date < datetime.date(2027, 1, 1) for one in numbers)
    assert all("arXiv" in one.source or "@" in one.source or "model card" in one.source for one in numbers)
    assert all(one.rewriting and one.resolution and one.steps and one.judge for one in numbers)
    assert max(Counter((one.suite, one.metric, one.model) for one in numbers).values()) == 1


def test_known_numbers_of_the_papers():
    found = {(one.suite, one.metric, one.model): one.value for one in published_numbers()}
    assert found["geneval", "overall", "FLUX.1-dev"] == 0.660
    assert found["geneval", "position", "SD3.5-L"] == 0.340
    assert found["cvtg", "5 regions", "Lens-Turbo"] == 0.878
    assert found["oneig", "diversity", "Qwen-Image"] == 0.197
    assert found["wise", "overall", "FLUX.2-dev"] == 0.565
    assert ("geneval", "overall", "BAGEL") not in found  # the paper has none


def test_official_overalls_follow_from_their_parts():
    """GenEval's overall is the mean of its six tags; the papers round each of them."""
    rows = [one for one in published_numbers("geneval") if one.metric != "overall"]
    overall = {one.model: one.value for one in published_numbers("geneval") if one.metric == "overall"}
    for model in {one.model for one in rows}:
        parts = [one.value for one in rows if one.model == model]
        assert sum(parts) / 6 == pytest.approx(overall[model], abs=0.011), model


def test_lens_carries_the_note_on_its_rewriting():
    (lens,) = (one for one in published_numbers("geneval") if (one.model, one.metric) == ("Lens", "overall"))
    assert lens.value == 0.930
    assert all(word in lens.rewriting for word in ("GPT-5.5", "benchmark's metadata", "without rewriting .843"))
    (plain,) = (one for one in published_numbers("geneval") if one.model == "Lens, as written")
    assert (plain.value, plain.rewriting, plain.date) == (0.843, "none", LENS_PAPER)


def test_they_are_printed_apart():
    text = render_published(published_numbers("wise"))
    assert text.startswith("WISE (verified prompts), as published: PKU-YuanGroup/WISE@114dd3d")
    assert "(read 2026-11-29). Resolution: not stated. Judge: Qwen3.5" in text
    assert "| FLUX.1-dev | 0.416 | 0.522 |" in text or "| FLUX.1-dev | 0.416 | 0.523 |" in text
    assert text.endswith("Do not compare them with measured ones.\n")


def test_an_unknown_suite_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"no numbers of suite 'x' are kept; expected one of geneval, .*wise"):
        published_numbers("x")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.930, 0.994", "1.930, 0.994", "Lens has a share outside 0 to 1"),
        ("0.930, 0.994", "0.994", "Lens has 6 values for 7 metrics"),
        ('"Lens, Qwen3-4B" = [0.871]', '"Lens" = [0.871]', "has no row for 'Lens, Qwen3-4B'"),
        ('source = "mjhq"', 'source = "web"', "names source 'web', which is not listed"),
        ("read = 2026-11-23", "", "needs one date"),
        ('unit = "s"', 'unit = "hours"', r"tables\.\d+\.unit"),
        ('where = "text"', 'were = "text"', r"tables\.\d+"),
        ('suite = "oneig_zh"', 'suite = "oneig"', r"has oneig overall \S+ twice"),
    ],
)
def test_mistakes_in_the_file_are_errors(tmp_path, old, new, message):
    text = NUMBERS.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "published.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        published_numbers(path=tmp_path / "published.toml")
