"""Reads the syntax of AUTOMATIC1111 in prompts: takes out `<lora:name:scale>`, and notes what else is taken literally.

Lens reads its prompt with a language model, which has no weights on words, so `(word:1.2)`, `[word]` and `BREAK` stay
in the prompt as they are, and the client is told.
"""

import re
from dataclasses import dataclass

_NETWORK = re.compile(r"<([A-Za-z]+):([^<>:]+)(?::([^<>]*))?>")
_WEIGHT = re.compile(r"\([^()]+:\s*-?\d+(?:\.\d+)?\s*\)")
_BRACKETS = re.compile(r"\(\([^()]+\)\)|\[[^\[\]]+\]")
_BREAK = re.compile(r"\bBREAK\b|\bAND\b")


@dataclass(frozen=True)
class ReadPrompt:
    """`text` to draw, `loras` as (name, scale), and `notes` for the client."""

    text: str
    loras: tuple[tuple[str, float], ...]
    notes: tuple[str, ...]


def read_prompt(prompt: str) -> ReadPrompt:
    """Take LoRAs out of a prompt, and note what is taken literally.

    Raises:
        ValueError: a LoRA whose scale is not a number.
    """
    loras: list[tuple[str, float]] = []
    notes: list[str] = []

    def take(match: re.Match[str]) -> str:
        kind, name, scale = match[1], match[2].strip(), match[3]
        if kind.lower() != "lora":
            notes.append(f"{match[0]} is taken literally: only <lora:name:scale> is known")
            return match[0]
        loras.append((name, _scale(match[0], scale, notes)))
        return ""

    text = _NETWORK.sub(take, prompt)
    if loras:
        text = re.sub(r" {2,}", " ", text).strip().strip(",").strip()
    for pattern, what in ((_WEIGHT, "weights"), (_BRACKETS, "brackets"), (_BREAK, "BREAK and AND")):
        if (found := pattern.search(text)) is not None:
            notes.append(f"{what} such as {found[0][:40]} are taken literally: Lens has no weights on words")
    return ReadPrompt(text, tuple(loras), tuple(notes))


def _scale(written: str, text: str | None, notes: list[str]) -> float:
    """The scale of a LoRA on the denoiser, from `te:unet:dyn`, each by its place or as `name=value`.

    As in AUTOMATIC1111, `unet` defaults to `te`, and `te` to 1. Values without effect are noted.
    """
    items = [item.strip() for item in (text or "").split(":")] if text else []
    named = dict(item.split("=", 1) for item in items if "=" in item)
    placed = [item for item in items if "=" not in item]
    given = dict(zip(("te", "unet", "dyn"), placed, strict=False)) | {key.strip(): one for key, one in named.items()}
    ignored = [key[:40] for key in given if key not in ("te", "unet")]
    if "te" in given and "unet" in given and _number(written, given["te"]) != _number(written, given["unet"]):
        ignored.insert(0, "te")  # the text encoder is not adapted
    if ignored or len(placed) > 3:
        notes.append(f"{written[:80]} is used at its scale alone: {', '.join(ignored) or 'more'} does nothing in Lens")
    return _number(written, given.get("unet", given.get("te", "1")))


def _number(written: str, text: str) -> float:
    try:
        number = float(text or "1")
    except ValueError:
        raise ValueError(f"prompt holds {written[:80]}, whose scale is no number; write <lora:name:0.8>") from None
    if not -100 <= number <= 100:
        raise ValueError(f"prompt holds {written[:80]}, whose scale is not between -100 and 100")
    return number
