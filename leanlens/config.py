"""Reads a TOML recipe and `--set a.b=c` overrides into one frozen, strictly validated object."""

import difflib
import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo

from leanlens.files import TOML_DEPTH, parse_toml, read_toml


class Section(BaseModel):
    """A table of a recipe. Unknown keys are errors; values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


RECIPES = "recipes"  # folder inside an installed package; in a clone it is next to the package


def recipe_names() -> dict[str, Path]:
    """The recipes that ship with the library: name, such as "examples/smoke", -> file."""
    package = Path(__file__).parent
    folder = next((path for path in (package / RECIPES, package.parent / RECIPES) if path.is_dir()), None)
    if folder is None:
        return {}
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.glob("*/*.toml"))}


def find_recipe(wanted: str | Path) -> Path:
    """The recipe at a path, or one that ships with the library by its name. An existing file takes precedence.

    Args:
        wanted: a path, a whole name such as "examples/smoke", or the last part of one.

    Raises:
        ValueError: neither a file nor a name; the message suggests the nearest name.
    """
    path, names = Path(wanted), recipe_names()
    name = path.as_posix().removesuffix(".toml")
    if path.is_file():
        return path
    if name in names:
        return names[name]
    if path.name != str(wanted):
        return path
    by_last_part = {whole.rpartition("/")[2]: found for whole, found in names.items()}
    if name in by_last_part:
        return by_last_part[name]
    near = difflib.get_close_matches(name, [*by_last_part, *names], n=1, cutoff=0.5)
    said = f"the nearest name is {near[0]!r}" if near else f"names are {', '.join(names)}"
    raise ValueError(f"recipe {str(wanted)!r} is neither a file nor the name of a recipe; {said}")


Recipe = TypeVar("Recipe", bound=Section)


def read_recipe(kind: type[Recipe], path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read the recipe at `path` and apply `changes` such as "optim.lr=1e-4".

    Raises:
        ValueError: the file is missing or not TOML, a change is not of the form a.b=c, or a key or value is invalid.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"recipe {path} not found: expected a TOML file, or a name that `leanlens train` lists")
    values = read_toml(path, f"recipe {path}")
    for change in changes:
        _apply(values, change)
    return checked(kind, values)


def checked(kind: type[Recipe], values: dict[str, Any], stored: bool = False) -> Recipe:
    """Validate `values` as a recipe of this kind.

    Args:
        stored: the values come from a run that was started earlier, perhaps by an older version. Rules between keys
            that were added since then are skipped; they ask `is_stored`.

    Raises:
        ValueError: one sentence for every invalid key or value.
    """
    try:
        # Through JSON: only there does strict validation accept a list for a tuple and a string for a path.
        return kind.model_validate_json(json.dumps(values, default=str), strict=True, context={"stored": stored})
    except ValidationError as error:
        raise ValueError("; ".join(_explain(kind, one) for one in error.errors())) from error


def is_stored(info: ValidationInfo) -> bool:
    """Whether the recipe being validated was stored by an earlier run; see `checked`."""
    return bool((info.context or {}).get("stored"))


def plain(recipe: Section) -> dict[str, Any]:
    """The recipe as nested JSON values, with the key names of its TOML file."""
    return recipe.model_dump(mode="json", by_alias=True)


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old value, new value) for every value that differs; None if one side lacks the key."""
    left, right = dict(_leaves(old)), dict(_leaves(new))
    return {key: (left.get(key), right.get(key)) for key in {**left, **right} if left.get(key) != right.get(key)}


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _apply(values: dict[str, Any], change: str) -> None:
    """Apply one "a.b=c" to nested tables; c is a TOML value, or a plain string if it is not valid TOML."""
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
    """A TOML value, or a plain string if `text` is not valid TOML.

    Raises:
        ValueError: it is nested too deeply, or contains a number that is too long.
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
    """Every dotted key of a recipe of this kind; a table comes before its keys."""
    for name, field in kind.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        yield key
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, Section):
                yield from _keys(inner, f"{key}.")
