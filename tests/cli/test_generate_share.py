"""`leanlens generate --share`: several processes draw one picture, as one process draws it."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

WORDS = ["generate", "a red ball", "--model", "toy", "--size", "64x64", "--steps", "3", "--device", "cpu"]


def call(*words, processes=1):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launcher, "-m", "leanlens", *words],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--share", "pixels"], "invalid --share 'pixels': expected one of guidance, tensor"),
        (["--share", "guidance"], "--share guidance needs several processes; start them with torchrun"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_opened(leanlens, words, said):
    refused = leanlens(*WORDS, *words)
    assert refused.code == 2
    assert said in refused.err


@pytest.mark.long
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_draw_the_picture_of_one_and_one_of_them_writes_it(tmp_path):
    alone, both = tmp_path / "alone.png", tmp_path / "both.png"
    settings = ["--cfg", "4", "--seed", "7", "--dtype", "float32"]
    assert call(*WORDS, *settings, "-o", str(alone)).returncode == 0
    shared = call(*WORDS, *settings, "--share", "guidance", "-o", str(both), processes=2)
    assert shared.returncode == 0, shared.stderr
    assert shared.stdout.count("both.png") == 1
    assert np.array_equal(np.asarray(Image.open(alone)), np.asarray(Image.open(both)))
