import gc
import weakref
from itertools import islice

import pytest
import torch

from leanlens.batches.encode import Encoder, checksum
from leanlens.batches.stream import Batch
from leanlens.models import vae as autoencoder
from leanlens.pipeline.features import TextSide
from leanlens.pipeline.toy import toy_pipeline
from leanlens.store import Store


def text_side_of(pipeline):
    return TextSide(pipeline.tokenizer, pipeline.text_encoder, (0, 1, 2, 3))


@pytest.fixture
def side(toy):
    return text_side_of(toy)


def files(store):
    return sorted(store.folder.rglob("*.safetensors"))


def some_batch(captions, bucket=(32, 48), seed=0):
    pixels = torch.randint(0, 256, (len(captions), 3, *bucket), generator=torch.Generator().manual_seed(seed))
    return Batch(5, bucket, pixels.to(torch.uint8), captions, [str(n) for n in range(len(captions))])


def test_a_batch_is_encoded_as_the_pipeline_would(toy, side):
    batch = some_batch(["a red cube", "", "many words about a very large green ball"])
    encoded = Encoder(toy.vae, side)(batch)
    assert (encoded.grid, encoded.keys, encoded.index) == ((2, 3), ["0", "1", "2"], 5)
    assert encoded.latents.shape == (3, 6, 128)
    with torch.no_grad():
        expected = autoencoder.encode(toy.vae, batch.pixels / 127.5 - 1)
    torch.testing.assert_close(encoded.latents, expected, rtol=1e-4, atol=1e-4)
    plain = side(["a red cube"])
    length = plain.mask.shape[1]
    assert encoded.text.mask.sum(1).tolist() == [length, 0, side([batch.captions[2]]).mask.shape[1]]
    for layer, wanted in zip(encoded.text.layers, plain.layers, strict=True):
        assert torch.equal(layer[:1, :length], wanted)
        assert not layer[1].any()


def test_dropped_captions_alone_have_no_tokens_at_all(toy, side):
    encoded = Encoder(toy.vae, side)(some_batch(["", " "]))
    assert [tuple(layer.shape) for layer in encoded.text.layers] == [(2, 0, 48)] * 4
    assert encoded.text.mask.shape == (2, 0)


def test_the_transformer_takes_what_the_encoder_gives(toy, side):
    encoded = Encoder(toy.vae, side)(some_batch(["one", "", "three words here"]))
    velocity = toy.transformer(
        encoded.latents, encoded.text.layers, encoded.text.mask, torch.tensor([0.1, 0.5, 0.9]), [(1, *encoded.grid)]
    )
    assert velocity.shape == encoded.latents.shape


def test_text_is_padded_to_few_lengths_and_nothing_else_changes(toy, side, tmp_path):
    """Two lengths of text become one; the network's velocities are those without the padding."""
    store = Store(tmp_path)
    for captions in (["one", "", "three words here"], ["a little longer caption of a red cube"]):
        plain = Encoder(toy.vae, side, store)(some_batch(captions))
        padded = Encoder(toy.vae, side, store, text_multiple=64)(some_batch(captions))
        used = plain.text.mask.shape[1]
        assert used < padded.text.mask.shape[1] == 64
        assert padded.text.mask.sum(1).tolist() == plain.text.mask.sum(1).tolist()
        for one, other in zip(plain.text.layers, padded.text.layers, strict=True):
            assert torch.equal(one, other[:, :used])
            assert not other[:, used:].any()
        at = torch.linspace(0.2, 0.8, len(captions))
        with torch.no_grad():
            one, other = (
                toy.transformer(batch.latents, batch.text.layers, batch.text.mask, at, [(1, *batch.grid)])
                for batch in (plain, padded)
            )
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_text_multiples_of_dropped_captions_and_of_exact_lengths(toy, side):
    assert Encoder(toy.vae, side, text_multiple=16).text(["", ""]).mask.shape == (2, 16)
    length = Encoder(toy.vae, side).text(["one two"]).mask.shape[1]
    assert Encoder(toy.vae, side, text_multiple=length).text(["one two"]).mask.shape == (1, length)


def test_each_picture_and_caption_is_computed_once(toy, side, tmp_path, monkeypatch):
    store = Store(tmp_path)
    batch = some_batch(["same", "same", "other", ""])
    encoder = Encoder(toy.vae, side, store)
    first = encoder(batch)
    assert len(files(store)) == 4 + 2
    monkeypatch.setattr(autoencoder, "encode", lambda *_: pytest.fail("latents were computed again"))
    monkeypatch.setattr(TextSide, "__call__", lambda *_: pytest.fail("text features were computed again"))
    again = encoder(batch)
    assert torch.equal(first.latents, again.latents)
    assert all(map(torch.equal, first.text.layers, again.text.layers))


def test_nothing_found_is_stale(side, toy, tmp_path):
    """Whatever an entry depends on is changed in turn; each change gives new entries that equal a fresh computation."""
    store = Store(tmp_path)
    batch = some_batch(["a red cube"])
    Encoder(toy.vae, side, store)(batch)

    def new_entries(pipeline, template=None, layers=(0, 1, 2, 3), cut=None, **settings):
        before = len(files(store))
        text = TextSide(pipeline.tokenizer, pipeline.text_encoder, layers, template)
        used = cut or batch
        found = Encoder(pipeline.vae, text, store, **settings)(used)
        fresh = Encoder(pipeline.vae, text, None, **settings)(used)
        assert torch.equal(found.latents, fresh.latents)
        assert all(map(torch.equal, found.text.layers, fresh.text.layers))
        return len(files(store)) - before

    assert new_entries(toy) == 0
    other = toy_pipeline(0)
    assert new_entries(other) == 0  # equal weights, opened a second time
    with torch.no_grad():
        other.vae.decoder.conv_in.weight[0, 0, 0, 0] += 1e-3
        other.vae.post_quant_conv.weight[0, 0] += 1e-3
    assert new_entries(other) == 0  # what turns latents into pictures does not make them
    with torch.no_grad():
        other.vae.bn.running_mean[3] += 1e-6
    assert new_entries(other) == 1
    with torch.no_grad():
        other.vae.encoder.conv_in.weight[0, 0, 0, 0] += 1e-3
    assert new_entries(other) == 1
    with torch.no_grad():
        other.text_encoder.model.layers[2].self_attn.q_proj.weight[0, 0] += 1e-3
    assert new_entries(other) == 1
    assert new_entries(toy, template_date="2027-01-01") == 1
    assert new_entries(toy, max_sequence_length=400) == 1
    assert new_entries(toy, template="plain") == 1
    assert new_entries(toy, cut=some_batch(["a red cube"], bucket=(48, 32))) == 1  # the same numbers, cut otherwise
    assert new_entries(toy, cut=some_batch(["a red cubes"])) == 1
    assert new_entries(toy) == 0


def test_other_layers_are_other_features(toy, tmp_path):
    other = toy_pipeline(0)
    store = Store(tmp_path)
    Encoder(toy.vae, text_side_of(toy), store).text(["words"])
    other.text_encoder.set_selected_layers([0, 1, 2])
    found = Encoder(other.vae, text_side_of(other), store).text(["words"])
    assert len(found.layers) == 3


def test_checksums_ignore_where_a_model_came_from(toy, tmp_path):
    toy.vae.save_pretrained(tmp_path / "vae")
    opened = type(toy.vae).from_pretrained(tmp_path / "vae")
    assert checksum(opened) == checksum(toy.vae)
    assert checksum(opened.to(torch.bfloat16)) != checksum(toy.vae)


def test_captions_encoded_once_need_no_encoder_afterwards(toy, tmp_path, make_stream):
    other = toy_pipeline(0)
    stream = make_stream(caption_kind="mix")
    encoder = Encoder(other.vae, text_side_of(other), Store(tmp_path), at_once=8)
    assert encoder.encode_once(stream.captions()) == 80
    gone = weakref.ref(other.text_encoder)
    other.text_encoder = None
    other.components["text_encoder"] = None
    gc.collect()
    assert gone() is None
    reference = Encoder(toy.vae, text_side_of(toy), at_once=1)
    for batch in islice(stream, 3):
        found, fresh = encoder(batch), reference(batch)
        assert torch.equal(found.text.mask, fresh.text.mask)
        for one, two in zip(found.text.layers, fresh.text.layers, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="'unheard of' is not in the cache"):
        encoder.text(["unheard of"])
    with pytest.raises(ValueError, match="already unloaded"):
        encoder.encode_once(["x"])


def test_bfloat16_products_are_near_and_kept_apart(toy, side, tmp_path):
    batch = some_batch(["a red cube", "a very large green ball"])
    exact = Encoder(toy.vae, side, Store(tmp_path))(batch)
    known = len(files(Store(tmp_path)))
    fast = Encoder(toy.vae, side, Store(tmp_path), precision="bfloat16")(batch)
    assert len(files(Store(tmp_path))) == 2 * known  # under keys of their own
    for one, other in ((exact.latents, fast.latents), (exact.text.layers[1], fast.text.layers[1])):
        assert other.dtype == torch.float32
        assert not torch.equal(one, other)
        assert float((one - other).norm() / one.norm()) < 0.05
    with pytest.raises(ValueError, match="invalid precision 'half'"):
        Encoder(toy.vae, side, precision="half")


def test_encode_once_needs_a_cache(toy, side):
    with pytest.raises(ValueError, match="needs an encoder with a cache"):
        Encoder(toy.vae, side).encode_once(["x"])
    with pytest.raises(ValueError, match="at_once 0"):
        Encoder(toy.vae, side, at_once=0)
    with pytest.raises(ValueError, match="text_multiple 0"):
        Encoder(toy.vae, side, text_multiple=0)
