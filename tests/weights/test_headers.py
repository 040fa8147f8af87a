"""Headers of safetensors files, right ones and hostile ones, written byte by byte."""

import json
import re
import struct

import pytest
from safetensors import SafetensorError, safe_open

from leanlens.weights.headers import read_header
from leanlens.weights.layouts import identify
from leanlens.weights.lora import read_lora
from leanlens.weights.verify import verify

GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path, header, size=8):
    """A safetensors file with `header`, a value or the text itself, and `size` bytes of tensors."""
    raw = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(size))
    return path


def one(**changes):
    return {"img_in.lora_A.weight": GOOD | changes}


REFUSED_BY_THE_LIBRARY = {
    "metadata that is no string": ({"__metadata__": {"epoch": 3}, **one()}, 8, "expected a string"),
    "metadata that nests": ({"__metadata__": {"a": {"b": "c"}}, **one()}, 8, "expected a string"),
    "metadata that is no object": ({"__metadata__": ["a"], **one()}, 8, "header is unreadable"),
    "a dtype of torch": (one(dtype="float32"), 8, "unknown variant `float32`"),
    "a dtype in lower case": (one(dtype="f32"), 8, "unknown variant `f32`"),
    "a dtype that is no string": (one(dtype=3), 8, "of the wrong type"),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, 8, "has no dtype, shape and data_offsets"),
    "a hole": (one() | {"b": GOOD | {"data_offsets": [12, 20]}}, 20, "tensor b begins after bytes of no tensor"),
    "a hole at the start": (one(data_offsets=[4, 12]), 12, "begins after bytes of no tensor"),
    "an overlap": (one() | {"b": GOOD | {"data_offsets": [4, 12]}}, 12, "tensor b overlaps the tensor before it"),
    "the same bytes twice": (one() | {"b": GOOD}, 8, "tensor b overlaps the tensor before it"),
    "offsets past the end": (one(), 4, "is cut short: its tensors need"),
    "offsets beyond any file": (one(shape=[2**60], data_offsets=[0, 2**62]), 8, "is cut short"),
    "backward offsets": (one(data_offsets=[8, 0]), 8, "has -8 bytes"),
    "negative offsets": (one(data_offsets=[-8, 0]), 8, "of the wrong type"),
    "one offset": (one(data_offsets=[8]), 8, "of the wrong type"),
    "offsets in a string": (one(data_offsets="08"), 8, "of the wrong type"),
    "more bytes than the shape": (one(shape=[1]), 8, "a tensor of shape [1] and dtype F32 has 8 bytes"),
    "a negative shape": (one(shape=[-1, -2]), 8, "of the wrong type"),
    "a shape of floats": (one(shape=[2.0]), 8, "of the wrong type"),
    "a shape of booleans": (one(shape=[True], dtype="F64"), 8, "of the wrong type"),
    "a shape beyond 64 bits": (one(shape=[2**64]), 8, "of the wrong type"),
    "a product beyond 64 bits": (one(shape=[2**62, 2**62]), 8, "has 8 bytes"),
    "no shape": (one(shape=None), 8, "of the wrong type"),
    "trailing bytes": (one(), 9, "is damaged: 1 bytes follow its last tensor"),
    "a list": ([], 0, "header is unreadable"),
    "null": ("null", 0, "header is unreadable"),
    "a tensor that is a list": ({"a": []}, 0, "tensor a has no dtype, shape and data_offsets"),
    "bytes after the JSON": (json.dumps(one()) + "\0\0", 8, "Extra data"),
    "an unpaired surrogate": ('{"\\ud800": 1}', 0, "an unpaired surrogate"),
    "NaN": ('{"__metadata__": {"a": NaN}}', 0, "NaN is not a JSON number"),
    "deep JSON": ('{"__metadata__":' + "[" * 100_000, 0, "is nested too deeply: the limit is 64"),
    "deep metadata": ('{"__metadata__":' + '{"a":' * 63 + "1" + "}" * 64, 0, "header is unreadable"),
}
REFUSED_HERE = {
    "the same key twice": (f'{{"a": {json.dumps(GOOD)}, "a": {json.dumps(GOOD)}}}', 8, "duplicate key 'a'"),
    "a name that cannot be printed": ({"\x1b[2Ja": GOOD}, 8, "too long or not printable"),
    "a name without end": ({"a" * 5000: GOOD}, 8, "too long or not printable"),
    "millions of values": ('{"__metadata__":[' + "{}," * 1_000_000 + "{}]}", 0, "the limit is 1000000"),
}


@pytest.mark.parametrize("case", [*REFUSED_BY_THE_LIBRARY, *REFUSED_HERE])
def test_a_bad_header_is_refused_in_one_sentence_that_names_the_file(case, tmp_path):
    header, size, reason = (REFUSED_BY_THE_LIBRARY | REFUSED_HERE)[case]
    file = write(tmp_path / "stranger.safetensors", header, size)
    if case in REFUSED_BY_THE_LIBRARY:
        with pytest.raises(SafetensorError), safe_open(file, "np"):
            pass
    for read in (read_header, identify, read_lora):
        with pytest.raises(ValueError, match=re.escape(reason)) as caught:
            read(file)
        message = str(caught.value)
        assert message.startswith(f"{file} is ")
        assert message.count(str(file)) == 1
        assert len(message) < len(str(file)) + 300
        assert "\n" not in message
    (finding,) = verify(file)
    assert finding.level == "error"


def test_headers_that_other_programs_write_are_read(tmp_path):
    header = {
        "__metadata__": None,
        "b": GOOD | {"data_offsets": [8, 16], "extra": 1},
        "empty": GOOD | {"shape": [0, 3]},
    }
    header["empty"] = {"dtype": "BF16", "shape": [0, 3], "data_offsets": [8, 8]}
    header["a"] = GOOD
    file = write(tmp_path / "a.safetensors", json.dumps(header, indent=1) + "   \n", 16)
    entries, metadata = read_header(file)
    assert metadata == {}
    assert {name: (entry.shape, entry.stop - entry.start) for name, entry in entries.items()} == {
        "b": ((2,), 8), "empty": ((0, 3), 0), "a": ((2,), 8),
    }  # fmt: skip
    assert entries["a"].start == file.stat().st_size - 16


def test_a_header_as_long_as_a_model_is_refused_before_it_is_read(tmp_path):
    file = tmp_path / "long.safetensors"
    with open(file, "wb") as sparse:
        sparse.write(struct.pack("<Q", 10**9))
        sparse.truncate(2 * 10**9)
    with pytest.raises(ValueError, match="its first 8 bytes are no header length"):
        read_header(file)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        read_header(tmp_path)
