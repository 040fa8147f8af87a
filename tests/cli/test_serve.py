"""`leanlens serve`: what it refuses before it listens."""

import pytest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "/nowhere/x"], "model '/nowhere/x' is not a file or folder here"),
        (["--model", "toy", "--device", "tpu"], "device 'tpu' cannot be used here"),
        (["--model", "toy", "--dtype", "int3"], "dtype 'int3' is not accepted"),
        (["--model", "toy", "--batch", "0"], "max_batch 0 is not accepted"),
        (["--model", "toy", "--user", "ann"], "--user 'ann' is not accepted; give NAME:PASSWORD"),
        (["--model", "toy", "--loras", "/nowhere"], "lora_folders /nowhere is not a folder"),
        (["--model", "toy", "--port", "70000"], "65535"),
    ],
)
def test_wrong_words_are_refused_before_it_listens(leanlens, words, said):
    run = leanlens("serve", *words)
    assert run.code == 2
    assert said in run.err
    assert "Traceback" not in run.err
