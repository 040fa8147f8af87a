"""Resolves a model name, repository id or path to a local path, and downloads what is missing.

This is the only file of the library that downloads. A download comes from a mirror: a repository id `owner/name` (read
with huggingface_hub), the http(s) address of a folder with a `SHA256SUMS` file (the format of sha256sum), or a local
folder. Files are collected next to the target in `.NAME.MIRROR.partial`, where an interrupted download resumes. When
every listed checksum matches, the folder is renamed to the target. It then has its own `SHA256SUMS`, so that it can
serve as a mirror, and `fetched.json`, which names the model.
"""

import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from leanlens.files import (
    decode_text,
    digest_like,
    has_digest,
    read_json,
    read_text,
    read_toml,
    require_writable,
    sha256,
    sync,
    whole_file,
)
from leanlens.log import logger
from leanlens.presets import FOLDER_FILES, PRESETS, is_made

SUMS = "SHA256SUMS"
ORIGIN = "fetched.json"  # {"model": …, "mirror": …}
MIRRORS_VARIABLE = "LEANLENS_MIRRORS"
MODELS_VARIABLE = "LEANLENS_MODELS"

_NANO = Path(__file__).parent / "nano"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30.0  # seconds without a byte
_ATTEMPTS = 5  # in a row without progress
_FIRST_PAUSE = 1.0  # seconds; doubles with each attempt in a row


class DownloadError(OSError):
    """Every mirror failed; the message gives the reason for each, one per line."""


def locate(model: str | Path) -> Path:
    """The local folder or file of a model, downloaded if necessary.

    Args:
        model: a preset's name (which takes precedence over a folder of that name: write `./turbo` for the folder), an
            existing folder or file, or a repository id `owner/name`, which is stored in huggingface_hub's shared cache.

    Raises:
        ValueError: `model` is none of these, "nano" in a version without an embedded model, or a model that has no
            files since its weights are made.
        DownloadError: the download failed.
    """
    name = str(model)
    if name == "nano":
        return _embedded()
    if name in PRESETS and not is_made(name):
        return _located_preset(name)
    path = Path(model).expanduser()
    if path.exists():
        return path
    if _REPOSITORY.fullmatch(name):
        return _cached_repository(name)
    if is_made(name):
        raise ValueError(f"model {name!r} has no files: its weights are made when it is opened")
    raise ValueError(
        f"unknown model {name!r}: expected a local file or folder, "
        f"a preset ({', '.join(PRESETS)}) or a repository id owner/name"
    )


def model_folder(model: str) -> Path | None:
    """`locate`, but None for a preset whose weights are made, which has no folder."""
    return None if is_made(model) else locate(model)


def is_here(model: str) -> bool:
    """Whether `model` is the name of a preset that is available locally, without the network."""
    if model not in PRESETS:
        return False
    if not PRESETS[model].sources:
        return True
    local = Path(mirrors_for(model)[0]).expanduser() / "model_index.json"
    return _fetched(models_folder() / model, model) or local.is_file()


def fetch(name: str, to: str | Path | None = None, mirrors: Sequence[str] | None = None, progress: bool = True) -> Path:
    """Download a model into a folder atomically, verify its checksums, and resume where an earlier try stopped.

    Args:
        name: a preset's name or a repository id.
        to: the folder to create; the default is in `models_folder`.
        mirrors: the mirrors to try, in this order; the default is `mirrors_for`.
        progress: show a bar for each file of an http(s) mirror; repositories have the bars of huggingface_hub.

    Returns:
        The folder. If an earlier fetch finished, it is returned unchanged.

    Raises:
        ValueError: an unknown name, an invalid mirror setting, or `to` contains other files.
        DownloadError: every mirror failed.
    """
    if name in PRESETS and not PRESETS[name].sources:
        kind = "has no files" if is_made(name) else "is part of the package"
        raise ValueError(f"model {name!r} {kind} and cannot be fetched; use it by its name")
    if name not in PRESETS and not _REPOSITORY.fullmatch(name):
        known = ", ".join(preset.name for preset in PRESETS.values() if preset.sources)
        raise ValueError(f"cannot fetch model {name!r}: expected a preset ({known}) or a repository id owner/name")
    target = Path(to).expanduser() if to is not None else models_folder() / name.replace("/", "--")
    if _fetched(target, name):
        if mirrors is not None:
            logger.info("%s already contains %s; nothing was fetched", target, name)
        return target
    mirrors = mirrors_for(name) if mirrors is None else list(mirrors)
    if to is None and (single := next((m for m in mirrors if _wanted(name, m) != FOLDER_FILES), None)):
        raise ValueError(f"mirror {single!r} has single files and no model folder; give `to`, a folder for them")
    if target.is_file():
        raise ValueError(f"invalid to {str(target)!r}: it is a file; give the folder to create")
    require_writable(target)
    lock = target.parent / f".{target.name}.lock"
    with FileLock(lock):  # the ranks of one run all ask for the same model
        if not _fetched(target, name):
            _fetch_from_first_available(mirrors, name, target, progress)
        lock.unlink(missing_ok=True)  # safe only now: a waiting process finds the finished model
    return target


def fetch_file(address: str, path: str | Path, digest: str, progress: bool = True) -> Path:
    """Download one file whose checksum is known, and resume where an earlier try stopped.

    Args:
        address: its http(s) address.
        path: where it is written, whole; nothing is downloaded if a file of this checksum is there.
        digest: its SHA-256, or the id that git gives its content.
        progress: show a bar.

    Raises:
        ValueError: `path` cannot be written.
        DownloadError: it could not be downloaded, or has another checksum.
    """
    path = Path(path)
    require_writable(path)
    lock = path.with_name(f".{path.name}.lock")
    with FileLock(lock):
        if not has_digest(path, digest):
            _download(address, path, digest, _remote_size(address), progress)
        lock.unlink(missing_ok=True)
    return path


def mirrors_for(name: str) -> list[str]:
    """The mirrors to try for a preset or repository id, in order.

    Only the first of these that is set is used: the environment variable LEANLENS_MIRRORS (comma separated, `{name}`
    stands for the preset's name), the list `sources` under `[NAME]` in the mirrors file, the built-in table. A
    repository id without a setting is its own mirror.

    Raises:
        ValueError: a setting is invalid.
    """
    entries = [entry.strip() for entry in os.environ.get(MIRRORS_VARIABLE, "").split(",") if entry.strip()]
    for entry in entries:
        if "{name}" not in entry:
            raise ValueError(
                f"invalid {MIRRORS_VARIABLE} entry {entry!r}: it would give the same files for every model; "
                "write {name} in place of the model's name"
            )
    entries = entries or _mirrors_in_file(name)
    if entries:
        return [entry.replace("{name}", name) for entry in entries]
    if name in PRESETS:
        return [source.address for source in PRESETS[name].sources if source.layout == "folder"]
    return [name]


def describe_sources() -> str:
    """A text listing each preset with its licence, its configured mirrors and other known sources."""
    lines = []
    for preset in PRESETS.values():
        if preset.is_made:
            continue
        lines += [f"{preset.name}: {preset.title}. {preset.description}", f"  licence: {preset.licence}"]
        mirrors = mirrors_for(preset.name) if preset.sources else []
        sizes = {source.address: f" (about {source.gigabytes:.0f} GB)" for source in preset.sources}
        lines += [f"  mirror {place}: {mirror}{sizes.get(mirror, '')}" for place, mirror in enumerate(mirrors, start=1)]
        for source in preset.sources:
            if source.address not in mirrors:
                kind = "single files" if source.layout == "files" else "model folder"
                lines.append(f"  with --mirror: {source.address}, {kind}{sizes[source.address]}")
    return "\n".join(lines)


def mirrors_file() -> Path:
    """The user's mirrors file, `~/.config/leanlens/mirrors.toml`; it need not exist."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "leanlens" / "mirrors.toml"


def models_folder() -> Path:
    """Where fetched models are stored: LEANLENS_MODELS, or `~/.cache/leanlens/models`."""
    if MODELS_VARIABLE in os.environ:
        return Path(os.environ[MODELS_VARIABLE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leanlens" / "models"


# ---------------------------------------------------------------------------------------------- locating


def _embedded() -> Path:
    if (_NANO / "model_index.json").is_file():
        return _NANO
    raise ValueError(
        "model 'nano' is not embedded in this version of leanlens; use turbo, rl, base or a local folder, "
        "or try toy (random weights)"
    )


def _located_preset(name: str) -> Path:
    """A fetched folder, or a mirror that is a local folder; otherwise downloads the preset."""
    if _fetched(models_folder() / name, name):
        return models_folder() / name
    mirrors = mirrors_for(name)
    first = Path(mirrors[0]).expanduser()
    if (first / "model_index.json").is_file():
        return first
    return fetch(name, mirrors=mirrors)


def _cached_repository(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, allow_patterns=list(FOLDER_FILES)))
    except Exception as error:  # the network library's error classes vary by version
        raise DownloadError(
            f"model {repository!r} is not a local folder and could not be downloaded ({_first_line(error)}); "
            "without a network, give the path of a local model folder"
        ) from error
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"model {repository!r} has no model_index.json; give a repository in model folder layout")
    return folder


def locate_weights(repository: str, file: str, **options: Any) -> Path:
    """A weight file of a repository, from huggingface_hub's shared cache or downloaded into it.

    Args:
        repository: `owner/name`.
        file: its path in the repository.
        options: options of `huggingface_hub.hf_hub_download` such as `revision`, `token` and `cache_dir`.

    Raises:
        ValueError: `repository` is not of this form.
        DownloadError: the download failed.
    """
    from huggingface_hub import hf_hub_download

    if not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"{repository!r} not found: expected a local file or folder, or a repository id owner/name")
    try:
        return Path(hf_hub_download(repository, file, **options))
    except Exception as error:  # the network library's error classes vary by version
        raise DownloadError(
            f"{repository!r} is not a local file or folder and {file} could not be downloaded ({_first_line(error)})"
        ) from error


def locate_pipeline(repository: str, revision: str | None = None, variant: str | None = None) -> Path:
    """The local folder of a diffusers pipeline of any class, from huggingface_hub's shared cache or downloaded into it.

    Only what its model_index.json names is downloaded, weights as safetensors alone.

    Args:
        repository: `owner/name`.
        revision: a branch, tag or commit.
        variant: of the weight files, such as "fp16".

    Raises:
        ValueError: `repository` is not of this form.
        DownloadError: the download failed, or the repository has no safetensors weights.
    """
    from diffusers import DiffusionPipeline

    if not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"{repository!r} not found: expected a local folder, or a repository id owner/name")
    try:
        return Path(DiffusionPipeline.download(repository, revision=revision, variant=variant, use_safetensors=True))
    except Exception as error:  # the network library's error classes vary by version
        raise DownloadError(
            f"pipeline {repository!r} is not a local folder and could not be downloaded ({_first_line(error)})"
        ) from error


def _mirrors_in_file(name: str) -> list[str]:
    path = mirrors_file()
    if not path.is_file():
        return []
    section = read_toml(path).get(name, {})
    sources = section.get("sources", []) if isinstance(section, dict) else None
    if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
        raise ValueError(f'invalid {path}: [{name}] is {section!r}; expected sources = ["…", …], a list of mirrors')
    return sources


def _wanted(name: str, mirror: str) -> tuple[str, ...]:
    """Patterns of the files to fetch: from the built-in table for this source, otherwise those of a model folder."""
    sources = PRESETS[name].sources if name in PRESETS else ()
    return next((source.files for source in sources if source.address == mirror), FOLDER_FILES)


# ---------------------------------------------------------------------------------------------- fetching


def _fetch_from_first_available(mirrors: Sequence[str], name: str, target: Path, progress: bool) -> None:
    reasons = []
    for mirror in mirrors:
        partial = target.parent / f".{target.name}.{re.sub(r'[^A-Za-z0-9]+', '-', mirror).strip('-')}.partial"
        try:
            sums = _fetch_from(mirror, partial, _wanted(name, mirror), progress)
        except (OSError, ValueError) as error:
            reasons.append(f"{mirror}: {error}")
            logger.warning("%s: mirror %s failed: %s", name, mirror, error)
        else:
            return _finish(partial, target, sums, {"model": name, "mirror": mirror})
    tried = "".join(f"\n  {reason}" for reason in reasons) or " no mirror is configured"
    raise DownloadError(
        f"{name} could not be downloaded:{tried}\n"
        f"Without a network, give the path of a local model folder, or set mirrors in {MIRRORS_VARIABLE} "
        f"or {mirrors_file()}"
    )


def _fetched(folder: Path, name: str) -> bool:
    """Whether `folder` is a finished fetch of this model.

    Raises:
        ValueError: it contains another model.
    """
    if not (folder / ORIGIN).is_file():
        return False
    try:
        held = read_json(folder / ORIGIN)["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / ORIGIN} does not name its model; remove the folder") from error
    if held != name:
        raise ValueError(f"{folder} contains {held}, not {name}; give another folder")
    return True


def _fetch_from(mirror: str, partial: Path, patterns: tuple[str, ...], progress: bool) -> dict[str, str]:
    """Fetch the files of one mirror into `partial` and verify them: relative path -> SHA-256."""
    if mirror.startswith(("http://", "https://")):
        return _fetch_folder(mirror, partial, patterns, progress)
    if Path(mirror).expanduser().is_dir():
        return _copy_folder(Path(mirror).expanduser(), partial, patterns)
    if _REPOSITORY.fullmatch(mirror):
        return _fetch_repository(mirror, partial, patterns)
    raise ValueError("is not an http(s) address, a local folder or a repository id owner/name")


def _fetch_repository(repository: str, partial: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """Download with huggingface_hub, which resumes, and verify the checksums that it lists for large files."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = HfApi().model_info(repository, files_metadata=True)
        expected = {
            file.rfilename: (file.size or 0, file.lfs.sha256 if file.lfs else None)
            for file in info.siblings or []
            if _matches(file.rfilename, patterns)
        }
        _require_files(expected, "it")
        _require_space(partial, sum(size for size, _ in expected.values()))
        snapshot_download(repository, revision=info.sha, local_dir=partial, allow_patterns=list(expected))
    except (DownloadError, ValueError):
        raise
    except Exception as error:  # try the next mirror; the network library's error classes vary by version
        raise DownloadError(_first_line(error)) from error
    return {path: _checked(partial / path, digest) for path, (_, digest) in expected.items()}


def _copy_folder(folder: Path, partial: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """Copy the matching files of a local folder; warn about files that its SHA256SUMS does not list."""
    if patterns == FOLDER_FILES:
        _require_lens(folder / "model_index.json")
    listed = read_sums(read_text(folder / SUMS, SUMS)) if (folder / SUMS).is_file() else {}
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files = {name: path for name, path in files.items() if _matches(name, patterns)}
    _require_files(files, "it")
    if lost := [name for name in listed if _matches(name, patterns) and name not in files]:
        raise DownloadError(f"lacks {len(lost)} files that its {SUMS} lists, first {lost[0]}")
    if not listed:
        logger.warning("mirror %s has no %s, so no checksum was verified", folder, SUMS)
    elif unlisted := [name for name in files if name not in listed]:
        logger.warning("%s of mirror %s does not list %s; not verified", SUMS, folder, ", ".join(unlisted))
    _require_space(partial, sum(path.stat().st_size for path in files.values()))
    sums = {}
    for name, path in files.items():
        with whole_file(partial / name) as temporary:
            shutil.copyfile(path, temporary)
        sums[name] = _checked(partial / name, listed.get(name))
    return sums


def _fetch_folder(address: str, partial: Path, patterns: tuple[str, ...], progress: bool) -> dict[str, str]:
    """Download the matching files that SHA256SUMS of an http(s) folder lists."""
    address = address.rstrip("/") + "/"
    with _opened(address + SUMS) as response:
        listed = read_sums(decode_text(response.read(), SUMS))
    sums = {path: digest for path, digest in listed.items() if _matches(path, patterns)}
    _require_files(sums, SUMS)
    missing = {path: digest for path, digest in sums.items() if not has_digest(partial / path, digest)}
    sizes = {path: _remote_size(address + urllib.parse.quote(path)) for path in missing}
    ready = sum((partial / path).stat().st_size for path in sums if path not in missing)
    _require_space(partial, ready + sum(sizes.values()))
    for path, digest in missing.items():
        _download(address + urllib.parse.quote(path), partial / path, digest, sizes[path], progress)
    return sums


def _download(address: str, path: Path, digest: str, size: int, progress: bool) -> None:
    """Download one file through `PATH.<checksum>.part`, so that a resumed download is of the same content."""
    part = path.with_name(f"{path.name}.{digest[:12]}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    most, failures, reason = part.stat().st_size, 0, ""
    with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=not progress) as bar:
        while (start := part.stat().st_size) < size:
            if failures == _ATTEMPTS:
                raise DownloadError(f"{path.name}: {reason}, {_ATTEMPTS} times in a row at byte {start} of {size}")
            if failures:
                time.sleep(_FIRST_PAUSE * 2 ** (failures - 1))
            reason = _append(address, part, start, bar)
            failures = 0 if part.stat().st_size > most else failures + 1
            most = max(most, part.stat().st_size)
    _checked(part, digest)
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def _append(address: str, part: Path, start: int, bar: tqdm) -> str:
    """Append the bytes from `start` on to `part`, and return why the connection ended.

    If the server does not support ranges, the file starts from the beginning.
    """
    with _opened(address, {"Range": f"bytes={start}-"} if start else {}) as response:
        resumed = start > 0 and response.status == http.client.PARTIAL_CONTENT
        bar.n = start if resumed else 0
        with open(part, "ab" if resumed else "wb") as file:
            try:
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
            except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
                return _first_line(error)
    return "the connection ended early"


def _opened(address: str, headers: dict[str, str] | None = None, method: str = "GET") -> http.client.HTTPResponse:
    """An open response. Server errors and broken connections are retried; other errors are not."""
    request = urllib.request.Request(address, headers={"User-Agent": "leanlens", **(headers or {})}, method=method)
    for attempt in range(_ATTEMPTS):
        try:
            return urllib.request.urlopen(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            reason, transient = f"HTTP {error.code} {error.reason}", error.code >= 500 or error.code == 429
        except (OSError, http.client.HTTPException) as error:  # URLError wraps errors before the response
            cause = getattr(error, "reason", error)
            reason = str(cause)
            transient = isinstance(cause, ConnectionResetError | TimeoutError | http.client.HTTPException)
        if not transient:
            break
        if attempt + 1 < _ATTEMPTS:
            time.sleep(_FIRST_PAUSE * 2**attempt)
    raise DownloadError(f"{address}: {reason}")


def _remote_size(address: str) -> int:
    """Bytes of a remote file. Resuming needs the size, so a server that does not send it is rejected."""
    with _opened(address, method="HEAD") as response:
        length = response.headers.get("Content-Length")
    if length is None:
        raise DownloadError(f"{address}: the server sends no Content-Length")
    return int(length)


def _checked(path: Path, digest: str | None) -> str:
    """The checksum of a file. If it is not the expected one, the file is removed and an error raised."""
    found = sha256(path) if digest is None else digest_like(path, digest)
    if digest is not None and found != digest:
        path.unlink()
        kind = "SHA-256" if len(digest) == 64 else "git id"
        raise DownloadError(f"{path.name} has {kind} {found}, expected {digest}; the file was removed")
    return found


def _finish(partial: Path, target: Path, sums: dict[str, str], origin: dict[str, str]) -> None:
    """Write checksums and origin, rename `partial` to `target`, and remove what only served the download."""
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # huggingface_hub's metadata
    with whole_file(partial / SUMS) as temporary:
        temporary.write_text("".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items())), encoding="utf-8")
    with whole_file(partial / ORIGIN) as temporary:
        temporary.write_text(json.dumps(origin) + "\n", encoding="utf-8")
    if target.exists():
        target.rmdir()  # empty: require_writable rejects any other
    for path in (*partial.rglob("*"), partial):
        if not path.is_symlink():
            sync(path)
    os.replace(partial, target)
    sync(target.parent)
    for other in target.parent.glob(f".{target.name}.*.partial"):
        shutil.rmtree(other, ignore_errors=True)


def read_sums(text: str) -> dict[str, str]:
    """Parse the output of sha256sum: relative path -> checksum in lower case.

    Raises:
        ValueError: a malformed line, or a path outside the folder.
    """
    sums = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)", line.strip())
        if match is None:
            if line.strip():
                raise ValueError(f"invalid {SUMS} line {line[:80]!r}: expected '<64 hexadecimal digits>  <path>'")
            continue
        path = PurePosixPath(match[2])
        if path.is_absolute() or ".." in path.parts or "\\" in match[2]:
            raise ValueError(f"{SUMS} names {match[2]!r}, which is outside its folder")
        sums[path.as_posix()] = match[1].lower()
    return sums


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a path matches a pattern of the same depth; `*` does not match across folders."""
    return any(fnmatchcase(path, pattern) and path.count("/") == pattern.count("/") for pattern in patterns)


def _require_files(files: dict, where: str) -> None:
    if not any(path.endswith(".safetensors") for path in files):
        raise DownloadError(f"{where} lists no safetensors weights")


def _require_lens(index: Path) -> None:
    """Check by its model_index.json that a folder is a Lens pipeline, before its gigabytes are copied."""
    if not index.is_file():
        raise ValueError(f"is not a Lens pipeline folder: it has no {index.name}")
    try:
        named = read_json(index)["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"is not a Lens pipeline folder: its {index.name} has no _class_name") from error
    if not str(named).startswith("Lens"):
        raise ValueError(f"is a pipeline of class {named}; expected a LensPipeline")


def _require_space(folder: Path, needed: int) -> None:
    """Check free disk space before downloading; files of an earlier try in `folder` need no more space."""
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    free = shutil.disk_usage(folder.parent).free
    if needed - there > free:
        raise DownloadError(f"needs {(needed - there) / 1e9:.1f} GB in {folder.parent}; {free / 1e9:.1f} GB are free")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
