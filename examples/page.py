"""Starts `leanlens serve` and opens its page in the browser when it answers: what start.bat runs.

Words given go to `leanlens serve`, such as `--model turbo --port 9000`.
"""

import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser

from leanlens.cli.main import run


def open_when_ready(address: str, seconds: float = 300.0) -> None:
    """Open the page as soon as the server answers; give up, silently, after `seconds`."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
        except urllib.error.HTTPError:
            return  # another program is at this port; the server says so
        except OSError:
            time.sleep(0.5)
        else:
            webbrowser.open(address)
            return


def main() -> None:
    words = sys.argv[1:]
    port = words[words.index("--port") + 1] if "--port" in words[:-1] else "8000"
    threading.Thread(target=open_when_ready, args=(f"http://127.0.0.1:{port}",), daemon=True).start()
    sys.argv = ["leanlens", "serve", *words]
    run()


if __name__ == "__main__":
    main()
