"""Finds what other installed packages add to leanlens, through the entry points that they declare."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

SCORERS = "leanlens.scorers"
ADAPTERS = "leanlens.adapters"


def plugins(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name; nothing is imported.

    Raises:
        ValueError: two packages declare the same name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        other = found.setdefault(entry.name, entry)
        if other != entry:
            raise ValueError(
                f"{_package(other)} and {_package(entry)} both declare {entry.name!r} in {group}; uninstall one"
            )
    return dict(sorted(found.items()))


def load_plugin(entry: EntryPoint) -> Any:
    """What an entry point names. This imports the package that declares it.

    Raises:
        ValueError: it cannot be imported.
    """
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{_package(entry)} declares {entry.name!r} in {entry.group} as {entry.value}, which cannot be imported: "
            f"{error}"
        ) from error


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "a package without a name"
