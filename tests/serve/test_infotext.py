"""The text of AUTOMATIC1111's pictures, against the pattern that its own program reads it with."""

import base64
import contextlib
import io
import json
import random
import re

from PIL import Image, PngImagePlugin

from leanlens.serve.infotext import MOST_CHARACTERS, read_parameters

ORIGINAL = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def test_a_picture_of_the_web_ui_is_taken_apart():
    text = (
        "a fox, in snow\nsecond line\nNegative prompt: blurred, grey\n"
        'Steps: 20, Sampler: DPM++ 2M, CFG scale: 7.5, Seed: 5, Size: 512x640, Model: v1-5, '
        'Lora hashes: "ink: 12ab, oil: 34cd", ADetailer prompt: "say \\"hi\\", loud", Version: v1.10.1'
    )  # fmt: skip
    assert read_parameters(text) == {
        "Prompt": "a fox, in snow\nsecond line", "Negative prompt": "blurred, grey", "Steps": "20",
        "Sampler": "DPM++ 2M", "CFG scale": "7.5", "Seed": "5", "Size-1": "512", "Size-2": "640", "Model": "v1-5",
        "Lora hashes": "ink: 12ab, oil: 34cd", "ADetailer prompt": 'say "hi", loud', "Version": "v1.10.1",
    }  # fmt: skip


def test_a_prompt_without_settings_is_a_prompt():
    assert read_parameters("a: 1, b") == {"Prompt": "a: 1, b", "Negative prompt": ""}
    assert read_parameters("Negative prompt: grey") == {"Prompt": "", "Negative prompt": "grey"}
    assert read_parameters(" \n ") == {}


def test_pairs_are_those_that_the_original_pattern_finds():
    chance = random.Random(0)
    pieces = ["ab", "Seed", ": ", ":", ", ", ",", '"', "\\", '\\"', " ", "-", "/", "1", "x", "(", "é"]
    compared = 0
    for _ in range(4000):
        line = "".join(chance.choice(pieces) for _ in range(chance.randrange(1, 24)))
        line = f"Steps: 2, {line}, Seed: {chance.choice(pieces)}, Size: 1x1"
        wanted = ORIGINAL.findall(line)
        if len(wanted) < 3:
            continue
        compared += 1
        found = read_parameters("a prompt\n" + line)
        expected = {"Prompt": "a prompt", "Negative prompt": ""}
        for name, value in wanted:
            if value.startswith('"'):
                with contextlib.suppress(ValueError):
                    value = json.loads(value)
            size = re.fullmatch(r"(\d+)x(\d+)", value.strip())
            expected |= {f"{name}-1": size[1], f"{name}-2": size[2]} if size else {name: value}
            expected = {name: value.strip().strip('"').strip() for name, value in expected.items()}
        assert {name: value.strip('"').strip() for name, value in found.items()} == expected, line
    assert compared > 100


def _png(**texts: str) -> str:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text, zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "PNG", pnginfo=info)
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_long_text_in_a_small_picture_is_read_at_once_or_refused(server):
    client = server()
    text = "x\n" + "a" * 900_000
    answer = client.post("/sdapi/v1/png-info", json={"image": _png(parameters=text)})
    assert answer.status_code == 200
    assert answer.json()["parameters"]["Prompt"] == text
    for texts in ({"parameters": "a" * (2 << 20)}, {f"t{index}": "a" * 600_000 for index in range(2)}):
        answer = client.post("/sdapi/v1/png-info", json={"image": _png(**texts)})
        assert answer.status_code in (413, 422), answer.text
    assert f"{MOST_CHARACTERS:,}" in answer.json()["detail"]
