"""The sheet of the released weights is rehearsed with toys, and its result becomes a page of the documentation."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture
def released(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import released

    return released


@pytest.fixture
def pages(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("make_released", ROOT / "docs" / "make_released.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_toy_is_drawn_measured_and_shown(released, pages, tmp_path, monkeypatch):
    (tmp_path / "drawn").mkdir()
    found = released.measure("toy", "toy", tmp_path / "drawn", 2, "64x64", "cpu")
    assert len(found["seconds"]) == len(set(found["pixels"])) == 2  # two prompts, two seeds, two pictures
    assert found["size"] == [64, 64]
    assert found["median_s"] > 0
    assert found["peak_main_gb"] > 0.1
    assert found["peak_device_gb"] is None  # nothing is counted on a processor
    assert found["conditions"]["device"] == "cpu"

    machine = {"cpu": "some processor", "gpu": "RTX 0000", "commit": "abc"}
    result = {"command": "python x", "machine": machine, "prompts": ["a", "b"], "models": {"toy": found}}
    result["models"]["rl"] = {"failed": "out of memory | here"}
    paths = sorted((tmp_path / "drawn").glob("*.png"))
    released.save(result, {"toy": paths, "rl": []}, tmp_path / "out", "rtx-0000")
    assert json.loads((tmp_path / "out" / "released_rtx-0000.json").read_text(encoding="utf-8")) == result
    with Image.open(tmp_path / "out" / "released_rtx-0000.webp") as sheet:
        assert sheet.size == (2 * released.CELL, released.CAPTION + released.CELL)
    assert (tmp_path / "out" / "released_rtx-0000.webp").stat().st_size < released.SHEET_BYTES

    monkeypatch.setattr(pages, "RESULTS", tmp_path / "out")
    text = pages.page(tmp_path / "out")
    assert "There are no results yet" not in text
    assert "## RTX 0000" in text
    assert "| `toy` | 64 × 64 | 4 |" in text
    assert "| `rl` | failed: out of memory   here |" in text
    assert '<img src="images/released_rtx-0000.webp"' in text


def test_the_page_is_current(pages):
    assert pages.TARGET.read_text(encoding="utf-8") == pages.page(), "run `python docs/make_released.py`"


def test_the_page_shows_the_prompts_of_the_sheet(released, pages):
    assert pages.sheet() == list(released.SHEET)
    assert len(released.SHEET) == 12


@pytest.mark.long
def test_a_sheet_of_noise_stays_below_a_megabyte(released, tmp_path):
    """Noise is what compresses worst."""
    paths = []
    for index in range(12):
        paths.append(tmp_path / f"{index:02d}.png")
        Image.effect_noise((256, 256), 90).convert("RGB").save(paths[-1])
    drawn = dict.fromkeys(("turbo", "rl", "base"), paths)
    sheet = released.contact_sheet(drawn)
    assert sheet.size == (6 * released.CELL, 3 * (released.CAPTION + 2 * released.CELL))
    released._save_small(sheet, tmp_path / "sheet.webp")
    assert (tmp_path / "sheet.webp").stat().st_size < 1_000_000


def test_no_path_of_the_sender_is_written_down(released):
    assert released._without_folders("turbo=/home/me/lens.safetensors") == "turbo=lens.safetensors"
    assert released._without_folders("/home/me/out") == "out"
    assert released._without_folders("--num") == "--num"


def test_without_weights_it_says_how_to_get_them(tmp_path):
    environment = {"LEANLENS_MODELS": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": ""}
    words = [sys.executable, str(ROOT / "benchmarks" / "released.py")]
    run = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert run.returncode == 2
    assert "leanlens weights fetch turbo" in run.stderr


@pytest.mark.long
def test_the_whole_command(tmp_path):
    """Each model in its own process; one that fails is noted, and the others are there."""
    words = [sys.executable, str(ROOT / "benchmarks" / "released.py"), "--models", "toy", "rl=/nowhere"]
    words += ["--num", "2", "--size", "64x64", "--out", str(tmp_path), "--name", "here"]
    run = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "released_here.json").read_text(encoding="utf-8"))
    assert found == json.loads(run.stdout)
    assert "nowhere" in found["models"]["rl"]["failed"]
    assert len(found["models"]["toy"]["seconds"]) == 2
    assert (tmp_path / "released_here.webp").is_file()
