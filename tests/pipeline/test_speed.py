"""How a pipeline is made fast: what acts, what stays equal, what is recorded, what is refused."""

import shutil

import numpy as np
import pytest
import torch

from leanlens.models.fp8 import Fp8Linear
from leanlens.models.onednn import ReorderedLinear
from leanlens.pipeline import speed as speeds
from leanlens.pipeline.draw import draw
from leanlens.pipeline.open import open_model
from leanlens.pipeline.request import ImageRequest
from leanlens.pipeline.speed import Speed, best_attention, cache_config, read_cache

REQUEST = ImageRequest.checked(
    prompt="a lamp", width=64, height=96, num_inference_steps=6, guidance_scale=4.0, seed=3
)  # fmt: skip


def picture(opened) -> np.ndarray:
    return np.asarray(draw(opened, REQUEST).image).astype(int)


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    return picture(open_model("toy", "cpu", "float32"))


@pytest.mark.parametrize(
    "speed",
    [Speed(guided_share=0.5), Speed(cache="first-block:5"), Speed(cache="taylor"), Speed(cache="taylor-lite:3")],
    ids=lambda speed: str(speed.conditions()),
)
def test_priced_modes_act_and_are_recorded(speed, plain):
    opened = open_model("toy", "cpu", "float32", speed=speed)
    drawn = picture(opened)
    assert np.abs(drawn - plain).max() > 0
    assert (picture(opened) == drawn).all()  # nothing is left of the picture before
    run = draw(opened, REQUEST).record["run"]
    assert Speed.of_record(run) == speed


def test_nothing_is_recorded_of_what_is_not_asked_for():
    run = draw(open_model("toy", "cpu", "float32"), REQUEST).record["run"]
    assert not {"attention", "graphs", "fp8", "cache", "guided_share"} & set(run)
    assert Speed.of_record(run) == Speed()


def test_a_drawing_that_was_broken_off_leaves_nothing(plain):
    opened = open_model("toy", "cpu", "float32", speed=Speed(cache="taylor"))
    expected = picture(opened)

    def stop(step):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(opened, REQUEST, on_step=stop)
    assert (picture(opened) == expected).all()


def test_an_attention_kernel_is_used(plain):
    opened = open_model("toy", "cpu", "float32", speed=Speed(attention="_native_math"))
    kernels = {block.attn.processor._attention_backend for block in opened.pipeline.transformer.transformer_blocks}
    assert kernels == {"_native_math"}
    assert np.abs(picture(opened) - plain).max() <= 1
    opened.pipeline.transformer.set_attention_backend("native")  # diffusers keeps it for the whole process
    assert best_attention(torch.device("cpu")) == "native"


def test_float8_is_refused_whole_by_layers_that_do_not_bear_it():
    with pytest.raises(ValueError, match="multiples of 16"):
        open_model("toy", "cpu", "bfloat16", speed=Speed(fp8=True))
    nano = open_model("nano", "cpu", "bfloat16").pipeline.transformer
    assert not any(isinstance(module, Fp8Linear) for module in nano.modules())


def test_convolutions_have_their_own_order(plain):
    vae = open_model("toy", "cpu", "float32").pipeline.vae
    weight = vae.decoder.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"guided_share": 0.0}, "invalid guided_share 0.0"),
        ({"guided_share": 1.5}, "invalid guided_share 1.5"),
        ({"cache": "magic"}, "invalid cache 'magic': expected one of first-block:THRESHOLD"),
        ({"cache": "taylor:1"}, "expected an integer from 2"),
        ({"cache": "taylor:2.5"}, "expected an integer from 2"),
        ({"cache": "first-block:x"}, "invalid cache"),
    ],
)
def test_wrong_words(words, message):
    with pytest.raises(ValueError, match=message):
        Speed(**words)


def test_what_does_not_go_together():
    with pytest.raises(ValueError, match="graphs need compile and a CUDA device"):
        open_model("toy", "cpu", speed=Speed(graphs=True))
    with pytest.raises(ValueError, match="decoder needs compile"):
        open_model("toy", "cpu", speed=Speed(decoder=True))
    if shutil.which("g++"):
        with pytest.raises(ValueError, match="cannot be combined with compile"):
            open_model("toy", "cpu", compile=True, speed=Speed(cache="taylor"))


def test_caches_by_name():
    assert read_cache("taylor") == ("taylor", 2.0)
    assert cache_config("first-block:.2").threshold == 0.2
    assert cache_config("taylor-lite:4").cache_interval == 4


def test_a_compiled_decoder_decodes_as_a_plain_one():
    torch._dynamo.reset()
    opened, graphs = open_model("toy", "cpu", "float32"), []

    def keep(graph, _):
        graphs.append(1)
        return graph.forward

    requests = [
        ImageRequest.checked(prompt="a", width=w, height=64, num_inference_steps=1, guidance_scale=1.0, seed=3)
        for w in (64, 96, 64)
    ]
    before = [np.asarray(draw(opened, request).image) for request in requests]
    speeds.compile_decoder(opened.pipeline.vae, backend=keep)
    after = [np.asarray(draw(opened, request).image) for request in requests]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert len(graphs) == 2  # one for each size
    torch._dynamo.reset()


def test_compiling_lays_weights_out_and_shares_graphs():
    """One graph with text and one without, whatever the size of the picture and the text."""
    torch._dynamo.reset()
    opened = open_model("toy", "cpu", "float32")
    transformer, graphs = opened.pipeline.transformer, []

    def keep(graph, _):
        graphs.append(1)
        return graph.forward

    sizes = [(64, 96, "a lamp"), (96, 64, "a lamp and a cat"), (128, 128, "two cats")]
    requests = [
        ImageRequest.checked(prompt=text, width=w, height=h, num_inference_steps=2, guidance_scale=4.0, seed=3)
        for w, h, text in sizes
    ]
    before = [np.asarray(draw(opened, request).image).astype(int) for request in requests]
    speeds.compile_blocks(transformer, torch.device("cpu"), backend=keep)
    after = [np.asarray(draw(opened, request).image).astype(int) for request in requests]
    assert all(np.abs(one - other).max() <= 1 for one, other in zip(before, after, strict=True))
    assert any(type(module) is ReorderedLinear for module in transformer.modules())
    assert len(graphs) == 2
    torch._dynamo.reset()
