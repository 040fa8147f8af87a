"""Writes files and folders atomically, computes checksums, and parses untrusted text, JSON and TOML."""

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn

JSON_DEPTH = 64  # nested arrays and objects; the deepest file of a Lens model has 8
JSON_VALUES = 2_000_000  # a Python value takes about 100 bytes
JSON_BYTES = 128 * 2**20  # of one file; the largest published tokenizer.json has 35 MB
_JSON_DIGITS = 100  # of an integer; a float has up to 308
TOML_BYTES = 2**20  # of one document; Python's parser takes a second or two for this size
TOML_DEPTH = 32  # nested tables and arrays; the deepest recipe has 4
_CONVERT = "save it as UTF-8, or convert it: iconv -f {} -t UTF-8 OLD > NEW"
# A string, closed or not. The two classes begin with different characters, so the search is linear.
_JSON_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_JSON_BRACKET = re.compile(r"[\[\]{}]")
# Single-line and multi-line strings, closed or not, and comments. Possessive quantifiers keep the search linear.
_TOML_QUIET = re.compile(
    r""""{3}(?:[^"\\]|\\.|"(?!""))*+(?:"{3})?|'{3}(?:[^']|'(?!''))*+(?:'{3})?"""
    r"""|"(?:[^"\\\n]|\\[^\n])*+"?|'[^'\n]*+'?|#[^\n]*+""",
    re.DOTALL,
)
_TOML_BARE = re.compile(r"[^.\[\]{}\n,=]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`. On success it is renamed to `path`; on any error it is removed.

    The file survives a power failure: its content is synced to disk before it is renamed.

    Raises:
        ValueError: the folder of `path` cannot be created or written to.
    """
    path = Path(path)
    require_writable(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder next to `path`. On success it is renamed to `path`; on any error it is removed.

    As with `whole_file`, its content is synced to disk before it is renamed.

    Raises:
        ValueError: `path` exists and is not an empty folder, or its parent cannot be written to.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists already; give a path that does not exist, or an empty folder")
    require_writable(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        for folder, _, names in os.walk(temporary, topdown=False):
            for name in names:
                if not os.path.islink(os.path.join(folder, name)):  # the target of a link was not written here
                    sync(Path(folder, name))
            sync(Path(folder))
        if path.exists():
            path.rmdir()
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replaced_folder(path: str | Path) -> Iterator[Path]:
    """Context with a folder to fill, which replaces `path` when it is complete."""
    path = Path(path)
    fresh, old = path.with_name(f".{path.name}-new"), path.with_name(f".{path.name}-old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    with whole_folder(fresh) as temporary:
        yield temporary
    if path.exists():
        os.replace(path, old)
    os.replace(fresh, path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to disk.

    Folders that cannot be opened (Windows) or synced (some network file systems) are skipped.

    Raises:
        OSError: the file cannot be synced.
    """
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    # Windows only syncs files that are open for writing.
    handle = os.open(path, os.O_RDONLY if is_folder or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError:
        if not is_folder:
            raise
    finally:
        os.close(handle)


def require_writable(path: str | Path) -> None:
    """Create the parent folder of `path` if it is missing and check that a file can be written there.

    Raises:
        ValueError: it cannot be written; the message names the path and the reason.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}; give a path in a writable folder") from error
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"cannot write {path}: it is a folder that is not empty; give another path")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 lower-case hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_like(path: str | Path, digest: str) -> str:
    """The checksum of a file of the same kind as `digest`: its SHA-256 (64 digits), or git's id of it (40 digits)."""
    if len(digest) == 64:
        return sha256(path)
    content = Path(path).read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def has_digest(path: str | Path, digest: str) -> bool:
    """Whether there is a file with this checksum, of either kind that `digest_like` knows."""
    return Path(path).is_file() and digest_like(path, digest) == digest


def fingerprint(files: list[Path]) -> str:
    """64 hexadecimal digits that change when any of `files` does, without reading gigabytes.

    SHA-256 over each file's name, size and 64 evenly spaced samples of 4 KiB. It tells model versions apart; it does
    not prove that every byte is right, which `leanlens weights verify` does.
    """
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with open(file, "rb") as handle:
            for index in range(64):
                handle.seek(max(0, (size - 4096)) * index // 63)
                digest.update(handle.read(4096))
    return digest.hexdigest()


def read_text(path: str | Path, what: str = "") -> str:
    """Read a UTF-8 file with `decode_text`. `what` names it in errors; the default is its path.

    Raises:
        ValueError: it cannot be read, or `decode_text` rejects it.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{what or path} cannot be read: {error.strerror or error}") from error
    return decode_text(content, what or str(path))


def decode_text(content: bytes, what: str) -> str:
    """Decode UTF-8. A byte-order mark is dropped and every kind of line ending becomes a line feed.

    Raises:
        ValueError: invalid UTF-8 or a NUL character; the message names `what`, the line, and how to convert it.
    """
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{what} line 1 is not UTF-8 but UTF-16; {_CONVERT.format('UTF-16')}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _lines(content[: error.start].decode("latin-1"))
        byte = f"byte 0x{content[error.start]:02x}"
        raise ValueError(f"{what} line {line} is not UTF-8 ({byte}); {_CONVERT.format('WINDOWS-1252')}") from None
    if "\0" in text:
        line = _lines(text[: text.index("\0")])
        hint = f": is it UTF-16? {_CONVERT.format('UTF-16LE')}" if text.count("\0") * 3 > len(text) else ""
        raise ValueError(f"{what} line {line} contains a NUL character{hint}")
    return with_line_feeds(text)


def with_line_feeds(text: str) -> str:
    """The text with CRLF and CR line endings replaced by line feeds."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(text: str) -> int:
    """The line number at the end of `text`."""
    return with_line_feeds(text).count("\n") + 1


def read_json(path: str | Path, finite: bool = True) -> Any:
    """Read a JSON file with `parse_json`.

    Raises:
        ValueError: it cannot be read, is larger than 128 MiB, or `parse_json` rejects it.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():  # a device or a pipe may have no end
            raise ValueError(f"{path} cannot be read: it is not a file")
        if size > JSON_BYTES:
            raise ValueError(f"{path} is too large: {size} bytes; the limit for JSON is {JSON_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_json(content, str(path), finite=finite)


def parse_json(
    content: str | bytes | bytearray,
    what: str,
    *,
    finite: bool = True,
    depth: int = JSON_DEPTH,
    values: int = JSON_VALUES,
) -> Any:
    """Parse an untrusted JSON document in time and memory proportional to its length.

    Args:
        content: the document; bytes are UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.
        what: names the document in every message, for instance its path.
        finite: reject NaN and infinity, which are not JSON; False accepts them as Python writes them.
        depth: maximum nesting of arrays and objects.
        values: maximum number of values in the document.

    Raises:
        ValueError: not JSON, a duplicate key, nested too deeply, too many values, an integer of more than 100 digits,
            an unpaired surrogate in a string, or a number that is not finite.
    """
    text = _decoded(content, what) if not isinstance(content, str) else content.removeprefix("\ufeff")
    check_json_extent(text, what, depth, values)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_finite if finite else None,
            parse_constant=_constant if finite else None,
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{what} is not valid JSON: {error.msg.removesuffix(' at')} at {place}") from error
    except ValueError as error:
        raise ValueError(f"{what} is not valid JSON: {error}") from error
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{what} is not valid JSON: a string contains an unpaired surrogate") from error
    return value


def _decoded(content: bytes | bytearray, what: str) -> str:
    encoding = json.detect_encoding(content)
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is not valid JSON: invalid {encoding} at byte {error.start}") from error


def check_json_extent(text: str, what: str, depth: int, values: int) -> None:
    """Reject documents that would make Python's parser raise RecursionError or use gigabytes.

    Does not check that the text is JSON.

    Raises:
        ValueError: nested too deeply, or too many values.
    """
    opened = text.count("[") + text.count("{")
    if opened <= depth and opened + text.count(",") < values:  # a larger count proves nothing: strings have brackets
        return
    bare = _JSON_STRING.sub("", text)
    if 1 + bare.count("[") + bare.count("{") + bare.count(",") > values:
        raise ValueError(f"{what} has too many values: the limit is {values}")
    level = 0
    for match in _JSON_BRACKET.finditer(bare):
        level += 1 if match[0] in "[{" else -1
        if level > depth:
            raise ValueError(f"{what} is nested too deeply: the limit is {depth} arrays and objects")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"duplicate key {twice[:60]!r} in an object")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _JSON_DIGITS:
        raise ValueError(f"the number {digits[:10]}... has {len(digits)} digits; the limit is {_JSON_DIGITS}")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:20]} is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def read_toml(path: str | Path, what: str = "") -> dict[str, Any]:
    """Read a TOML file with `parse_toml`. `what` names it in errors; the default is its path.

    Raises:
        ValueError: it cannot be read, or `parse_toml` rejects it.
    """
    return parse_toml(read_text(path, what), what or str(path))


def parse_toml(text: str, what: str) -> dict[str, Any]:
    """Parse an untrusted TOML document.

    Raises:
        ValueError: not TOML, larger than 1 MiB, or nested more than 32 levels; the message names `what`.
    """
    if len(text) > TOML_BYTES:
        raise ValueError(f"{what} is too large: {len(text)} characters; the limit for TOML is {TOML_BYTES}")
    # Python's parser is unbounded: it recurses on brackets, and dotted keys use quadratic memory.
    bare = _TOML_BARE.sub("", _TOML_QUIET.sub("", text))
    deep = f"{what} is nested too deeply: the limit is {TOML_DEPTH} tables and arrays"
    if "." * TOML_DEPTH in bare or _deepest(_JSON_BRACKET.findall(bare)) > TOML_DEPTH:
        raise ValueError(deep)
    try:
        tables = tomllib.loads(text)
    except ValueError as error:  # a TOMLDecodeError, or a number with more digits than Python reads
        raise ValueError(f"{what} is not valid TOML: {error}") from error
    level: list[Any] = [tables]
    for _ in range(TOML_DEPTH):
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [one for values in inner for one in values if isinstance(one, dict | list)]
    if level:
        raise ValueError(deep)
    return tables


def _deepest(brackets: list[str]) -> int:
    """The maximum nesting depth of brackets of any kind."""
    return max(accumulate((1 if one in "[{" else -1 for one in brackets), initial=0))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
