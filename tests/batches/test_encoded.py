"""Encoded pictures in files: parts of a folder that grows, and what belongs to another recipe."""

import pytest
import torch

from leanlens.batches import encoded
from leanlens.batches.encoded import ChunkEncoder, by_size, claim_parts, joined, read_parts, write_parts
from tests.batches.conftest import resident_chunk as chunk  # noqa: F401 - a fixture
from tests.batches.conftest import toy  # noqa: F401 - a fixture


@pytest.fixture
def encoder(toy, monkeypatch):  # noqa: F811
    monkeypatch.setattr(encoded, "PART", 2 * encoded.CHUNK)
    return ChunkEncoder(toy.vae, toy.load_text_side(), 6)


def test_pictures_are_found_by_size(chunk, encoder):  # noqa: F811
    found = by_size(encoder([chunk, chunk]))
    assert found.keys() == chunk.keys()
    for size, (pixels, captions) in chunk.items():
        pictures = found[size]
        assert len(pictures.latents) == 2 * len(pixels)
        assert pictures.latents.dtype == torch.float16
        assert pictures.tokens.dtype == torch.int32
        assert pictures.tokens.shape[:2] == pictures.lengths.shape == (2 * len(captions), 2)
        assert int(pictures.lengths.max()) == pictures.tokens.shape[2]
        brief, dense = pictures.lengths[0].tolist()
        assert brief < dense  # "A picture of thing number 0." and no more: a sentence of six words


def test_a_folder_of_parts_is_gone_on_with_and_read_while_it_grows(chunk, encoder, tmp_path):  # noqa: F811
    folder, whole = tmp_path / "parts", encoder([chunk] * 5)
    with pytest.raises(ValueError, match=r"no scenes are in .*leanlens scenes encode"):
        read_parts([folder])
    assert claim_parts(folder, "one") == 0
    write_parts(folder, encoder.parts(iter([chunk] * 3)), 0)
    (folder / encoded.WHOLE).unlink()
    assert len(read_parts([folder])["64x64.latents"]) == 15
    assert claim_parts(folder, "one") == 2
    (folder / "part-00001.safetensors").unlink()  # of a chunk alone, since the first run ended early
    write_parts(folder, encoder.parts(iter([chunk] * 3)), 1)
    assert (folder / encoded.WHOLE).exists()
    for name, rows in read_parts([folder]).items():
        assert torch.equal(rows, whole[name])
    with pytest.raises(ValueError, match="holds scenes of another recipe"):
        claim_parts(folder, "other")


def test_parts_of_captions_of_other_lengths_are_padded(encoder):
    short, long = (torch.ones(1, 2, length, dtype=torch.int32) for length in (3, 5))
    assert joined([{"8x8.tokens": short}, {"8x8.tokens": long}])["8x8.tokens"].sum(2).tolist() == [[3, 3], [5, 5]]


def test_what_latents_and_tokens_depend_on_is_in_the_key(toy, encoder):  # noqa: F811
    assert encoder.key == ChunkEncoder(toy.vae, toy.load_text_side(), 6).key
    assert encoder.key != ChunkEncoder(toy.vae, toy.load_text_side(), 7).key
