"""Writes the metrics of a run: one JSON line for each step and, on request, TensorBoard's event files.

Only the leading process writes. `metrics.jsonl` has exactly one line for each step that is part of the run.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch

from leanlens.files import whole_file
from leanlens.log import logger
from leanlens.train.best_effort import best_effort

# Dense bfloat16 peak of one device, TFLOP/s, by a part of its name; vendors' data sheets.
PEAK_TFLOPS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "B200": 2250.0, "L40S": 362.0, "RTX 4090": 165.0}


class MetricsFile:
    """`metrics.jsonl` of a run.

    Args:
        folder: the run's folder.
        step: lines after this step are dropped; a kill or a restore has undone these steps.
        tensorboard: also write event files into `folder/tensorboard`.

    Raises:
        ValueError: `tensorboard` without that package.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool = False):
        self.path = folder / "metrics.jsonl"
        self.rewind(step)
        self._board = _open_board(folder / "tensorboard", step) if tensorboard else None

    def rewind(self, step: int) -> None:
        """Drop every line after `step`, and a line that a kill cut short; warn if earlier steps are missing."""
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        kept = [line for line in text.splitlines() if (found := _step_of(line)) is not None and found <= step]
        if missing := step - len({_step_of(line) for line in kept}):
            logger.warning("%s lacks %d of the %d steps that the run has done", self.path, missing, step)
        if (wanted := "".join(line + "\n" for line in kept)) != text:
            with whole_file(self.path) as temporary:
                temporary.write_text(wanted, encoding="utf-8")

    def write(self, values: dict[str, Any]) -> None:
        """Append one line; `step` must be among the values. A full disk is a warning, and the line is missing."""
        with best_effort(self.path):
            self._append(json.dumps(values) + "\n")
            if self._board is not None:
                for name, value in values.items():
                    if isinstance(value, int | float) and name != "step":
                        self._board.add_scalar(name, value, values["step"])

    def _append(self, line: str) -> None:
        """Write a whole line or none: half of one would spoil the next."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line)
        except OSError:
            if self.path.is_file():
                os.truncate(self.path, size)
            raise

    def close(self) -> None:
        """Flush the event files."""
        if self._board is not None:
            self._board.close()


def peak_flops(device: torch.device, stated_tflops: float | None) -> float | None:
    """Peak FLOP/s of one device: as stated, or by its name; None if neither is known."""
    if stated_tflops is not None:
        return stated_tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in PEAK_TFLOPS.items() if part in name), None)


def _step_of(line: str) -> int | None:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return None


def _open_board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("metrics.tensorboard needs the package tensorboard; install it or set it to false") from error
    return SummaryWriter(str(folder), purge_step=step + 1)
