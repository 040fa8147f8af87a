"""Micro-batches from pictures that lie encoded in memory: seeded, full, and what the encoder gives."""

import json
from itertools import islice

import numpy as np
import pytest
import torch

from leanlens.batches import resident
from leanlens.batches.encode import Encoder
from leanlens.batches.encoded import ChunkEncoder, EncodedPictures, by_size
from leanlens.batches.resident import NO_CAPTION, ResidentBatch, ResidentEncoder, ResidentStream
from leanlens.batches.stream import Batch, cut_caption
from leanlens.models.vae import token_pixels
from tests.batches.conftest import resident_chunk as chunk  # noqa: F401 - a fixture
from tests.batches.conftest import toy  # noqa: F401 - a fixture

CPU = torch.device("cpu")
COUNTS, BATCHES = {(64, 64): 21, (96, 64): 9}, {(64, 64): 4, (96, 64): 2}


def pictures(counts):
    """Latents that nothing reads, and tokens that name the picture."""
    return {
        bucket: EncodedPictures(
            torch.zeros(count, 1, 1), torch.arange(2 * count, dtype=torch.int32).view(count, 2, 1), torch.ones(count, 2)
        )
        for bucket, count in counts.items()
    }


def stream(brief=0.5, dropout=0.3, counts=COUNTS, batches=BATCHES, **place):
    return ResidentStream(pictures(counts), batches, 5, brief, dropout, **place)


def test_every_picture_comes_once_in_an_epoch_but_for_a_rest():
    epoch = list(islice(stream(), 9))  # 5 of 4 and 4 of 2
    assert stream().micro_batches_of_epoch == 9
    for bucket, count in COUNTS.items():
        rows = np.concatenate([batch.rows for batch in epoch if batch.bucket == bucket])
        assert len(set(rows)) == len(rows) == count // BATCHES[bucket] * BATCHES[bucket]
    assert [batch.index for batch in islice(stream(), 20)] == list(range(20))


def test_captions_are_of_one_kind_and_some_are_dropped():
    assert {int(kind) for batch in islice(stream(), 9) for kind in batch.captions} == {NO_CAPTION, 0, 1}
    assert {int(kind) for batch in islice(stream(0.0, 0.0), 9) for kind in batch.captions} == {1}
    kinds = [{*batch.captions.tolist()} for batch in islice(stream(0.2, 0.0), 900)]
    assert all(len(each) == 1 for each in kinds)
    assert 0.15 < kinds.count({0}) / 900 < 0.25


def test_the_epoch_is_that_of_the_batch_that_came_last():
    going = stream()
    for batch in islice(going, 30):
        assert going.epoch == batch.index // 9
        again = stream()
        again.load_state_dict(going.state_dict())
        assert again.epoch == going.epoch


def test_a_state_of_other_pictures_is_refused():
    state = json.loads(json.dumps(stream().state_dict()))
    for other in (stream(brief=0.4), stream(counts={**COUNTS, (64, 64): 20}), stream(batches={**BATCHES, (64, 64): 3})):
        with pytest.raises(ValueError, match="the state was taken with"):
            other.load_state_dict(state)


def test_too_few_pictures_are_told():
    with pytest.raises(ValueError, match="30 pictures fill no micro-batch"):
        stream(batches={(64, 64): 22, (96, 64): 10})


def test_pictures_and_captions_are_what_the_encoder_gives(chunk, toy):  # noqa: F811
    encoded = by_size(ChunkEncoder(toy.vae, toy.load_text_side(), 20)([chunk]))
    resident_encoder = ResidentEncoder(encoded, toy.load_text_side(), CPU, token_pixels(toy.vae), 16)
    for bucket, (pixels, captions) in chunk.items():
        rows = np.arange(min(3, len(pixels)))
        kinds = np.array([0, 1, NO_CAPTION])[: len(rows)]
        texts = [
            cut_caption(captions[row][kind], 20) if kind >= 0 else "" for row, kind in zip(rows, kinds, strict=True)
        ]
        batch = Batch(0, bucket, torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2), texts, [])
        plain = Encoder(toy.vae, toy.load_text_side(), at_once=8, text_multiple=16)(batch)
        found = resident_encoder(ResidentBatch(7, bucket, rows, kinds))
        assert (found.grid, found.index) == (plain.grid, 7)
        assert found.keys == [f"{bucket[0]}x{bucket[1]}/{row}" for row in rows]
        torch.testing.assert_close(found.latents.float(), plain.latents, rtol=2e-3, atol=2e-3)
        length = plain.text.mask.shape[1]
        assert torch.equal(found.text.mask[:, :length], plain.text.mask)
        assert not found.text.mask[:, length:].any()
        for own, other in zip(found.text.layers, plain.text.layers, strict=True):
            torch.testing.assert_close(own[:, :length], other, rtol=1e-2, atol=1e-3)
            assert not own[:, length:].any()


def test_features_are_the_same_in_any_micro_batch_and_computed_once(chunk, toy, monkeypatch):  # noqa: F811
    """So a run that was stopped learns what one that was not learns."""
    encoded = by_size(ChunkEncoder(toy.vae, toy.load_text_side(), 20)([chunk]))
    bucket = max(encoded, key=lambda size: len(encoded[size].latents))
    one, other = (ResidentEncoder(encoded, toy.load_text_side(), CPU, 16, 16) for _ in range(2))
    first = one(ResidentBatch(0, bucket, np.arange(3), np.array([0, 1, 1])))
    fresh = other(ResidentBatch(0, bucket, np.array([2, 0]), np.array([1, NO_CAPTION])))
    with monkeypatch.context() as patch:
        patch.setattr(resident, "layer_features", lambda *given: pytest.fail("encoded again"))
        again = one(ResidentBatch(0, bucket, np.array([2, 0]), np.array([1, NO_CAPTION])))
    assert torch.equal(again.text.mask, fresh.text.mask)
    length = int(first.text.mask[2].sum())
    for layers in zip(again.text.layers, fresh.text.layers, first.text.layers, strict=True):
        assert torch.equal(layers[0], layers[1])
        assert torch.equal(layers[0][0, :length], layers[2][2, :length])
        assert not layers[0][1].any()
