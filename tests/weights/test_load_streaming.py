"""Opening never holds more than the model in its target dtype and one shard, measured on the process itself."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from tests.weights import foreign

MEGABYTE = 2**20

# Prints the peak of resident memory above what the imports took, and the size of the model, in bytes.
MEASURE = """
import resource, sys, torch
from leanlens.weights import load
from leanlens.weights.layouts import identify
kind, path = sys.argv[1:]
warm = load.empty_model(identify(path))
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before = resident()
model = getattr(load, "open_" + kind)(path, dtype=torch.bfloat16)
size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
print(peak() - before, size)
"""


def measure(kind, path):
    command = [sys.executable, "-c", MEASURE, kind, str(path)]
    environment = {"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(int(number) for number in done.stdout.split())


@pytest.mark.long
def test_transformer_in_float32_shards(tmp_path):
    """300 MB of float32 in shards of 50 MB open as 150 MB of bfloat16."""
    from leanlens.models.transformer import LensTransformer2DModel

    with torch.device("meta"):
        empty = LensTransformer2DModel(num_layers=6, num_attention_heads=9, enc_hidden_dim=512, inner_dim=576)
    empty.to_empty(device="cpu").save_pretrained(tmp_path, max_shard_size="50MB")
    shard = max(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    peak, size = measure("transformer", tmp_path)
    assert size > 140 * MEGABYTE
    assert shard < 60 * MEGABYTE
    assert peak < size + shard
    assert peak > 0.8 * size  # the measurement sees the model at all


@pytest.mark.long
def test_quantised_experts_are_decoded_one_at_a_time(tmp_path):
    """A single expert tensor is large; its float32 values must never stand whole beside it."""
    config = foreign.encoder_config()
    config.update({"num_hidden_layers": 1, "layer_types": ["full_attention"], "num_local_experts": 64})
    config.update({"hidden_size": 512, "intermediate_size": 512})
    from leanlens.models.text_encoder import LensGptOssEncoder

    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LensGptOssEncoder(config).state_dict().items()}
    stored = {}
    for name, shape in shapes.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = shape
            stored[f"{name}_blocks"] = torch.zeros(experts, outputs, inputs // 32, 16, dtype=torch.uint8)
            stored[f"{name}_scales"] = torch.full((experts, outputs, inputs // 32), 127, dtype=torch.uint8)
        else:
            stored[name] = torch.zeros(shape, dtype=torch.bfloat16)
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    peak, size = measure("text_encoder", tmp_path)
    assert size > 90 * MEGABYTE
    assert peak < size + 40 * MEGABYTE
