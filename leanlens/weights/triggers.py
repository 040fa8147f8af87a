"""Reads the trigger phrases of a LoRA from the header of its file, without reading weights or importing torch.

Source: `modelspec.trigger_phrase` of the model specification that kohya-ss and others write; several phrases are
separated by commas.
"""

from pathlib import Path

from leanlens.weights.headers import read_header

_FIELD = "modelspec.trigger_phrase"
_IN_FOLDER = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")


def trigger_phrases(path: str | Path) -> tuple[str, ...]:
    """The trigger phrases in the header of a LoRA; empty if there are none.

    Args:
        path: the file, or a folder written by PEFT or diffusers.

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
        raise ValueError(f"{path} has no LoRA file")
    return found[0]
