"""The words a LoRA listens to, out of headers written by hand."""

import json
from pathlib import Path

import pytest

from leanlens.weights.triggers import trigger_phrases


def write(path: Path, fields: dict[str, str] | None) -> Path:
    """A safetensors file of one tensor with these header fields, by the format's description."""
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header if fields is None else {"__metadata__": fields, **header}).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    return path


@pytest.mark.parametrize(
    ("stated", "phrases"),
    [
        ("sks dog", ("sks dog",)),
        ("  sks   dog ,in the style of\tmira, ", ("sks dog", "in the style of mira")),
        ("猫耳", ("猫耳",)),
        ("", ()),
        (None, ()),
    ],
)
@pytest.mark.parametrize(
    "place", ["a.safetensors", "peft/adapter_model.safetensors", "x/pytorch_lora_weights.safetensors"]
)
def test_phrases_of_a_file_and_of_adapter_folders(tmp_path, place, stated, phrases):
    fields = {"format": "pt"} | ({} if stated is None else {"modelspec.trigger_phrase": stated})
    file = write(tmp_path / place, fields)
    assert trigger_phrases(file) == phrases
    if "/" in place:
        assert trigger_phrases(file.parent) == phrases


def test_a_header_without_fields_states_none(tmp_path):
    assert trigger_phrases(write(tmp_path / "a.safetensors", None)) == ()


def test_what_is_no_lora_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no LoRA file"):
        trigger_phrases(tmp_path)
    (tmp_path / "a.safetensors").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        trigger_phrases(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="none"):
        trigger_phrases(tmp_path / "none.safetensors")
