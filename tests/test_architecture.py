"""The house keeps its order: levels, no cycles, nothing at import, exported names, every module says what it is."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import leanlens

PACKAGE = Path(leanlens.__file__).parent

# A room imports only rooms with a smaller number, or files inside itself. A file in the root is a room of its own.
LEVELS = {
    "": 0, "nano": 0,
    "flow": 1, "plan": 1, "pictures": 1,
    "models": 2, "scenes": 2,
    "weights": 3, "score": 3,
    "pipeline": 4, "curate": 4,
    "batches": 5, "reason": 5,
    "train": 6,
    "rl": 7, "distill": 7, "evaluate": 7,
    "serve": 8, "lab": 8,
    "web": 9,
    "cli": 10,
}  # fmt: skip
HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "PIL", "pydantic", "huggingface_hub")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """leanlens.pipeline.tokens -> pipeline; leanlens.files -> the root."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else ""


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Modules of leanlens that a file imports, inside functions too; what is for type checkers alone is left out."""
    found = set()
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                is_module = (PACKAGE.parent / inner.replace(".", "/")).with_suffix(".py").exists()
                found.add(inner if is_module else node.module)
    return {name for name in found if name.split(".")[0] == "leanlens"}


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The whole tree but for `TYPE_CHECKING` blocks."""
    yield node
    skipped = node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else []
    for child in ast.iter_child_nodes(node):
        if child not in skipped:
            yield from _nodes(child)


def test_every_room_has_a_level_and_imports_only_lower_ones():
    wrong = []
    for path in modules():
        if path == PACKAGE / "__init__.py" or path == PACKAGE / "__main__.py":
            continue  # the public names, and the command
        own = room(dotted(path))
        for name in imports(path):
            other = room(name)
            if name == "leanlens" or other == own:
                continue
            if LEVELS[other] >= LEVELS[own]:
                wrong.append(f"{dotted(path)} ({own} {LEVELS[own]}) imports {name} ({LEVELS[other]})")
    assert not wrong


def test_the_table_of_rooms_is_that_of_the_code():
    """Of CONTRIBUTING.md: every room that exists, once, at its level, the lowest first."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [(int(level), cell) for level, cell in re.findall(r"^\| (\d+) \| ([^|]+) \|", text, re.MULTILINE)]
    told = [(name, level) for level, cell in rows for name in re.findall(r"`(\w+)/`", cell)]
    told += [("", level) for level, cell in rows if cell == "files in the root"]
    rooms = {room(dotted(path)) for path in modules()} | {"nano"}
    assert sorted(told) == sorted((name, LEVELS[name]) for name in rooms)
    assert [level for level, _ in rows] == sorted(level for level, _ in rows)


def test_no_import_cycles_between_files():
    graph = {dotted(path): imports(path) for path in modules()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module in done:
            return
        for other in graph.get(module, ()):
            if other != "leanlens":
                visit(other, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_no_api_of_the_server_imports_another():
    """What two of them need is below both."""

    def api(module: str) -> str | None:
        name = module.removeprefix("leanlens.serve.").partition("_")[0]
        return name if name in ("openai", "sdapi", "mcp") else None

    wrong = [
        f"{dotted(path)} imports {name}"
        for path in (PACKAGE / "serve").glob("*.py")
        for name in imports(path)
        if api(dotted(path)) and api(name) not in (None, api(dotted(path)))
    ]
    assert not wrong


def test_every_module_says_what_it_is():
    silent = [dotted(path) for path in modules() if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert not silent


@pytest.mark.parametrize("phrase", ["Comes in:", "Goes out:", "Knows nothing"])
def test_a_module_docstring_is_plain_english(phrase):
    docstrings = {dotted(path): ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in modules()}
    assert not [name for name, docstring in docstrings.items() if phrase in (docstring or "")]


def test_every_public_function_and_class_says_what_it_does():
    silent = []
    for path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node) and dotted(path) != "leanlens":
                silent.append(f"{dotted(path)}.{node.name}")
    assert not silent


def test_no_room_or_file_with_a_name_that_says_nothing():
    empty = {"utils", "common", "helpers", "core", "base", "misc", "manager"}
    assert not [path for path in modules() if {path.stem, path.parent.name} & empty]


def test_the_loop_knows_no_distributed_in_models():
    assert not [path for path in (PACKAGE / "models").glob("*.py") if "torch.distributed" in path.read_text()]


def test_exported_names():
    assert sorted(leanlens.__all__) == leanlens.__all__
    assert {
        "LensPipeline",
        "LensImg2ImgPipeline",
        "LensInpaintPipeline",
        "LensTransformer2DModel",
        "LensGptOssEncoder",
        "LoadOptions",
        "find_machine",
        "plan_image",
    } < set(leanlens.__all__)
    for name in leanlens.__all__:
        assert getattr(leanlens, name) is not None
        assert name in dir(leanlens)
    with pytest.raises(AttributeError, match="it exports LensGptOssEncoder"):
        _ = leanlens.LensPipelin


@pytest.mark.parametrize(
    "module", ["leanlens", "leanlens.cli.main", "leanlens.hub", "leanlens.presets", "leanlens.files"]
)
def test_nothing_heavy_at_import(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_every_module_imports_without_output():
    names = [dotted(path) for path in modules() if path.name != "__main__.py"]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    run = subprocess.run([sys.executable, "-W", "error::SyntaxWarning", "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
