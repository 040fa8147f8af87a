"""One run in a folder at a time."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from leanlens.train.lock import held, require_folder, require_free


def holder(folder):
    """A process that holds the folder until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from leanlens.train.lock import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(120)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_two_runs_in_one_folder(tmp_path):
    """The second is refused in a sentence that names the first; a killed one blocks nobody."""
    process = holder(tmp_path)
    try:
        who = (
            rf"process {process.pid} on {re.escape(socket.gethostname())}, which has been training there since \d{{4}}-"
        )
        with pytest.raises(ValueError, match=rf"run\.dir {tmp_path} is in use by {who}"), held(tmp_path):
            pass
        with pytest.raises(ValueError, match=who):
            require_free(tmp_path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (tmp_path / ".owner.json").is_file()  # what the kill left behind
    require_free(tmp_path)
    with held(tmp_path), pytest.raises(ValueError, match=f"in use by process {os.getpid()} on"), held(tmp_path):
        pass
    with held(tmp_path):  # one after the other, in one process
        pass
    assert not (tmp_path / ".owner.json").exists()


def test_a_lock_without_a_name(tmp_path):
    with held(tmp_path):
        (tmp_path / ".owner.json").write_text("{")
        with pytest.raises(ValueError, match="is in use by another process; wait until it ends"):
            require_free(tmp_path)


def test_looking_at_a_free_folder_makes_nothing(tmp_path):
    require_free(tmp_path / "run")
    require_folder(tmp_path / "run" / "below")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["/proc/run", "/sys/run/below"])
def test_a_folder_that_takes_no_files(folder):
    if not Path(folder).parents[-2].is_dir():
        pytest.skip("no such file system")
    with pytest.raises(ValueError, match=rf"invalid run\.dir {folder}: .* cannot be written to"):
        require_folder(Path(folder))
