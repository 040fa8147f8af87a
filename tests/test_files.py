"""Whole or not there."""

import json
import math
import os
import re
import time

import pytest

from leanlens.files import (
    decode_text,
    digest_like,
    fingerprint,
    has_digest,
    parse_json,
    parse_toml,
    read_json,
    read_text,
    read_toml,
    require_writable,
    sha256,
    whole_file,
    whole_folder,
)


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
    with pytest.raises(ValueError, match="it is a folder that is not empty"):
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


def test_json_of_every_encoding_is_read(tmp_path):
    value = {"a": [1, 2.5, None, True], "ü": "\U0001f600", "nest": {"b": {}}}
    text = json.dumps(value, ensure_ascii=False)
    contents = (
        text,
        text.encode(),
        "\ufeff" + text,
        text.encode("utf-8-sig"),
        text.encode("utf-16"),
        bytearray(text, "utf-8"),
    )
    for content in contents:
        assert parse_json(content, "it") == value
    assert parse_json(json.dumps(value), "it") == value  # a surrogate pair as two escapes
    assert parse_json("18446744073709551615", "a seed") == 2**64 - 1
    (tmp_path / "a.json").write_bytes(text.encode("utf-8-sig"))
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "x.json is not valid JSON: Expecting value at line 1, column 1"),
        ('{"a": 1,\n b}', "Expecting property name enclosed in double quotes at line 2, column 2"),
        ("[" * 100_000, "x.json is nested too deeply: the limit is 64"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "x.json is nested too deeply"),
        ('["\\"' + "[" * 99 + '", ' + "[" * 64, "is nested too deeply: the limit is 64"),
        (b"\xff\xfe\x00\xd8", "x.json is not valid JSON: invalid utf-16"),
        (b'{"a": "\xe9"}', "x.json is not valid JSON: invalid utf-8 at byte 7"),
        ('{"a": 1, "b": {"c": 1, "d": 2, "c": 3}}', "x.json is not valid JSON: duplicate key 'c' in an object"),
        ("1" * 5000, "x.json is not valid JSON: the number 1111111111... has 5000 digits; the limit is 100"),
        ("-" + "1" * 400, "the limit is 100"),
        ("[NaN]", "x.json is not valid JSON: NaN is not a JSON number"),
        ("[-Infinity]", "x.json is not valid JSON: -Infinity is not a JSON number"),
        ("[1e999]", "x.json is not valid JSON: the number 1e999 is too large"),
        ('["\\ud800"]', "x.json is not valid JSON: a string contains an unpaired surrogate"),
        ("[" + "{}," * 150_000 + "{}]", "x.json has too many values: the limit is 200000"),
        ('{"a": "b\n"}', "x.json is not valid JSON: Invalid control character at line 1, column 9"),
    ],
)  # fmt: skip
def test_bad_json_is_refused_in_a_sentence(content, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_json(content, "x.json", values=200_000)
    assert type(caught.value) is ValueError
    assert len(str(caught.value)) < 200


def test_json_as_deep_and_as_large_as_allowed_is_read():
    assert parse_json("[" * 64 + "]" * 64, "it") == json.loads("[" * 64 + "]" * 64)
    brackets = json.dumps(["[{" * 1000, '"[{\\' * 1000, {"a,[": "}]"}])
    assert parse_json(brackets, "it") == json.loads(brackets)  # brackets and commas in strings are text
    assert len(parse_json("[" + "1," * 98 + "1]", "it", values=100)) == 99
    values = parse_json("[NaN, Infinity, 1e999]", "it", finite=False)
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, math.inf]


@pytest.mark.parametrize(
    "piece", ['"', '\\"', '"\\', "[", "]", "{", ',"', '"[', "\\\\", "\\ud800", '"a":', "1", "-", "\x00"]
)
def test_hostile_json_takes_linear_time(piece):
    text = piece * (1_000_000 // len(piece))
    for content in (text, '"' + text, "[" + text, text.encode()):
        began = time.process_time()
        with pytest.raises(ValueError, match=r"^it "):
            parse_json(content, "it")
        assert time.process_time() - began < 2


def test_json_files_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"missing\.json cannot be read: No such file"):
        read_json(tmp_path / "missing.json")
    with pytest.raises(ValueError, match="cannot be read: it is not a file"):
        read_json(tmp_path)
    monkeypatch.setattr("leanlens.files.JSON_BYTES", 10)
    (tmp_path / "a.json").write_text("[1, 2, 3, 4]")
    with pytest.raises(ValueError, match=r"a\.json is too large: 12 bytes; the limit for JSON is 10"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_of_any_system_reads_the_same(tmp_path, end):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + f"ein Fuchs{end}zw\u00f6lf\u00a0{end}".encode())
    assert read_text(path) == "ein Fuchs\nzw\u00f6lf\u00a0\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a\r\nb\r\nz\u00f6lf".encode("cp1252"),
            r"a\.csv line 3 is not UTF-8 \(byte 0xf6\); .* iconv -f WINDOWS-1252 ",
        ),
        ("z\u00f6lf".encode("utf-16"), r"a\.csv line 1 is not UTF-8 but UTF-16; .* iconv -f UTF-16 "),
        ("zelf".encode("utf-16-le"), r"a\.csv line 1 contains a NUL character.*iconv -f UTF-16LE "),
        (b"a fox\nb\0c", r"a\.csv line 2 contains a NUL character$"),
    ],
)
def test_other_encodings_are_named_with_file_and_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        decode_text(content, "a.csv")
    with pytest.raises(ValueError, match=r"b\.txt cannot be read: No such file"):
        read_text(tmp_path / "b.txt")


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def counted(handle):
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", counted)
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("rename"), replace(*paths)))
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("hello")
    assert done == ["file", "rename", "folder"]
    done.clear()
    (tmp_path / "elsewhere").write_text("linked")
    with whole_folder(tmp_path / "model") as temporary:
        (temporary / "part").mkdir()
        (temporary / "part" / "weights").write_text("1")
        (temporary / "config").write_text("2")
        (temporary / "link").symlink_to(tmp_path / "elsewhere")
    assert done == ["file", "folder", "file", "folder", "rename", "folder"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a = [", "x.toml is not valid TOML"),
        ("a = " + "[" * 50_000, "x.toml is nested too deeply: the limit is 32"),
        ("a = " + "[" * 33 + "]" * 33, "the limit is 32"),
        ("a = " + "{a = " * 50_000, "the limit is 32"),
        ("a" + ".a" * 200_000 + " = 1", "the limit is 32"),  # by the parser alone: more memory than there is
        ("a" + ' . "b.c"' * 33 + " = 1", "the limit is 32"),
        ("[" + ".".join("a" * 40) + "]", "the limit is 32"),
        ("[" + "a." * 20 + "a]\n" + "b." * 20 + "b = 1", "the limit is 32"),  # each is short, together they are not
        ("a = " + "1" * 5000, "x.toml is not valid TOML: Exceeds the limit"),
        ("a = 1\na = 2", "x.toml is not valid TOML: Cannot overwrite a value"),
        ("#" * (2**20 + 1), "x.toml is too large: 1048577 characters; the limit for TOML is 1048576"),
    ],
)
def test_hostile_toml_is_refused_in_a_sentence(content, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_toml(content, "x.toml")
    assert type(caught.value) is ValueError
    assert len(str(caught.value)) < 200


def test_brackets_and_dots_in_texts_and_comments_do_not_count():
    quiet = "[" * 99 + "a." * 99
    content = f'''# {quiet}
    a = "{quiet} \\" {quiet}"  # "
    b = \'{quiet}\'
    "{quiet}" = [[1], [2]]
    c = """{quiet}
    "" \\""" {quiet}"""
    d = \'\'\'{quiet}
    \' \'\'{quiet}\'\'\'
    '''
    assert parse_toml(content, "x.toml")[quiet] == [[1], [2]]
    assert parse_toml("a = " + "[" * 31 + "]" * 31, "x.toml")["a"][0] == json.loads("[" * 30 + "]" * 30)


@pytest.mark.parametrize("piece", ['"', "'", '"""', "'''", '\\"', '"""\\', "a.", "#", '"\n', "a ", " .", "[[a]]\n"])
def test_hostile_toml_takes_linear_time(piece):
    text = piece * (200_000 // len(piece))
    start = time.perf_counter()
    with pytest.raises(ValueError, match="toml"):
        parse_toml(text + "\n=", "x.toml")
    assert time.perf_counter() - start < 2


def test_toml_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    assert read_toml(tmp_path / "x.toml") == {"a": 1}
    with pytest.raises(ValueError, match=r"y\.toml cannot be read"):
        read_toml(tmp_path / "y.toml")


def test_a_checksum_is_of_the_kind_that_is_asked_for(tmp_path):
    path = tmp_path / "hello"
    path.write_bytes(b"hello\n")
    sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    git = "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert digest_like(path, sha) == sha
    assert digest_like(path, git) == git
    assert has_digest(path, git)
    assert not has_digest(path, "0" * 40)
    assert not has_digest(tmp_path / "missing", sha)
