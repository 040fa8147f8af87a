"""What the output says about how far a run is."""

import logging
import sys
import time

from leanlens.train import progress
from leanlens.train.progress import ProgressLine


def test_lines_in_a_pipe_say_what_is_left(monkeypatch, caplog):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    line = ProgressLine(100, 40)
    with caplog.at_level(logging.INFO):
        for step in range(41, 61):
            clock[0] += 6
            line.tell(step, f"loss {step}")
    line.close()
    said = [record.message for record in caplog.records]
    assert said[0] == "step 41 of 100: loss 41, 0:05:54 left"  # 59 steps of 6 seconds
    assert [text.split(":")[0] for text in said] == [f"step {step} of 100" for step in (41, 47, 53, 59)]
    assert said[-1].endswith("loss 59, 0:04:06 left")


def test_minutes_end_a_run_sooner(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    line = ProgressLine(1000, 0, minutes=1, silent=True)
    clock[0] = 10.0
    line.tell(1, "")
    assert line.seconds_left() == 50


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    line = ProgressLine(4, 1)
    time.sleep(0.2)  # a bar is not drawn anew more often
    line.tell(2, "loss 0.5")
    line.close()
    said = capsys.readouterr().err
    assert "2/4" in said
    assert "loss 0.5" in said
