"""Random damage: whatever happens to a tar, what is left is read, and every record that is lost was named."""

import random

import pytest

from leanlens.pictures.decode import decode
from leanlens.pictures.shards import TarSource
from tests.pictures.conftest import picture, write_tar


def damaged(data: bytes, dice: random.Random) -> bytes:
    """`data` with some bytes flipped, a stretch overwritten, a piece cut out, or its end missing."""
    broken = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        if not broken:
            break
        at, length = dice.randrange(len(broken)), dice.choice([1, 64, 512, 3000])
        match dice.randrange(4):
            case 0:
                broken[at] ^= 1 << dice.randrange(8)
            case 1:
                broken[at : at + length] = dice.randbytes(len(broken[at : at + length]))
            case 2:
                broken[at : at + length] = bytes(len(broken[at : at + length]))
            case 3:
                del broken[-length:]
    return bytes(broken)


@pytest.mark.parametrize("seed", range(60))
def test_damaged_tars_give_what_is_left_and_name_what_is_lost(tmp_path, seed):
    members = []
    for n in range(8):
        members += [(f"{n}.jpg", picture(seed=n)), (f"{n}.json", f'{{"dense": "words {n}"}}'.encode())]
    path = write_tar(tmp_path / "a.tar", members)
    path.write_bytes(damaged(path.read_bytes(), random.Random(seed)))
    source = TarSource("a", [path])
    for number, entry in enumerate(source.index()):
        assert entry.kinds
        assert source.captions(number)
        assert decoded(source.read(number).image) in (None, "RGB")
    if len(source.index()) < 8:
        assert source.skipped
        assert all(reason for reason in source.skipped.values())


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damaged_pictures_are_read_or_refused(form):
    outcomes = {decoded(damaged(picture(form=form, seed=seed), random.Random(seed))) for seed in range(40)}
    assert outcomes <= {None, "RGB"}


def decoded(data: bytes) -> str | None:
    """The mode of a picture, or None where it is refused as `decode` says it refuses."""
    try:
        return decode(data).mode
    except ValueError:
        return None
