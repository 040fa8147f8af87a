"""A job belongs to who asked for it, and links lead to what was asked for."""

import io

import pytest
from PIL import Image

DRAW = "/v1/images/generations"
SMALL = {"prompt": "a", "size": "64x64", "num_inference_steps": 2, "seed": 3}


def key(name):
    return {"authorization": f"Bearer {name}"}


def test_anothers_job_is_not_found(server):
    client = server(api_keys=("ours", "theirs"))
    answer = client.post(DRAW, json=SMALL, headers=key("ours"))
    path = f"/v1/jobs/{answer.headers['x-job-id']}"
    assert client.get(path, headers=key("ours")).json()["state"] == "done"
    assert client.get(path, headers=key("theirs")).status_code == 404
    assert client.get("/v1/jobs", headers=key("theirs")).json()["data"] == []


def test_anothers_running_job_is_not_cancelled(server):
    client = server(api_keys=("ours", "theirs"))
    service = client.app.state.service
    job = service.prepare(parameters(), "somebody", "test")
    service.start(job)
    assert client.post(f"/v1/jobs/{job.id}/cancel", headers=key("theirs")).status_code == 404
    assert not any(task.unwanted for task in job.tasks)
    service.cancel(job)


def test_a_job_that_was_cancelled_is_not_whole(server):
    client = server()
    service = client.app.state.service
    job = service.prepare(parameters(), "testclient", "test")
    service.start(job)
    service.cancel(job)
    told = client.get(f"/v1/jobs/{job.id}").json()
    assert (told["state"], told["progress"]) == ("cancelled", 0.0)


def test_no_more_jobs_are_listed_than_asked_for(server):
    client = server()
    names = [client.post(DRAW, json=SMALL).headers["x-job-id"] for _ in range(3)]
    listed = client.get("/v1/jobs", params={"limit": 2}).json()["data"]
    assert [job["id"] for job in listed] == names[:0:-1]
    assert len(client.get("/v1/jobs").json()["data"]) == 3
    for limit in ("0", "1001", "all"):
        refused = client.get("/v1/jobs", params={"limit": limit})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "limit")


def parameters():
    from leanlens.serve.parameters import GenerationParameters

    return GenerationParameters("a", num_inference_steps=100, count=4)


@pytest.mark.parametrize(("kind", "format"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_a_link_leads_to_the_format_asked_for(server, kind, format):
    client = server()
    body = {**SMALL, "response_format": "url", "output_format": kind, "output_compression": 50}
    answer = client.post(DRAW, json=body).json()
    found = client.get(answer["data"][0]["url"])
    assert found.headers["content-type"] == f"image/{kind}"
    with Image.open(io.BytesIO(found.content)) as picture:
        assert (picture.format, picture.size) == (format, (64, 64))


def test_links_to_nothing(server):
    client = server()
    for name in ("x.jpg", f"{'0' * 32}-0.jpg", f"{'0' * 32}-0.gif", f"{'0' * 32}-0"):
        assert client.get(f"/pictures/{name}").status_code == 404
