"""What was started within `marked` ends with the process that started it, and nothing else does."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from leanlens.serve.watchdog import MARK, Watchdog

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
# Starts a process that starts another one and ends; says which processes there are.
STARTER = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever started the tests may ignore it
from leanlens.serve.watchdog import Watchdog
watchdog = Watchdog()
with watchdog.marked():
    middle = subprocess.Popen([sys.executable, "-c", '''
import subprocess
print(subprocess.Popen({SLEEP!r}, start_new_session=True, stdout=subprocess.DEVNULL).pid, flush=True)
'''], stdout=subprocess.PIPE, text=True)
    orphan = middle.stdout.readline().strip()
    middle.wait()
print(watchdog._process.pid, orphan, watchdog.folder, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def short_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


def test_the_end_takes_what_is_marked_and_leaves_the_rest():
    watchdog = Watchdog()
    with watchdog.marked():
        mine = subprocess.Popen(SLEEP, stdout=subprocess.PIPE)
    other = subprocess.Popen(SLEEP, stdout=subprocess.PIPE)
    assert MARK not in os.environ
    try:
        for one in (mine, other):
            assert one.stdout is not None
            with one.stdout:
                assert one.stdout.readline() == b"up\n"
        watchdog.end(10)
        watchdog.end()  # which has nothing left to do
        assert mine.wait(10) == -signal.SIGKILL
        assert other.poll() is None
        assert not os.path.exists(watchdog.folder)
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_orphans_of_a_process_group_that_is_ended_go_too(number):
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as starter:
        assert starter.stdout is not None
        watchdog, orphan, folder = starter.stdout.readline().split()
        watched = [psutil.Process(int(watchdog)), psutil.Process(int(orphan))]
        os.killpg(starter.pid, number)
        _, alive = psutil.wait_procs(watched, 10)
        starter.kill()
    assert [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert not os.path.exists(folder)
