"""Thousands of mutated headers and configurations: only ValueError ever comes out, and memory stays bounded."""

import json
import random
import resource
import struct

import pytest
import torch
from safetensors.torch import save

from leanlens.weights.layouts import identify
from leanlens.weights.lora import read_lora
from leanlens.weights.verify import verify
from tests.weights import foreign

ODD = [None, True, False, 0, -1, 1, 2.5, 10**6, 10**10, 2**63, 10**90, "", "a", "F32", "I8", "[" * 70, [], {}, [0],
       [10**9], {"a": []}, [[]], "owner/kernel", "../../x", "\u0000", 1e300, -0.0, [None, None],
       ["transformers", "pipeline"]]  # fmt: skip


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def mutated(value, draw):
    """A copy with one place changed: another value, gone, doubled under another name, or swapped for a neighbour's."""
    copy = json.loads(json.dumps(value))
    path = draw.choice([path for path in places(copy) if path])
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    kind = draw.randrange(4)
    if kind == 0:
        del holder[path[-1]]
    elif kind == 1 and isinstance(holder, dict):
        holder[draw.choice(["a", "__metadata__", "alpha", str(path[-1]) + ".alpha"])] = holder[path[-1]]
    elif kind == 2 and isinstance(holder[path[-1]], int):
        holder[path[-1]] = holder[path[-1]] * draw.choice([2, -1, 10**6]) + draw.choice([-1, 0, 1])
    else:
        holder[path[-1]] = draw.choice(ODD)
    return copy


def torn(raw, draw):
    """The same bytes with one of them changed, cut, or repeated."""
    place = draw.randrange(len(raw))
    kind = draw.randrange(3)
    return (
        raw[:place]
        + (bytes([draw.randrange(256)]) if kind == 0 else b"" if kind == 1 else raw[place:] * 2)
        + raw[place + 1 :]
    )


def only_value_errors(read, *args, **kwargs):
    try:
        return read(*args, **kwargs)
    except ValueError as error:
        if type(error) is not ValueError or len(str(error)) > 3000:
            raise AssertionError(f"{type(error)}: {str(error)[:300]}") from error
        return None


@pytest.mark.long
def test_mutated_lora_files(tmp_path):
    draw = random.Random(19)
    names = ["attn.txt_qkv", "attn.to_q", "img_mlp.w1"]
    tensors = {}
    for name in names:
        stem = f"diffusion_model.transformer_blocks.0.{name}"
        tensors |= {f"{stem}.lora_A.weight": torch.ones(2, 8), f"{stem}.lora_B.weight": torch.ones(24, 2)}
    tensors["diffusion_model.img_in.lokr_w1"] = torch.ones(2, 2)
    tensors |= {f"diffusion_model.img_in.lokr_w2_{part}": torch.ones(2, 2) for part in "ab"}
    tensors["diffusion_model.img_in.alpha"] = torch.tensor(2.0)
    raw = save(tensors, {"lora_adapter_metadata": json.dumps({"lora_alpha": 4, "alpha_pattern": {"txt_qkv": 8}})})
    length = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": {"txt_qkv": 8}, "use_rslora": False}
    file = tmp_path / "adapter_model.safetensors"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = 0
    for number in range(1500):
        changed = mutated(header, draw) if number % 3 else header
        text = json.dumps(changed).encode()
        text = torn(text, draw) if number % 7 == 0 else text
        file.write_bytes(struct.pack("<Q", len(text)) + text + data)
        other = mutated(config, draw) if number % 2 else config
        (tmp_path / "adapter_config.json").write_text(json.dumps(other))
        read += only_value_errors(read_lora, tmp_path) is not None
        only_value_errors(identify, file)
        assert only_value_errors(verify, file, quick=True) is not None
    assert 150 < read < 1350  # both sorts were tried
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.long
def test_mutated_folders(tmp_path):
    draw = random.Random(7)
    folder = tmp_path / "Lens"
    foreign.write_pipeline(folder)
    files = [path for path in sorted(folder.rglob("*.json")) if path.name != "tokenizer.json"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    accepted = 0
    for number in range(400):
        path = draw.choice(files)
        kept = path.read_bytes()
        try:
            path.write_bytes(
                torn(kept, draw) if number % 5 == 0 else json.dumps(mutated(json.loads(kept), draw)).encode()
            )
            layout = only_value_errors(identify, folder)
            accepted += layout is not None and all(found.level != "error" for found in verify(folder, quick=True))
        finally:
            path.write_bytes(kept)
    assert 20 < accepted < 380
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB
