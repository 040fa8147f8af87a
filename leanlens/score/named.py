"""Opens a scorer by name: built in, added by an installed package, or MODULE:NAME of a class or function."""

import importlib
from collections.abc import Callable, Mapping

from leanlens.plugins import SCORERS, load_plugin, plugins
from leanlens.score.protocol import Scorer


def open_scorer(name: str, built_in: Mapping[str, Callable[[], Scorer]], what: str = "scorer") -> Scorer:
    """The scorer of this name.

    Args:
        name: a name in `built_in`, an entry point of the group `leanlens.scorers`, or MODULE:NAME; what the last two
            name is called without arguments and returns a scorer.
        built_in: name -> what makes the scorer.
        what: how messages call it.

    Raises:
        ValueError: an unknown name, or something that cannot be imported or is not a scorer.
    """
    if name in built_in:
        return built_in[name]()
    added = plugins(SCORERS)
    module, colon, attribute = name.partition(":")
    if name not in added and not colon:
        known = ", ".join([*built_in, *(key for key in added if key not in built_in)])
        raise ValueError(f"invalid {what} {name!r}: expected {known}, or MODULE:NAME of a class or function")
    try:
        make = load_plugin(added[name]) if name in added else getattr(importlib.import_module(module), attribute)
        scorer = make()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"{what} {name!r} cannot be used: {error}") from error
    if not callable(scorer) or not getattr(scorer, "name", None) or not getattr(scorer, "criteria", None):
        raise ValueError(f"{what} {name!r} is not a scorer: it needs name, criteria and __call__")
    return scorer
