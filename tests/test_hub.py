import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from leanlens import hub
from leanlens.hub import DownloadError, fetch, locate, mirrors_for

WEIGHTS = bytes(range(256)) * 4000  # 1,024,000 bytes
FILES = {
    "model_index.json": b'{"_class_name": "LensPipeline"}',
    "transformer/config.json": b"{}",
    "transformer/diffusion_pytorch_model.safetensors": WEIGHTS,
    "vae/diffusion_pytorch_model.safetensors": b"vae weights",
    "assets/picture.png": b"not wanted",
    "transformer/old.bin": b"a pickle, not wanted",
}
WANTED = sorted(name for name in FILES if not name.endswith((".png", ".bin")))
BIG = "/transformer/diffusion_pytorch_model.safetensors"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Server(ThreadingHTTPServer):
    """A folder over http whose misbehaviour the test sets."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {f"/{name}": data for name, data in FILES.items()}
        self.set_sums({name: digest(data) for name, data in FILES.items()})
        self.log: list[tuple[str, str, str | None]] = []
        self.cuts: list[int] = []  # the next GETs of the big file end after so many bytes
        self.busy = 0  # the next requests are answered with 503
        self.ranges = True

    def set_sums(self, sums):
        self.files["/SHA256SUMS"] = "".join(f"{value}  {name}\n" for name, value in sums.items()).encode()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        server = self.server
        server.log.append((self.command, self.path, self.headers.get("Range")))
        if server.busy:
            server.busy -= 1
            return self.send_error(503)
        if self.path not in server.files:
            return self.send_error(404)
        data = server.files[self.path]
        start = 0
        if "Range" in self.headers and server.ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if body:
            end = start + server.cuts.pop(0) if self.path == BIG and server.cuts else len(data)
            self.wfile.write(data[start:end])


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No settings of this machine, no network, no pauses."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("LEANLENS_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("LEANLENS_MIRRORS", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(hub, "_FIRST_PAUSE", 0.0)

    def refuse(*args, **kwargs):
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def get(server, to, **arguments):
    return fetch("turbo", to=to, mirrors=[server.address], progress=False, **arguments)


def test_fetch_from_http_takes_the_model_files_and_nothing_else(server, tmp_path):
    folder = get(server, tmp_path / "lens")
    assert files_in(folder) == sorted([*WANTED, "SHA256SUMS", "fetched.json"])
    for name in WANTED:
        assert (folder / name).read_bytes() == FILES[name]
    assert (folder / "SHA256SUMS").read_text() == "".join(f"{digest(FILES[name])}  {name}\n" for name in WANTED)
    assert json.loads((folder / "fetched.json").read_text()) == {"model": "turbo", "mirror": server.address}
    assert {path.name for path in tmp_path.iterdir()} == {"lens"}
    server.log.clear()
    assert get(server, folder) == folder
    assert not server.log
    with pytest.raises(ValueError, match="contains turbo, not rl"):
        fetch("rl", to=folder, mirrors=[server.address])
    (folder / "fetched.json").write_text("[]")
    with pytest.raises(ValueError, match="does not name its model"):
        get(server, folder)


def test_ranks_that_ask_at_once_fetch_once(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda rank: get(server, tmp_path / "lens"), range(4)))
    assert folders == [tmp_path / "lens"] * 4
    assert len([path for method, path, _ in server.log if method == "GET" and path == BIG]) == 1


def test_a_cut_connection_is_resumed_by_range(server, tmp_path):
    server.cuts = [300_000, 0, 100_000]
    folder = get(server, tmp_path / "lens")
    assert (folder / BIG[1:]).read_bytes() == WEIGHTS
    ranges = [asked for method, path, asked in server.log if method == "GET" and path == BIG]
    assert ranges == [None, "bytes=300000-", "bytes=300000-", "bytes=400000-"]


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    server.cuts, server.ranges = [300_000], False
    assert (get(server, tmp_path / "lens") / BIG[1:]).read_bytes() == WEIGHTS


def test_an_interrupted_fetch_goes_on_where_it_stopped(server, tmp_path):
    server.cuts = [300_000] + [0] * 5
    with pytest.raises(DownloadError, match="5 times in a row at byte 300000 of 1024000"):
        get(server, tmp_path / "lens")
    assert not (tmp_path / "lens").exists()
    server.log.clear()
    assert (get(server, tmp_path / "lens") / BIG[1:]).read_bytes() == WEIGHTS
    fetched = [(path, asked) for method, path, asked in server.log if method == "GET" and path != "/SHA256SUMS"]
    assert fetched[0] == (BIG, "bytes=300000-")
    assert "/model_index.json" not in dict(fetched)


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.busy = 3
    assert get(server, tmp_path / "lens").is_dir()
    server.busy = 99
    with pytest.raises(DownloadError, match="HTTP 503"):
        get(server, tmp_path / "other")


def test_a_wrong_sum_names_both_and_leaves_no_file(server, tmp_path):
    changed = b"x" + WEIGHTS[1:]
    server.files[BIG] = changed
    with pytest.raises(DownloadError) as caught:
        get(server, tmp_path / "lens")
    assert digest(WEIGHTS) in str(caught.value)
    assert digest(changed) in str(caught.value)
    assert not (tmp_path / "lens").exists()
    assert not list(tmp_path.rglob("diffusion_pytorch_model.safetensors*.part"))
    server.files[BIG] = WEIGHTS
    assert get(server, tmp_path / "lens").is_dir()


def test_the_next_mirror_is_tried_and_the_first_is_named(server, tmp_path, caplog):
    folder = fetch("turbo", tmp_path / "lens", [f"{server.address}/nothing", server.address], progress=False)
    assert (folder / BIG[1:]).read_bytes() == WEIGHTS
    assert [record.getMessage() for record in caplog.records] == [
        f"turbo: mirror {server.address}/nothing failed: {server.address}/nothing/SHA256SUMS: HTTP 404 Not Found"
    ]


def test_the_last_error_lists_every_mirror(server, tmp_path):
    with pytest.raises(DownloadError) as caught:
        fetch("rl", tmp_path / "lens", [f"{server.address}/nothing", "someone/Lens", "no such place"], progress=False)
    lines = str(caught.value).splitlines()
    assert lines[0] == "rl could not be downloaded:"
    assert "HTTP 404" in lines[1]
    assert lines[2] == "  someone/Lens: no network in tests"
    assert "no such place: is not an http(s) address" in lines[3]
    assert "local model folder" in lines[4]
    assert not (tmp_path / "lens").exists()


def test_sums_cannot_write_outside_the_folder(server, tmp_path):
    server.set_sums({"../evil.safetensors": digest(b"x")})
    with pytest.raises(DownloadError, match="outside its folder"):
        get(server, tmp_path / "lens")
    server.files["/SHA256SUMS"] = b"<html>sign in</html>"
    with pytest.raises(DownloadError, match="64 hexadecimal digits"):
        get(server, tmp_path / "lens")


def test_sums_of_a_windows_editor_are_read_and_other_bytes_are_named(server, shared, tmp_path):
    listed = "".join(f"{digest(FILES[name])}  {name}\r\n" for name in WANTED).encode()
    server.files["/SHA256SUMS"] = b"\xef\xbb\xbf" + listed
    (shared / "SHA256SUMS").write_bytes(b"\xef\xbb\xbf" + listed)
    for number, mirror in enumerate((server.address, str(shared))):
        folder = fetch("turbo", tmp_path / f"lens{number}", [mirror])
        assert (folder / "SHA256SUMS").read_text() == "".join(f"{digest(FILES[name])}  {name}\n" for name in WANTED)
    server.files["/SHA256SUMS"] = listed.decode().encode("utf-16")
    with pytest.raises(DownloadError, match="SHA256SUMS line 1 is not UTF-8 but UTF-16"):
        fetch("turbo", tmp_path / "other", [server.address])


def test_the_disk_is_measured_before_the_first_byte(server, tmp_path, monkeypatch):
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DownloadError, match="GB are free"):
        get(server, tmp_path / "lens")
    assert not [path for method, path, _ in server.log if method == "GET" and path != "/SHA256SUMS"]


def test_a_target_that_holds_other_files_is_refused(server, tmp_path):
    (tmp_path / "lens").mkdir()
    (tmp_path / "lens" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        get(server, tmp_path / "lens")
    with pytest.raises(ValueError, match="is a file"):
        get(server, tmp_path / "lens" / "mine.txt")


def test_a_fetched_folder_is_itself_a_mirror(server, tmp_path):
    folder = get(server, tmp_path / "lens")
    copy = fetch("turbo", tmp_path / "copy", [str(folder)])
    assert files_in(copy) == files_in(folder)
    (folder / BIG[1:]).write_bytes(b"rotten")
    with pytest.raises(DownloadError, match=digest(WEIGHTS)):
        fetch("turbo", tmp_path / "other", [str(folder)])


@pytest.fixture
def shared(tmp_path):
    """A mirror that is a plain folder, without SHA256SUMS."""
    for name, data in FILES.items():
        (tmp_path / "shared" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shared" / name).write_bytes(data)
    return tmp_path / "shared"


def test_a_folder_without_sums_is_copied_with_a_warning(shared, tmp_path, caplog):
    folder = fetch("turbo", tmp_path / "lens", [str(shared)])
    assert files_in(folder) == sorted([*WANTED, "SHA256SUMS", "fetched.json"])
    assert [record.getMessage() for record in caplog.records] == [
        f"mirror {shared} has no SHA256SUMS, so no checksum was verified"
    ]


def test_a_folder_with_some_sums_says_which_were_not_checked(shared, tmp_path, caplog):
    listed = {name: digest(FILES[name]) for name in WANTED if not name.startswith("vae")}
    (shared / "SHA256SUMS").write_text("".join(f"{value}  {name}\n" for name, value in listed.items()))
    fetch("turbo", tmp_path / "lens", [str(shared)])
    assert "does not list vae/diffusion_pytorch_model.safetensors; not verified" in caplog.text
    (shared / "transformer" / "config.json").unlink()
    with pytest.raises(DownloadError, match=r"lacks 1 files that its SHA256SUMS lists, first transformer/config\.json"):
        fetch("turbo", tmp_path / "other", [str(shared)])


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        (None, r"it has no model_index\.json"),
        ("{", "has no _class_name"),
        ("[]", "has no _class_name"),
        ('{"_class_name": "FluxPipeline"}', "is a pipeline of class FluxPipeline; expected a LensPipeline"),
    ],
)
def test_a_folder_that_is_no_lens_pipeline_is_not_copied(shared, tmp_path, index, sentence):
    if index is None:
        (shared / "model_index.json").unlink()
    else:
        (shared / "model_index.json").write_text(index)
    with pytest.raises(DownloadError, match=sentence):
        fetch("turbo", tmp_path / "lens", [str(shared)])
    assert not (tmp_path / "lens").exists()


def test_a_finished_fetch_says_that_a_mirror_was_not_asked(shared, tmp_path, caplog):
    caplog.set_level("INFO", logger="leanlens")
    folder = fetch("turbo", tmp_path / "lens", [str(shared)])
    caplog.clear()
    assert fetch("turbo", folder, ["someone/Lens"]) == folder
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder} already contains turbo; nothing was fetched"
    ]
    caplog.clear()
    assert fetch("turbo", folder) == folder
    assert not caplog.records


def described(files: dict[str, bytes]) -> SimpleNamespace:
    """What the hub says of a repository: sums for large files only."""
    siblings = [
        SimpleNamespace(
            rfilename=name,
            size=len(data),
            lfs=SimpleNamespace(sha256=digest(data)) if name.endswith(".safetensors") else None,
        )
        for name, data in files.items()
    ]
    return SimpleNamespace(sha="c0ffee", siblings=siblings)


@pytest.fixture
def repository(monkeypatch):
    """A stand-in for the hub client: one repository, with its calls written down."""
    calls = []
    contents = dict(FILES)

    def model_info(self, repo_id, files_metadata=False):
        assert files_metadata
        return described(FILES)

    def snapshot_download(repo_id, *, revision=None, local_dir=None, allow_patterns=None):
        calls.append((repo_id, revision, sorted(allow_patterns)))
        for name in contents:
            if name in allow_patterns:
                path = Path(local_dir) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents[name])
        (Path(local_dir) / ".cache" / "huggingface").mkdir(parents=True, exist_ok=True)
        return str(local_dir)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return SimpleNamespace(calls=calls, contents=contents)


def test_fetch_from_a_repository_pins_the_revision_and_checks_sums(repository, tmp_path):
    folder = fetch("base", tmp_path / "base")
    assert repository.calls == [("Jinstudio/Lens-Base", "c0ffee", WANTED)]
    assert files_in(folder) == sorted([*WANTED, "SHA256SUMS", "fetched.json"])


def test_a_repository_with_wrong_bytes_is_refused(repository, tmp_path):
    repository.contents[BIG[1:]] = b"other bytes"
    with pytest.raises(DownloadError, match=digest(WEIGHTS)):
        fetch("base", tmp_path / "base")
    assert [name for name, _, _ in repository.calls] == ["Jinstudio/Lens-Base", "YuCollection/Lens-Base-Diffusers"]


def test_a_repository_without_the_files_of_a_known_source_is_named(repository, tmp_path):
    with pytest.raises(DownloadError, match="Comfy-Org/Lens: it lists no safetensors weights"):
        fetch("turbo", tmp_path / "turbo", ["Comfy-Org/Lens"])
    with pytest.raises(ValueError, match="has single files and no model folder; give `to`"):
        fetch("turbo", mirrors=["Comfy-Org/Lens"])


def test_single_files_are_taken_from_a_source_that_holds_them(repository, tmp_path, monkeypatch):
    files = {
        name: name.encode()
        for name in (
            "diffusion_models/lens_bf16.safetensors",
            "diffusion_models/lens_turbo_bf16.safetensors",
            "text_encoders/gpt_oss_20b_nvfp4.safetensors",
            "vae/flux2-vae.safetensors",
        )
    }
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *a, **k: described(files))
    repository.contents.update(files)
    folder = fetch("rl", tmp_path / "parts", ["Comfy-Org/Lens"])
    assert files_in(folder) == sorted(["SHA256SUMS", "fetched.json", *(name for name in files if "turbo" not in name)])


def test_locate_a_preset_downloads_once(repository, tmp_path):
    assert locate("rl") == tmp_path / "models" / "rl"
    assert locate("rl") == tmp_path / "models" / "rl"
    assert len(repository.calls) == 1


def test_locate_local_paths_and_wrong_names(tmp_path):
    assert locate(tmp_path) == tmp_path
    (tmp_path / "lens.safetensors").write_bytes(b"")
    assert locate(str(tmp_path / "lens.safetensors")) == tmp_path / "lens.safetensors"
    with pytest.raises(ValueError, match=r"unknown model 'lens-ultra': expected a local file.*turbo"):
        locate("lens-ultra")


def test_locate_nano(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_NANO", tmp_path)
    with pytest.raises(ValueError, match="not embedded in this version"):
        locate("nano")
    (tmp_path / "model_index.json").write_text("{}")
    assert locate("nano") == tmp_path
    with pytest.raises(ValueError, match="part of the package"):
        fetch("nano")


def test_a_made_model_has_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.is_here("toy")
    assert hub.model_folder("toy") is None
    with pytest.raises(ValueError, match="model 'toy' has no files"):
        locate("toy")
    with pytest.raises(ValueError, match="model 'toy' has no files and cannot be fetched"):
        fetch("toy")
    assert hub.model_folder(str(tmp_path)) == tmp_path


def test_locate_a_repository_uses_the_shared_cache(monkeypatch, tmp_path):
    asked = []

    def snapshot_download(repo_id, *, allow_patterns):
        asked.append((repo_id, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ValueError, match=r"has no model_index\.json"):
        locate("someone/Lens-Mine")
    (tmp_path / "model_index.json").write_text("{}")
    assert locate("someone/Lens-Mine") == tmp_path
    assert asked[0][0] == "someone/Lens-Mine"
    assert "transformer/*.safetensors" in asked[0][1]


def test_without_network_the_error_says_what_to_do(monkeypatch):
    for model in ("someone/Lens-Mine", "turbo"):
        with pytest.raises(DownloadError, match="no network in tests") as caught:
            locate(model)
        assert "local model folder" in str(caught.value)


def test_mirror_settings(monkeypatch, tmp_path):
    assert mirrors_for("turbo") == ["Jinstudio/Lens-Turbo", "YuCollection/Lens-Turbo-Diffusers"]
    assert mirrors_for("someone/Lens") == ["someone/Lens"]
    (tmp_path / "config" / "leanlens").mkdir(parents=True)
    settings = tmp_path / "config" / "leanlens" / "mirrors.toml"
    settings.write_text('[turbo]\nsources = ["/models/turbo", "https://example.org/{name}"]\n')
    assert mirrors_for("turbo") == ["/models/turbo", "https://example.org/turbo"]
    assert mirrors_for("rl")[0] == "Jinstudio/Lens"
    monkeypatch.setenv("LEANLENS_MIRRORS", "https://example.org/{name}, /mnt/{name}")
    assert mirrors_for("rl") == ["https://example.org/rl", "/mnt/rl"]
    monkeypatch.setenv("LEANLENS_MIRRORS", "https://example.org/lens")
    with pytest.raises(ValueError, match=r"write \{name\}"):
        mirrors_for("rl")
    monkeypatch.delenv("LEANLENS_MIRRORS")
    for text, message in [
        ("[turbo", "is not valid TOML"),
        ("turbo = 3", "a list of mirrors"),
        ("[turbo]\nsources = 'x'", "a list"),
    ]:
        settings.write_text(text)
        with pytest.raises(ValueError, match=message):
            mirrors_for("turbo")


def test_a_local_mirror_that_comes_first_is_used_in_place(monkeypatch, tmp_path):
    (tmp_path / "turbo").mkdir()
    (tmp_path / "turbo" / "model_index.json").write_text("{}")
    monkeypatch.setenv("LEANLENS_MIRRORS", f"{tmp_path}/{{name}}")
    assert locate("turbo") == tmp_path / "turbo"


def test_the_list_names_every_preset_and_the_mirrors_in_force(monkeypatch):
    text = hub.describe_sources()
    assert "mirror 1: Jinstudio/Lens-Turbo (about 31 GB)" in text
    assert "with --mirror: Comfy-Org/Lens, single files (about 22 GB)" in text
    assert "nano: Lens nano." in text
    assert "toy" not in text
    monkeypatch.setenv("LEANLENS_MIRRORS", "/mnt/{name}")
    assert "mirror 1: /mnt/turbo" in hub.describe_sources()
    assert "with --mirror: Jinstudio/Lens-Turbo, model folder" in hub.describe_sources()


def test_the_command(repository, tmp_path):
    from typer.testing import CliRunner

    from leanlens.cli.weights import app

    def call(*words):
        return CliRunner().invoke(app, ["fetch", *words])

    assert "Lens-Base" in call("--list").output
    assert call("base", "--to", str(tmp_path / "base")).output.strip() == str(tmp_path / "base")
    call("turbo", "--mirror", "someone/a", "--mirror", "someone/b")
    assert [name for name, _, _ in repository.calls] == ["Jinstudio/Lens-Base", "someone/a"]
    assert "MODEL is missing" in str(call().exception)
    assert "cannot fetch model 'lens-9'" in str(call("lens-9").exception)


def test_a_pipeline_of_any_class_is_downloaded_by_diffusers_without_pickles(tmp_path, monkeypatch):
    from diffusers import DiffusionPipeline

    asked = []

    def download(repository, **options):
        asked.append((repository, options))
        if repository == "owner/gone":
            raise OSError("no such repository\nand more")
        return str(tmp_path)

    monkeypatch.setattr(DiffusionPipeline, "download", download)
    assert hub.locate_pipeline("owner/flux", "main", "fp16") == tmp_path
    assert asked == [("owner/flux", {"revision": "main", "variant": "fp16", "use_safetensors": True})]
    with pytest.raises(DownloadError, match=r"'owner/gone' is not a local folder .*\(no such repository\)"):
        hub.locate_pipeline("owner/gone")
    with pytest.raises(ValueError, match="expected a local folder, or a repository id"):
        hub.locate_pipeline("gone")


def test_one_file_is_resumed_and_verified(server, tmp_path):
    server.cuts = [300_000]
    path = hub.fetch_file(server.address + BIG, tmp_path / "one" / "weights", digest(WEIGHTS), progress=False)
    assert path.read_bytes() == WEIGHTS
    assert [path for path in (tmp_path / "one").iterdir() if path.name != "weights"] == []
    server.log.clear()
    hub.fetch_file(server.address + BIG, path, digest(WEIGHTS), progress=False)
    assert not server.log
    with pytest.raises(DownloadError, match="has SHA-256"):
        hub.fetch_file(server.address + BIG, tmp_path / "other", digest(b"other"), progress=False)
    assert not (tmp_path / "other").exists()
