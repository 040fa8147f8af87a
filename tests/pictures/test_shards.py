import json
import tarfile

import pytest

from leanlens.pictures.record import Record
from leanlens.pictures.shards import read_manifest, write_shards
from leanlens.pictures.sources import open_source
from tests.pictures.conftest import picture, write_tar


def records(count: int = 7) -> list[Record]:
    forms = ["JPEG", "PNG", "WEBP"]
    return [
        Record(
            f"scene/{n:04d}",
            picture(32, 48, n, forms[n % 3]),
            {"brief": f"a thing {n}", "dense": f"a much longer thing, é {n}"},
            {"truth": {"count": n}},
        )
        for n in range(count)
    ]


def test_what_is_written_is_read(tmp_path):
    manifest = write_shards(tmp_path / "out", records(), per_shard=3, made_by="a test")
    assert [shard["count"] for shard in manifest["shards"]] == [3, 3, 1]
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["format"], manifest["count"], manifest["made_by"]) == ("leanlens-shards-1", 7, "a test")
    source = open_source(tmp_path / "out")
    assert [source.read(i) for i in range(7)] == records()
    assert source.captions(2) == records()[2].captions
    assert {(entry.height, entry.width, entry.kinds) for entry in source.index()} == {(32, 48, ("brief", "dense"))}


def test_members_are_plain(tmp_path):
    write_shards(tmp_path / "out", records(1))
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as archive:
        assert archive.getnames() == ["scene/0000.jpg", "scene/0000.json"]
        fields = json.load(archive.extractfile("scene/0000.json"))
    assert fields == {"brief": "a thing 0", "dense": "a much longer thing, é 0", "truth": {"count": 0}}


def test_equal_records_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        write_shards(tmp_path / name, iter(records()), per_shard=4)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_nothing_stays_of_a_write_that_fails(tmp_path):
    def failing():
        yield from records(5)
        raise RuntimeError("the camera fell")

    with pytest.raises(RuntimeError):
        write_shards(tmp_path / "out", failing(), per_shard=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Record("a.b", picture(), {"text": "x"}), "expected no dots"),
        (Record("a", b"%PDF-1.4", {"text": "x"}), "none of JPEG, PNG, WebP"),
        (Record("a", picture(), {}), "expected brief, dense or text"),
        (Record("a", picture(), {"poem": "x"}), "expected brief, dense or text"),
        (Record("a", picture(), {"text": "x"}, {"prompt": "y"}), "name of a caption"),
    ],
)
def test_a_record_that_cannot_be_written_is_named(tmp_path, record, message):
    with pytest.raises(ValueError, match=message):
        write_shards(tmp_path / "out", [record])
    assert not (tmp_path / "out").exists()


def test_a_key_used_twice_and_no_samples_are_errors(tmp_path):
    with pytest.raises(ValueError, match="duplicate key"):
        write_shards(tmp_path / "out", [records()[0], records()[0]], per_shard=1)
    with pytest.raises(ValueError, match="samples is empty"):
        write_shards(tmp_path / "out", [])
    with pytest.raises(ValueError, match="per_shard 0"):
        write_shards(tmp_path / "out", records(), per_shard=0)


def test_a_changed_shard_is_refused_by_name(tmp_path):
    write_shards(tmp_path / "out", records(), per_shard=3)
    shard = tmp_path / "out" / "shard-000001.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"shard-000001\.tar was modified"):
        open_source(tmp_path / "out")
    shard.write_bytes(data[:-512])
    with pytest.raises(ValueError, match=r"shard-000001\.tar has \d+ bytes"):
        open_source(tmp_path / "out")
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard-000001\.tar is missing"):
        open_source(tmp_path / "out")


def test_checksums_are_taken_once_and_again_after_a_change(tmp_path, monkeypatch):
    write_shards(tmp_path / "out", records(), per_shard=3)
    from leanlens.pictures import shards

    taken = []
    monkeypatch.setattr(shards, "sha256", lambda path, sha256=shards.sha256: taken.append(path.name) or sha256(path))
    read_manifest(tmp_path / "out")
    assert len(taken) == 3
    read_manifest(tmp_path / "out")
    assert len(taken) == 3
    shard = tmp_path / "out" / "shard-000002.tar"
    shard.write_bytes(shard.read_bytes())  # the same bytes at another time
    read_manifest(tmp_path / "out")
    assert taken[3:] == ["shard-000002.tar"]


def test_a_manifest_of_another_format_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": "other-1", "shards": []}')
    with pytest.raises(ValueError, match="other-1"):
        open_source(tmp_path)


# ---- tars of other makers, and damage ----


def test_a_foreign_tar(foreign_tar):
    source = open_source(foreign_tar)
    record = source.read(3)
    assert (record.key, record.captions) == ("00003", {"dense": "long 3", "text": "words 3"})
    assert record.image == picture(seed=3)
    assert record.extra == {"url": "x"}
    assert source.index()[3].kinds == ("dense", "text")


def members_at(path) -> dict[str, tuple[int, int, int]]:
    with tarfile.open(path) as archive:
        return {member.name: (member.offset, member.offset_data, member.size) for member in archive}


def test_a_corrupt_picture_costs_itself(foreign_tar):
    _, start, size = members_at(foreign_tar)["00004.jpg"]
    data = bytearray(foreign_tar.read_bytes())
    data[start : start + size] = b"\x07" * size
    foreign_tar.write_bytes(data)
    source = open_source(foreign_tar)
    assert len(source.index()) == 9
    assert list(source.skipped) == ["00000.tar: 00004"]
    assert "not an image file" in source.skipped["00000.tar: 00004"]


@pytest.mark.parametrize("filling", [b"\x07", b"\x00"])
@pytest.mark.parametrize(("member", "lost"), [("00004.jpg", 1), ("00004.json", 0), ("00000.jpg", 1), ("00009.json", 0)])
def test_a_broken_header_costs_its_member(foreign_tar, member, lost, filling):
    offset, _, _ = members_at(foreign_tar)[member]
    data = bytearray(foreign_tar.read_bytes())
    data[offset : offset + 512] = filling * 512
    foreign_tar.write_bytes(data)
    source = open_source(foreign_tar)
    assert len(source.index()) == 10 - lost
    assert f"00000.tar: byte {offset}" in source.skipped
    assert len(source.skipped) == 1 + lost


def test_two_broken_headers_are_both_named(foreign_tar):
    places = members_at(foreign_tar)
    data = bytearray(foreign_tar.read_bytes())
    for member in ("00002.jpg", "00007.jpg"):
        offset = places[member][0]
        data[offset : offset + 512] = b"\x07" * 512
    foreign_tar.write_bytes(data)
    source = open_source(foreign_tar)
    assert len(source.index()) == 8
    assert {f"00000.tar: byte {places[member][0]}" for member in ("00002.jpg", "00007.jpg")} < set(source.skipped)


def test_a_tar_that_ends_early_gives_what_it_has(foreign_tar):
    _, start, _ = members_at(foreign_tar)["00006.jpg"]
    foreign_tar.write_bytes(foreign_tar.read_bytes()[: start + 100])
    source = open_source(foreign_tar)
    assert [entry.key for entry in source.index()] == [f"{n:05d}" for n in range(6)]
    assert source.skipped["00000.tar: 00006.jpg"] == "the tar ends before it does"


def test_a_broken_sidecar_costs_its_record(tmp_path):
    png = picture(form="PNG")
    members = [("1.png", png), ("1.json", b"{not json"), ("2.png", png), ("2.txt", b"fine"), ("3.txt", b"no picture")]
    write_tar(tmp_path / "a.tar", [*members, ("2.txt", b"again")])
    source = open_source(tmp_path / "a.tar")
    assert [entry.key for entry in source.index()] == ["2"]
    assert source.captions(0) == {"text": "fine"}
    assert set(source.skipped) == {"a.tar: 1", "a.tar: 3", "a.tar: 2.txt"}


def test_a_tar_of_which_nothing_is_readable_is_an_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"\x07" * 5000)
    with pytest.raises(ValueError, match="contains no readable picture"):
        open_source(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="contains no readable picture"):
        open_source(tmp_path / "a.tar")


def test_several_tars_by_braces_star_and_folder(tmp_path, foreign_tar):
    for number in (1, 2):
        (tmp_path / "data" / f"{number:05d}.tar").write_bytes(foreign_tar.read_bytes())
    counts = {len(open_source(tmp_path / "data" / name).index()) for name in ("{00000..00002}.tar", "*.tar", "")}
    assert counts == {30}
    with pytest.raises(ValueError, match=r"00003\.tar does not exist"):
        open_source(tmp_path / "data" / "{00000..00003}.tar")


def test_a_large_index_is_cached_until_the_tar_changes(tmp_path, monkeypatch, caplog):
    from leanlens.pictures import index_cache, shards

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "LEAST_RECORDS", 3)
    png = picture(form="PNG")
    members = [member for n in range(4) for member in ((f"{n}.png", png), (f"{n}.txt", b"words"))]
    path = write_tar(tmp_path / "a.tar", [*members, ("bad.jpg", b"nothing"), ("bad.txt", b"words")])
    first = open_source(path)
    scan = shards._scan
    monkeypatch.setattr(shards, "_scan", lambda _: pytest.fail("it was scanned again"))
    caplog.clear()
    again = open_source(path)
    assert again.index() == first.index()
    assert again.skipped == first.skipped == {"a.tar: bad": "the picture cannot be opened: it is not an image file"}
    assert "skipped a.tar: bad" in caplog.text
    assert again.read(3) == first.read(3)

    monkeypatch.setattr(shards, "_scan", scan)
    write_tar(path, members[2:])
    assert [entry.key for entry in open_source(path).index()] == ["1", "2", "3"]
    next((tmp_path / "cache").rglob("*.json")).write_text("{broken")
    assert len(open_source(path).index()) == 3


def test_small_indexes_leave_nothing_behind(tmp_path, monkeypatch, foreign_tar):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_source(foreign_tar)
    assert not (tmp_path / "cache").exists()
