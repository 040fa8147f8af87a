"""What outlives the process."""

import os
import time

import pytest
from PIL import Image

from leanlens.pipeline.draw import DrawnPicture
from leanlens.pipeline.request import ImageRequest
from leanlens.serve.archive import Archive
from leanlens.serve.errors import APIError
from leanlens.serve.tasks import Job

RECORD = {
    "leanlens": "0",
    "model": {"name": "toy", "parts": {}, "fingerprint": "0" * 64},
    "inputs": {"image": None, "mask": None, "loras": []},
    "run": {},
}


def job(count: int = 1, owner: str = "a", **fields) -> Job:
    request = ImageRequest.checked(
        prompt="a", width=32, height=16, num_inference_steps=2, guidance_scale=1.0, seed=3, **fields
    )
    return Job([request] * count, "toy", owner, "test")


def store(archive: Archive, one: Job, index: int = 0):
    record = {**RECORD, "request": one.tasks[index].request.model_dump(mode="json")}
    stored = archive.store(one.tasks[index], DrawnPicture(Image.new("RGB", (32, 16), "red"), record))
    one.report(one.tasks[index], "done")
    return stored


def test_a_job_and_its_pictures_are_found_again_after_a_restart(tmp_path):
    archive, one = Archive(tmp_path), job(2)
    assert archive.begin(one)
    assert not archive.begin(one)
    name = store(archive, one).name
    store(archive, one, 1)
    archive.finish(one)
    archive.close()
    again = Archive(tmp_path)
    found = again.job(one.id)
    assert (found["state"], found["owner"], len(found["finished_pictures"])) == ("done", "a", 2)
    assert again.picture(name).is_file()
    assert [each["id"] for each in again.recent("a")] == [one.id]
    assert again.recent("b") == []
    assert again.job("0" * 32) is None


@pytest.mark.parametrize("name", ["../index.sqlite", "index.sqlite", "/etc/passwd", "0" * 32 + "-0.png", "", "%"])
def test_only_names_in_the_index_are_files(tmp_path, name):
    assert Archive(tmp_path).picture(name) is None


def test_after_a_kill_finished_pictures_are_in_the_index_and_cut_jobs_say_so(tmp_path):
    """As a kill leaves them: a file without a row, a half-written file, jobs without an end."""
    archive = Archive(tmp_path)
    whole, half, none = job(1), job(2), job(1)
    for one in (whole, half, none):
        archive.begin(one)
    name = store(archive, whole).name
    store(archive, half)
    archive._run("DELETE FROM pictures WHERE name = ?", (name,))
    (tmp_path / "pictures" / f".{'0' * 32}-0.png.x.png").write_bytes(b"half")
    (tmp_path / "pictures" / f"{'1' * 32}-0.png").write_bytes(b"no picture")
    archive.close()
    again = Archive(tmp_path)
    assert again.picture(name) is not None
    assert [again.job(one.id)["state"] for one in (whole, half, none)] == ["done", "partial", "interrupted"]
    assert again.job(half.id)["error"] == "the server stopped before the rest was drawn"
    assert again.picture(f"{'1' * 32}-0.png") is None
    assert not list((tmp_path / "pictures").glob(".*"))


def test_retention_by_number_and_age(tmp_path):
    archive = Archive(tmp_path, keep_pictures=2)
    jobs = [job() for _ in range(3)]
    names = []
    for one in jobs:
        archive.begin(one)
        names.append(store(archive, one).name)
        archive.finish(one)
    archive.sweep()
    assert [archive.picture(name) is None for name in names] == [True, False, False]
    assert len(list((tmp_path / "pictures").iterdir())) == 2
    archive.close()
    aged = Archive(tmp_path, keep_days=1)
    aged._run("UPDATE pictures SET created = ? WHERE name = ?", (time.time() - 2 * 86400, names[1]))
    aged._run("UPDATE jobs SET created = ?", (time.time() - 2 * 86400,))
    aged.sweep()
    assert [aged.picture(name) is None for name in names] == [True, True, False]
    assert [aged.job(one.id) is None for one in jobs] == [True, True, False]


def test_uploads_stay_as_long_as_a_picture_needs_them(tmp_path):
    archive = Archive(tmp_path)
    used, spare = archive.keep_input(b"used", ".png"), archive.keep_input(b"spare", ".png")
    assert archive.keep_input(b"used", ".png") == used
    one = job(image=str(used), strength=0.5)
    archive.begin(one)
    store(archive, one)
    for path in (used, spare):
        os.utime(path, (0, 0))
    archive.sweep()
    assert (used.exists(), spare.exists()) == (True, False)


def test_a_failed_job_keeps_its_reason(tmp_path):
    archive, one = Archive(tmp_path), job()
    archive.begin(one)
    one.fail(one.tasks[0], APIError("memory", "too large"))
    archive.finish(one)
    assert archive.job(one.id)["error"] == "too large"


def test_a_folder_has_one_server_at_a_time(tmp_path):
    first = Archive(tmp_path)
    with pytest.raises(ValueError, match="is in use by another server"):
        Archive(tmp_path)
    first.close()
    Archive(tmp_path).close()


def test_a_folder_that_cannot_be_used_is_said(tmp_path):
    (tmp_path / "index.sqlite").write_text("this is no index, and long enough to be noticed as none" * 20)
    with pytest.raises(ValueError, match=r"index.sqlite that cannot be read"):
        Archive(tmp_path)


def test_no_file_in_the_folder_keeps_the_server_from_starting(tmp_path, caplog):
    """Pictures that a stranger, a full disk or another program left there, and folders where files belong."""
    import struct
    import zlib

    from PIL import PngImagePlugin

    archive, one = Archive(tmp_path), job(1)
    archive.begin(one)
    name = store(archive, one).name
    archive.close()
    folder = tmp_path / "pictures"
    bad = {
        "deep": "[" * 100_000, "wrong": '{"request": 5}', "list": '{"request": []}',
        "numbers": '{"request": {"image": 5}}',
        "nan": '{"request": {"image": NaN}}', "half": '{"request": ', "surrogate": '{"request": {"image": "\\ud800"}}',
    }  # fmt: skip
    names = {what: f"{index:032x}-0.png" for index, what in enumerate(bad)}
    for what, text in bad.items():
        info = PngImagePlugin.PngInfo()
        info.add_text("leanlens", text)
        Image.new("RGB", (16, 16)).save(folder / names[what], pnginfo=info)
    bomb = b"leanlens\0\0" + zlib.compress(b"a" * (80 << 20))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)),
        (b"zTXt", bomb),
        (b"IDAT", b"x"),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    (folder / f"{'e' * 32}-0.png").write_bytes(data)
    (folder / f"{'f' * 32}-{'9' * 40}.png").write_bytes(b"a number that no index holds")
    (folder / f"{'f' * 32}-0.png").mkdir()
    (folder / f".{'0' * 32}-0.png.x.png").mkdir()
    (folder / f"{'d' * 32}-0.png").symlink_to(folder / "nowhere.png")
    (folder / ".ipynb_checkpoints").mkdir()
    (tmp_path / "inputs" / "folder").mkdir()
    again = Archive(tmp_path, keep_pictures=100)
    assert [one["id"] for one in again.recent("a")] == [one.id]
    assert again.picture(name).is_file()
    for what in ("deep", "wrong", "half"):
        assert names[what] in caplog.text
    assert (folder / ".ipynb_checkpoints").is_dir()
    again.sweep()
    again.close()


def test_favourites_outlive_retention_and_owners_delete_their_own(tmp_path):
    archive, one = Archive(tmp_path, keep_pictures=1), job(3)
    archive.begin(one)
    stored = [store(archive, one, index).name for index in range(3)]
    archive.finish(one)
    assert not archive.favour("b", stored[0])
    assert not archive.remove("b", stored[0])
    assert archive.favour("a", stored[0])
    archive.sweep()
    left = [picture["name"] for picture in archive.kept("a", 9)]
    assert left[0] == stored[0]
    assert len(left) == 2  # the favourite, and the newest of the others
    assert [picture["name"] for picture in archive.kept("a", 9, favourites=True)] == [stored[0]]
    assert archive.remove("a", stored[0])
    assert not (tmp_path / "pictures" / stored[0]).exists()
    assert archive.picture(stored[0]) is None
    archive.close()
    assert [picture["favourite"] for picture in Archive(tmp_path).kept("a", 9)] == [False]


def test_an_index_from_before_favourites_opens(tmp_path):
    import sqlite3

    archive, one = Archive(tmp_path), job()
    archive.begin(one)
    name = store(archive, one).name
    archive.close()
    with sqlite3.connect(tmp_path / "index.sqlite") as index:
        index.execute("ALTER TABLE pictures DROP COLUMN favourite")
    index.close()
    again = Archive(tmp_path)
    assert again.favour("a", name)
    assert again.kept("a", 1) == [{"name": name, "model": "toy", "favourite": True}]
