"""The tables of the page about speed are those of the kept results."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def load():
    spec = importlib.util.spec_from_file_location("make_speed_tables", ROOT / "docs" / "make_speed_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_current():
    module = load()
    assert module.TARGET.read_text(encoding="utf-8") == module.page(), "run `python docs/make_speed_tables.py`"


def test_a_gpu_result_becomes_a_table():
    found = {
        "command": "benchmarks/gpu.sh",
        "machine": {"gpu": "some GPU", "commit": "abc"},
        "ceilings": {"matmul, TFLOP/s": 600.0},
        "loop": {"1024": {"seconds": 1.3, "peak_gb": None}},
    }
    text = load().gpu_table(found)
    assert "| ceilings | matmul, TFLOP/s | 600.0 |" in text
    assert "| loop | 1024 | seconds 1.3 |" in text
