"""Files that somebody put into the folders a server offers: who asks for one is told, and the server lives on."""

import json
import struct

import numpy as np
import pytest

from tests.serve.test_worker import lora_file
from tests.weights import foreign

SMALL = {"width": 32, "height": 32, "steps": 2}
LAYER = "diffusion_model.transformer_blocks.0.attn.txt_qkv"


def file_of(header: dict | str | bytes, size: int = 0) -> bytes:
    """A safetensors file by hand: the header as it is given, and `size` bytes of zeros."""
    text = (
        header
        if isinstance(header, bytes)
        else header.encode()
        if isinstance(header, str)
        else json.dumps(header).encode()
    )
    return struct.pack("<Q", len(text)) + text + bytes(size)


def tensors(**shapes: tuple[int, ...]) -> dict:
    found, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        found[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    return found


def pair(rank: int, inner: int = 128, outer: int = 384) -> dict:
    return tensors(**{f"{LAYER}.lora_A.weight": (rank, inner), f"{LAYER}.lora_B.weight": (outer, rank)})


HOSTILE = {
    "nothing": b"",
    "noise": bytes(range(256)) * 8,
    "pickle": b"\x80\x04\x95" + b"cos\nsystem\n(S'touch /tmp/owned'\ntR." * 9,
    "deep": file_of("[" * 100_000),
    "endless": struct.pack("<Q", 2**60) + b"{}",
    "latin": file_of(b'{"\xff": 1}'),
    "rank0": file_of(pair(0)),
    "holes": file_of({**pair(2), "x": {"dtype": "F32", "shape": [1], "data_offsets": [99_000, 99_004]}}, 99_004),
    "cut": file_of(pair(2), 100),
    "other": file_of(
        tensors(**{f"lora_unet_down_blocks_0.{part}.weight": (4, 4) for part in ("lora_down", "lora_up")}), 128
    ),
    "giant": file_of(tensors(**{f"{LAYER}.lokr_w1": (1, 60_000), f"{LAYER}.lokr_w2": (60_000, 1)}), 480_000),
    "sizes": file_of(pair(2, 7, 9), 4 * 2 * 16),
}  # fmt: skip


def said_by_v1(client, name):
    answer = client.post("/v1/images/generations", json={"prompt": "a", "loras": [name], **SMALL})
    return answer.status_code, answer.json()["error"]["message"]


def said_by_sdapi(client, name):
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": f"a <lora:{name}:1>", **SMALL})
    return answer.status_code, answer.json()["detail"]


def said_by_mcp(client, name):
    arguments = {"prompt": "a", "loras": [name], **SMALL}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "draw", "arguments": arguments}}
    answer = client.post("/mcp", json=call, headers={"Accept": "application/json, text/event-stream"})
    assert answer.status_code == 200, answer.text
    (line,) = [line for line in answer.text.splitlines() if line.startswith("data: ") and '"result"' in line]
    result = json.loads(line.removeprefix("data: "))["result"]
    assert result["isError"]
    return 400, result["content"][0]["text"]


@pytest.mark.parametrize("ask", [said_by_v1, said_by_sdapi, said_by_mcp])
def test_a_hostile_lora_is_refused_at_every_api_and_the_server_lives(ask, server, tmp_path):
    folder = tmp_path / "loras"
    lora_file(folder)  # a sound one, "bright"
    for name, content in HOSTILE.items():
        (folder / f"{name}.safetensors").write_bytes(content)
    client = server(lora_folders=(folder,))
    for name in HOSTILE:
        status, said = ask(client, name)
        assert 400 <= status < 500, (name, status, said)
        assert name in said, said
        assert "Traceback" not in said
        assert "\n" not in said.strip()
        assert len(said) < 700
    for names in (["bright"], []):
        answer = client.post("/v1/images/generations", json={"prompt": "a", "loras": names, **SMALL})
        assert answer.status_code == 200, answer.text
    assert client.get("/health").status_code == 200


def test_the_page_says_what_is_wrong_with_a_lora(service, tmp_path):
    pytest.importorskip("gradio")
    from leanlens.web.page import Page
    from tests.web.test_page import Visitor, collect, fields

    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "deep.safetensors").write_bytes(HOSTILE["deep"])
    page = Page(service(lora_folders=(tmp_path / "loras",)))
    last, *_ = collect(page.draw(Visitor(), 24, False, None, *fields(loras=["deep"])))[-1]
    assert "deep.safetensors" in last
    assert "Traceback" not in last
    last, *_ = collect(page.draw(Visitor(), 24, False, None, *fields()))[-1]
    assert ">Done<" in last


@pytest.mark.long
def test_a_hostile_model_is_refused_and_the_server_lives(server, tmp_path):
    models = tmp_path / "models"
    for name, key, value in (
        ("absurd", "num_layers", 10**6),
        ("code", "auto_map", {"AutoModel": "evil.Model"}),
        ("kernel", "_attn_implementation", "owner/kernel"),
    ):
        foreign.write_pipeline(models / name)
        file = models / name / ("text_encoder" if name == "kernel" else "transformer") / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    foreign.write_pipeline(models / "deep")
    (models / "deep" / "model_index.json").write_text("[" * 100_000)
    foreign.write_pipeline(models / "cut")
    weights = models / "cut" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    (models / "noise.safetensors").write_bytes(HOSTILE["noise"])
    (models / "pickle.safetensors").write_bytes(HOSTILE["pickle"])
    client = server(model_folders=(models,))
    listed = {model["id"] for model in client.get("/v1/models").json()["data"]}
    assert {"absurd", "code", "kernel", "deep", "cut", "noise", "pickle"} <= listed
    assert client.get("/sdapi/v1/sd-models").status_code == 200
    for name in sorted(listed - {"toy"}):
        answer = client.post("/v1/images/generations", json={"prompt": "a", "model": name, **SMALL})
        said = answer.json()["error"]["message"]
        assert answer.status_code in (400, 503), (name, answer.status_code, said)  # 503: the operator's to mend
        assert name in said
        assert "\n" not in said
        assert "Traceback" not in said
    answer = client.post("/v1/images/generations", json={"prompt": "a", "model": "toy", **SMALL})
    assert answer.status_code == 200, answer.text
    assert client.get("/health").status_code == 200
