"""A real server of the embedded model on the loopback, driven by the clients people have: openai, webuiapi, curl."""

import base64
import io
import json
import shutil
import subprocess
import threading
import time

import pytest
from PIL import Image

from tests.contract.running import Running

MODEL = "nano"
KEY = "a-key"
SMALL = {"seed": 5, "num_inference_steps": 3}


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    output = tmp_path_factory.mktemp("live") / "out"
    running = Running(output, "--api-key", KEY, "--user", "ann:secret", model=MODEL)
    try:
        yield running.wait()
    finally:
        assert running.stop() in (0, -15), running.log.read_text()


@pytest.fixture
def openai(live):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def webui(live):
    webuiapi = pytest.importorskip("webuiapi")
    client = webuiapi.WebUIApi(host="127.0.0.1", port=live.port, sampler="Euler a", steps=3)
    client.set_auth("ann", "secret")
    yield client
    client.session.close()


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_openai_generates_and_lists(openai):
    answer = openai.images.generate(
        model="gpt-image-1", prompt="a fox", size="64x64", n=2, quality="auto", extra_body=SMALL
    )
    assert [opened(datum.b64_json).size for datum in answer.data] == [(64, 64)] * 2
    assert answer.usage.output_tokens == 32
    assert [model.id for model in openai.models.list()] == [MODEL]
    assert openai.models.retrieve(MODEL).id == MODEL


def test_openai_streams_partial_pictures(openai):
    stream = openai.images.generate(
        prompt="a fox", size="64x64", stream=True, partial_images=2, extra_body={**SMALL, "num_inference_steps": 6}
    )
    events = list(stream)
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert opened(events[-1].b64_json).size == (64, 64)


def test_openai_edits_one_picture_or_a_list_of_one(openai, png):
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    one = openai.images.edit(image=("a.png", png()), prompt="a", extra_body=SMALL)
    listed = openai.images.edit(image=[("a.png", png())], mask=("m.png", buffer.getvalue()), prompt="a", size="64x64")
    assert opened(one.data[0].b64_json).size == opened(listed.data[0].b64_json).size == (64, 64)


def test_openai_raises_the_originals_classes(openai, live):
    import openai as sdk

    with pytest.raises(sdk.BadRequestError) as wrong:
        openai.images.generate(prompt="a", size="100x100")
    assert (wrong.value.code, wrong.value.param, wrong.value.type) == (
        "invalid_value",
        "size",
        "invalid_request_error",
    )
    assert wrong.value.request_id
    with pytest.raises(sdk.NotFoundError) as unknown:
        openai.images.generate(prompt="a", model="other")
    assert unknown.value.code == "model_not_found"
    with (
        pytest.raises(sdk.AuthenticationError) as stranger,
        sdk.OpenAI(base_url=f"{live.url}/v1", api_key="wrong") as client,
    ):
        client.images.generate(prompt="a")
    assert stranger.value.code == "invalid_api_key"


def test_openai_a_closed_stream_frees_its_place(openai, live):
    stream = openai.images.generate(
        prompt="a", size="64x64", stream=True, n=4, partial_images=1, extra_body={"steps": 100}
    )
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        job = openai.get("/jobs", cast_to=object)["data"][0]
        if job["state"] not in ("waiting", "drawing"):
            break
        time.sleep(0.1)
    assert job["state"] in ("cancelled", "partial")
    assert openai.images.generate(prompt="b", size="32x32", extra_body=SMALL).data


def test_webuiapi_draws_and_its_getters_answer(webui):
    result = webui.txt2img(prompt="a fox", negative_prompt="rain", seed=5, width=64, height=64, batch_size=2)
    assert [image.size for image in result.images] == [(64, 64)] * 2
    assert (result.info["seed"], result.info["steps"], result.info["cfg_scale"]) == (5, 3, 7)
    assert "sampler Euler a is ignored" in result.info["comments"]
    again = webui.img2img(images=[result.image], prompt="a", steps=3, width=64, height=64, denoising_strength=0.5)
    assert again.image.size == (64, 64)
    part = webui.img2img(
        images=[result.image], mask_image=Image.new("L", (64, 64), 255), prompt="a", steps=3, width=64, height=64
    )
    assert part.image.size == (64, 64)
    told = webui.png_info(result.image)
    assert "Steps: 3" in told.info
    for name in ("get_options", "get_cmd_flags", "get_samplers", "get_schedulers", "get_upscalers", "get_loras",
                 "get_sd_models", "get_sd_vae", "get_embeddings", "get_memory", "get_scripts", "get_prompt_styles",
                 "get_latent_upscale_modes", "refresh_checkpoints", "skip", "get_hypernetworks"):  # fmt: skip
        getattr(webui, name)()
    webui.util_set_model(MODEL)
    assert webui.util_get_current_model() == MODEL
    webui.util_wait_for_ready()


def test_webuiapi_progress_and_interrupt(webui):
    results: list = []
    drawing = threading.Thread(
        target=lambda: results.append(webui.txt2img(prompt="a", steps=100, width=128, height=128, n_iter=4))
    )
    drawing.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and webui.get_progress()["progress"] == 0:
        time.sleep(0.05)
    webui.interrupt()
    drawing.join(60)
    assert not drawing.is_alive()
    assert 1 <= len(results[0].images) <= 4  # what was being drawn, as it was expected to become
    assert "Stopped after: " in results[0].info["infotexts"][0]


def test_webuiapi_without_a_password_is_refused(live):
    webuiapi = pytest.importorskip("webuiapi")
    client = webuiapi.WebUIApi(host="127.0.0.1", port=live.port)
    with pytest.raises(RuntimeError, match="401"):
        client.txt2img(prompt="a")
    client.session.close()


def curl(live, path: str, *words: str) -> str:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["curl", "-sS", "-H", f"Authorization: Bearer {KEY}", *words, f"{live.url}{path}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_curl_draws_streams_and_is_refused(live):
    send = ["-H", "content-type: application/json", "-d"]
    body = {"prompt": "a", "size": "64x64", "response_format": "url", **SMALL}
    link = json.loads(curl(live, "/v1/images/generations", *send, json.dumps(body)))["data"][0]["url"]
    assert "PNG image data" in subprocess.run(
        ["sh", "-c", f"curl -sS {link} | head -c 8 | grep -q PNG && echo 'PNG image data'"],
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    text = curl(live, "/v1/images/generations", "-N", *send, json.dumps({**body, "stream": True}))
    assert text.startswith("event: image_generation.completed\ndata: {")
    assert (
        json.loads(curl(live, "/v1/images/generations", *send, "{"))["error"]["message"]
        == "the body is not JSON: Expecting property name enclosed in double quotes"
    )
    assert json.loads(curl(live, "/sdapi/v1/txt2img", *send, '{"steps": "x"}'))["error"] == "HTTPException"


@pytest.mark.long
def test_after_a_kill_nothing_finished_is_lost(tmp_path):
    """Killed with -9 while it draws: every picture whose end a client could have heard of is there after the start."""
    openai = pytest.importorskip("openai")
    output = tmp_path / "out"
    first = Running(output).wait()
    heard: list[str] = []

    def draw(seed: int) -> None:
        with openai.OpenAI(base_url=f"{first.url}/v1", api_key="x", max_retries=0) as client:
            try:
                while True:
                    answer = client.images.generate(
                        prompt="a", size="64x64", response_format="url", extra_body={"steps": 2, "seed": seed}
                    )
                    heard.append(answer.data[0].url.rpartition("/")[2])
            except openai.APIError:
                return

    clients = [threading.Thread(target=draw, args=(seed,)) for seed in range(4)]
    for client in clients:
        client.start()
    while len(heard) < 12:
        time.sleep(0.05)
    first.process.kill()
    first.process.wait()
    for client in clients:
        client.join(60)
    second = Running(output).wait()
    try:
        with openai.OpenAI(base_url=f"{second.url}/v1", api_key="x") as client:
            assert len(set(heard)) == len(heard) >= 12
            for name in heard:
                Image.open(output / "pictures" / name).verify()
                assert client.get(f"/jobs/{name.partition('-')[0]}", cast_to=object)["state"] == "done"
            states = {job["state"] for job in client.get("/jobs", cast_to=object)["data"]}
            assert states <= {"done", "interrupted"}
    finally:
        second.stop()
