"""Whole or not there."""

import os

import pytest

from leanlens.files import fingerprint, require_writable, sha256, whole_file, whole_folder


def test_a_file_appears_whole(tmp_path):
    with whole_file(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("hello")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert (tmp_path / "new" / "a.txt").read_text() == "hello"
    assert os.listdir(tmp_path / "new") == ["a.txt"]


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with whole_folder(tmp_path / "model") as temporary:
        (temporary / "a").write_text("1")
    assert (tmp_path / "model" / "a").exists()
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "other") as temporary:  # noqa: PT012
        (temporary / "a").write_text("1")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["model"]
    with pytest.raises(ValueError, match="model exists already; give a path that does not exist"):
        whole_folder(tmp_path / "model").__enter__()


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write .*file/inside"):
        require_writable(tmp_path / "file" / "inside")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("")
    with pytest.raises(ValueError, match="it is a folder that holds files"):
        require_writable(tmp_path / "folder")


def test_checksums(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    first = fingerprint([path])
    path.write_bytes(b"abd")
    assert fingerprint([path]) != first
    big = tmp_path / "big"
    big.write_bytes(bytes(3_000_000))
    assert len(fingerprint([path, big])) == 64
