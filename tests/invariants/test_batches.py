"""What must be equal: ranks, workers and resuming change no batch, a cache no bit, packing no loss and no gradient."""

import json
import random
from itertools import islice

import pytest
import torch

from leanlens.batches.encode import Encoder
from leanlens.batches.pack import pack, predict_packed, sample_means, spread
from leanlens.batches.weigh import sample_weights
from leanlens.pipeline.features import TextSide
from leanlens.store import Store
from tests.batches.conftest import folder, make_stream, toy  # noqa: F401 - fixtures

MICRO_BATCHES = 48  # four epochs and a half of the folder


def assert_equal(one, two):
    assert (one.index, one.bucket, one.captions, one.keys) == (two.index, two.bucket, two.captions, two.keys)
    assert torch.equal(one.pixels, two.pixels)


@pytest.fixture(scope="module")
def sequence(make_stream):  # noqa: F811
    return list(islice(make_stream(caption_kind="mix", resolution="draw"), MICRO_BATCHES))


@pytest.fixture(scope="module")
def resumed_stream(make_stream):  # noqa: F811
    return lambda **settings: make_stream(caption_kind="mix", resolution="draw", **settings)


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_share_the_sequence(sequence, resumed_stream, world_size):
    ranks = [iter(resumed_stream(rank=rank, world_size=world_size)) for rank in range(world_size)]
    for number, batch in enumerate(sequence):
        assert_equal(next(ranks[number % world_size]), batch)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_change_nothing(sequence, resumed_stream, workers):
    for batch, expected in zip(resumed_stream(workers=workers), sequence, strict=False):
        assert_equal(batch, expected)


def test_resuming_anywhere_changes_nothing(sequence, resumed_stream):
    for point in random.Random(0).sample(range(MICRO_BATCHES), 8):
        before, after = resumed_stream(workers=point % 3), resumed_stream(workers=(point + 1) % 3)
        assert len(list(islice(before, point))) == point
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        for expected, batch in zip(sequence[point : point + 10], after, strict=False):
            assert_equal(batch, expected)


def test_a_state_is_that_of_every_rank_and_resumes_on_any_number_of_ranks(sequence, resumed_stream):
    for steps in (1, 4, 5, 7):
        ranks = [resumed_stream(rank=rank, world_size=3) for rank in range(3)]
        for rank in ranks:
            list(islice(rank, steps))
        states = [rank.state_dict() for rank in ranks]
        assert states[0] == states[1] == states[2]
        for world_size in (1, 2):
            again = [resumed_stream(rank=rank, world_size=world_size) for rank in range(world_size)]
            for stream in again:
                stream.load_state_dict(states[0])
            for rank, stream in enumerate(again):
                expected = sequence[3 * steps + rank :: world_size][:4]
                for wanted, batch in zip(expected, stream, strict=False):
                    assert_equal(batch, wanted)


def test_a_stream_goes_on_where_its_iterator_was_left(sequence, resumed_stream):
    stream = resumed_stream(workers=1)
    parts = [batch for _ in range(4) for batch in islice(stream, 5)]
    for batch, expected in zip(parts, sequence, strict=False):
        assert_equal(batch, expected)


def test_broken_pictures_do_not_shift_the_sequence(sequence, tmp_path, resumed_stream, folder):  # noqa: F811
    import shutil

    shutil.copytree(folder, tmp_path / "in")
    streams = [resumed_stream(path=tmp_path / "in", workers=workers) for workers in (0, 2)]
    for name in ("005.png", "017.png"):
        (tmp_path / "in" / name).write_bytes((tmp_path / "in" / name).read_bytes()[:200])
    for expected, *batches in zip(sequence, *streams, strict=False):
        assert_equal(*batches)
        kept = [key for key in expected.keys if key not in ("005", "017")]
        assert not kept or batches[0].keys == kept


def test_cached_is_uncached_bit_for_bit(sequence, toy, tmp_path):  # noqa: F811
    side = TextSide(toy.tokenizer, toy.text_encoder, (0, 1, 2, 3))
    plain, cached = Encoder(toy.vae, side), Encoder(toy.vae, side, Store(tmp_path))
    for batch in (*sequence[:4], *sequence[12:16], *sequence[:4]):  # pictures come again among other neighbours
        one, two = plain(batch), cached(batch)
        assert torch.equal(one.latents, two.latents)
        assert torch.equal(one.text.mask, two.text.mask)
        assert all(map(torch.equal, one.text.layers, two.text.layers))


# ---- the loss of a step ----


@pytest.fixture(scope="module")
def encoded(make_stream, toy):  # noqa: F811
    """Micro-batches of several buckets and sizes, some captions dropped."""
    side = TextSide(toy.tokenizer, toy.text_encoder, (0, 1, 2, 3))
    stream = make_stream(resolution="draw", caption_dropout=0.4)
    chosen = {batch.bucket: batch for batch in islice(stream, MICRO_BATCHES)}
    batches = [Encoder(toy.vae, side)(batch) for batch in chosen.values()]
    assert len(batches) > 2
    assert any(not row.any() for batch in batches for row in batch.text.mask)
    return batches


def noised(encoded, seed=3):
    """For each batch: noise and a noise level for every sample, from the same numbers however they are laid out."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(batch.latents.shape, generator=generator), torch.rand(len(batch.keys), generator=generator))
        for batch in encoded
    ]


def plain_losses(model, batch, noise, times):
    t = times[:, None, None]
    velocity = model((1 - t) * batch.latents + t * noise, batch.text.layers, batch.text.mask, times, [(1, *batch.grid)])
    return (velocity - (noise - batch.latents)).square().mean((1, 2))


def packed_losses(model, batches, draws):
    packed = pack(batches)
    noise = torch.cat([noise.flatten(0, 1) for noise, _ in draws])[None]
    times = torch.cat([times for _, times in draws])
    t = spread(times, packed)
    velocity = predict_packed(model, packed, (1 - t) * packed.latents + t * noise, times)
    return sample_means((velocity - (noise - packed.latents)).square(), packed)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("mode", ["sample", "rank"])
def test_packed_is_unpacked(encoded, toy, mode):  # noqa: F811
    model, draws = toy.transformer, noised(encoded)
    weights = sample_weights([len(batch.keys) for batch in encoded], mode)
    plain = torch.cat([plain_losses(model, batch, *draw) for batch, draw in zip(encoded, draws, strict=True)])
    packed = packed_losses(model, encoded, draws)
    torch.testing.assert_close(packed, plain, rtol=1e-6, atol=0)

    each = torch.cat([torch.full((len(b.keys),), w) for b, w in zip(encoded, weights, strict=True)])
    one, two = gradients(model, (plain * each).sum()), gradients(model, (packed * each).sum())
    assert set(one) == set(two)
    size = torch.cat([g.flatten() for g in one.values()]).norm()
    difference = torch.cat([(one[name] - two[name]).flatten() for name in one]).norm()
    assert difference / size < 1e-6
    for name in one:  # and no weight is left out
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)


def test_a_step_weighed_by_sample_is_the_mean_over_all_samples(encoded, toy):  # noqa: F811
    model, draws = toy.transformer, noised(encoded)
    counts = [len(batch.keys) for batch in encoded]
    losses = [plain_losses(model, batch, *draw) for batch, draw in zip(encoded, draws, strict=True)]
    by_sample = sum(w * loss.sum() for w, loss in zip(sample_weights(counts), losses, strict=True))
    by_rank = sum(w * loss.sum() for w, loss in zip(sample_weights(counts, "rank"), losses, strict=True))
    torch.testing.assert_close(by_sample, torch.cat(losses).mean())
    torch.testing.assert_close(by_rank, torch.stack([loss.mean() for loss in losses]).mean())
    assert abs(by_sample - by_rank) > 1e-5
