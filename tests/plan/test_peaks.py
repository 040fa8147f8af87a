"""The memory that the planner predicts for each load option, against opened pipelines."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from leanlens.models.transformer import LensTransformer2DModel
from leanlens.pipeline.open import open_model
from leanlens.pipeline.request import ImageRequest
from leanlens.plan.choose import Drawing, Machine, weigh
from leanlens.plan.compute import DenoiserSizes
from leanlens.plan.devices import cpu, find_device
from leanlens.plan.memory import (
    ModelSizes,
    part_bytes,
    streamed_bytes,
    two_blocks_bytes,
    unpacking_bytes,
)
from leanlens.plan.options import QUANT_BITS, QUANTS, LoadOptions
from leanlens.plan.rates import assumed
from leanlens.weights.packed import FORMATS, PackedLinear, is_packed_layer
from leanlens.weights.sizes import model_sizes
from tests.plan.live import LiveBytes

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
TWO_LAYERS = ModelSizes(DenoiserSizes(layers=2))


@pytest.fixture(scope="module")
def wide():
    """Two blocks of the released width, without memory."""
    with torch.device("meta"):
        return LensTransformer2DModel(num_layers=2)


def test_what_is_packed_and_what_lies_around_the_blocks(wide):
    packed = [part.weight.numel() for name, part in wide.named_modules() if is_packed_layer(name)]
    assert TWO_LAYERS.packed_weights == sum(packed)
    blocks = sum(weight.numel() for weight in wide.transformer_blocks.parameters())
    whole = sum(weight.numel() for weight in wide.parameters())
    assert TWO_LAYERS.around_blocks == whole - blocks
    assert two_blocks_bytes(TWO_LAYERS, 2.0 * whole, 2) == 2 * whole
    widest = max(part.weight.numel() for part in wide.modules() if isinstance(part, torch.nn.Linear))
    assert streamed_bytes(TWO_LAYERS, 2)["transformer"] == widest * 6


def test_bits_of_the_formats():
    assert set(QUANTS) == {"none", *FORMATS}
    for name, bits in QUANT_BITS.items():
        sizes = FORMATS[name].sizes(4096, 1536)
        held = sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in sizes)
        assert bits == pytest.approx(8 * held / (4096 * 1536), rel=0.01)


@pytest.mark.parametrize("quant", [quant for quant in QUANTS if quant != "none"])
def test_decoding_at_use_stays_below_what_is_planned(quant):
    layer = torch.randn(512, 256)
    form = FORMATS[quant]
    packed = PackedLinear(form, (512, 256), form.encode(layer))
    with LiveBytes([*packed.buffers()]) as live:
        packed(torch.zeros(1, 256, dtype=torch.bfloat16))
    sizes = ModelSizes(DenoiserSizes(layers=1, width=96))  # whose gated MLP is 96 x 256
    assert live.peak / layer.numel() < 2.2 * unpacking_bytes(sizes, quant, 2) / (96 * 288)


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"quant": "int8"},
        {"quant": "nf4"},
        {"offload": "encoder"},
        {"offload": "encoder", "encoder_on": "disk"},
        {"offload": "disk", "encoder_on": "disk"},
    ],
)
def test_memory_of_every_stage_on_a_processor(words, tmp_path):
    """Predicted weights and workspace of each stage against tensors counted in a toy of the real classes."""
    from leanlens.pipeline.toy import toy_pipeline

    toy_pipeline().save_pretrained(tmp_path / "toy")
    model = open_model(str(tmp_path / "toy"), "cpu", "float32", options=LoadOptions(**words))
    sizes, _ = model_sizes(str(tmp_path / "toy"))
    planned = replace(LoadOptions(**{"quant": "none", **words}), device="cpu", dtype="float32").without_planning()
    drawing = Drawing(512, 512, 1, 1.0, text_tokens=30)
    choice = weigh(Machine(cpu(2), 8), cpu(2), sizes, drawing, planned)
    said = {stage: size - assumed("process") for stage, size in choice.ram.items()}
    held = _held(model.pipeline)
    assert held == pytest.approx(said["opening"], rel=0.1)
    request = ImageRequest.checked(
        prompt="a", width=512, height=512, num_inference_steps=1, guidance_scale=1.0, seed=0
    )  # fmt: skip
    features = model.features(request)[0]
    with LiveBytes(list(_tensors(model.pipeline))) as live:
        model.pipeline(
            prompt_embeds=features.layers, height=512, width=512, num_inference_steps=1, guidance_scale=1.0,
            output_type="latent", generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    # A processor's convolutions take scratch that counting does not see, so denoising is what is compared.
    assert held + live.peak == pytest.approx(said["denoising"], rel=0.15)


def test_the_peak_of_a_whole_process_is_planned_within_a_tenth_of_every_measured_one():
    """On a processor, at nano's and at the released width: `benchmarks/memory.py` measured every setting."""
    measured = json.loads((RESULTS / "memory_cpu.json").read_text())
    for case in ("nano", "wide"):
        assert len(measured[case]["rungs"]) >= 14
        for name, setting in measured[case]["rungs"].items():
            whole = setting["libraries_gb"] + max(setting["peak_gb"].values())
            said = assumed("process") / 1e9 + max(setting["planned_gb"].values())
            assert said == pytest.approx(whole, rel=0.1), (case, name)


def _tensors(pipeline):
    for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
        if part is not None:
            yield from (tensor for tensor in (*part.parameters(), *part.buffers()) if not tensor.is_meta)


def _held(pipeline):
    return sum(tensor.nbytes for tensor in _tensors(pipeline))


def test_a_rung_down_never_needs_more_of_the_card():
    card, model, peaks = find_device("RTX 3060"), ModelSizes(), []
    for word in ("none", "encoder", "model", "modulation", "block", "disk"):
        options = LoadOptions("none", word, "disk", False, "cuda", "bfloat16", False)
        peaks.append(max(weigh(Machine(card, 64), card, model, Drawing(), options).vram.values()))
    assert peaks == sorted(peaks, reverse=True)
    sizes = [part_bytes(model, "bfloat16", True, quant)["transformer"] for quant in ("none", "int8", "nf4")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] == pytest.approx(5.49e9, rel=0.01)


def test_a_third_of_the_weights_is_modulation(wide):
    counted = sum(weight.numel() for name, weight in wide.named_parameters() if "_mod." in name)
    whole = sum(weight.numel() for weight in wide.parameters())
    sizes = ModelSizes(DenoiserSizes(layers=2), whole)
    assert sizes.modulation == counted
    assert sizes.modulation_share == pytest.approx(counted / whole)
    assert ModelSizes().modulation_share == pytest.approx(1.36 / 4.10, rel=0.01)
