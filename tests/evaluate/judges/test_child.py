import sys
import time

import pytest

from leanlens.evaluate.judges.child import MOST_LINE, Child, ChildFailed


@pytest.fixture
def start():
    started = []

    def run(code):
        started.append(Child([sys.executable, "-S", "-c", code]))
        return started[-1]

    yield run
    for child in started:
        child.close(grace=0.0)


def test_lines_go_in_and_out(start):
    child = start("import sys\nfor line in sys.stdin: print(line, end='', flush=True)")
    for value in ({"a": 1}, {"b": "é" * 100_000}):
        child.send(value)
        assert child.receive(10.0) == value
    assert child.wait(10.0) == 0
    with pytest.raises(ChildFailed, match=r"^the process ended with code 0$"):
        child.receive(10.0)


def test_a_request_that_is_not_read_does_not_block(start):
    child = start("import time; time.sleep(60)")
    began = time.monotonic()
    child.send({"a": "x" * 2**20})
    with pytest.raises(ChildFailed, match=r"no answer within 0\.2 s"):
        child.receive(0.2)
    child.close(grace=0.1)
    assert time.monotonic() - began < 10
    assert child.process.poll() is not None


@pytest.mark.parametrize("written", ["[1]", "nothing", "{", "{}"])
def test_a_line_that_is_no_object(start, written):
    child = start(f"print({written!r}, end='')")
    with pytest.raises(ChildFailed, match="an answer that is no JSON object"):
        child.receive(10.0)


def test_output_without_end_takes_no_memory(start):
    child = start("import sys\nwhile True: print('{}')")
    time.sleep(0.3)
    assert child._lines.qsize() <= 16
    assert child.receive(1.0) == {}
    assert MOST_LINE < 2**24


def test_the_environment_of_this_process_stays_out(start, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    child = start("import json, os; print(json.dumps({'path': os.environ.get('PYTHONPATH')}))")
    assert child.receive(10.0) == {"path": None}
