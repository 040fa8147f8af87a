"""The ways in for a newcomer: the Dockerfile, the start file for Windows, and what opens the page."""

import http.server
import importlib.util
import re
import shlex
import threading
import tomllib
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def dockerfile() -> dict[str, list[str]]:
    """Instruction -> what follows it, once for each line; continued lines are joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, rest = line.split(" ", 1)
            found.setdefault(word, []).append(rest)
    return found


def test_the_image_gets_what_a_build_needs_and_nothing_else():
    """What pyproject.toml names is copied, and nothing that the ignore file keeps out."""
    copied = {word for line in dockerfile()["COPY"] for word in shlex.split(line)[:-1]}
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    wheel, project = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"], PYPROJECT["project"]
    needed = {"pyproject.toml", "constraints.txt", project["readme"], *project["license-files"], *wheel["packages"]}
    assert copied == needed | {name.split("/")[0] for name in wheel.get("force-include", {})}
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_is_for_a_processor_unless_a_build_argument_says_otherwise():
    found = dockerfile()
    assert {"TORCH=cpu", "EXTRAS=serve"} <= set(found["ARG"])
    assert '--torch-backend "$TORCH"' in found["RUN"][0]
    assert "serve" in EXTRAS


def test_the_container_serves_as_a_user_without_rights():
    found = dockerfile()
    assert found["USER"] == ["1000:1000"]
    assert found["VOLUME"] == ["/data"]
    assert "/health" in found["HEALTHCHECK"][0]
    from leanlens.cli.main import app

    command, words = typer.main.get_command(app), eval(found["CMD"][-1])
    assert eval(found["ENTRYPOINT"][0]) == ["leanlens"]
    inner = command.get_command(command.context_class(command, info_name="x"), words[0])
    context = inner.make_context(words[0], words[1:])
    assert context.params["host"] == "0.0.0.0"
    assert str(context.params["output"]).startswith("/data/")


def test_the_start_file_is_one_that_windows_reads():
    raw = (ROOT / "start.bat").read_bytes()
    assert raw.count(b"\n") == raw.count(b"\r\n")
    text = raw.decode("ascii")
    labels = set(re.findall(r"^:(\w+)", text, re.MULTILINE))
    assert set(re.findall(r"goto (\w+)", text)) <= labels
    assert set(re.findall(r"\.\[(\w+)\]", text)) <= set(EXTRAS)
    assert text.count("(") == text.count(")")
    for name in re.findall(r"(\w+[\\/]\w+\.py)\b", text):
        assert (ROOT / name.replace("\\", "/")).exists()


@pytest.fixture
def page():
    spec = importlib.util.spec_from_file_location("page", ROOT / "examples" / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Answers(http.server.BaseHTTPRequestHandler):
    code = 200

    def do_GET(self):
        self.send_response(self.code if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *words):
        pass


@pytest.mark.parametrize(("code", "opens"), [(200, True), (404, False)])
def test_the_page_opens_when_our_server_answers(page, monkeypatch, code, opens):
    opened = []
    monkeypatch.setattr(page.webbrowser, "open", opened.append)
    monkeypatch.setattr(Answers, "code", code)
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        page.open_when_ready(address, seconds=10)
        server.shutdown()
    assert opened == ([address] if opens else [])


def test_the_page_is_given_up_where_no_server_comes(page, monkeypatch):
    monkeypatch.setattr(page.webbrowser, "open", lambda address: pytest.fail(address))
    monkeypatch.setattr(page.time, "sleep", lambda seconds: None)
    page.open_when_ready("http://127.0.0.1:9", seconds=0.1)


def test_words_go_to_the_server_and_its_port_to_the_page(page, monkeypatch):
    asked, opening = [], threading.Event()
    monkeypatch.setattr(page, "open_when_ready", lambda address: (asked.append(address), opening.set()))
    monkeypatch.setattr(page, "run", lambda: asked.append(page.sys.argv))
    monkeypatch.setattr(page.sys, "argv", ["page.py", "--model", "turbo", "--port", "9000"])
    page.main()
    assert opening.wait(10)
    assert sorted(map(str, asked)) == sorted(
        ["http://127.0.0.1:9000", "['leanlens', 'serve', '--model', 'turbo', '--port', '9000']"]
    )
