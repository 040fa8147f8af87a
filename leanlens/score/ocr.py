"""Reads the text in an image by optical character recognition; returns None where no recogniser is installed.

The recogniser (RapidOCR with PP-OCR models inside the package) is the extra `ocr`, separate from `eval` because it
brings OpenCV and onnxruntime, 260 MB.
"""

import difflib
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leanlens.files import sha256
from leanlens.install import install_extra
from leanlens.log import info_once

ENLARGED_TO = 768  # pixels of the longest side: letters of 11 pixels are too small for the recogniser


def read_texts(image: Image.Image) -> list[str] | None:
    """Every string in an RGB image from top to bottom; None, with a log message, without the extra `ocr`."""
    reader = _reader()
    if reader is None:
        return None
    scale = max(1.0, ENLARGED_TO / max(image.size))
    large = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    found = reader(np.asarray(large.convert("RGB"))[..., ::-1])
    return list(found.txts or ())


@cache
def recogniser_identity() -> dict[str, Any] | None:
    """Versions, the checksum of each model file, and the size that images are enlarged to; None without the extra."""
    try:
        import rapidocr
    except ImportError:
        return None
    models = sorted((Path(rapidocr.__file__).parent / "models").glob("*.onnx"))
    return {
        "rapidocr": version("rapidocr"),
        "onnxruntime": version("onnxruntime"),
        "models": {path.name: sha256(path) for path in models},
        "enlarged_to": ENLARGED_TO,
    }


def likeness(wanted: str, found: list[str]) -> float:
    """1 if a found string, or all of them joined, equals the wanted one except for case, spaces and punctuation;
    otherwise the best similarity ratio, below 1."""
    target = _letters(wanted)
    candidates = [*map(_letters, found), _letters("".join(found))]
    return max((difflib.SequenceMatcher(None, target, one, autojunk=False).ratio() for one in candidates), default=0.0)


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


@cache
def _reader() -> Any:
    try:
        from rapidocr import RapidOCR
    except ImportError:
        info_once(f"text is not judged: {install_extra('ocr')} for a recogniser")
        return None
    return RapidOCR(params={"Global.log_level": "error"})
