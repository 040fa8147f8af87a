"""Tests mirror the package: each test file is named after the file it tests, and each file of the package is tested.

A test file is `tests/<room>/test_<file>.py`, or `test_<file>_<aspect>.py` where one file has several.
"""

import ast
from pathlib import Path

import pytest

import leanlens

TESTS = Path(__file__).parent
PACKAGE = Path(leanlens.__file__).parent
# Folders and files that test more than one file of the package.
WHOLE_FOLDERS = {
    "benchmarks", "browser", "contract", "examples", "integrations", "invariants", "parity", "runs",
}  # fmt: skip
WHOLE = {
    "test_api",  # docs/api.md
    "test_architecture",
    "test_docs", "test_docs_log", "test_docs_values", "test_site",  # docs/
    "test_launch",  # Dockerfile, start.bat
    "test_mirror",
    "test_nano",  # the weights in nano/
    "test_patterns",  # every regular expression
}  # fmt: skip
# Files that no test imports, and why none needs to.
THROUGH = {
    "reason": "tests/reason/english.txt and the other prompts go through all of its files",
    "serve": "tests/serve and tests/contract send requests to the whole server",
    "web": "tests/browser and tests/contract use the whole page",
    "batches/numbered": "tests/train/test_autoencoder.py and test_language.py",
    "cli": "tests/cli and tests/contract call the commands by their words",
    "evaluate/judges/child": "tests/evaluate/judges/test_process.py",
    "evaluate/sheet": "tests/evaluate/test_results.py",
    "models/safetensors_only": "tests/pipeline/test_pipeline_diffusers.py",
    "pipeline/folder": "tests/pipeline/test_pipeline.py opens folders",
    "pipeline/opened_model": "tests/pipeline/test_draw.py",
    "pipeline/rewriting": "tests/pipeline/test_pipeline.py sets a reasoner",
    "pipeline/share": "tests/cli/test_generate_share.py",
    "pipeline/template_date": "tests/pipeline/test_tokens.py",
    "scenes/sample": "a script that writes sample.json, which the libraries of the tests are made of",
    "scenes/shapes": "tests/scenes/test_icons.py",
    "score/detection": "tests/score/test_scene.py",
    "train/best_effort": "tests/train/test_loop.py",
    "train/channel_weights": "tests/runs/test_nano_scripts.py",
    "train/frozen_models": "tests/train/test_loop.py opens those of every run",
    "train/parallel": "tests/invariants",
    "train/sample": "tests/train/test_loop.py",
    "train/state": "tests/train/test_checkpoint.py",
}


def modules() -> set[str]:
    """Files of the package as `room/file`, without the `__init__` and `__main__` files."""
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return {path.as_posix() for path in paths if not path.name.startswith("__")}


def files_of_tests() -> list[Path]:
    return sorted(path for path in TESTS.rglob("test_*.py") if path.relative_to(TESTS).parts[0] not in WHOLE_FOLDERS)


def module_of(path: Path) -> set[str]:
    """The file of the package that a test file is named after; none where its name is no file's."""
    place = path.relative_to(TESTS)
    words = place.stem.removeprefix("test_").split("_")
    names = ("/".join([*place.parts[:-1], "_".join(words[:count])]) for count in range(len(words), 0, -1))
    return set(filter(modules().__contains__, names))


def imported() -> set[str]:
    """Files of the package that a test imports or names, as `room/file`."""
    found = set()
    for path in TESTS.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("leanlens."):
                found |= {node.value, node.value.rpartition(".")[0]}  # what monkeypatch.setattr names
    return {name.removeprefix("leanlens.").replace(".", "/") for name in found if name.startswith("leanlens.")}


NAMED = [path for path in files_of_tests() if path.stem not in WHOLE]


@pytest.mark.parametrize("path", NAMED, ids=lambda path: str(path.relative_to(TESTS)))
def test_a_test_file_is_named_after_the_file_it_tests(path):
    assert module_of(path), f"{path.relative_to(TESTS)} is named after no file of the package"


def test_every_file_of_the_package_is_tested():
    tested = {name for path in files_of_tests() for name in module_of(path)} | imported()
    missing = {name for name in modules() - tested if name not in THROUGH and name.split("/")[0] not in THROUGH}
    assert not missing, f"no test is named after {sorted(missing)}, imports it, or is named for it in THROUGH"


def test_exceptions_are_still_needed():
    names = modules()
    assert all(key in names or any(name.startswith(f"{key}/") for name in names) for key in THROUGH)
    assert all((TESTS / f"{name}.py").is_file() for name in WHOLE)
