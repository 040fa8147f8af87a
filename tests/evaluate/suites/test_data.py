import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from leanlens.evaluate.suite import Item
from leanlens.evaluate.suites import data
from leanlens.evaluate.suites.data import SOURCES, Source, choose, describe_source, fetch_data, with_size
from leanlens.hub import DownloadError

PROMPTS, QUESTIONS = b"a red cat\n", b"is it red?\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A suite of two files, one with each kind of checksum, on a server of its own; its folder there."""
    folder = tmp_path / "web" / "someone" / "suite" / COMMIT / "data"
    folder.mkdir(parents=True)
    (folder / "prompts.txt").write_bytes(PROMPTS)
    (folder / "questions.txt").write_bytes(QUESTIONS)
    blob = hashlib.sha1(b"blob " + str(len(QUESTIONS)).encode() + b"\0" + QUESTIONS).hexdigest()
    files = {
        "prompts.txt": ("data/prompts.txt", hashlib.sha256(PROMPTS).hexdigest()),
        "questions.txt": ("data/questions.txt", blob),
    }
    monkeypatch.setitem(SOURCES, "small", Source("someone/suite", COMMIT, "CC0-1.0", files))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "web")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setattr(data, "RAW", f"http://127.0.0.1:{server.server_address[1]}")
        yield folder
        server.shutdown()
        thread.join()


def test_files_are_downloaded_once_and_the_licence_is_named(published, tmp_path, caplog):
    caplog.set_level("INFO", "leanlens")
    found = fetch_data("small")
    assert found["prompts.txt"] == tmp_path / "cache" / "leanlens" / "benchmarks" / "small" / "prompts.txt"
    assert [found[name].read_bytes() for name in ("prompts.txt", "questions.txt")] == [PROMPTS, QUESTIONS]
    assert "small: from someone/suite at 0123456, licence CC0-1.0" in caplog.text
    caplog.clear()
    (published / "prompts.txt").unlink()
    assert fetch_data("small") == found
    assert not caplog.records
    found["questions.txt"].write_bytes(b"damaged")
    assert fetch_data("small")["questions.txt"].read_bytes() == QUESTIONS


@pytest.mark.parametrize(("name", "kind"), [("prompts.txt", "SHA-256"), ("questions.txt", "git id")])
def test_another_content_is_refused(published, name, kind):
    (published / name).write_bytes(b"something else")
    with pytest.raises(DownloadError, match=f"{name}.* has {kind} .* expected"):
        fetch_data("small")


def test_a_file_that_is_not_there_is_an_error_that_says_what_to_do(published):
    (published / "prompts.txt").unlink()
    with pytest.raises(DownloadError, match=r"HTTP 404 .*; without a network, give a folder that has prompts\.txt as"):
        fetch_data("small")


def test_a_folder_of_the_users_is_verified(published, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "prompts.txt").write_bytes(PROMPTS)
    with pytest.raises(ValueError, match=r"questions\.txt is missing; it can be downloaded from http"):
        fetch_data("small", mine)
    (mine / "questions.txt").write_bytes(QUESTIONS)
    assert fetch_data("small", mine) == {name: mine / name for name in ("prompts.txt", "questions.txt")}
    (mine / "prompts.txt").write_bytes(b"a blue cat\n")
    other, own = hashlib.sha256(b"a blue cat\n").hexdigest(), hashlib.sha256(PROMPTS).hexdigest()
    with pytest.raises(ValueError, match=f"has checksum {other}, expected {own}"):
        fetch_data("small", mine)


def test_an_unknown_suite_is_an_error():
    with pytest.raises(ValueError, match="unknown suite 'nosuch': files are known for geneval"):
        fetch_data("nosuch")


@pytest.mark.parametrize("suite", list(SOURCES))
def test_every_source_is_pinned(suite):
    described = describe_source(suite)
    assert len(described["commit"]) == 40
    assert described["licence"]
    for file in described["files"].values():
        assert described["commit"] in file["address"]
        assert len(file.get("sha256", "0" * 64)) == 64
        assert len(file.get("git_blob", "0" * 40)) == 40


def items_of(**groups: int) -> list[Item]:
    return [Item(f"{name}{at}", "p", (name, "more")) for name, num in groups.items() for at in range(num)]


def test_items_are_chosen_evenly_over_categories():
    items = items_of(a=10, b=2, c=10)
    assert choose(items, None) == tuple(items)
    assert [item.id for item in choose(items, 3)] == ["a0", "b0", "c0"]
    assert [item.id for item in choose(items, 8)] == ["a0", "a3", "a6", "b0", "b1", "c0", "c3", "c6"]
    assert choose(items, 22) == tuple(items)
    assert choose(items, 7) == choose(items, 7)
    assert len({item.id for item in choose([Item(str(at), "p") for at in range(9)], 4)}) == 4
    with pytest.raises(ValueError, match="invalid num 23: expected 1 to 22"):
        choose(items, 23)


def test_a_size_is_set_where_one_is_given():
    items = items_of(a=2)
    assert with_size(items, None) == tuple(items)
    assert {item.size for item in with_size(items, 64)} == {(64, 64)}
