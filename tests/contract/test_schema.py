"""Whatever its own description allows or does not, the server answers and does not fall over."""

from collections import Counter

import pytest
from starlette.testclient import TestClient

from leanlens.plan.options import LoadOptions
from leanlens.serve.app import make_app
from leanlens.serve.settings import ServerSettings
from tests.contract.running import Running

FLOAT32 = LoadOptions(dtype="float32")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of the libraries that make up requests
def test_no_request_ends_in_a_mistake_of_ours(tmp_path):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    running = Running(tmp_path / "out", "--max-pixels", "4096").wait()
    statuses: Counter[int] = Counter()
    try:
        schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
        for result in schema.get_all_operations():
            operation = result.ok()

            @given(case=operation.as_strategy())
            @settings(
                max_examples=25,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def ask(case):
                response = case.call()
                statuses[response.status_code] += 1
                assert response.status_code < 500, (case, response.text)

            ask()
        assert statuses.total() > 300
        assert {200, 400, 422} <= set(statuses), statuses
    finally:
        assert running.stop() in (0, -15), running.log.read_text()


@pytest.mark.long
def test_ten_thousand_malformed_bodies_leave_no_trace(tmp_path):
    import random
    import resource

    app = make_app(ServerSettings.checked(models=("toy",), output=tmp_path, devices=("cpu",), load=FLOAT32))
    chance = random.Random(0)
    good = b'{"prompt": "a", "size": "64x64", "n": 1, "loras": [{"name": "x", "scale": 1.0}], "seed": 5, "steps": null}'
    paths = ["/v1/images/generations", "/v1/images/edits", "/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/mcp"]
    kinds = ["application/json", "multipart/form-data; boundary=x", "text/plain"]

    def malformed() -> bytes:
        body = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        return bytes(body[: chance.randrange(len(body))])

    with TestClient(app, raise_server_exceptions=False) as client:
        memory = []
        for index in range(10_000):
            answer = client.post(
                chance.choice(paths), content=malformed(), headers={"content-type": chance.choice(kinds)}
            )
            assert 400 <= answer.status_code < 500, answer.text
            if index in (1000, 9999):
                memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # KiB, the peak so far
        assert memory[1] - memory[0] < 50 << 10
        assert client.get("/health").json() == {"status": "ok"}
