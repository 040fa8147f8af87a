"""A real voting page: `leanlens evaluate vote` as a process of its own on the loopback."""

import json
import subprocess
import sys
import urllib.request

COMMAND = [sys.executable, "-m", "leanlens", "evaluate", "vote"]


class Running:
    """The command on a free port, and a browser of one voter."""

    def __init__(self, folder, *words):
        self.process = subprocess.Popen(
            [*COMMAND, str(folder), "--port", "0", *words], stdout=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline()
        assert line.startswith("ready: http://127.0.0.1:"), line
        self.url = line.removeprefix("ready: ").strip()
        self.cookie = ""

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "cookie": self.cookie}
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{path}", data, headers)) as answer:
            self.cookie = (answer.headers["set-cookie"] or self.cookie).partition(";")[0]
            return json.load(answer)

    def end(self, sign):
        self.process.send_signal(sign)
        self.process.stdout.close()
        return self.process.wait(30)
