"""Prompts as people type them, and what they mean."""

from pathlib import Path

import pytest

from leanlens.reason.parse import parse
from leanlens.reason.words import tag, words_of
from tests.reason.notation import notation

LINES = (Path(__file__).parent / "english.txt").read_text(encoding="utf-8").splitlines()
PAIRS = [(prompt, meaning.strip()) for prompt, meaning in zip(LINES[::2], LINES[1::2], strict=True)]


@pytest.mark.parametrize(("prompt", "meaning"), PAIRS, ids=[prompt[:40] for prompt, _ in PAIRS])
def test_what_a_prompt_means(prompt, meaning):
    words = words_of("en")
    assert notation(parse(tag(prompt, words), words)) == meaning
