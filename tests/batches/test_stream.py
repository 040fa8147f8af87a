import json
import logging
import shutil
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from leanlens.batches.assign import batch_sizes, crop_box
from leanlens.batches.stream import Stream, cut_caption, fit
from leanlens.pictures.sources import open_source
from tests.batches.conftest import SIZES, TABLE, write_folder, write_picture


def first_epoch(stream):
    batches = []
    for batch in stream:
        if stream.epoch:
            return batches
        batches.append(batch)


def test_a_batch_is_what_it_says(make_stream):
    for batch in islice(make_stream(caption_dropout=0), 12):
        assert batch.pixels.dtype == torch.uint8
        assert batch.pixels.shape == (len(batch.keys), 3, *batch.bucket)
        assert batch.captions == [f"dense words for number {int(key)}" for key in batch.keys]


def test_every_epoch_holds_every_picture_once(make_stream):
    stream = make_stream()
    epochs = {}
    for batch in stream:
        if stream.epoch == 3:
            break
        epochs.setdefault(stream.epoch, []).extend(batch.keys)
    assert [Counter(keys) for keys in epochs.values()] == [Counter(f"{n:03d}" for n in range(40))] * 3
    assert epochs[0] != epochs[1]


def test_batches_have_their_buckets_size_and_only_the_last_is_short(make_stream):
    sizes = batch_sizes(TABLE, 4)
    short = Counter()
    for batch in first_epoch(make_stream()):
        assert len(batch.keys) <= sizes[batch.bucket]
        short[batch.bucket] += len(batch.keys) < sizes[batch.bucket]
    assert max(short.values()) == 1


def test_pixels_are_the_cut_and_resized_picture(make_stream, folder):
    for batch in islice(make_stream(), 6):
        for key, pixels in zip(batch.keys, batch.pixels, strict=True):
            image = Image.open(folder / f"{key}.png")
            assert torch.equal(pixels, fit(image, batch.bucket))
            if image.size == batch.bucket[::-1]:
                np.testing.assert_array_equal(pixels.numpy().transpose(1, 2, 0), np.asarray(image))


def test_fit_resizes_as_pillow_does():
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((180, 120), Image.Resampling.BICUBIC)
    for bucket in ((64, 96), (160, 240), (64, 64), (48, 96)):
        left, top, right, bottom = map(round, crop_box(120, 180, bucket))
        wanted = image.crop((left, top, right, bottom)).resize(bucket[::-1], Image.Resampling.BICUBIC)
        difference = fit(image, bucket).permute(1, 2, 0).numpy().astype(int) - np.asarray(wanted)
        assert abs(difference).max() <= 2


def test_fit_keeps_the_middle():
    image = Image.new("RGB", (96, 32), "red")
    image.paste((0, 0, 255), (32, 0, 64, 32))
    assert (fit(image, (32, 32))[2] == 255).all()


def test_captions_of_each_kind(make_stream):
    def kinds(**settings):
        return Counter(
            caption.split()[0]
            for batch in first_epoch(make_stream(**settings))
            for caption in batch.captions
            if caption
        )

    assert kinds(caption_kind="brief", caption_dropout=0) == {"brief": 40}
    assert kinds(caption_kind="dense", caption_dropout=0) == {"dense": 40}
    mixed = kinds(caption_kind="mix", caption_dropout=0)
    assert sum(mixed.values()) == 40
    assert min(mixed["brief"], mixed["dense"]) >= 10
    assert kinds(caption_dropout=1.0) == {}


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (None, "One two.  Three four five! Six? Seven"),
        (1, "One two."),
        (4, "One two."),
        (5, "One two. Three four five!"),
        (6, "One two. Three four five! Six?"),
        (99, "One two. Three four five! Six? Seven"),
    ],
)
def test_captions_are_cut_after_whole_sentences(words, kept):
    assert cut_caption("One two.  Three four five! Six? Seven", words) == kept
    assert cut_caption("", words) == ""
    assert cut_caption("a red car, no. 5, of 2.5 m", words or 99).startswith("a red car, no.")


def test_a_stream_cuts_its_captions_and_tells_them_so(tmp_path, make_stream):
    path = write_folder(tmp_path, count=4)
    for n in range(4):
        captions = {"brief": f"Brief {n}. Never cut.", "dense": f"First sentence {n}. Second one. Third one."}
        (path / f"{n:03d}.json").write_text(json.dumps(captions))
    stream = make_stream(path, caption_dropout=0, caption_words=5)
    given = {caption for batch in first_epoch(stream) for caption in batch.captions}
    assert given == {f"First sentence {n}. Second one." for n in range(4)} == set(stream.captions())
    mixed = set(make_stream(path, caption_kind="mix", caption_words=2).captions())
    assert mixed == {text for n in range(4) for text in (f"Brief {n}.", f"First sentence {n}.")}


def test_brief_captions_have_their_share(tmp_path, make_stream):
    path = write_folder(tmp_path, count=4)
    for n in range(4):
        (path / f"{n:03d}.json").write_text(json.dumps({"brief": "Brief.", "dense": "Dense."}))

    def briefs(share):
        stream = make_stream(path, caption_kind="mix", caption_dropout=0, brief_share=share)
        given = [caption for batch in islice(stream, 400) for caption in batch.captions]
        return given.count("Brief.") / len(given)

    assert briefs(0.0) == 0
    assert briefs(1.0) == 1
    assert 0.2 < briefs(0.3) < 0.4
    with pytest.raises(ValueError, match=r"brief_share 0\.3, this stream has None"):
        make_stream().load_state_dict(make_stream(brief_share=0.3).state_dict())


def test_full_batches_leave_out_the_short_ones(make_stream):
    sizes = batch_sizes(TABLE, 4)
    found = Counter(len(batch.keys) < sizes[batch.bucket] for batch in first_epoch(make_stream(full_batches=True)))
    assert list(found) == [False]
    assert True in {len(batch.keys) < sizes[batch.bucket] for batch in first_epoch(make_stream())}
    stream = make_stream(full_batches=True, caption_dropout=0)
    seen = {key for batch in islice(stream, 150) for key in batch.keys}
    assert len(seen) == 40  # what one epoch leaves out comes in another


def test_full_batches_of_too_few_pictures_are_an_error(tmp_path, make_stream):
    with pytest.raises(ValueError, match="full_batches leaves no pictures"):
        next(iter(make_stream(write_folder(tmp_path, count=1), full_batches=True)))


def test_dropout_has_its_rate_and_changes_from_epoch_to_epoch(make_stream):
    stream = make_stream(caption_dropout=0.25)
    plans = [stream._plan(epoch) for epoch in range(100)]
    rate = np.mean([plan.dropped.mean() for plan in plans])
    assert abs(rate - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5
    assert not (plans[0].dropped == plans[1].dropped).all()


def test_every_caption_that_can_come_is_told_beforehand(make_stream):
    for kind in ("dense", "brief", "mix"):
        stream = make_stream(caption_kind=kind, caption_dropout=0)
        given = {caption for batch in islice(stream, 60) for caption in batch.captions}
        assert given <= set(stream.captions())
        assert len(set(stream.captions())) == (80 if kind == "mix" else 40)


def test_drawn_resolutions_show_a_picture_at_every_base_it_reaches(make_stream):
    stream = make_stream(resolution="draw")
    seen = {}
    for batch in stream:
        if stream.epoch == 6:
            break
        for key in batch.keys:
            seen.setdefault(key, set()).add(max(batch.bucket) >= 64)
    large = [f"{n:03d}" for n in range(40) if SIZES[n % 7] == (96, 96)]
    small = [f"{n:03d}" for n in range(40) if SIZES[n % 7] == (32, 32)]
    assert all(seen[key] == {False} for key in small)
    assert sum(seen[key] == {False, True} for key in large) > len(large) / 2


def test_several_sources_are_one(folder, tmp_path):
    other = write_folder(tmp_path / "other", 8)
    stream = Stream([open_source(folder), open_source(other)], TABLE, batch_sizes(TABLE, 4), seed=0)
    assert len(stream) == 48
    assert sum(len(batch.keys) for batch in first_epoch(stream)) == 48


# ---- what is left out ----


def test_pictures_that_become_unreadable_are_skipped_counted_and_named(tmp_path, make_stream, caplog):
    path = write_folder(tmp_path / "in")
    stream = make_stream(path)
    for n in (3, 11):
        data = (path / f"{n:03d}.png").read_bytes()
        (path / f"{n:03d}.png").write_bytes(data[: len(data) // 2])  # the head stays whole
    (path / "020.png").unlink()
    with caplog.at_level(logging.WARNING, "leanlens"):
        keys = [key for batch in first_epoch(stream) for key in batch.keys]
    assert set(keys) == {f"{n:03d}" for n in range(40) if n not in (3, 11, 20)}
    assert set(stream.skipped) == {f"{path}: {n:03d}" for n in (3, 11, 20)}
    assert all(f"skipped {path}: {n:03d}" in caplog.text for n in (3, 11, 20))
    assert "truncated" in stream.skipped[f"{path}: 003"]


def test_a_batch_of_which_nothing_is_readable_repeats_the_next(tmp_path, make_stream):
    path = write_folder(tmp_path / "in", 12)
    write_picture(path / "lone.png", 48, 80, 99)  # the only one of its bucket
    (path / "lone.txt").write_text("alone")
    for n in range(12):
        if SIZES[n % 7] == (50, 80):
            (path / f"{n:03d}.png").unlink()
    stream = make_stream(path)
    (path / "lone.png").write_bytes((path / "lone.png").read_bytes()[:300])
    reference = [batch.index for batch in first_epoch(make_stream(path))]
    batches = first_epoch(stream)
    assert [batch.index for batch in batches] == reference
    assert all(batch.keys for batch in batches)
    assert list(stream.skipped) == [f"{path}: lone"]


def test_pictures_that_are_all_gone_are_an_error(tmp_path, make_stream):
    path = write_folder(tmp_path / "in", 9)
    stream = make_stream(path)
    for file in path.glob("*.png"):
        file.unlink()
    with pytest.raises(ValueError, match=r"no picture of \d micro-batches in a row is readable"):
        next(iter(stream))


def test_pictures_too_small_are_left_out_by_name(tmp_path, make_stream, caplog):
    path = write_folder(tmp_path / "in", 7)
    write_picture(path / "tiny.png", 10, 10, 0)
    (path / "tiny.txt").write_text("tiny")
    stream = make_stream(path)
    assert len(stream) == 7
    assert "would be upscaled" in stream.skipped[f"{path}: tiny"]
    assert "skipping 1 of 8 pictures" in caplog.text


def test_a_table_that_nothing_fits_is_an_error(make_stream):
    with pytest.raises(ValueError, match=r"none of the 40 pictures of .* can be used with this table") as caught:
        make_stream(table={1024: ((1024, 1024),)})
    assert str(caught.value).count("max_upscale") == 1  # one picture stands for all


def test_a_missing_caption_is_an_error_that_names_the_record_or_a_skip(tmp_path, make_stream):
    path = write_folder(tmp_path / "in", 7)
    (path / "004.json").write_text(json.dumps({"brief": "b"}))
    with pytest.raises(ValueError, match=r"004\.\w+: it has no dense caption, only brief; .*data\.caption in a recipe"):
        make_stream(path)
    stream = make_stream(path, missing_caption="skip")
    assert len(stream) == 6
    assert list(stream.skipped) == [f"{path}: 004"]
    assert len(make_stream(path, caption_kind="brief")) == 7


def test_unlabelled_captions_stand_for_any_kind(tmp_path, make_stream):
    path = write_folder(tmp_path / "in", 7)
    for file in path.glob("*.json"):
        file.with_suffix(".txt").write_text("words")
        file.unlink()
    for kind in ("dense", "brief", "mix"):
        captions = [c for batch in first_epoch(make_stream(path, caption_kind=kind)) for c in batch.captions]
        assert set(captions) <= {"words", ""}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"caption_kind": "poem"}, "caption_kind 'poem'"),
        ({"resolution": "all"}, "resolution 'all'"),
        ({"missing_caption": "guess"}, "missing_caption 'guess'"),
        ({"caption_dropout": 1.5}, "caption_dropout 1.5"),
        ({"brief_share": -0.1}, "brief_share -0.1"),
        ({"rank": 2, "world_size": 2}, "rank 2 of world_size 2"),
        ({"max_upscale": 0.5}, "max_upscale 0.5"),
        ({"workers": -1}, "workers -1"),
        ({"caption_words": 0}, "caption_words 0"),
    ],
)
def test_settings_that_are_not_accepted(make_stream, settings, message):
    with pytest.raises(ValueError, match=message):
        make_stream(**settings)


def test_batch_sizes_must_cover_the_table(folder):
    with pytest.raises(ValueError, match=r"bucket \(32, 32\)"):
        Stream(open_source(folder), TABLE, {(64, 64): 2}, seed=0)


def test_a_state_of_other_pictures_or_settings_is_refused(tmp_path, make_stream, folder):
    state = make_stream().state_dict()
    with pytest.raises(ValueError, match="seed 7, this stream has 8"):
        make_stream(seed=8).load_state_dict(state)
    with pytest.raises(ValueError, match="caption_dropout"):
        make_stream(caption_dropout=0.5).load_state_dict(state)
    with pytest.raises(ValueError, match="caption_words None, this stream has 9"):
        make_stream(caption_words=9).load_state_dict(state)
    with pytest.raises(ValueError, match="caption_words 9, this stream has None"):
        make_stream().load_state_dict(make_stream(caption_words=9).state_dict())
    with pytest.raises(ValueError, match="full_batches True, this stream has None"):
        make_stream().load_state_dict(make_stream(full_batches=True).state_dict())
    shutil.copytree(folder, tmp_path / "copy")
    make_stream(tmp_path / "copy").load_state_dict(state)
    (tmp_path / "copy" / "000.png").unlink()
    with pytest.raises(ValueError, match="pictures"):
        make_stream(tmp_path / "copy").load_state_dict(state)
    with pytest.raises(ValueError, match="NumPy"):
        make_stream().load_state_dict({**state, "order": "0"})


def test_parquet_is_streamed_by_several_workers(tmp_path, folder, make_stream):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    files = sorted(folder.glob("*.png"))
    columns = {
        "key": [file.stem for file in files],
        "image": [file.read_bytes() for file in files],
        "dense": [f"dense words for number {int(file.stem)}" for file in files],
    }
    parquet.write_table(arrow.table(columns), tmp_path / "a.parquet", row_group_size=3)
    expected = first_epoch(make_stream())
    batches = first_epoch(make_stream(tmp_path / "a.parquet", workers=3))
    for one, two in zip(expected, batches, strict=True):
        assert (one.keys, one.captions) == (two.keys, two.captions)
        assert torch.equal(one.pixels, two.pixels)
