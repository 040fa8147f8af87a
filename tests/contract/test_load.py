"""Many clients at once: nothing lost, nothing doubled, nothing crossed."""

import base64
import io
import json
import random
import threading
import time

import pytest
from PIL import Image

from leanlens.plan.options import LoadOptions
from tests.contract.running import Running

FLOAT32 = LoadOptions(dtype="float32")

CLIENTS, SECONDS = 64, 30
SIZES = ("32x32", "64x32", "64x64")


@pytest.mark.long
def test_sixty_four_clients_get_their_own_pictures(tmp_path):
    openai = pytest.importorskip("openai")
    running = Running(tmp_path / "out", "--queue", "48").wait()  # fewer places than clients: some are told to wait
    ends = time.monotonic() + SECONDS
    drawn: list[tuple[str, str, float]] = []
    wrong: list[object] = []
    waits: list[float] = []

    def use(number: int) -> None:
        chance = random.Random(number)
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0) as client:
            while time.monotonic() < ends:
                prompt, seed, size = f"client {number}", chance.randrange(2**32), chance.choice(SIZES)
                began = time.monotonic()
                try:
                    answer = client.images.with_raw_response.generate(
                        prompt=prompt, size=size, extra_body={"seed": seed, "steps": 2}
                    )
                except openai.RateLimitError as error:
                    waits.append(float(error.response.headers["retry-after"]))
                    time.sleep(min(waits[-1], 2.0))
                    continue
                except openai.APIError as error:
                    wrong.append(error)
                    return
                data = answer.parse().data[0].b64_json
                record = json.loads(Image.open(io.BytesIO(base64.b64decode(data))).info["leanlens"])["request"]
                if (record["prompt"], record["seed"], f"{record['width']}x{record['height']}") != (prompt, seed, size):
                    wrong.append(record)
                drawn.append((answer.headers["x-job-id"], data, time.monotonic() - began))

    clients = [threading.Thread(target=use, args=(number,)) for number in range(CLIENTS)]
    try:
        for client in clients:
            client.start()
        for client in clients:
            client.join(SECONDS + 120)
        assert not wrong
        assert len(drawn) > CLIENTS
        assert len({identity for identity, _, _ in drawn}) == len(drawn)
        assert len({data for _, data, _ in drawn}) == len(drawn)
        assert len(list((tmp_path / "out" / "pictures").glob("*.png"))) == len(drawn)
        assert waits
        times = sorted(seconds for _, _, seconds in drawn)
        at = {share: round(times[int(len(times) * share / 100)], 2) for share in (50, 95, 99)}
        print(json.dumps({"pictures": len(drawn), "refused": len(waits), "seconds": at}))
    finally:
        assert running.stop() in (0, -15), running.log.read_text()


@pytest.mark.long
def test_drawing_together_pays_where_a_call_has_a_cost_of_its_own(tmp_path, monkeypatch):
    """An accelerator's cost for each call is stood in for by 20 ms of waiting: together they are drawn faster."""
    from leanlens.models.transformer import LensTransformer2DModel
    from leanlens.serve.parameters import GenerationParameters
    from leanlens.serve.service import ImageService
    from leanlens.serve.settings import ServerSettings

    plain = LensTransformer2DModel.forward
    cost = 0.0

    def costly(self, *args, **options):
        time.sleep(cost)
        return plain(self, *args, **options)

    monkeypatch.setattr(LensTransformer2DModel, "forward", costly)

    def seconds(most: int, pictures: int = 16) -> float:
        settings = ServerSettings.checked(
            models=("toy",),
            output=tmp_path / f"{most}-{cost}",
            devices=("cpu",),
            load=FLOAT32,
            max_batch=most,
        )
        service = ImageService(settings)
        fields = {"width": 64, "height": 64, "num_inference_steps": 4}
        warm, job = (service.prepare(GenerationParameters("a", count=count, **fields), "a", "test") for count in (1, 8))
        jobs = [job, service.prepare(GenerationParameters("a", count=pictures - 8, **fields), "b", "test")]
        opened, ended = threading.Event(), threading.Event()
        warm.listen(lambda event: opened.set() if warm.is_final else None)
        for one in jobs:
            one.listen(lambda event: ended.set() if all(one.is_final for one in jobs) else None)
        service.open()
        service.start(warm)
        assert opened.wait(60)
        began = time.monotonic()
        for one in jobs:
            service.start(one)
        assert ended.wait(120)
        took = time.monotonic() - began
        service.close()
        assert all(one.state == "done" for one in jobs)
        return took

    ratios = {}
    for cost in (0.0, 0.02):
        ratios[cost] = round(seconds(1) / seconds(8), 2)
    print(json.dumps({"alone against together": ratios}))
    assert ratios[0.02] >= 1.5
