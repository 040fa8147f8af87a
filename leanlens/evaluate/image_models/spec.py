"""Reads what `--model` says: which model draws a column of the comparison, with which LoRAs and settings."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from leanlens.files import read_json
from leanlens.key_values import read_settings, split_settings
from leanlens.pipeline.request import LoraChoice, check_guidance, check_steps
from leanlens.presets import PRESETS

LENS, DIFFUSERS, ENDPOINT = "lens", "diffusers", "endpoint"
KINDS = {LENS: "a leanlens model", DIFFUSERS: "a diffusers pipeline", ENDPOINT: "an images endpoint"}

_ON_THIS_MACHINE = (LENS, DIFFUSERS)
KEYS: dict[str, tuple[str, ...]] = {
    "steps": _ON_THIS_MACHINE,
    "cfg": _ON_THIS_MACHINE,
    "negative": _ON_THIS_MACHINE,
    "size": (LENS, DIFFUSERS, ENDPOINT),
    "device": _ON_THIS_MACHINE,
    "dtype": _ON_THIS_MACHINE,
    "offload": _ON_THIS_MACHINE,
    "quant": (LENS,),
    "compile": (LENS,),
    "reason": (LENS,),
    "tokens": _ON_THIS_MACHINE,
    "true_cfg": (DIFFUSERS,),
    "revision": (DIFFUSERS,),
    "variant": (DIFFUSERS,),
    "key": (ENDPOINT,),
    "quality": (ENDPOINT,),
    "seeds": (ENDPOINT,),
    "workers": (ENDPOINT,),
    "rpm": (ENDPOINT,),
    "timeout": (ENDPOINT,),
    "tries": (ENDPOINT,),
    "hosts": (ENDPOINT,),
}
"""Key of a setting -> the kinds of models that accept it."""

FORM = "[NAME=]SOURCE[+LORA[:SCALE]]...[,KEY=VALUE]..."
_MARKS = "+,"
_NAME = re.compile(r"([^=+,:/\\#\s][^=+,:/\\#\n]{0,59})=")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LORA_SUFFIX = re.compile(r"\.(safetensors|st)$")


@dataclass(frozen=True)
class ModelSpec:
    """A model of the comparison.

    Attributes:
        name: of its column, unique in an evaluation.
        source: a preset, folder, file or repository id; for an endpoint its address, then `#` and the model there.
        loras: what is added to its weights.
        options: key -> value of its settings, those of `KEYS`.
    """

    name: str
    source: str
    loras: tuple[LoraChoice, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str | None:
        """One of KINDS; None for a repository id, whose model_index.json tells."""
        if _is_address(self.source):
            return ENDPOINT
        if self.source in PRESETS:
            return LENS
        path = Path(self.source).expanduser()
        if path.exists():
            return kind_of_index(path / "model_index.json") if path.is_dir() else LENS
        return None if _REPOSITORY.fullmatch(self.source) else LENS

    def require_known_keys(self, kind: str) -> None:
        """Raise a ValueError if a setting, or a LoRA, is none that a kind of model accepts."""
        for key in self.options:
            if kind not in KEYS[key]:
                accepted = [name for name, kinds in KEYS.items() if kind in kinds]
                raise ValueError(f"invalid key {key!r} for {self.name}, {KINDS[kind]}: expected {_listed(accepted)}")
        if self.loras and kind == ENDPOINT:
            raise ValueError(f"{self.name} is an images endpoint, which takes no LoRA; leave out +{self.loras[0].path}")


def kind_of_index(index: Path) -> str:
    """The kind of model whose model_index.json this is; a leanlens model where there is none.

    Raises:
        ValueError: it names no class.
    """
    if not index.is_file():
        return LENS
    named = read_json(index)
    named = named.get("_class_name") if isinstance(named, dict) else None
    if not isinstance(named, str):
        raise ValueError(f"{index} names no _class_name, so it is not a pipeline")
    return LENS if named.startswith("Lens") else DIFFUSERS


def parse_models(texts: Sequence[str]) -> list[ModelSpec]:
    """The models of an evaluation, each with a name of its own.

    A model without a NAME has a short one made of its source and LoRAs. Where two of these are equal, they get the
    settings in which they differ as well.

    Raises:
        ValueError: as `parse_model`, or two models have the same name.
    """
    found = [parse_model(text) for text in texts]
    names = []
    for text, spec in zip(texts, found, strict=True):
        alike = [other for other in found if other.name == spec.name]
        names.append(spec.name if _given_name(text) else _longer_name(spec, alike))
    for index, name in enumerate(names):
        if name in names[:index]:
            first = texts[names.index(name)]
            raise ValueError(
                f"two models have the name {name!r}; give each its own: --model 'first={_unnamed(first)}' "
                f"--model 'second={_unnamed(texts[index])}'"
            )
    return [replace(spec, name=name) for spec, name in zip(found, names, strict=True)]


def parse_model(text: str) -> ModelSpec:
    """Read one model, such as `nano`, `mine=nano+my.safetensors:0.8,steps=10` or `http://localhost:8000/v1#flux`.

    A character that separates parts may stand in a path that exists: the longest path that exists is taken.

    Raises:
        ValueError: it is not of the form FORM, a LoRA does not exist, or a setting is unknown or invalid.
    """
    name, rest = _given_name(text), _unnamed(text)
    source, rest = _split_source(rest)
    if not source:
        raise ValueError(f"invalid model {text!r}: expected {FORM}")
    loras = []
    while rest.startswith("+"):
        lora, rest = _split_lora(rest[1:], text)
        loras.append(lora)
    spec = ModelSpec(name or _default_name(source, loras), source, tuple(loras), _read_options(rest, text))
    kind = spec.kind
    if kind is not None:
        spec.require_known_keys(kind)
    if kind == LENS and source not in PRESETS and not _exists(source):
        raise ValueError(
            f"unknown model {source!r}: expected a local file or folder, a preset ({_listed(PRESETS)}), "
            "a repository id owner/name, or the address of an images endpoint and its model, http://HOST/v1#MODEL"
        )
    if kind == ENDPOINT and not source.partition("#")[2]:
        raise ValueError(f"invalid model {source!r}: expected the model there after the address: {source}#MODEL")
    return spec


def _is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _given_name(text: str) -> str | None:
    """The NAME before the source, unless a path that exists begins the text up to a later character."""
    match = _NAME.match(text)
    if match is None or any(_exists(text[:end]) for end in _ends(text) if end > match.end()):
        return None
    return match[1].strip()


def _unnamed(text: str) -> str:
    match = _NAME.match(text)
    return text if match is None or _given_name(text) is None else text[match.end() :]


def _ends(text: str) -> Iterator[int]:
    """Where a part may end, the longest first."""
    yield len(text)
    for index in range(len(text) - 1, 0, -1):
        if text[index] in _MARKS:
            yield index


def _first_mark(text: str) -> int:
    return next((index for index, letter in enumerate(text) if letter in _MARKS), len(text))


def _exists(path: str) -> bool:
    try:
        return bool(path.strip()) and Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL character, an unknown user's home
        return False


def _split_source(text: str) -> tuple[str, str]:
    if _is_address(text):
        return split_settings(text)
    end = next((end for end in _ends(text) if _exists(text[:end])), None)
    if end is None:
        end = _first_mark(text)
        return text[:end].strip(), text[end:]
    return text[:end], text[end:]


def _split_lora(text: str, whole: str) -> tuple[LoraChoice, str]:
    for end in _ends(text):
        path, separator, scale = text[:end].rpartition(":")
        if _exists(text[:end]):
            return LoraChoice(path=text[:end], scale=1.0), text[end:]
        if separator and not set(scale) & set(_MARKS) and _exists(path):
            return LoraChoice(path=path, scale=_scale(scale, whole)), text[end:]
    part = text[: _first_mark(text)]
    raise ValueError(f"invalid model {whole!r}: there is no LoRA {part!r}; give a file, or a folder that PEFT wrote")


def _scale(text: str, whole: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not -100 <= scale <= 100:
        raise ValueError(f"invalid model {whole!r}: {text!r} is no scale; expected a number from -100 to 100")
    return scale


def _default_name(source: str, loras: Sequence[LoraChoice]) -> str:
    """The last word of the source, and of each LoRA, with its scale unless that is 1."""
    place, _, model = source.partition("#") if _is_address(source) else (source, "", "")
    last = re.split(r"[/\\]", (model or place).rstrip("/\\"))[-1] or source
    parts = [re.sub(r"\.safetensors$", "", last)]
    for lora in loras:
        stem = _LORA_SUFFIX.sub("", re.split(r"[/\\]", lora.path.rstrip("/\\"))[-1])
        parts.append(stem if lora.scale == 1 else f"{stem}:{lora.scale:g}")
    return "+".join(parts)


def _longer_name(spec: ModelSpec, alike: Sequence[ModelSpec]) -> str:
    """The name with the settings in which one of the models of the same name differs."""
    differ = [key for key in spec.options if any(other.options.get(key) != spec.options[key] for other in alike)]
    return " ".join([spec.name, *(f"{key}={_shown(spec.options[key])}" for key in differ)])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------------------------- settings


def _read_options(text: str, whole: str) -> dict[str, Any]:
    """`,KEY=VALUE...` as values."""
    given = read_settings(text, f"model {whole!r}", KEYS, FORM)
    return {key: _checked(key, value) for key, value in given.items()}


def _listed(names: Any) -> str:
    return ", ".join(names)


def _checked(key: str, value: str) -> Any:
    """The value of a key.

    Raises:
        ValueError: it is not accepted; the message names key and value.
    """
    if key == "negative":
        return value
    if key in ("steps", "workers", "tries", "tokens"):
        return _whole_number(key, value)
    if key in ("cfg", "true_cfg", "rpm", "timeout"):
        return _number(key, value)
    if key == "size":
        return parse_size(value)
    if key in ("compile", "seeds"):
        if value not in ("on", "off"):
            raise ValueError(f"invalid {key} {value!r}: expected on or off")
        return value == "on"
    if not value:
        raise ValueError(f"invalid {key} '': expected a value")
    return value


def _whole_number(key: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,6}", value) or int(value) < 1:
        raise ValueError(f"invalid {key} {value[:20]!r}: expected a whole number from 1")
    if key == "steps":
        check_steps(int(value))
    return int(value)


def _number(key: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"invalid {key} {value[:20]!r}: expected a number") from None
    if key in ("cfg", "true_cfg"):
        check_guidance(number)
    elif not 0 < number < math.inf:
        raise ValueError(f"invalid {key} {value[:20]!r}: expected a positive number")
    return number


def parse_size(text: str) -> tuple[int, int]:
    """`1024` or `1024x768` as (width, height) in pixels.

    Raises:
        ValueError: it is neither, or a side is not from 16 to 8192.
    """
    match = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", text)
    sides = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(16 <= side <= 8192 for side in sides):
        raise ValueError(f"invalid size {text[:20]!r}: expected pixels such as 1024 or 1024x768, each from 16 to 8192")
    return sides
