"""Many clients at once: nothing lost, nothing doubled, nothing crossed."""

import base64
import io
import json
import random
import threading
import time

import pytest
from PIL import Image

from tests.contract.running import Running

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
