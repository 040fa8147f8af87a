"""Turns the fields of the page into generation parameters, and the record of an image into fields."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from leanlens.hub import is_here
from leanlens.pipeline.reasoned import Reasoned
from leanlens.pipeline.request import RANDOM_SEED, resolve_seed
from leanlens.resolution import BUCKETS, sizes_at
from leanlens.serve.errors import APIError
from leanlens.serve.parameters import GenerationParameters
from leanlens.serve.service import ImageService
from leanlens.web.choices import Choices, read_choices

OWN = "auto"  # the aspect that leaves the size to the model, or to the image to start from
ASPECTS = (OWN, *BUCKETS[1024])
MAX_CELLS = 64
_SIZE = re.compile(r"\s*(\d{1,5})\s*[x×*]\s*(\d{1,5})\s*", re.ASCII)


@dataclass(frozen=True)
class Form:
    """What the page asks for, in the order of its fields; None and blank text leave a setting to the model.

    Attributes:
        prompt, negative_prompt, model, loras: as in `GenerationParameters`; a LoRA is a name, or name:scale.
        aspect: one of `ASPECTS`.
        base: side of the square of the wanted area, pixels.
        size: WIDTHxHEIGHT, which overrides aspect and base.
        steps, guidance, count: numbers.
        seed: as text, since numbers of a browser are exact only up to 2**53; blank or -1 for a random one.
        strength: as text, since a browser's number field turns a blank into 0.
        reason: whether the prompt is rewritten, if the model has a reasoner; None leaves the page's switch as it is.
        choices: edits of how the prompt is understood, as JSON of `leanlens.web.choices`.
    """

    prompt: str = ""
    negative_prompt: str = ""
    model: str | None = None
    aspect: str = OWN
    base: int | None = None
    size: str = ""
    steps: int | None = None
    guidance: float | None = None
    seed: str = ""
    count: int = 1
    loras: Sequence[str] = field(default_factory=tuple)
    strength: str = ""
    reason: bool | None = True
    choices: str = ""


def parameters_from(
    form: Form, service: ImageService, source: Callable[[GenerationParameters], None] | None = None
) -> GenerationParameters:
    """Generation parameters of a form; `source` sets the image to start from, as in `GenerationParameters`.

    Raises:
        APIError: a field that cannot be read.
    """
    width, height = size_of(form, service, source is not None)
    choices = _choices(form, service, source is not None)
    return GenerationParameters(
        prompt=form.prompt or "",
        negative_prompt=form.negative_prompt or "",
        model=form.model,
        width=width,
        height=height,
        num_inference_steps=form.steps,
        guidance_scale=form.guidance,
        seed=_seed(form.seed, choices),
        count=int(form.count or 1),
        source=source,
        strength=None if source is None else _strength(form.strength),
        loras=[_lora(text) for text in form.loras or ()],
        reason="off" if form.reason is False else "default",
        fixed=choices.fixed(form.prompt or ""),
    )


def with_seed(form: Form, service: ImageService, has_image: bool = False) -> Form:
    """The form with a seed: its own, the one whose choices the page shows, or a random one.

    Raises:
        APIError: a field that cannot be read.
    """
    return replace(form, seed=str(resolve_seed(_seed(form.seed, _choices(form, service, has_image)))))


def _choices(form: Form, service: ImageService, has_image: bool) -> Choices:
    """The edits of how the prompt is understood; None if the prompt is drawn as it is."""
    is_rewritten = form.reason is not False and not has_image and has_reasoner(service, form.model)
    return read_choices(form.choices or "") if is_rewritten else Choices()


def has_reasoner(service: ImageService, model: str | None) -> bool:
    """Whether prompts for a model are rewritten by default; False for a model that is not on this machine yet.

    Raises:
        APIError: a model that is not offered.
    """
    name = service.library.find_model(model)
    source = service.library.source(name)
    return (is_here(source) or Path(source).expanduser().exists()) and service.reasoning.reasoner(name) is not None


def size_of(form: Form, service: ImageService, has_image: bool = False) -> tuple[int | None, int | None]:
    """(width, height) in pixels, or (None, None) if the form does not set them.

    Raises:
        APIError: an invalid size or base.
    """
    if (form.size or "").strip():
        match = _SIZE.fullmatch(form.size)
        if match is None:
            raise APIError("invalid", f"invalid size {form.size[:40]!r}: expected WIDTHxHEIGHT", "size")
        return int(match[1]), int(match[2])
    if form.aspect == OWN and (has_image or form.base is None):
        return None, None
    base = form.base or service.library.defaults(service.library.find_model(form.model)).side
    aspect = "1:1" if form.aspect == OWN else form.aspect
    try:
        height, width = sizes_at(base)[aspect]
    except KeyError:
        raise APIError(
            "invalid", f"invalid aspect {aspect!r}: expected one of {', '.join(ASPECTS)}", "aspect"
        ) from None
    except ValueError as error:
        raise APIError("invalid", str(error), "size") from None
    return width, height


def form_from(record: dict[str, Any], service: ImageService) -> tuple[Form, list[str]]:
    """The form that draws an image again, and notes on settings that this server cannot offer.

    The record may come from a file that someone dropped, so no path in it is opened: models and LoRAs are looked up
    among those offered, and the image to start from has to be uploaded again.

    Raises:
        APIError: a record of another form.
    """
    notes: list[str] = []
    try:
        request = record["request"]
        model = _offered_model(record, service, notes)
        aspect, base, size = _shape(int(request["width"]), int(request["height"]), service, model)
        reasoned = None if request.get("reasoner") is None else Reasoned.model_validate(request["reasoner"])
        form = Form(
            prompt=str(request["prompt"]) if reasoned is None else reasoned.original,
            negative_prompt=str(request["negative_prompt"]),
            model=model,
            aspect=aspect,
            base=base,
            size=size,
            steps=int(request["num_inference_steps"]),
            guidance=float(request["guidance_scale"]),
            seed=str(int(request["seed"])),
            loras=_offered_loras(request["loras"], service, notes),
            strength="" if request["strength"] is None else repr(float(request["strength"])),
            reason=_was_reasoned(request) if has_reasoner(service, model) else None,
            choices="" if reasoned is None else Choices(prompt=reasoned.original, edits=reasoned.fixed).written(),
        )
        started = request["image"] is not None
    except (KeyError, TypeError, ValueError, OverflowError):
        raise APIError("invalid", "the settings in this picture are damaged") from None
    if started:
        notes.append("It started from another image; add that again below.")
    if form.reason is False:
        notes.append("Its prompt was drawn as it was written, so rewriting is turned off.")
    if reasoned is not None and not _is_drawn_as(form, service, str(request["prompt"])):
        notes.append(
            "Its prompt would be rewritten in another way now, so the form holds its caption and rewriting is off."
        )
        form = replace(form, prompt=str(request["prompt"]), reason=form.reason and False, choices="")
    return form, notes


def _was_reasoned(request: dict[str, Any]) -> bool | None:
    """Whether a reasoner saw the prompt of a picture; None where it would have been left alone in any case."""
    if request["image"] is not None or not str(request["prompt"]).strip():
        return None
    return request.get("reasoner") is not None


def _is_drawn_as(form: Form, service: ImageService, caption: str) -> bool:
    """Whether this server would rewrite the form's prompt to that caption."""
    try:
        return service.reason(parameters_from(form, service))[0].prompt == caption
    except APIError:
        return False


# ------------------------------------------------------------------------------------------- the grid

_TEXTS = ("prompt", "negative_prompt", "loras")
SETTINGS: dict[str, str] = {
    "prompt": "prompt",
    "negative prompt": "negative_prompt",
    "model": "model",
    "aspect": "aspect",
    "base size": "base",
    "size": "size",
    "steps": "steps",
    "guidance": "guidance",
    "seed": "seed",
    "LoRAs": "loras",
    "strength": "strength",
}
"""What an axis can vary: the words of the page -> the field of `Form`."""


@dataclass(frozen=True)
class Grid:
    """Forms by row and column, with the headings of both."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    forms: tuple[tuple[Form, ...], ...]


def grid_from(form: Form, x: str | None, x_values: str, y: str | None, y_values: str) -> Grid:
    """Every combination of the values of two settings, all from one seed unless the seed is what varies.

    Args:
        form: the rest of the settings.
        x, y: keys of `SETTINGS`; None varies nothing that way.
        x_values, y_values: one value per line; values that are not text may also be separated by commas.

    Raises:
        APIError: no values, too many, one that cannot be read, or the same setting twice.
    """
    if x is None and y is None:
        raise APIError("missing", "choose a setting that varies along X or Y", "x")
    if x == y:
        raise APIError("invalid", f"invalid Y: X varies {x}, too; expected another setting or none", "y")
    columns, rows = _axis("X", x, x_values), _axis("Y", y, y_values)
    if len(columns) * len(rows) > MAX_CELLS:
        raise APIError("invalid", f"the grid has {len(columns) * len(rows)} images: expected at most {MAX_CELLS}")
    form = replace(form, count=1, seed=str(resolve_seed(_seed(form.seed))))
    forms = tuple(tuple(replace(form, **row, **column) for _, column in columns) for _, row in rows)
    return Grid(tuple(text for text, _ in columns), tuple(text for text, _ in rows), forms)


def _axis(name: str, setting: str | None, text: str) -> list[tuple[str, dict[str, Any]]]:
    """Headings, each with its change of the form."""
    if setting is None:
        return [("", {})]
    if setting not in SETTINGS:
        raise APIError("invalid", f"invalid {name} {setting[:40]!r}: expected one of {', '.join(SETTINGS)}")
    chosen = SETTINGS[setting]
    pieces = (text or "").splitlines() if chosen in _TEXTS else re.split(r"[,\n\r]", text or "")
    values = [piece.strip() for piece in pieces if piece.strip()]
    if not values:
        raise APIError("missing", f"{name} has no values for {setting}: expected one per line")
    return [(f"{setting} {value}", _change(chosen, value, setting)) for value in values]


def _change(chosen: str, text: str, setting: str) -> dict[str, Any]:
    """A value as the change of a form; an aspect or a base replaces a size that is written out."""
    readers: dict[str, Callable[[str], Any]] = {
        "base": int, "steps": int, "guidance": float, "loras": _lora_names,
    }  # fmt: skip
    try:
        value = readers.get(chosen, str)(text)
    except ValueError:
        raise APIError("invalid", f"invalid {setting} {text[:40]!r}: expected a number") from None
    return {chosen: value, "size": ""} if chosen in ("aspect", "base") else {chosen: value}


def _lora_names(text: str) -> tuple[str, ...]:
    """`a:0.8, b` -> two; `none` -> none."""
    return () if text == "none" else tuple(name.strip() for name in text.split(",") if name.strip())


# ------------------------------------------------------------------------------------------- single fields


def _seed(text: str, choices: Choices | None = None) -> int | None:
    text = (text or "").strip()
    if text in ("", str(RANDOM_SEED)):
        return None if choices is None else choices.seed
    if re.fullmatch(r"\d{1,19}", text, re.ASCII) is None:
        raise APIError(
            "invalid", f"invalid seed {text[:40]!r}: expected a whole number from 0, or -1 for a random one", "seed"
        )
    return int(text)


def _strength(text: str) -> float | None:
    text = (text or "").strip()
    try:
        return float(text) if text else None
    except ValueError:
        raise APIError(
            "invalid", f"invalid strength {text[:40]!r}: expected a number from 0 to 1, or nothing", "strength"
        ) from None


def _lora(text: str) -> tuple[str, float]:
    name, separator, scale = text.rpartition(":")
    if not separator:
        return text, 1.0
    try:
        return name, float(scale)
    except ValueError:
        return text, 1.0  # a colon in the name; the library decides whether it is offered


def _offered_model(record: dict[str, Any], service: ImageService, notes: list[str]) -> str:
    name = str(record["model"]["name"])
    for offered, source in service.library.models().items():
        if name in (offered, source):
            return offered
    notes.append(f"The model {Path(name).name} is not offered here; {service.library.default} is chosen.")
    return service.library.default


def _offered_loras(loras: list[dict[str, Any]], service: ImageService, notes: list[str]) -> tuple[str, ...]:
    offered = {str(path): name for name, path in service.library.loras().items()}
    names = []
    for lora in loras:
        path, scale = str(lora["path"]), float(lora["scale"])
        stem = Path(path).name.removesuffix(".safetensors")
        name = offered.get(path) or (stem if stem in offered.values() else None)
        if name is None:
            notes.append(f"The LoRA {stem} is not offered here.")
        else:
            names.append(name if scale == 1 else f"{name}:{scale!r}")
    return tuple(names)


def _shape(width: int, height: int, service: ImageService, model: str) -> tuple[str, int | None, str]:
    """Aspect, base and size fields that give these sides: a bucket where there is one."""
    side = service.library.defaults(model).side
    for base in dict.fromkeys((side, *BUCKETS)):
        for aspect, sides in sizes_at(base).items():
            if sides == (height, width):
                return aspect, base, ""
    return OWN, side, f"{width}x{height}"
