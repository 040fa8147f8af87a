"""Every load option: that it acts, and what it does to the picture."""

import gc
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from leanlens.models.offloaded_linear import OffloadedLinear
from leanlens.pipeline.draw import draw
from leanlens.pipeline.open import open_model
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.pipeline.request import ImageRequest
from leanlens.pipeline.speed import Speed
from leanlens.pipeline.toy import toy_pipeline
from leanlens.plan.options import QUANTS, LoadOptions
from leanlens.weights.assemble import convert
from leanlens.weights.packed import PackedLinear
from tests.plan.live import LiveBytes

GOOD = {"prompt": "a", "width": 64, "height": 64, "num_inference_steps": 2, "guidance_scale": 2.0, "seed": 3}
# Decibels that toy pictures, coloured noise, keep at least; pictures of trained weights keep more (docs/memory.md).
KEPT = {"int8": 35, "mxfp8": 22, "fp8": 22, "nf4": 14, "int4": 14}


def opened(**words):
    return open_model("toy", device="cpu", dtype="float32", options=LoadOptions(**words))


def picture(model, **changes):
    return draw(model, ImageRequest.checked(**{**GOOD, **changes})).image


def decibels(one, other):
    error = np.mean((np.asarray(one, dtype=float) - np.asarray(other, dtype=float)) ** 2)
    return 10 * np.log10(255**2 / error) if error else float("inf")


@pytest.fixture(scope="module")
def plain():
    return open_model("toy", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def reference(plain):
    return picture(plain)


@pytest.mark.parametrize(
    ("offload", "encoder_on"),
    [
        ("none", "cpu"), ("none", "disk"), ("encoder", "device"), ("encoder", "disk"), ("model", "device"),
        ("modulation", "device"), ("block", "cpu"), ("disk", "disk"),
    ],
)  # fmt: skip
def test_offloading_changes_no_bit(reference, offload, encoder_on):
    model = opened(offload=offload, encoder_on=encoder_on)
    assert picture(model).tobytes() == reference.tobytes()
    assert picture(model, prompt="b").tobytes() != reference.tobytes()
    assert picture(model).tobytes() == reference.tobytes()  # whatever left has come back


def test_the_encoder_is_opened_to_encode_and_let_go(reference):
    model = opened(offload="encoder")
    loader = model.pipeline.encoder_loader
    assert model.pipeline.text_encoder is None
    for _ in range(2):
        picture(model)
    assert loader.openings == 1  # the features of the last prompt are kept
    picture(model, prompt="b")
    assert (loader.openings, model.pipeline.text_encoder) == (2, None)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing).__name__ == "LensGptOssEncoder" and _is_ours(thing)]


def _is_ours(encoder):
    return "leanlens-toy-" in str(getattr(encoder, "name_or_path", ""))


def test_several_prompts_are_encoded_in_one_opening():
    model = opened(offload="encoder")
    model.prepare([ImageRequest.checked(**{**GOOD, "prompt": prompt}) for prompt in "abc"])
    pictures = {picture(model, prompt=prompt).tobytes() for prompt in "abc"}
    assert (model.pipeline.encoder_loader.openings, len(pictures)) == (1, 3)


def test_parts_take_turns(plain):
    """On a processor nothing moves, but the order in which parts would move shows."""
    model = opened(offload="model")
    moved = []
    for name in ("transformer", "vae"):
        part = getattr(model.pipeline, name)
        part.to = lambda *where, name=name, to=part.to: moved.append(name) or to(*where)
    picture(model)
    assert "transformer" in moved  # sent away when the decoder came


def test_modulation_stays_behind_and_is_fetched_once_in_a_drawing(reference, monkeypatch):
    model, fetched = opened(offload="modulation"), []
    plain = OffloadedLinear.fetched
    monkeypatch.setattr(OffloadedLinear, "fetched", lambda self, device: fetched.append(self) or plain(self, device))
    assert picture(model).tobytes() == reference.tobytes()  # two steps of two branches each
    transformer = model.pipeline.transformer
    assert len(fetched) == len(set(fetched)) == 2 * len(transformer.transformer_blocks)
    transformer.to("meta")
    stayed = {name for name, weight in transformer.named_parameters() if not weight.is_meta}
    assert stayed == {name for name in transformer.state_dict() if "_mod." in name}


def test_exact_drawing_with_modulation_left_behind(plain):
    assert picture(opened(offload="modulation"), exact=True).tobytes() == picture(plain, exact=True).tobytes()


def test_blocks_come_and_go_one_by_one(reference, monkeypatch):
    from diffusers.hooks.group_offloading import ModuleGroup

    model, calls = opened(offload="block"), []
    for name in ("onload_", "offload_"):
        method = getattr(ModuleGroup, name)
        monkeypatch.setattr(
            ModuleGroup, name, lambda self, name=name, method=method: calls.append((name, self)) or method(self)
        )
    assert picture(model).tobytes() == reference.tobytes()
    blocks = list(model.pipeline.transformer.transformer_blocks)
    here, most = set(), 0
    for name, group in calls:
        held = {index for index, block in enumerate(blocks) if block in group.modules}
        here = here | held if name == "onload_" else here - held
        most = max(most, len(here))
    assert most == 1


def test_a_denoiser_on_disk_is_never_held(plain):
    model = opened(offload="disk", encoder_on="disk")
    weights = sum(weight.nbytes for weight in plain.pipeline.transformer.parameters())
    assert all(weight.is_meta for weight in model.pipeline.transformer.parameters())
    features = model.features(ImageRequest.checked(**GOOD))
    peaks = []
    for each in (plain, model):
        with LiveBytes() as live:
            each.pipeline(
                prompt_embeds=features[0].layers, height=64, width=64, num_inference_steps=1, guidance_scale=1.0,
                output_type="latent", generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
        peaks.append(live.peak)
    assert peaks[1] - peaks[0] < weights / 4  # what is read for one layer, not the network


@pytest.mark.parametrize("quant", [quant for quant in QUANTS if quant != "none"])
def test_quantised_weights(plain, reference, quant):
    model = opened(quant=quant)
    layers = [part for part in model.pipeline.transformer.modules() if isinstance(part, PackedLinear)]
    assert {layer.form.name for layer in layers} == {quant}
    sizes = [
        sum(tensor.nbytes for tensor in (*part.parameters(), *part.buffers()))
        for part in (model.pipeline.transformer, plain.pipeline.transformer)
    ]
    assert sizes[0] < 0.75 * sizes[1]
    drawn = picture(model)
    assert KEPT[quant] < decibels(drawn, reference) < 80
    assert draw(model, ImageRequest.checked(**GOOD)).record["run"]["quant"] == quant
    both = opened(quant=quant, offload="block", encoder_on="disk")
    assert picture(both).tobytes() == drawn.tobytes()


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory):
    """A pipeline whose transformer is INT8 in the files, modulation too."""
    folder = tmp_path_factory.mktemp("packed") / "toy"
    toy_pipeline().save_pretrained(folder)
    convert(folder / "transformer", folder / "int8", dtype=torch.bfloat16, quant="int8", modulation=True)
    shutil.rmtree(folder / "transformer")
    (folder / "int8").rename(folder / "transformer")
    return folder


def packed_in(transformer):
    return {part.form.name for part in transformer.modules() if isinstance(part, PackedLinear)}


def test_a_small_packed_denoiser_is_decoded_when_it_is_opened(packed_folder, reference, monkeypatch):
    """A large one stays packed; the picture is the same to the last bit, and so is what its record says."""
    drawn = {}
    words = {"device": "cpu", "dtype": "float32"}
    ways = {
        "plain": lambda: open_model(str(packed_folder), **words),
        "held": lambda: open_model(str(packed_folder), **words, options=LoadOptions(offload="encoder")),
        "parts": lambda: open_model(str(packed_folder), **words, parts={"vae": str(packed_folder / "vae")}),
        "none": lambda: open_model(str(packed_folder), **words, options=LoadOptions("none")),
        "disk": lambda: open_model(str(packed_folder), **words, options=LoadOptions(offload="disk")),
    }
    for name, way in ways.items():
        model = way()
        assert packed_in(model.pipeline.transformer) == set()
        assert {weight.dtype for weight in model.pipeline.transformer.parameters()} == {torch.float32}
        drawn[name] = picture(model).tobytes()
    asked = open_model(str(packed_folder), **words, options=LoadOptions("int8"))
    assert packed_in(asked.pipeline.transformer) == {"int8"}
    monkeypatch.setattr("leanlens.pipeline.offload.SMALL", 1000)
    for name in ("plain", "held", "parts", "none"):
        model = ways[name]()
        assert packed_in(model.pipeline.transformer) == (set() if name == "none" else {"int8"})
        result = draw(model, ImageRequest.checked(**GOOD))
        drawn[f"large {name}"] = result.image.tobytes()
        assert "quant" not in result.record["run"]
    assert set(drawn.values()) == {drawn["plain"]}
    assert 30 < decibels(picture(ways["plain"]()), reference) < 80


def test_a_small_packed_folder_opens_in_the_dtype_that_a_plain_one_does(packed_folder, monkeypatch):
    def dtypes(**words):
        pipeline = LensPipeline.from_pretrained(packed_folder, **words)
        return pipeline.transformer.dtype, pipeline.vae.dtype

    full, half = torch.float32, torch.bfloat16
    assert dtypes() == (full, full)
    assert dtypes(torch_dtype=half) == (half, half)
    assert dtypes(torch_dtype={"transformer": half, "default": full}) == (half, full)
    assert dtypes(torch_dtype={"vae": half}) == (full, half)
    monkeypatch.setattr("leanlens.pipeline.offload.SMALL", 1000)
    assert dtypes()[0] == half  # 8 GB of the released Lens


def test_loras_on_a_small_packed_denoiser(packed_folder, tmp_path):
    torch.manual_seed(0)
    layer = "transformer.transformer_blocks.1.img_mod.1"
    lora = {f"{layer}.lora_A.weight": torch.randn(4, 128), f"{layer}.lora_B.weight": torch.randn(768, 4)}
    save_file(lora, tmp_path / "lora.safetensors")
    model = open_model(str(packed_folder), "cpu", "float32")
    before = picture(model).tobytes()
    assert picture(model, loras=[{"path": str(tmp_path / "lora.safetensors")}]).tobytes() != before
    assert picture(model).tobytes() == before


def test_tiles(plain, reference):
    model = opened(tile_vae=True)
    assert model.pipeline.vae.tile_sample_min_size == 64
    assert picture(model).tobytes() == reference.tobytes()  # one tile
    calls, decode = [], model.pipeline.vae.decoder.forward
    model.pipeline.vae.decoder.forward = lambda x, *rest: calls.append(tuple(x.shape[-2:])) or decode(x, *rest)
    drawn = picture(model, width=128, height=128)
    assert len(calls) > 3
    assert max(calls) == (8, 8)
    assert 10 < decibels(drawn, picture(plain, width=128, height=128)) < 80
    assert model.conditions()["tile_vae"] is True


def test_features_on_disk_spare_the_encoder(reference, tmp_path):
    def model():
        return open_model(
            "toy", "cpu", "float32", options=LoadOptions(offload="encoder"), features=tmp_path / "features"
        )  # fmt: skip

    first, second = model(), model()
    assert picture(first).tobytes() == picture(second).tobytes() == reference.tobytes()
    assert (first.pipeline.encoder_loader.openings, second.pipeline.encoder_loader.openings) == (1, 0)
    picture(second, prompt="b")
    picture(second, negative_prompt="b")
    assert second.pipeline.encoder_loader.openings == 2
    kept = list((tmp_path / "features").rglob("*.safetensors"))
    assert len(kept) == 3
    for file in kept:
        file.write_bytes(b"damaged")
    third = model()
    assert picture(third).tobytes() == reference.tobytes()
    assert third.pipeline.encoder_loader.openings == 1


def test_loras_on_blocks_that_come_and_go(tmp_path, plain):
    torch.manual_seed(0)
    down, up = torch.randn(4, 128), torch.randn(384, 4)
    layer = "transformer.transformer_blocks.1.attn.img_qkv"
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, tmp_path / "lora.safetensors")
    lora = {"loras": [{"path": str(tmp_path / "lora.safetensors")}]}
    drawn = picture(plain, **lora)
    assert picture(opened(offload="block"), **lora).tobytes() == drawn.tobytes()
    with pytest.raises(ValueError, match="loras cannot be used with offload 'disk'"):
        picture(opened(offload="disk"), **lora)


def test_all_loras_of_a_request_act_together_each_at_its_scale(tmp_path, plain):
    """As one LoRA whose matrices are those of both, one below the other."""
    torch.manual_seed(0)
    layer = "transformer.transformer_blocks.1.attn.img_qkv"
    downs, ups = torch.randn(2, 4, 128), torch.randn(2, 384, 4)

    def saved(name, down, up):
        save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, tmp_path / f"{name}.safetensors")
        return str(tmp_path / f"{name}.safetensors")

    files = [saved(f"{index}", downs[index].contiguous(), ups[index].contiguous()) for index in range(2)]
    both = saved("both", downs.flatten(0, 1), torch.cat([0.25 * ups[0], 0.5 * ups[1]], dim=1))
    loras = [{"path": files[0], "scale": 0.25}, {"path": files[1], "scale": 0.5}]
    drawn = picture(plain, loras=loras)
    assert decibels(drawn, picture(plain, loras=[{"path": both}])) > 50
    for one in loras:
        assert decibels(drawn, picture(plain, loras=[one])) < 40


def test_from_pretrained_takes_the_words(tmp_path):
    toy_pipeline().save_pretrained(tmp_path / "toy")
    words = {"quant": "int8", "offload": "encoder", "device": "cpu"}
    pipeline = LensPipeline.from_pretrained(tmp_path / "toy", torch_dtype=torch.float32, **words)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a", height=64, width=64, num_inference_steps=1).images
    assert (len(images), pipeline.encoder_loader.openings, pipeline.text_encoder) == (1, 1, None)
    with pytest.raises(ValueError, match="vae cannot be combined with"):
        LensPipeline.from_pretrained(tmp_path / "toy", vae=None, **words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"quant": "int3"}, "invalid quant 'int3': expected one of auto, none, int8"),
        ({"offload": "tape"}, "invalid offload 'tape'"),
        ({"encoder_on": "moon"}, "invalid encoder_on 'moon'"),
        ({"quant": "int8", "offload": "disk"}, "cannot be combined with offload 'disk'"),
    ],
)
def test_words_that_are_not_known(words, said):
    with pytest.raises(ValueError, match=said):
        LoadOptions(**words)


def test_words_that_do_not_go_together():
    with pytest.raises(ValueError, match="compile cannot be combined with offload 'disk'"):
        open_model("toy", "cpu", "float32", compile=True, options=LoadOptions(offload="disk"))
    for words in ({"offload": "block"}, {"quant": "int8"}):
        with pytest.raises(ValueError, match="fp8 products cannot be combined with"):
            open_model("toy", "cpu", "float32", options=LoadOptions(**words), speed=Speed(fp8=True))
    with pytest.raises(ValueError, match="only GPT-OSS is read layer by layer"):
        open_model("nano", "cpu", "float32", options=LoadOptions(offload="encoder", encoder_on="disk"))


def test_missing_kernels_are_named(monkeypatch, caplog):
    from leanlens.log import warn_once
    from leanlens.pipeline import encoder_loading

    warn_once.cache_clear()
    monkeypatch.setattr(encoder_loading, "kernels_missing", lambda: ["kernels", "triton"])
    for device in ("cpu", "cuda", "cuda"):
        encoder_loading.warn_of_missing_kernels(torch.device(device))
    assert caplog.text.count("kernels and triton") == 1
    assert "40.7 GB" in caplog.text
