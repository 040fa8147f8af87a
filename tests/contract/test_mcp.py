"""Assistants: the official SDK's own client drives `leanlens mcp` over pipes and a running server over HTTP."""

import base64
import io
import json
import os
import sys
import time

import anyio
import httpx
import pytest
from PIL import Image

from leanlens.pipeline.metadata import read_record
from leanlens.serve.mcp import tool_server
from tests.contract.running import Running
from tests.reasoning import FakeReasoner

mcp = pytest.importorskip("mcp")

KEY = "a-key"
SMALL = {"width": 64, "height": 64, "steps": 2}
TOY = ("--model", "toy", "--device", "cpu", "--dtype", "float32")


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    running = Running(folder / "out", "--api-key", KEY, "--no-page", "--max-pixels", "65536", "--safety", "prompt")
    try:
        yield running.wait()
    finally:
        assert running.stop() in (0, -15), running.log.read_text()


def over_http(live, use, key: str = KEY):
    """Call `use(client)` with a client of the running server."""
    from mcp.client.streamable_http import streamable_http_client

    async def main():
        import httpx2

        async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=300) as web:
            transport = streamable_http_client(f"{live.url}/mcp", http_client=web)
            async with mcp.Client(transport) as client:
                return await use(client)

    return anyio.run(main)


def opened(content) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(content.data)))


def test_over_pipes_an_assistant_draws_alters_and_asks(tmp_path):
    command = mcp.StdioServerParameters(
        command=sys.executable,
        args=["-m", "leanlens", "mcp", *TOY, "-o", str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    steps: list[float] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        steps.append(done)

    async def main():
        with open(tmp_path / "log", "w") as log:
            async with mcp.Client(mcp.stdio_client(command, log)) as client:
                names = {tool.name for tool in (await client.list_tools()).tools}
                models = await client.call_tool("list_models")
                drawn = await client.call_tool(
                    "draw", {"prompt": "a fox", "seed": 5, "count": 2, **SMALL}, progress_callback=progress
                )
                name = drawn.structured_content["pictures"][0]["name"]
                altered = await client.call_tool(
                    "draw", {"prompt": "a wolf", "start_from": name, "strength": 0.5, "steps": 2}
                )
                jobs = await client.call_tool("job_status")
                one = await client.call_tool("job_status", {"job": drawn.structured_content["job"]})
                wrong = [
                    await client.call_tool("draw", {"prompt": "a", **fields})
                    for fields in ({"width": 100, "height": 100}, {"model": "other"}, {"start_from": "../../x.png"},
                                   {"strength": 0.5}, {"loras": ["x"]}, {"count": 99}, {"count": 0}, {"steps": 1000},
                                   {"steps": 0}, {"guidance_scale": -1}, {"seed": -5}, {"prompt": ""},
                                   {"prompt": " \n"}, {"width": 64}, {"prompt": "", "start_from": "x"})
                ]  # fmt: skip
                return names, models, drawn, altered, jobs, one, wrong

    names, models, drawn, altered, jobs, one, wrong = anyio.run(main)
    assert names == {"draw", "list_models", "job_status", "cancel_job"}
    assert [model["name"] for model in models.structured_content["models"]] == ["toy"]
    said = json.loads(drawn.content[0].text)
    assert said == drawn.structured_content
    assert [opened(content).size for content in drawn.content[1:]] == [(64, 64)] * 2
    assert [picture["seed"] for picture in said["pictures"]] == [5, 6]
    record = read_record(said["pictures"][0]["file"])
    assert (record["request"]["prompt"], record["marking"]) == ("a fox", "trainedAlgorithmicMedia")
    source = read_record(altered.structured_content["pictures"][0]["file"])["request"]
    assert (source["strength"], source["width"]) == (0.5, 64)
    assert len(jobs.structured_content["jobs"]) == 2
    assert one.structured_content["state"] == "done"
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    assert all(answer.is_error for answer in wrong)
    texts = [answer.content[0].text for answer in wrong]
    for text, part in zip(texts, ("multiple of 16", "not offered", "not an image of this", "start_from is missing",
                                  "loras 'x' is not offered", "invalid count 99", "invalid count 0",
                                  "invalid steps 1000", "invalid steps 0", "guidance_scale",
                                  "seed -5", "prompt is empty", "prompt is empty", "height is missing",
                                  "prompt is empty"), strict=True):  # fmt: skip
        assert part in text
        assert "num_inference_steps" not in text


def test_over_http_the_same_tools_stand_beside_the_other_apis(live):
    async def use(client):
        drawn = await client.call_tool("draw", {"prompt": "a fox", "seed": 5, **SMALL})
        refused = [
            await client.call_tool("draw", {"prompt": "a", "width": 1024, "height": 1024}),
            await client.call_tool("draw", {"prompt": "a nude"}),
            await client.call_tool("cancel_job", {"job": "0" * 32}),
            await client.call_tool("job_status", {"job": "0" * 32}),
            await client.call_tool("draw", {"prompt": "a", "size": "250x250"}),
        ]
        return drawn, refused

    drawn, refused = over_http(live, use)
    link = drawn.structured_content["pictures"][0]["url"]
    file = httpx.get(link).content
    body = {"prompt": "a fox", "seed": 5, **SMALL}
    same = httpx.post(f"{live.url}/v1/images/generations", json=body, headers={"Authorization": f"Bearer {KEY}"})
    assert file == base64.b64decode(same.json()["data"][0]["b64_json"])
    assert all(answer.is_error for answer in refused)
    assert "invalid width x height 1024x1024: expected at most 65,536 pixels, such as 256x256" in (
        refused[0].content[0].text
    )
    assert "safety filter" in refused[1].content[0].text
    assert "there is no such job" in refused[2].content[0].text
    assert "size 250x250: invalid width 250: expected a positive multiple of 16" in refused[4].content[0].text
    # The jobs of one key are the same at every API.
    jobs = httpx.get(f"{live.url}/v1/jobs", headers={"Authorization": f"Bearer {KEY}"}).json()["data"]
    assert drawn.structured_content["job"] in {job["id"] for job in jobs}


def test_a_result_says_what_was_drawn_and_what_was_not_understood(monkeypatch, service):

    fake = FakeReasoner()
    monkeypatch.setattr("leanlens.serve.reasoning.reasoner_of_model", lambda model: fake)
    server = tool_server(service())

    async def main():
        async with mcp.Client(server) as client:
            asked = {"prompt": "a lighthouse", "seed": 5, "count": 2, **SMALL}
            drawn = await client.call_tool("draw", asked)
            fixed = await client.call_tool("draw", {**asked, "count": 1, "fixed": {"color 1": "blue"}})
            plain = await client.call_tool("draw", {**asked, "reason": "off"})
            wrong = await client.call_tool("draw", {**asked, "reason": "on"})
            return drawn, fixed, plain, wrong

    drawn, fixed, plain, wrong = anyio.run(main)
    said = drawn.structured_content
    assert [one["prompt"] for one in said["pictures"]] == [
        f"This flat picture shows a lighthouse. Choice {seed}." for seed in (5, 6)
    ]
    assert said["pictures"][0]["reasoner"]["original"] == "a lighthouse"
    assert said["not_understood"] == ["toy does not know 'lighthouse'; nearest: house (0.62)"]
    assert fixed.structured_content["pictures"][0]["prompt"] == "This flat picture shows a lighthouse, blue. Choice 5."
    assert "prompt" not in plain.structured_content["pictures"][0]
    assert plain.structured_content["not_understood"] == []
    assert wrong.content[0].text.endswith("invalid reason 'on': expected default or off")


def test_a_wrong_key_and_another_origin_are_refused_before_the_tools(live):
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    accept = {"Accept": "application/json, text/event-stream"}
    assert httpx.post(f"{live.url}/mcp", json=call, headers=accept).status_code == 401
    right = {**accept, "Authorization": f"Bearer {KEY}"}
    assert (
        httpx.post(f"{live.url}/mcp", json=call, headers={**right, "Origin": "https://evil.example"}).status_code == 403
    )
    assert httpx.post(f"{live.url}/mcp", content=b"{", headers=right).status_code in (400, 415)


def test_an_assistant_that_gives_up_frees_its_place_and_a_job_can_be_cancelled(live):
    long = {"prompt": "a", "steps": 100, "width": 256, "height": 256, "count": 4}
    headers = {"Authorization": f"Bearer {KEY}"}

    def newest() -> dict:
        return httpx.get(f"{live.url}/v1/jobs", headers=headers).json()["data"][0]

    async def give_up(client):
        with anyio.move_on_after(2):
            await client.call_tool("draw", long)

    over_http(live, give_up)
    deadline = time.monotonic() + 180
    while newest()["state"] in ("waiting", "drawing") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert newest()["state"] in ("cancelled", "partial")

    async def cancel(client):
        answers: list = []

        async def draw():
            answers.append(await client.call_tool("draw", long))

        async with anyio.create_task_group() as group:
            group.start_soon(draw)
            with anyio.fail_after(180):
                while not (found := (await client.call_tool("job_status")).structured_content["jobs"]) or found[0][
                    "state"
                ] not in ("waiting", "drawing"):
                    await anyio.sleep(0.1)
            stopped = await client.call_tool("cancel_job", {"job": found[0]["job"]})
        return stopped, answers[0]

    stopped, answer = over_http(live, cancel)
    assert stopped.structured_content["state"] in ("cancelled", "partial")
    assert answer.is_error or answer.structured_content["missing"]
