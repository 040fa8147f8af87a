"""`leanlens serve`: what it refuses before it listens."""

import pytest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "/nowhere/x"], "unknown model '/nowhere/x': expected a local file or folder"),
        (["--model", "toy", "--device", "tpu"], "device 'tpu' cannot be used here"),
        (["--model", "toy", "--dtype", "int3"], "invalid dtype 'int3'"),
        (["--model", "toy", "--batch", "0"], "invalid max_batch 0"),
        (["--model", "toy", "--user", "ann"], "invalid --user 'ann': expected NAME:PASSWORD"),
        (["--model", "toy", "--loras", "/nowhere"], "lora_folders /nowhere is not a folder"),
        (["--model", "toy", "--memory-limit", "-1"], "invalid memory_limit -1.0"),
        (["--model", "toy", "--safety", "some"], "invalid safety 'some'"),
        (["--model", "toy", "--safety", "all", "--safety-scorer", "x"], "invalid safety scorer 'x'"),
        (["--model", "toy", "--replicas", "0"], "Invalid value for '--replicas'"),
        (["--model", "toy", "--replicas", "2", "--device", "cpu", "--device", "cuda"], "give one --device"),
        (["--model", "toy", "--port", "70000"], "65535"),
        (["--model", "toy", "--log", "xml"], "invalid --log 'xml': expected auto, text or json"),
        (["--model", "toy", "--reason", "on"], "invalid reason 'on': input should be 'default' or 'off'"),
    ],
)
def test_wrong_words_are_refused_before_it_listens(leanlens, words, said):
    run = leanlens("serve", *words)
    assert run.code == 2
    assert said in run.err
    assert "Traceback" not in run.err


def test_without_the_package_of_the_page_the_server_says_so(monkeypatch, capsys):
    import sys

    from leanlens.cli.serve import _page
    from leanlens.install import install_extra

    monkeypatch.setitem(sys.modules, "gradio", None)
    assert _page(None) is None
    assert capsys.readouterr().err == f"No web page: it needs the package gradio; {install_extra('serve')}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "/nowhere/x"], "unknown model '/nowhere/x': expected a local file or folder"),
        (["--model", "toy", "--safety", "some"], "invalid safety 'some'"),
        (["--model", "toy", "--reason", "on"], "invalid reason 'on'"),
        (["--model", "toy", "--idle-unload", "-1"], "invalid idle_unload -1.0"),
        (["--model", "toy", "-o", "taken"], "output taken is in use by another server"),
    ],
)
def test_tools_for_an_assistant_refuse_wrong_words_on_standard_error(leanlens, tmp_path, words, said):
    from filelock import FileLock

    (tmp_path / "taken").mkdir()
    with FileLock(tmp_path / "taken" / ".lock"):
        run = leanlens("mcp", *words)
    assert run.code == 2
    assert said in run.err
    assert run.out == ""


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80")],
)
def test_the_address_that_is_told_can_be_opened(host, url):
    from leanlens.cli.listen import address

    assert address(host, 80) == url


def test_it_says_ready_once_when_it_answers_and_not_before(tmp_path):
    """A real process: nothing is told before the model is open, and then a client that connects at once is answered."""
    import json
    import subprocess
    import sys
    import urllib.request

    words = ["serve", "-m", "toy", "--device", "cpu", "--port", "0", "-o", str(tmp_path / "out"), "--no-page"]
    command = [sys.executable, "-m", "leanlens", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            messages = []
            while not messages or not messages[-1].startswith("ready: "):
                messages.append(json.loads(process.stderr.readline())["message"])
            with urllib.request.urlopen(f"{messages[-1].removeprefix('ready: ')}/ready", timeout=30) as answer:
                assert answer.status == 200
        finally:
            process.terminate()
            rest = process.stderr.read()
    assert any("toy is open on cpu" in line for line in messages)
    assert "ready: " not in rest
    assert process.returncode in (0, -15)
