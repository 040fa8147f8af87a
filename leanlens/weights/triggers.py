"""The words that a LoRA listens to, as the header of its file states them.

Comes in: a LoRA file, or an adapter folder. Goes out: phrases. Reads no weight and imports no torch.

Source: `modelspec.trigger_phrase` of the model specification that kohya-ss and others write into headers; several
phrases are separated by commas.
"""

from pathlib import Path

from leanlens.weights.headers import read_header

_FIELD = "modelspec.trigger_phrase"
_IN_FOLDER = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")


def trigger_phrases(path: str | Path) -> tuple[str, ...]:
    """The phrases that the header of a LoRA states; none where it states none.

    Args:
        path: the file, or the folder that PEFT or diffusers has written.

    Raises:
        ValueError: not a safetensors file, or a folder without one.
    """
    _, metadata = read_header(_file(Path(path).expanduser()))
    return tuple(phrase for part in metadata.get(_FIELD, "").split(",") if (phrase := " ".join(part.split())))


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = [path / name for name in _IN_FOLDER if (path / name).is_file()] or sorted(path.glob("*.safetensors"))
    if not found:
        raise ValueError(f"{path} holds no LoRA file")
    return found[0]
