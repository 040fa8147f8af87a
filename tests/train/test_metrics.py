"""Metrics: one line for each step that counts."""

import resource
import sys

import pytest
import torch

from leanlens.train.metrics import MetricsFile, peak_flops


def test_lines_after_the_step_and_cut_lines_go(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    file = MetricsFile(tmp_path, 2)
    file.write({"step": 3, "loss": 0.5})
    file.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": 0.5}\n'


def test_a_last_line_without_its_end_is_not_written_onto(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}')
    MetricsFile(tmp_path, 5).write({"step": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_tensorboard_is_optional_and_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"metrics.tensorboard needs the package tensorboard"):
        MetricsFile(tmp_path, 0, tensorboard=True)


def test_peak_is_stated_or_known_or_nothing():
    cpu = torch.device("cpu")
    assert peak_flops(cpu, 2.0) == 2e12
    assert peak_flops(cpu, None) is None


def test_tensorboard_files_are_written(tmp_path):
    pytest.importorskip("tensorboard")
    metrics = MetricsFile(tmp_path, 0, tensorboard=True)
    metrics.write({"step": 1, "loss": 0.5})
    metrics.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_half_a_line_is_taken_back(tmp_path, caplog):
    metrics = MetricsFile(tmp_path, 0)
    metrics.write({"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        metrics.write({"step": 2, "loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    metrics.write({"step": 3})
    assert metrics.path.read_text() == '{"step": 1}\n{"step": 3}\n'
    assert "could not be written" in caplog.text


def test_a_missing_step_is_said(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    MetricsFile(tmp_path, 2)
    assert "lacks 1 of the 2 steps" in caplog.text
