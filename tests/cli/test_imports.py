"""What a command does without is not imported, and is there again afterwards."""

import subprocess
import sys

import pytest

from leanlens.cli import imports
from leanlens.cli.imports import unneeded_left_out


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of its own, so that nothing of the real ones is loaded or dropped."""
    (tmp_path / "left_out_here.py").write_text("value = 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imports, "UNNEEDED", ("left_out_here",))
    yield "left_out_here"
    sys.modules.pop("left_out_here", None)


def test_a_package_is_missing_within_and_there_after(package):
    from importlib import import_module
    from importlib.util import find_spec

    with unneeded_left_out():
        assert find_spec(package) is None
        with pytest.raises(ModuleNotFoundError):
            import_module(package)
    assert import_module(package).value == 1
    with unneeded_left_out():  # what is loaded stays
        assert import_module(package).value == 1
    assert package in sys.modules


def test_an_error_within_leaves_nothing_behind(package):
    with pytest.raises(RuntimeError), unneeded_left_out():
        raise RuntimeError
    assert package not in sys.modules


@pytest.mark.long
def test_drawing_imports_no_scipy(tmp_path):
    code = (
        "import sys\nfrom leanlens.cli.main import app\n"
        f"app({['generate', 'a', '--model', 'toy', '--size', '32x32', '-o', str(tmp_path / 'a.png')]}, "
        "standalone_mode=False)\n"
        "assert not {'scipy', 'sklearn'} & {name.partition('.')[0] for name in sys.modules}\n"
        "import scipy.stats\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
