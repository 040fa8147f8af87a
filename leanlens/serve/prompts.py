"""What the AUTOMATIC1111 world writes into prompts, and what of it means something to Lens.

Comes in: a prompt. Goes out: the prompt without `<lora:name:scale>`, the LoRAs it named, and notes on what is taken
literally. Lens reads its prompt with a language model, which has no weights on words, so `(word:1.2)`, `[word]` and
`BREAK` are read as they stand, and the client is told.
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
    """Take LoRAs out of a prompt and note what is taken literally.

    Raises:
        ValueError: a LoRA whose scale is no number.
    """
    loras: list[tuple[str, float]] = []
    notes: list[str] = []

    def take(match: re.Match[str]) -> str:
        kind, name, scale = match[1], match[2].strip(), match[3]
        if kind.lower() != "lora":
            notes.append(f"{match[0]} is taken literally: only <lora:name:scale> is known")
            return match[0]
        loras.append((name, _scale(match[0], scale)))
        return ""

    text = _NETWORK.sub(take, prompt)
    if loras:
        text = re.sub(r" {2,}", " ", text).strip().strip(",").strip()
    for pattern, what in ((_WEIGHT, "weights"), (_BRACKETS, "brackets"), (_BREAK, "BREAK and AND")):
        if (found := pattern.search(text)) is not None:
            notes.append(f"{what} such as {found[0][:40]} are taken literally: Lens has no weights on words")
    return ReadPrompt(text, tuple(loras), tuple(notes))


def _scale(written: str, scale: str | None) -> float:
    try:
        number = float((scale or "1").split(":")[0])  # a second number is the text encoder's, which is not adapted
    except ValueError:
        raise ValueError(f"prompt holds {written[:80]}, whose scale is no number; write <lora:name:0.8>") from None
    if not -100 <= number <= 100:
        raise ValueError(f"prompt holds {written[:80]}, whose scale is not between -100 and 100")
    return number
