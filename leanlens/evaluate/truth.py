"""Reads files of prompts with the ground truth of each, strictly: one JSON object per line, `prompt` and `truth`.

A truth has the form of `Scene.truth()` without boxes and sizes, which nobody can state. What the scorer would not judge
is an error that names the file and the line, so that a typing error does not silently remove a criterion.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from leanlens.files import parse_json, read_text
from leanlens.pipeline.request import MAX_PROMPT_CHARACTERS
from leanlens.scenes.describe import NUMBERS, RELATION_PHRASES
from leanlens.scenes.icons import COLORS
from leanlens.scenes.layout import PATTERNS
from leanlens.scenes.scene import GROUND_COLORS, PLAIN_COLORS, SKY_COLORS
from leanlens.scenes.sources import STYLES

SHOWN = 60  # characters of an invalid value in an error


def _words(value: str) -> str:
    if not value.strip():
        raise ValueError("is blank; give a word or several")
    return value


def _one_of(*accepted: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in accepted:
            near = difflib.get_close_matches(value, accepted, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"expected one of {', '.join(accepted)}{hint}")
        return value

    return AfterValidator(check)


Words = Annotated[str, Field(max_length=1000), AfterValidator(_words)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StatedObject(_Strict):
    """Like things. Relations refer to them by `id`, or by `concept` if it is missing; "natural" allows any colour."""

    id: Words | None = None
    concept: Words
    count: int = Field(1, ge=1, le=len(NUMBERS) - 1)
    color: Annotated[str, _one_of("natural", *COLORS)] = "natural"
    category: Words | None = None


class StatedBackground(_Strict):
    """One colour if plain, otherwise two: ground and sky, or those of the gradient or pattern."""

    kind: Annotated[str, _one_of("plain", "gradient", "ground", *PATTERNS)]
    colors: list[str]

    @model_validator(mode="after")
    def _names_its_colors(self) -> "StatedBackground":
        tables = {"plain": (PLAIN_COLORS,), "ground": (GROUND_COLORS, SKY_COLORS)}
        accepted = tables.get(self.kind, (PLAIN_COLORS, PLAIN_COLORS))
        if len(self.colors) != len(accepted):
            raise ValueError(f"has {len(self.colors)} colors; a {self.kind} background has {len(accepted)}")
        for name, table in zip(self.colors, accepted, strict=True):
            if name not in table:
                raise ValueError(
                    f"has the invalid color {name[:SHOWN]!r}: expected for {self.kind} one of {', '.join(table)}"
                )
        return self


class StatedTruth(_Strict):
    """The facts that a prompt states; every part is optional, but at least one is required."""

    objects: list[StatedObject] = []
    relations: list[Annotated[list[str], Field(min_length=3, max_length=3)]] = []
    texts: list[Annotated[list[Words], Field(min_length=1, max_length=1)]] = []
    background: StatedBackground | None = None
    style: Annotated[str, _one_of(*(style.name for style in STYLES))] | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> "StatedTruth":
        if not (self.objects or self.texts or self.background):
            raise ValueError("states nothing that is judged; give objects, texts or a background")
        ids = [stated.id or stated.concept for stated in self.objects]
        for name in ids:
            if ids.count(name) > 1:
                raise ValueError(f"has two objects with the id {name[:SHOWN]!r}; give each its own")
        for a, word, b in self.relations:
            if word not in RELATION_PHRASES:
                raise ValueError(f"has the invalid relation {word[:SHOWN]!r}: expected {', '.join(RELATION_PHRASES)}")
            for name in (a, b):
                if name not in ids:
                    raise ValueError(f"relation names {name[:SHOWN]!r}, which is the id of no object")
            if a == b:
                raise ValueError(f"relation puts {a[:SHOWN]!r} {word} itself")
        return self


class StatedPrompt(_Strict):
    """A line of a file of prompts."""

    prompt: Annotated[Words, Field(max_length=MAX_PROMPT_CHARACTERS)]
    truth: StatedTruth


def read_prompts(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """The prompts of a JSON Lines file, each with its truth as JSON values; blank lines are skipped.

    Raises:
        ValueError: it is unreadable, has no prompt, or a line is invalid; the message names the file and the line.
    """
    found = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            found.append(_read_line(line, f"{path} line {number}"))
    if not found:
        raise ValueError(f'{path} holds no prompts; give lines of {{"prompt": "...", "truth": {{...}}}}')
    return found


def _read_line(line: str, what: str) -> tuple[str, dict[str, Any]]:
    row = parse_json(line, what)
    if not isinstance(row, dict):
        raise ValueError(f"{what} is a {type(row).__name__}; give an object with prompt and truth")
    try:
        checked = StatedPrompt.model_validate(row)
    except ValidationError as error:
        raise ValueError(f"{what}: {_describe(error)}") from None
    return checked.prompt, checked.truth.model_dump(exclude_unset=True, exclude_none=True)


def _describe(error: ValidationError) -> str:
    """The first validation error, as the rest of a sentence."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{name} is missing"
    if first["type"] == "extra_forbidden":
        return f"{name} is not known; known are {', '.join(_fields_at(first['loc'][:-1]))}"
    value = first["input"]
    shown = "" if isinstance(value, dict | list) else f" {str(value)[:SHOWN]!r}"
    if first["type"] == "value_error":
        said = str(first["ctx"]["error"])
        return f"invalid {name}{shown}: {said}" if said.startswith("expected") else f"{name}{shown} {said}"
    return f"invalid {name}{shown}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _fields_at(place: tuple[int | str, ...]) -> list[str]:
    """The keys of the object at a place of a line."""
    named = [part for part in place if isinstance(part, str)]
    models: dict[str, type[BaseModel]] = {"truth": StatedTruth, "objects": StatedObject, "background": StatedBackground}
    return list((models[named[-1]] if named else StatedPrompt).model_fields)
