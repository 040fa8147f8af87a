"""The pack inside a real ComfyUI, driven through its HTTP routes.

Runs where LEANLENS_COMFYUI names a checkout of ComfyUI whose `custom_nodes` hold this pack as `leanlens`, and
LEANLENS_COMFYUI_PYTHON a Python that has what both need. ComfyUI is no dependency of ours: elsewhere these are skipped.
"""

import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integrations.comfyui.test_workflows import script

HOME = os.environ.get("LEANLENS_COMFYUI")
pytestmark = [pytest.mark.long, pytest.mark.skipif(HOME is None, reason="LEANLENS_COMFYUI names no ComfyUI")]
PORT = 8199
OWN = {
    "negative_prompt": "", "seed": 7, "width": 0, "height": 0, "steps": 0, "guidance_scale": -1, "count": 1,
    "strength": 0.6,
}  # fmt: skip
OPEN = {
    "class_type": "LeanLensOpenModel",
    "inputs": {"model": "toy", "device": "as ComfyUI", "dtype": "float32", "make_room": True},
}


class Comfy:
    """A running ComfyUI."""

    def __init__(self, key: str):
        words = [
            os.environ.get("LEANLENS_COMFYUI_PYTHON", sys.executable), "main.py", "--cpu", "--listen", "127.0.0.1",
            "--port", str(PORT), "--disable-all-custom-nodes", "--whitelist-custom-nodes", "leanlens",
            "--disable-api-nodes",
        ]  # fmt: skip
        self.process = subprocess.Popen(words, cwd=HOME, env=os.environ | {"LEANLENS_API_KEY": key})
        deadline = time.monotonic() + 300
        while True:
            try:
                self.get("/system_stats")
                return
            except OSError:
                assert self.process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)

    def get(self, path: str):
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}") as answer:
            return json.load(answer)

    def post(self, path: str, body: dict) -> tuple[int, dict]:
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def run(self, graph: dict) -> dict:
        """The history entry of a graph, once it has ended."""
        status, answer = self.post(
            "/prompt", {"prompt": graph, "extra_data": {"extra_pnginfo": {"workflow": {"x": 1}}}}
        )
        assert status == 200, answer
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if found := self.get(f"/history/{answer['prompt_id']}"):
                return found[answer["prompt_id"]]
            time.sleep(0.3)
        raise AssertionError("the graph did not end")

    def picture(self, entry: dict, node: str) -> Image.Image:
        """The first picture that a node of a graph has saved."""
        assert entry["status"]["status_str"] == "success", entry["status"]
        (where, *_) = entry["outputs"][node]["images"]
        query = "&".join(f"{key}={value}" for key, value in where.items())
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/view?{query}") as answer:
            return Image.open(io.BytesIO(answer.read()))


@pytest.fixture(scope="module")
def comfy(server):
    made = Comfy("sesame")
    yield made
    made.process.terminate()
    made.process.wait(60)


def here_and_there(server: str, extra: dict | None = None, **inputs) -> dict:
    """A graph that draws the same in ComfyUI's process and at the server."""
    inputs = {"prompt": "a fox", **OWN, **inputs}
    return {
        "1": OPEN,
        "2": {"class_type": "LeanLensDrawHere", "inputs": {"model": ["1", 0], **inputs}},
        "3": {"class_type": "LeanLensDrawAtServer", "inputs": {"address": server, "model": "", **inputs}},
        "4": save("2"),
        "5": save("3"),
        **(extra or {}),
    }


def save(node: str) -> dict:
    return {
        "class_type": "LeanLensSave",
        "inputs": {"images": [node, 0], "settings": [node, 1], "filename_prefix": f"leanlens-{node}"},
    }


def same(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_stock_nodes_are_as_the_workflows_have_them(comfy):
    known = comfy.get("/object_info")
    for name, node in script().STOCK.items():
        given = known[name]["input"]
        given = given.get("required", {}) | given.get("optional", {})
        types = {key: "COMBO" if isinstance(value[0], list) else value[0] for key, value in given.items()}
        wanted = node.sockets | {key: kind for key, (kind, _) in node.widgets.items()}
        if name == "CFGNorm" and "pre_cfg" not in given:  # older than Lens
            wanted.pop("pre_cfg")
        assert wanted.items() <= types.items(), name
        assert list(node.outputs.items()) == list(
            zip(known[name]["output_name"], known[name]["output"], strict=True)
        ), name


def test_the_process_and_the_server_draw_the_same_and_settings_are_saved(comfy, server):
    entry = comfy.run(here_and_there(server))
    here, there = comfy.picture(entry, "4"), comfy.picture(entry, "5")
    assert same(here, there)
    assert {"leanlens", "parameters", "prompt", "workflow", "XML:com.adobe.xmp"} <= set(here.info)
    here.save(Path(HOME) / "input" / "again.png", pnginfo=_notes(here))
    graph = {
        "1": OPEN,
        "6": {"class_type": "LeanLensReplay", "inputs": {"picture": "again.png"}},
        "2": {"class_type": "LeanLensDrawHere",
              "inputs": {"model": ["1", 0], "prompt": "not read", **OWN, "settings": ["6", 0]}},
        "4": save("2"),
    }  # fmt: skip
    assert same(comfy.picture(comfy.run(graph), "4"), here)


def test_a_picture_and_its_mask_come_through_stock_nodes(comfy, server):
    start = Image.radial_gradient("L").convert("RGB").resize((96, 64))
    alpha = Image.new("L", start.size, 255)
    alpha.paste(0, (48, 0, 96, 64))
    holed = start.copy()
    holed.putalpha(alpha)
    holed.save(Path(HOME) / "input" / "start.png")
    load = {"6": {"class_type": "LoadImage", "inputs": {"image": "start.png"}}}
    entry = comfy.run(here_and_there(server, load, image=["6", 0], mask=["6", 1], strength=1.0))
    here, there = comfy.picture(entry, "4"), comfy.picture(entry, "5")
    assert same(here, there)
    change = np.abs(np.asarray(here.convert("RGB"), dtype=int) - np.asarray(start, dtype=int)).max(-1)
    assert change[:, :44].max() <= 1
    assert change[:, 52:].mean() > 20


def test_what_is_wrong_is_told(comfy, server):
    entry = comfy.run(here_and_there(server, width=64))
    assert entry["status"]["status_str"] == "error"
    assert "width 64 and height 0: give both" in json.dumps(entry["status"]["messages"])
    status, answer = comfy.post("/prompt", {"prompt": {
        "6": {"class_type": "LeanLensReplay", "inputs": {"picture": "nothing.png"}},
        "2": {"class_type": "LeanLensDrawAtServer",
              "inputs": {"address": server, "model": "", "prompt": "", **OWN, "settings": ["6", 0]}},
        "4": save("2"),
    }})  # fmt: skip
    assert status == 400
    assert "there is no picture 'nothing.png'" in json.dumps(answer)


def test_stop_stops(comfy, server):
    graph = here_and_there(server, steps=100, width=512, height=512, seed=int(time.time()))
    for unused in ("3", "5"):
        graph.pop(unused)
    _, answer = comfy.post("/prompt", {"prompt": graph})
    while not comfy.get("/queue")["queue_running"]:
        time.sleep(0.05)
    time.sleep(1)
    comfy.post("/interrupt", {})
    deadline = time.monotonic() + 60
    while not (found := comfy.get(f"/history/{answer['prompt_id']}")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "execution_interrupted" in json.dumps(found)


def _notes(picture: Image.Image):
    from PIL import PngImagePlugin

    notes = PngImagePlugin.PngInfo()
    notes.add_text("leanlens", picture.info["leanlens"])
    return notes
