"""Recipes: a TOML file and `--set a.b=c` changes to one frozen, strictly checked object.

Comes in: a pydantic model whose sections derive from `Section`, a path and changes. Goes out: the checked recipe, or a
`ValueError` that names the key and, where the key is unknown, the nearest one. Knows nothing of what recipes mean.
"""

import difflib
import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo

from leanlens.files import TOML_DEPTH, parse_toml, read_toml


class Section(BaseModel):
    """A table of a recipe: unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


RECIPES = "recipes"  # the folder inside an installed package; in a clone it lies beside the package


def recipe_names() -> dict[str, Path]:
    """The recipes that come with the library: name -> file."""
    package = Path(__file__).parent
    folder = next((path for path in (package / RECIPES, package.parent / RECIPES) if path.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_recipe(wanted: str | Path) -> Path:
    """A recipe by its path, or by the name of one that comes with the library; a file goes before a name.

    Raises:
        ValueError: neither; with the nearest names.
    """
    path, names = Path(wanted), recipe_names()
    if path.is_file() or (path.name != str(wanted)):
        return path
    if (name := path.name.removesuffix(".toml")) in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    said = f"the nearest name is {near[0]!r}" if near else f"names are {', '.join(names)}"
    raise ValueError(f"recipe {str(wanted)!r} is neither a file nor the name of a recipe; {said}")


Recipe = TypeVar("Recipe", bound=Section)


def read_recipe(kind: type[Recipe], path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe at `path` with `changes` ("optim.lr=1e-4") applied.

    Raises:
        ValueError: a file that is missing or no TOML, a change that is not of the form a.b=c, or a key or value that
            the recipe does not accept.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"recipe {path} is not a file; give the path of a TOML recipe")
    values = read_toml(path, f"recipe {path}")
    for change in changes:
        _apply(values, change)
    return checked(kind, values)


def checked(kind: type[Recipe], values: dict[str, Any], stored: bool = False) -> Recipe:
    """`values` as a recipe of this kind.

    Args:
        stored: they were accepted once, perhaps by an earlier version: no rule between keys that came later refuses
            them. `is_stored` tells the rules.

    Raises:
        ValueError: one sentence for every key or value that is not accepted.
    """
    try:
        # Through JSON, because only there does strict checking take a list for a tuple and a string for a path.
        return kind.model_validate_json(json.dumps(values, default=str), strict=True, context={"stored": stored})
    except ValidationError as error:
        raise ValueError("; ".join(_explain(kind, one) for one in error.errors())) from error


def is_stored(info: ValidationInfo) -> bool:
    """Whether a recipe that is being checked is read back from where it was stored; see `checked`."""
    return bool((info.context or {}).get("stored"))


def plain(recipe: Section) -> dict[str, Any]:
    """The recipe as nested JSON values under the names that its TOML has."""
    return recipe.model_dump(mode="json", by_alias=True)


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old value, new value) of every value that differs; None where one side lacks the key."""
    left, right = dict(_leaves(old)), dict(_leaves(new))
    return {key: (left.get(key), right.get(key)) for key in {**left, **right} if left.get(key) != right.get(key)}


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _apply(values: dict[str, Any], change: str) -> None:
    """Write one "a.b=c" into nested tables; c is a TOML value, or else a plain string."""
    dotted, equals, text = change.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys):
        raise ValueError(f"change {change!r} is not of the form a.b=c, such as optim.lr=1e-4")
    if len(keys) > TOML_DEPTH:
        raise ValueError(f"change {change[:60]!r}... goes {len(keys)} tables deep; at most {TOML_DEPTH} are accepted")
    value = _value(text, f"the value of change {dotted.strip()}")
    for depth, key in enumerate(keys[:-1]):
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ValueError(f"change {change!r} goes below {'.'.join(keys[: depth + 1])}, which is not a table")
    values[keys[-1]] = value


def _value(text: str, what: str) -> Any:
    """A TOML value, or else a plain string.

    Raises:
        ValueError: it nests too deep, or holds a number that is too long.
    """
    try:
        return parse_toml(f"value = {text}", what)["value"]
    except ValueError as error:
        if isinstance(error.__cause__, tomllib.TOMLDecodeError):
            return text.strip()
        raise


def _explain(kind: type[Section], error: Any) -> str:
    """One pydantic error as a sentence."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown recipe key {key!r}; {_nearest(kind, key)}"
    if error["type"] == "missing":
        return f"recipe key {key!r} is missing"
    if error["type"] == "value_error":  # one of our own sentences
        return str(error["ctx"]["error"])
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"recipe key {key!r} is {error['input']!r}; {message.removeprefix('input ')}"


def _nearest(kind: type[Section], key: str) -> str:
    parent, _, last = key.rpartition(".")
    known = list(_keys(kind))
    beside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == parent}
    anywhere = {name.rpartition(".")[2]: name for name in reversed(known)}
    for names in (beside, anywhere):
        if close := difflib.get_close_matches(last, names, n=1, cutoff=0.6):
            return f"the nearest known key is {names[close[0]]!r}"
    return f"known keys are {', '.join(beside.values() or known)}"


def _keys(kind: type[Section], prefix: str = "") -> Iterator[str]:
    """Every dotted key that a recipe of this kind may hold, tables before what they hold."""
    for name, field in kind.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        yield key
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, Section):
                yield from _keys(inner, f"{key}.")
