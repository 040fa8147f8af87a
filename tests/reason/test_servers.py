"""Finding servers of language models on this machine."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from leanlens.reason.servers import PORTS, find_servers


@contextmanager
def serving(status, body):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_models_are_ready_to_paste():
    body = json.dumps({"object": "list", "data": [{"id": "qwen3:4b"}, {"id": "openai/gpt-oss-20b"}]}).encode()
    with serving(200, body) as (port, asked):
        (found,) = find_servers({"Ollama": port})
        assert asked == [("/v1/models", None)]
    url = f"http://localhost:{port}/v1"
    assert (found.name, found.url) == ("Ollama", url)
    assert found.addresses == [f"{url}#qwen3:4b", f"{url}#openai/gpt-oss-20b"]


def test_other_pages_and_closed_ports_are_no_servers():
    with serving(200, b"<html>") as (page, _), serving(404, b'{"data": []}') as (missing, _):
        assert find_servers({"a": page, "b": missing}) == []
    assert find_servers({"a": page}) == []  # closed by now
    assert find_servers({}) == []
    assert PORTS == {"Ollama": 11434, "LM Studio": 1234, "llama.cpp": 8080}
