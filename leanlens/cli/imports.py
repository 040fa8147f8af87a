"""Packages that a command does without, so that it starts sooner."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Imported by transformers and diffusers wherever they are installed, for what drawing never uses.
UNNEEDED = ("scipy", "sklearn")


@contextmanager
def unneeded_left_out() -> Iterator[None]:
    """Within, imports do not find the packages that drawing does without, unless they are loaded already."""
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in UNNEEDED if name not in modules]
    modules.update(dict.fromkeys(hidden))  # to Python, None is a package that cannot be found
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]
