"""Names -> local files. The only file of the library that downloads.

Comes in: a preset's name, a repository id, a local folder or a local file. Goes out: a local path. Knows file names
and checksums, nothing of what the files hold.

A download comes from a mirror: a repository id `owner/name` (read with huggingface_hub), the http(s) address of a
folder that holds a `SHA256SUMS` file (the format of sha256sum), or a local folder. Files are collected in a folder
beside the target, `.NAME.MIRROR.partial`, where an interrupted download goes on; when every stated checksum is right
it is renamed to the target, with its own `SHA256SUMS`, so it is itself a mirror, and `fetched.json`, which says what
it is.
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

from leanlens.files import decode_text, read_json, read_text, read_toml, require_writable, sha256, sync, whole_file
from leanlens.log import logger
from leanlens.presets import FOLDER_FILES, PRESETS

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
    """No mirror gave the files; the message has one line for each mirror and its reason."""


def locate(model: str | Path) -> Path:
    """The local folder or file of a model; what is not here yet is downloaded.

    Args:
        model: a preset's name (before anything of that name in the working folder: write `./turbo` for a folder), an
            existing folder or file, or a repository id `owner/name`, which is kept in the cache that huggingface_hub
            shares between programs.

    Raises:
        ValueError: `model` is none of these, or "nano" in a version that holds no model.
        DownloadError: it could not be downloaded.
    """
    name = str(model)
    if name == "nano":
        return _embedded()
    if name in PRESETS:
        return _located_preset(name)
    path = Path(model).expanduser()
    if path.exists():
        return path
    if _REPOSITORY.fullmatch(name):
        return _cached_repository(name)
    raise ValueError(
        f"model {name!r} is not a file or folder here; "
        f"give one, a preset ({', '.join(PRESETS)}) or a repository id owner/name"
    )


def is_here(model: str) -> bool:
    """Whether a name stands for a model that this installation has, and needs neither a path nor the network."""
    if model in PRESETS and model != "nano":
        local = Path(mirrors_for(model)[0]).expanduser() / "model_index.json"
        return _fetched(models_folder() / model, model) or local.is_file()
    return model in ("nano", "toy")


def fetch(name: str, to: str | Path | None = None, mirrors: Sequence[str] | None = None, progress: bool = True) -> Path:
    """Download a model into a folder, whole or not at all; check the sums its mirror states; go on where it stopped.

    Args:
        name: a preset's name or a repository id.
        to: the folder to make; without it, the models folder of this machine (`models_folder`).
        mirrors: the only places to try, in this order; without it, those of `mirrors_for`.
        progress: show a bar for each file of an http(s) mirror; repositories have the bars of huggingface_hub.

    Returns:
        The folder. One that an earlier fetch finished is returned as it is.

    Raises:
        ValueError: an unknown name, a setting that cannot be read, or `to` holds other files.
        DownloadError: every mirror failed.
    """
    if name == "nano":
        raise ValueError("model 'nano' is part of the package and is not fetched; use it by its name")
    if name not in PRESETS and not _REPOSITORY.fullmatch(name):
        raise ValueError(
            f"model {name!r} cannot be fetched; give a preset ({', '.join(PRESETS)}) or a repository id owner/name"
        )
    target = Path(to).expanduser() if to is not None else models_folder() / name.replace("/", "--")
    if _fetched(target, name):
        if mirrors is not None:
            logger.info("%s is a finished fetch of %s already; nothing was fetched", target, name)
        return target
    mirrors = mirrors_for(name) if mirrors is None else list(mirrors)
    if to is None and (single := next((m for m in mirrors if _wanted(name, m) != FOLDER_FILES), None)):
        raise ValueError(f"mirror {single!r} holds single files, no model folder; give `to`, the folder to put them in")
    if target.is_file():
        raise ValueError(f"to {str(target)!r} is a file; give the folder to make")
    require_writable(target)
    lock = target.parent / f".{target.name}.lock"
    with FileLock(lock):  # the ranks of one run all ask for the same model
        if not _fetched(target, name):
            _fetch_from_first_that_works(mirrors, name, target, progress)
        lock.unlink(missing_ok=True)  # only now: whoever still waits for it, or makes it anew, finds the model here
    return target


def mirrors_for(name: str) -> list[str]:
    """The mirrors to try for a preset or repository id, in order.

    The first of these that is set is used alone: the environment variable LEANLENS_MIRRORS (comma separated, each
    with `{name}` where the preset's name goes), the list `sources` under `[NAME]` in the mirrors file, the built-in
    table. A repository id without a setting is its own mirror.

    Raises:
        ValueError: a setting that cannot be read.
    """
    entries = [entry.strip() for entry in os.environ.get(MIRRORS_VARIABLE, "").split(",") if entry.strip()]
    for entry in entries:
        if "{name}" not in entry:
            raise ValueError(
                f"{MIRRORS_VARIABLE} entry {entry!r} would give the same files for every model; "
                "write {name} where the model's name goes"
            )
    entries = entries or _mirrors_in_file(name)
    if entries:
        return [entry.replace("{name}", name) for entry in entries]
    if name in PRESETS:
        return [source.address for source in PRESETS[name].sources if source.layout == "folder"]
    return [name]


def describe_sources() -> str:
    """What can be fetched, in words: each preset with its licence, the mirrors set now, and the other sources known."""
    lines = []
    for preset in PRESETS.values():
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
    """The file with one's own mirrors, `~/.config/leanlens/mirrors.toml`; it need not exist."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "leanlens" / "mirrors.toml"


def models_folder() -> Path:
    """Where fetched presets are kept: LEANLENS_MODELS, or `~/.cache/leanlens/models`."""
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
    """A fetched folder, a mirror that is a local folder already, or a download."""
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
    except (
        Exception
    ) as error:  # any failure of the network library means the same here, and its classes vary by version
        raise DownloadError(
            f"model {repository!r} is not a folder here and could not be downloaded ({_first_line(error)}); "
            "where there is no network, give the path of a local model folder"
        ) from error
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"model {repository!r} holds no model_index.json; give a repository in model folder layout")
    return folder


def locate_weights(repository: str, file: str, **options: Any) -> Path:
    """A weight file of a repository, from the cache that huggingface_hub shares between programs, or downloaded.

    Args:
        repository: `owner/name`.
        file: its path there.
        options: `revision`, `token`, `cache_dir` and the like, as `huggingface_hub.hf_hub_download` has them.

    Raises:
        ValueError: `repository` is no such name.
        DownloadError: it could not be downloaded.
    """
    from huggingface_hub import hf_hub_download

    if not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"{repository!r} is not a file or folder here; give one, or a repository id owner/name")
    try:
        return Path(hf_hub_download(repository, file, **options))
    except Exception as error:  # any failure of the network library means the same here, and its classes vary
        raise DownloadError(
            f"{repository!r} is not a file or folder here and {file} could not be downloaded ({_first_line(error)})"
        ) from error


def _mirrors_in_file(name: str) -> list[str]:
    path = mirrors_file()
    if not path.is_file():
        return []
    section = read_toml(path).get(name, {})
    sources = section.get("sources", []) if isinstance(section, dict) else None
    if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
        raise ValueError(f'{path}: [{name}] must hold sources = ["…", …], a list of mirrors; it holds {section!r}')
    return sources


def _wanted(name: str, mirror: str) -> tuple[str, ...]:
    """Patterns of the files to take: those of the table where it knows this source, else those of a model folder."""
    sources = PRESETS[name].sources if name in PRESETS else ()
    return next((source.files for source in sources if source.address == mirror), FOLDER_FILES)


# ---------------------------------------------------------------------------------------------- fetching


def _fetch_from_first_that_works(mirrors: Sequence[str], name: str, target: Path, progress: bool) -> None:
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
    tried = "".join(f"\n  {reason}" for reason in reasons) or " no mirror is set"
    raise DownloadError(
        f"{name} could not be downloaded:{tried}\n"
        f"Where there is no network, give the path of a local model folder, or set mirrors with {MIRRORS_VARIABLE} "
        f"or {mirrors_file()}"
    )


def _fetched(folder: Path, name: str) -> bool:
    """Whether `folder` is a finished fetch of this model.

    Raises:
        ValueError: it is one of another model.
    """
    if not (folder / ORIGIN).is_file():
        return False
    try:
        held = read_json(folder / ORIGIN)["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / ORIGIN} does not say which model it belongs to; remove the folder") from error
    if held != name:
        raise ValueError(f"{folder} holds {held} and not {name}; give another folder")
    return True


def _fetch_from(mirror: str, partial: Path, patterns: tuple[str, ...], progress: bool) -> dict[str, str]:
    """Bring the files of one mirror into `partial` and check them: relative path -> SHA-256."""
    if mirror.startswith(("http://", "https://")):
        return _fetch_folder(mirror, partial, patterns, progress)
    if Path(mirror).expanduser().is_dir():
        return _copy_folder(Path(mirror).expanduser(), partial, patterns)
    if _REPOSITORY.fullmatch(mirror):
        return _fetch_repository(mirror, partial, patterns)
    raise ValueError("is no http(s) address, no folder here and no repository id owner/name")


def _fetch_repository(repository: str, partial: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """huggingface_hub downloads and resumes; the sums it lists for large files are checked here."""
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
    except Exception as error:  # any failure of the network library means: next mirror; its classes vary by version
        raise DownloadError(_first_line(error)) from error
    return {path: _checked(partial / path, digest) for path, (_, digest) in expected.items()}


def _copy_folder(folder: Path, partial: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """Every wanted file of a local folder; a sum that its SHA256SUMS does not state is said not to be checked."""
    if patterns == FOLDER_FILES:
        _require_lens(folder / "model_index.json")
    listed = read_sums(read_text(folder / SUMS, SUMS)) if (folder / SUMS).is_file() else {}
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files = {name: path for name, path in files.items() if _matches(name, patterns)}
    _require_files(files, "it")
    if lost := [name for name in listed if _matches(name, patterns) and name not in files]:
        raise DownloadError(f"lacks {len(lost)} files that its {SUMS} names, first {lost[0]}")
    if not listed:
        logger.warning("mirror %s has no %s, so no sum was checked", folder, SUMS)
    elif unlisted := [name for name in files if name not in listed]:
        logger.warning("%s of mirror %s lacks %s, so their sums were not checked", SUMS, folder, ", ".join(unlisted))
    _require_space(partial, sum(path.stat().st_size for path in files.values()))
    sums = {}
    for name, path in files.items():
        with whole_file(partial / name) as temporary:
            shutil.copyfile(path, temporary)
        sums[name] = _checked(partial / name, listed.get(name))
    return sums


def _fetch_folder(address: str, partial: Path, patterns: tuple[str, ...], progress: bool) -> dict[str, str]:
    """Every file that SHA256SUMS of an http(s) folder lists and that is wanted."""
    address = address.rstrip("/") + "/"
    with _opened(address + SUMS) as response:
        listed = read_sums(decode_text(response.read(), SUMS))
    sums = {path: digest for path, digest in listed.items() if _matches(path, patterns)}
    _require_files(sums, SUMS)
    missing = {path: digest for path, digest in sums.items() if not _is_there(partial / path, digest)}
    sizes = {path: _remote_size(address + urllib.parse.quote(path)) for path in missing}
    ready = sum((partial / path).stat().st_size for path in sums if path not in missing)
    _require_space(partial, ready + sum(sizes.values()))
    for path, digest in missing.items():
        _download(address + urllib.parse.quote(path), partial / path, digest, sizes[path], progress)
    return sums


def _download(address: str, path: Path, digest: str, size: int, progress: bool) -> None:
    """One file, through `PATH.<sum>.part`: the name ties a started file to its content, whichever try began it."""
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
    """Append the bytes from `start` on to `part`; gives the reason why the connection ended.

    A server that knows no ranges starts the file anew.
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
    """An open response; a busy server and a broken connection are tried again, a clear answer is not."""
    request = urllib.request.Request(address, headers={"User-Agent": "leanlens", **(headers or {})}, method=method)
    for attempt in range(_ATTEMPTS):
        try:
            return urllib.request.urlopen(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            reason, passing = f"HTTP {error.code} {error.reason}", error.code >= 500 or error.code == 429
        except (OSError, http.client.HTTPException) as error:  # URLError wraps what failed before the answer
            cause = getattr(error, "reason", error)
            reason, passing = (
                str(cause),
                isinstance(cause, ConnectionResetError | TimeoutError | http.client.HTTPException),
            )
        if not passing:
            break
        if attempt + 1 < _ATTEMPTS:
            time.sleep(_FIRST_PAUSE * 2**attempt)
    raise DownloadError(f"{address}: {reason}")


def _remote_size(address: str) -> int:
    """Bytes of a remote file; a server that does not tell cannot be resumed from, and is refused."""
    with _opened(address, method="HEAD") as response:
        length = response.headers.get("Content-Length")
    if length is None:
        raise DownloadError(f"{address}: the server tells no Content-Length")
    return int(length)


def _checked(path: Path, digest: str | None) -> str:
    """The SHA-256 of a file; where it is not the expected one the file is removed."""
    found = sha256(path)
    if digest is not None and found != digest:
        path.unlink()
        raise DownloadError(f"{path.name} has SHA-256 {found} but {digest} was expected; the file is removed")
    return found


def _is_there(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _finish(partial: Path, target: Path, sums: dict[str, str], origin: dict[str, str]) -> None:
    """`partial` -> `target`: sums and origin are written, what only served the download goes away."""
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # huggingface_hub's notes on a local folder
    with whole_file(partial / SUMS) as temporary:
        temporary.write_text("".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items())), encoding="utf-8")
    with whole_file(partial / ORIGIN) as temporary:
        temporary.write_text(json.dumps(origin) + "\n", encoding="utf-8")
    if target.exists():
        target.rmdir()  # empty: require_writable has refused any other
    for path in (*partial.rglob("*"), partial):
        if not path.is_symlink():
            sync(path)
    os.replace(partial, target)
    sync(target.parent)
    for other in target.parent.glob(f".{target.name}.*.partial"):
        shutil.rmtree(other, ignore_errors=True)


def read_sums(text: str) -> dict[str, str]:
    """Lines of sha256sum -> relative path -> sum, in lower case.

    Raises:
        ValueError: a line of another form, or a path that leaves the folder.
    """
    sums = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)", line.strip())
        if match is None:
            if line.strip():
                raise ValueError(f"{SUMS} line {line[:80]!r} is not '<64 hexadecimal digits>  <path>'")
            continue
        path = PurePosixPath(match[2])
        if path.is_absolute() or ".." in path.parts or "\\" in match[2]:
            raise ValueError(f"{SUMS} names {match[2]!r}, which is outside its folder")
        sums[path.as_posix()] = match[1].lower()
    return sums


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a path fits a pattern of the same depth: `*` does not reach into folders."""
    return any(fnmatchcase(path, pattern) and path.count("/") == pattern.count("/") for pattern in patterns)


def _require_files(files: dict, where: str) -> None:
    if not any(path.endswith(".safetensors") for path in files):
        raise DownloadError(f"{where} lists no weights of a Lens model")


def _require_lens(index: Path) -> None:
    """Check by its model_index.json that a folder is a Lens pipeline, before its gigabytes are copied."""
    if not index.is_file():
        raise ValueError(f"is no Lens pipeline folder: it has no {index.name}")
    try:
        named = read_json(index)["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"is no Lens pipeline folder: its {index.name} names no _class_name") from error
    if not str(named).startswith("Lens"):
        raise ValueError(f"is a pipeline of class {named}; a LensPipeline is accepted")


def _require_space(folder: Path, needed: int) -> None:
    """Check the disk before the first byte; what an earlier try left in `folder` counts as there."""
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    free = shutil.disk_usage(folder.parent).free
    if needed - there > free:
        raise DownloadError(
            f"needs {(needed - there) / 1e9:.1f} GB in {folder.parent} and {free / 1e9:.1f} GB are free"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
