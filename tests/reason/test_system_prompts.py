"""The system prompts of the package, and those of users."""

import hashlib
import re

import pytest

from leanlens.reason.system_prompts import prompt_names, read_system_prompt

RULES = 7
EXAMPLE = re.compile(r"^Input: (.+)\nOutput: (.+)$", re.MULTILINE)


def test_the_packages_prompts():
    assert prompt_names() == ["lens", "geneval", "text"]
    assert [read_system_prompt(name).benchmark for name in prompt_names()] == ["", "GenEval", "LongText and CVTG"]
    for name in prompt_names():
        prompt = read_system_prompt(name)
        assert [int(number) for number in re.findall(r"^(\d)\. ", prompt.text, re.MULTILINE)] == [*range(1, RULES + 1)]
        assert len(EXAMPLE.findall(prompt.text)) >= 2
        assert not prompt.text.startswith("#")


def test_only_the_prompts_for_benchmarks_are_labelled_as_such():
    assert re.fullmatch(r"lens sha256:[0-9a-f]{12}", read_system_prompt().label)
    label = read_system_prompt("geneval").label
    assert re.fullmatch(r"geneval \(for the benchmark GenEval\) sha256:[0-9a-f]{12}", label)


def test_a_users_file(tmp_path):
    path = tmp_path / "mine.txt"
    content = "\ufeff# benchmark: My set\r\n\r\nWrite a caption.\r\nBe brief.\r\n".encode()
    path.write_bytes(content)
    prompt = read_system_prompt(path)
    assert (prompt.name, prompt.benchmark) == ("mine", "My set")
    assert prompt.text == "Write a caption.\nBe brief."
    assert prompt.sha256 == hashlib.sha256(content).hexdigest()


def test_a_heading_is_a_part_of_the_prompt(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("# Captions\nWrite one.", encoding="utf-8")
    assert read_system_prompt(path).text == "# Captions\nWrite one."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected lens, geneval, text or a text file"),
        (b" \n", "the file has no words"),
        (b"# benchmark: X\n\n", "the file has no words"),
        (b"\xff\xfe\x00", "a text file in UTF-8"),
        (b"a" * 100_001, "at most 100,000 bytes"),
    ],
)
def test_what_is_no_prompt(tmp_path, content, message):
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_system_prompt(path)
