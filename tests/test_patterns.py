"""What reads a stranger's text takes time in proportion to its length.

Every regular expression that stands in the package is held against texts made of its own letters, and what APIs do
with names, prompts and headers is held against texts of 100,000 characters. Times are compared with each other, never
with seconds: twice the text must not take four times as long.
"""

import ast
import re
import time
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest

import leanlens
from leanlens.serve.errors import APIError

ROOT = Path(leanlens.__file__).parent
CALLS = {"compile", "match", "search", "fullmatch", "findall", "finditer", "sub", "subn", "split"}
STARTS = ("", "(", "{", "[", "<", "<a:", "(a:", '"', "a:", "a:1", ". ", "1.", "cpu ", "cpu 1")
NOISE = 0.004  # seconds below which nothing is told from the clock's own grain


def _is_pattern(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLS
        and isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
        and bool(node.args) and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    )  # fmt: skip


def _patterns() -> dict[str, tuple[str, set[str]]]:
    """`file:line` -> a regular expression that is written out in the package, and the ways it is asked."""
    found = {}
    sources = {file: file.read_text(encoding="utf-8") for file in sorted(ROOT.rglob("*.py"))}
    for file, source in sources.items():
        tree = ast.parse(source)
        names = {
            id(node.value): node.targets[0].id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in filter(_is_pattern, ast.walk(tree)):
            ways = {node.func.attr}
            if ways == {"compile"}:
                name = names.get(id(node), "?")
                ways = {way for text in sources.values() for way in re.findall(rf"\b{name}\.(\w+)\(", text)}
                ways = ways & CALLS or {"search", "fullmatch"}
            found[f"{file.relative_to(ROOT)}:{node.lineno}"] = (node.args[0].value, ways)
    return found


def _pieces(pattern: str) -> list[str]:
    """Letters that a pattern may know: what stands in it, and one of each class."""
    literal = re.sub(r"\\[a-zA-Z]|\(\?[:=!<P]*", "", pattern)
    return [*dict.fromkeys([*(mark for mark in literal if mark not in "^$|*+?"), "1", "a", " ", ".", "("])][:24]


def _texts(pattern: str, length: int):
    """Texts that come close to matching for as long as they can, and then do not."""
    pieces = _pieces(pattern)
    for piece in pieces:
        yield (piece * length)[:length] + "\n!"
    for start, piece in product(STARTS, (" ", "1", "a", ":", ".")):
        yield start + (piece * length)[:length] + "\n!"


def _slowness(read, short, long) -> float:
    """How many times longer the long text takes; the best of three, 1 where both take next to nothing."""
    for _ in range(3):
        took = []
        for text in (short, long):
            began = time.thread_time()
            read(text)
            took.append(time.thread_time() - began)
        if took[1] < NOISE:
            return 1.0
        ratio = took[1] / max(took[0], NOISE / 8)
        if ratio < 3:
            break
    return ratio


def _ask(pattern: re.Pattern[str], way: str):
    asks = {"match": pattern.match, "fullmatch": pattern.fullmatch, "search": pattern.search}
    return asks.get(way, lambda text: sum(1 for _ in pattern.finditer(text)))


PATTERNS = _patterns()


@pytest.mark.parametrize("place", PATTERNS)
def test_no_pattern_of_the_package_is_quadratic(place):
    text, ways = PATTERNS[place]
    pattern = re.compile(text)
    for short, long in zip(_texts(text, 4000), _texts(text, 8000), strict=True):
        for way in ways:
            assert _slowness(_ask(pattern, way), short, long) < 3, (text, way, short[:40])


@pytest.mark.parametrize(
    ("slow", "way", "unit"),
    [(r"\s*\[[0-9a-f]+\]$", "sub", " "), (r"(\d*\.?\d+)", "fullmatch", "1"), (r"\s*(\w[\w \-/]+):", "findall", "a")],
)
def test_the_scan_sees_a_pattern_that_is_quadratic(slow, way, unit):
    assert unit in _pieces(slow)
    short, long = (unit * length + "\n!" for length in (1500, 3000))
    assert _slowness(_ask(re.compile(slow), way), short, long) >= 3


def _readers():
    """What reads foreign text -> how; each takes the text and gives or refuses something."""
    from leanlens.pipeline.speed import read_cache
    from leanlens.plan.devices import find_device
    from leanlens.score.safety import PromptWords
    from leanlens.serve.infotext import read_parameters
    from leanlens.serve.parameters import parse_size
    from leanlens.serve.prompts import read_prompt
    from leanlens.serve.uploads import from_base64
    from leanlens.web.form import Form, _lora, _lora_names, _seed, _strength, grid_from

    return {
        "infotext": read_parameters,
        "prompt": read_prompt,
        "safety words": PromptWords().find,
        "size": parse_size,
        "cache": read_cache,
        "device": find_device,
        "base64": from_base64,
        "seed": _seed,
        "strength": _strength,
        "LoRA": _lora,
        "LoRAs": _lora_names,
        "grid": lambda text: grid_from(Form(seed="1"), "prompt", text, None, ""),
    }


HOSTILE = {
    "letters": "x\n{}", "spaces": "a{}", "pairs": "x\n{}", "quotes": "x\n{}", "networks": "{}", "weights": "({}",
    "digits": "first-block:{}!", "escapes": "x\nab: \"{}", "names": "{}", "commas": "{}", "colons": "{}",
}  # fmt: skip
UNITS = {
    "letters": "a", "spaces": " ", "pairs": "ab: 1, ", "quotes": 'ab: "\\",', "networks": "<lora:a:", "weights": "a: 1",
    "digits": "1", "escapes": "\\", "names": "a-/ ", "commas": ", ", "colons": ": ",
}  # fmt: skip


@pytest.mark.parametrize("reader", _readers())
def test_readers_of_foreign_text_take_time_in_proportion(reader):
    read = _readers()[reader]

    def tried(text: str) -> None:
        with suppress(ValueError, APIError):
            read(text)

    for name, frame in HOSTILE.items():
        short, long = (frame.format((UNITS[name] * length)[:length]) for length in (50_000, 100_000))
        assert _slowness(tried, short, long) < 3, name
