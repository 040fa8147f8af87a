"""Prompts, numbers of images and LoRA files, as commands take them."""

import sys
from pathlib import Path
from typing import Any

MOST_FOR_A_PROMPT, MOST_IMAGES = 10_000, 1_000_000


def read_prompts(prompt: str | None, file: Path | None) -> list[str]:
    """The prompt, or one from each line of a file or of standard input."""
    from leanlens.files import decode_text, read_text

    if prompt is not None:
        if file is not None:
            raise ValueError("give either a prompt or --prompts, not both")
        return [prompt]
    if file is None and sys.stdin.isatty():
        raise ValueError("a prompt is missing; give one in quotes, --prompts FILE, or lines on standard input")
    if file is None or str(file) == "-":
        bytes_of = getattr(sys.stdin, "buffer", None)
        text = sys.stdin.read() if bytes_of is None else decode_text(bytes_of.read(), "standard input")
    else:
        text = read_text(file, f"--prompts {file}")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        raise ValueError(
            f"{'standard input' if file is None or str(file) == '-' else file} holds no prompt; give one on each line"
        )
    return lines


def lora_choice(text: str) -> dict[str, Any]:
    """FILE[:SCALE]; a colon that is part of a path (C:\\...) is not taken for a scale."""
    path, separator, scale = text.rpartition(":")
    if not separator or Path(text).exists():
        return {"path": text}
    try:
        return {"path": path, "scale": float(scale)}
    except ValueError:
        if Path(path).exists():
            raise ValueError(
                f"invalid --lora {text!r}: expected FILE or FILE:SCALE, and {scale!r} is no number"
            ) from None
        return {"path": text}


def checked_number(value: int, prompts: int) -> int:
    """Images for each prompt. Bounded, because every image is named and checked before the first one is drawn."""
    if not 1 <= value <= MOST_FOR_A_PROMPT:
        raise ValueError(f"invalid --number {str(value)[:20]}: expected a whole number from 1 to {MOST_FOR_A_PROMPT}")
    if value * prompts > MOST_IMAGES:
        raise ValueError(
            f"--number {value} for {prompts} prompts makes {value * prompts} images; at most {MOST_IMAGES} are accepted"
        )
    return value
