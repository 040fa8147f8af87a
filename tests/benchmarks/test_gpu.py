"""The GPU benchmark is rehearsed on a processor: every section at toy size, within its time, whole after each."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gpu():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import gpu

        yield gpu
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture
def bench(gpu, tmp_path):
    from gpu_scale import TINY

    return gpu.Bench(TINY, 600, tmp_path / "found.json")


def test_ceilings_and_floors(gpu, bench):
    assert gpu.floor_seconds(bench, bench.scale.draws[0]) is None  # nothing is measured yet
    gpu.run_sections(bench, ["ceilings", "encoding"])
    found = json.loads(bench.target.read_text())
    assert {name.split(" ")[0] for name in found["ceilings"]} == {"matmul", "fp8", "attention", "copy,"}
    assert "failed" not in found
    assert found["machine"]["commit"] != ""
    guided, plain = bench.scale.draws[:2]
    assert gpu.floor_seconds(bench, guided) > gpu.floor_seconds(bench, plain) > 0


def test_a_section_that_fails_does_not_stop_the_others(gpu, bench, monkeypatch):
    def broken(bench):
        raise RuntimeError("no luck")

    monkeypatch.setitem(gpu.SECTIONS, "draws", (broken, 0))
    gpu.run_sections(bench, ["draws", "encoding"])
    assert bench.found["failed"] == {"draws": "RuntimeError: no luck"}
    assert bench.found["encoding"]


def test_nothing_begins_that_has_no_time_left(gpu, bench):
    bench.ends = time.monotonic() + 5
    gpu.run_sections(bench, ["training"])
    assert bench.found["skipped"] == {"training": "no time was left"}


def test_full_size_is_the_released_model(gpu):
    from gpu_scale import FULL

    from leanlens.models.transformer import LensTransformer2DModel

    with torch.device("meta"):
        model = LensTransformer2DModel(**FULL.transformer)
    assert sum(weight.numel() for weight in model.parameters()) == 4_104_225_152
    assert sum(needed for _, needed in gpu.SECTIONS.values()) < 540


def test_without_a_gpu_the_full_size_is_refused():
    environment = {**os.environ, "PYTHON": sys.executable, "SCALE": "full", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run([ROOT / "benchmarks" / "gpu.sh"], env=environment, capture_output=True, text=True)
    assert run.returncode == 2
    assert "SCALE=tiny rehearses" in run.stderr


@pytest.mark.long
def test_the_whole_rehearsal(tmp_path):
    target = tmp_path / "found.json"
    environment = {**os.environ, "PYTHON": sys.executable, "SCALE": "tiny"}
    words = [ROOT / "benchmarks" / "gpu.sh", "--seconds", "3000", "--output", target]
    subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    found = json.loads(target.read_text())
    assert "failed" not in found
    assert "skipped" not in found
    assert set(found["took_s"]) == {
        "ceilings", "draws", "decoding", "encoding", "training", "tuning", "fp8", "graphs",
    }  # fmt: skip
    assert len([title for title in found["loop"] if title.endswith("compiled")]) == 4
    assert all(0 < case["relative_error_to_float32"] < 0.1 for case in found["decoding"].values())
