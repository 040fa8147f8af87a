"""Generates hostile requests to all APIs from a seed, as bytes to write into a socket.

Bodies are built here and not by a client library, which would refuse to send most of them.
"""

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Callable

from PIL import Image, PngImagePlugin

Request = tuple[str, str, dict[str, str], bytes]
"""Method, target, headers, body."""
JSON = {"content-type": "application/json"}
_TEXTS = (
    "",
    "a",
    "a" * 40_000,
    "\x00",
    "\ud800",
    "🦊" * 5000,
    "<lora:x:1>" * 500,
    "<lora:" * 5000,
    "((" * 9000,
    "[" * 30_000,
    " " * 30_000,
    "../../etc/passwd",
    "%s%n{}",
    "a: 1, " * 4000,
    "http://127.0.0.1:9/x",
    "file:///etc/passwd",
    "\r\nx: y",
)
_NUMBERS = (
    0,
    -1,
    1,
    16,
    64,
    65,
    2**31,
    2**63,
    2**64,
    10**30,
    -(2**63),
    0.5,
    1e308,
    -0.0,
    float("nan"),
    float("inf"),
    8192,
    99,
)
_FIELDS = (
    "prompt",
    "negative_prompt",
    "model",
    "n",
    "size",
    "quality",
    "background",
    "output_format",
    "output_compression",
    "response_format",
    "stream",
    "partial_images",
    "seed",
    "num_inference_steps",
    "steps",
    "guidance_scale",
    "cfg_scale",
    "width",
    "height",
    "strength",
    "loras",
    "batch_size",
    "n_iter",
    "denoising_strength",
    "override_settings",
    "styles",
    "script_name",
    "alwayson_scripts",
    "resize_mode",
    "mask_blur",
    "mask",
    "init_images",
    "image",
    "images",
    "enable_hr",
    "inpainting_fill",
    "force_task_id",
    "include_init_images",
    "sampler_name",
    "send_images",
    "user",
    "style",
)
_DRAWING = (
    "/v1/images/generations",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/img2img",
    "/v1/images/edits",
    "/v1/images/variations",
)
_ROUTES = (
    *_DRAWING,
    "/sdapi/v1/png-info",
    "/sdapi/v1/options",
    "/sdapi/v1/interrupt",
    "/sdapi/v1/skip",
    "/sdapi/v1/progress",
    "/v1/models",
    "/v1/models/..%2f..%2fx",
    "/v1/jobs",
    "/v1/jobs?limit=99999",
    "/v1/jobs/x/cancel",
    "/pictures/x.png",
    "/pictures/..%2f..%2findex.sqlite",
    "/mcp",
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/",
    "/config",
    "/gradio_api/queue/join",
    "/gradio_api/run/predict",
    "/gradio_api/upload",
    "/gradio_api/component_server",
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=http://127.0.0.1/",
    "/gradio_api/heartbeat/..",
    "/gradio_api/reset",
    "/gradio_api/cancel",
    "/gradio_api/process_recording",
    "/gradio_api/proxy=http://127.0.0.1/",
    "/assets/../x",
    "/theme.css",
    "//",
    "/%00",
    "/%ff",
    "/" + "a" * 5000,
    "*",
    "http://localhost/health",
    "localhost:80",
    "?",
    "/v1/../x",
)


def value(chance: random.Random, depth: int = 0) -> object:
    """Any JSON value."""
    kind = chance.randrange(9 if depth < 4 else 6)
    if kind < 2:
        return chance.choice(_TEXTS)
    if kind < 4:
        return chance.choice(_NUMBERS)
    if kind < 6:
        return chance.choice((None, True, False, "64x64", "auto", "0", "-1", "png", [], {}))
    if kind == 6:
        return [value(chance, depth + 1) for _ in range(chance.randrange(5))]
    return {str(chance.choice(_TEXTS))[:50] or "x": value(chance, depth + 1) for _ in range(chance.randrange(4))}


def picture(chance: random.Random) -> bytes:
    """A picture, often a bad one."""
    kind = chance.randrange(8)
    if kind == 0:
        return chance.randbytes(chance.randrange(2000))
    if kind == 1:  # states a size that it does not have
        sides = struct.pack(">IIBBBBB", chance.choice((0, 1, 60_000, 2**31 - 1)), 60_000, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", sides) + _chunk(b"IDAT", b"x") + _chunk(b"IEND", b"")
    if kind == 2:  # a text that unpacks to far more
        bomb = b"parameters\0\0" + zlib.compress(b"ab: 1, " * 2_000_000)
        sides = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
        data = zlib.compress(bytes((16 * 3 + 1) * 16))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            _chunk(*each) for each in ((b"IHDR", sides), (b"zTXt", bomb), (b"IDAT", data), (b"IEND", b""))
        )
    info = PngImagePlugin.PngInfo()
    for name in ("parameters", "leanlens", "XML:com.adobe.xmp")[: chance.randrange(4)]:
        info.add_text(name, str(chance.choice(_TEXTS)).encode("utf-8", "replace").decode(), zip=chance.random() < 0.5)
    mode = chance.choice(("RGB", "RGBA", "L", "P", "1", "I;16", "LA"))
    buffer = io.BytesIO()
    Image.new(mode, (chance.choice((1, 16, 64, 333)), chance.choice((1, 16, 64, 999)))).save(
        buffer, "PNG", pnginfo=info
    )
    data = bytearray(buffer.getvalue())
    for _ in range(chance.choice((0, 0, 1, 5))):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data[: chance.choice((len(data), len(data), len(data) // 2))])


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def fields(chance: random.Random) -> dict[str, object]:
    """The fields of a drawing, some of them right, so that some requests come far."""
    body: dict[str, object] = {"prompt": "a", "size": "32x32", "width": 32, "height": 32, "steps": 1, "cfg_scale": 1}
    for _ in range(chance.randrange(5)):
        body[chance.choice(_FIELDS)] = value(chance)
    if chance.random() < 0.3:
        text = base64.b64encode(picture(chance)).decode()
        body |= chance.choice(({"init_images": [text]}, {"image": text}, {"init_images": [text], "mask": text}))
    return body


def drawing_json(chance: random.Random) -> Request:
    """A drawing as JSON."""
    return "POST", chance.choice(_DRAWING), JSON, json.dumps(fields(chance)).encode()


def settings_of_picture(chance: random.Random) -> Request:
    """A picture's settings asked for."""
    body = {"image": base64.b64encode(picture(chance)).decode()}
    return "POST", "/sdapi/v1/png-info", JSON, json.dumps(body).encode()


def broken_json(chance: random.Random) -> Request:
    """JSON that is none, or far too much."""
    whole = json.dumps(fields(chance)).encode()
    body = chance.choice(
        (
            lambda: whole[: chance.randrange(len(whole) + 1)],
            lambda: b"[" * 100_000,
            lambda: b'{"a":' * 50_000,
            lambda: b'{"prompt": "a", "junk": [' + b"{}," * 300_000 + b"{}]}",
            lambda: b"1" * 100_000,
            lambda: b"",
            lambda: chance.randbytes(500),
            lambda: whole.decode().encode("utf-16"),
            lambda: b'{"prompt": "a", "n": 1e999}',
            lambda: b'"' + b"\\" * 100_000,
            lambda: b'{"prompt": "' + b"a" * 3_000_000 + b'"}',
        )
    )()
    kind = chance.choice(
        ("application/json", "text/plain", "application/json; charset=utf-16", "multipart/form-data", "")
    )
    return "POST", chance.choice(_ROUTES), {"content-type": kind}, body


def form(chance: random.Random) -> Request:
    """A multipart form, often a bad one."""
    edge = chance.choice(("x", "x" * 200, "----a", ""))
    parts = []
    for _ in range(chance.choice((1, 2, 4, 150))):
        name = chance.choice((*_FIELDS, "image[]", "mask[]", "files", "a\x00b", "[" * 1000))
        if chance.random() < 0.5:
            head = (
                f'content-disposition: form-data; name="{name}"; filename="{chance.choice(("a.png", "../a", ""))}"\r\n'
            )
            parts.append(head.encode() + b"\r\n" + picture(chance))
        else:
            text = chance.choice((*_TEXTS[:4], "64x64", "1", "32x32", "[" * 50_000, '["x"]'))
            parts.append(f'content-disposition: form-data; name="{name}"\r\n\r\n{text}'.encode("utf-8", "replace"))
    joined = (
        b"".join(b"--" + edge.encode() + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + edge.encode() + b"--\r\n"
    )
    joined = joined[: chance.choice((len(joined), len(joined), len(joined) // 2))]
    path = chance.choice(("/v1/images/edits", "/v1/images/variations", "/gradio_api/upload", "/v1/images/generations"))
    return "POST", path, {"content-type": f"multipart/form-data; boundary={edge}"}, joined


def tool(chance: random.Random) -> Request:
    """A call of an assistant."""
    params = {
        "name": chance.choice(("draw", "list_models", "job_status", "cancel_job", "x")),
        "arguments": chance.choice(
            (
                fields(chance),
                {"prompt": "a", "width": 32, "height": 32, "steps": 1},
                value(chance),
                {"job": value(chance)},
            )
        ),
    }
    call = {
        "jsonrpc": "2.0",
        "id": value(chance),
        "method": chance.choice(("tools/call", "tools/list", "x", "initialize")),
        "params": chance.choice((params, params, value(chance))),
    }
    accept = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
    return "POST", "/mcp", JSON | accept, json.dumps(call).encode()


def page(chance: random.Random) -> Request:
    """What the page would send, or not."""
    body = {
        "data": chance.choice(([value(chance) for _ in range(chance.randrange(16))], value(chance))),
        "fn_index": chance.choice((0, 1, 2, 5, 99, -1, "x")),
        "session_hash": chance.choice(("abc", "", value(chance))),
        "component_id": chance.choice((0, 1, 9999, "x")),
        "fn_name": chance.choice(("accept_blobs", "__class__")),
        "event_data": value(chance),
        "trigger_id": value(chance),
        "event_id": value(chance),
    }
    path = chance.choice(("queue/join", "run/predict", "component_server", "cancel", "reset", "call/draw"))
    return "POST", f"/gradio_api/{path}", JSON, json.dumps(body).encode()


def crumbs(chance: random.Random) -> Request:
    """A body in chunks of a byte or two, or with long extensions."""
    piece, number = chance.choice(
        ((b"1\r\n \r\n", 60_000), (b"2;" + b"x" * 500 + b"\r\n{}\r\n", 400), (b"1\r\n[\r\n", 900))
    )
    end = chance.choice((b"0\r\n\r\n", b"0\r\na: b\r\n\r\n", b"zz\r\n", b""))
    return (
        "POST",
        chance.choice(_ROUTES),
        {**JSON, "transfer-encoding": "chunked"},
        piece * chance.randrange(number) + end,
    )


def target(chance: random.Random) -> Request:
    """A method, a target and headers that go together badly."""
    headers = dict(
        chance.sample(
            [
                ("x-job-id", "a" * 500),
                ("x-request-id", "\x01"),
                ("authorization", "Basic " + "=" * 90),
                ("origin", "null"),
                ("cookie", "a=" * 3000),
                ("range", "bytes=9-1"),
                ("x-forwarded-for", "1.1.1.1" * 90),
                ("content-length", "-1"),
                ("upgrade", "websocket"),
                ("connection", "upgrade"),
                ("transfer-encoding", "chunked"),
                ("accept", "*/*;" * 900),
                ("host", "evil.example"),
                ("content-length", "99999999999"),
                ("if-none-match", "*" * 900),
                ("expect", "100-continue"),
            ],
            3,
        )
    )
    method = chance.choice(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH", "BREW"))
    return method, chance.choice(_ROUTES), headers, b""


MAKERS: tuple[Callable[[random.Random], Request], ...] = (
    drawing_json,
    settings_of_picture,
    broken_json,
    form,
    tool,
    page,
    crumbs,
    target,
)


def written(request: Request, port: int) -> bytes:
    """The request as it goes over the wire."""
    method, place, headers, body = request
    if "host" not in headers:
        headers = {"host": f"localhost:{port}", **headers}
    if "content-length" not in headers and "transfer-encoding" not in headers:
        headers = {**headers, "content-length": str(len(body))}
    lines = [f"{method} {place} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items()), "connection: close"]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body
