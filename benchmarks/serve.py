"""Measures a server under load, the gain of batching, and what survives a `kill -9`.

It prints one JSON object. `leanlens serve` runs as a separate process on the loopback interface, and each client has
its own loopback address, so that the server can tell them apart.

- load: every client requests one image after another, in mixed sizes. Each response is checked against the request, the
  file in the server's archive and all other responses; a sample is generated again alone afterwards.
- batching: a server with batching and one without, in turns, with the same requests. Compare the ratio.
- kills: the server is killed with -9 while it works, and started again. Every image that a client was told about must
  exist.

    python benchmarks/serve.py [--model nano] [--clients 64] [--seconds 120] [--queue 48] [--steps 4] [--quick]
"""

import argparse
import base64
import hashlib
import http.client
import io
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from machine import describe_machine
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.contract.running import Running

SIZES = ("256x256", "320x192", "192x320", "128x128")
PATH = "/v1/images/generations"
TIMEOUT = 600


@dataclass
class Drawn:
    """One answer: what was asked for, and what came."""

    job: str
    asked: dict[str, Any]
    data: bytes
    seconds: float  # from the first time it was asked for, with the waits that the server told of


@dataclass
class Tally:
    """What all clients saw together; appending to a list needs no lock."""

    drawn: list[Drawn] = field(default_factory=list)
    told: list[float] = field(default_factory=list)  # seconds to wait, as the server said
    broken: list[str] = field(default_factory=list)  # other errors
    by_client: Counter = field(default_factory=Counter)


class Client:
    """One client with an address of its own, 127.0.1.NUMBER."""

    def __init__(self, url: Callable[[], str], number: int, tally: Tally):
        self.url, self.number, self.tally = url, number, tally
        self.chance = random.Random(number)

    def ask(self, body: dict[str, Any]) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Status, headers and body of one answer."""
        host = self.url().removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=TIMEOUT, source_address=(f"127.0.1.{self.number}", 0))
        try:
            connection.request("POST", PATH, json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, json.loads(response.read())
        finally:
            connection.close()

    def draw_until(self, ends: float, sizes: tuple[str, ...], steps: int, survives: bool = False) -> None:
        """Ask for one picture after another; what was begun before `ends` is waited for."""
        while time.monotonic() < ends:
            seed, size = self.chance.randrange(2**32), self.chance.choice(sizes)
            body = {"prompt": f"client {self.number}", "seed": seed, "size": size, "num_inference_steps": steps}
            began = time.monotonic()
            while True:
                try:
                    status, headers, answer = self.ask(body)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    if not survives:
                        self.tally.broken.append(f"{type(error).__name__}: {error}")
                        return
                    time.sleep(0.2)
                    break  # the server was killed: another picture
                if status == 200:
                    data = base64.b64decode(answer["data"][0]["b64_json"])
                    self.tally.drawn.append(Drawn(headers["x-job-id"], body, data, time.monotonic() - began))
                    self.tally.by_client[self.number] += 1
                    break
                if status != 429:
                    if not survives:
                        self.tally.broken.append(f"{status}: {answer}")
                        return
                    time.sleep(0.2)
                    break
                self.tally.told.append(float(headers["retry-after"]))
                if time.monotonic() > ends:
                    return
                time.sleep(self.tally.told[-1])


def crowd(
    url: Callable[[], str], clients: int, seconds: float, sizes: tuple[str, ...], steps: int, survives: bool = False,
    meanwhile: Callable[[Tally], None] = lambda tally: None,
) -> tuple[Tally, float]:  # fmt: skip
    """All clients at once; gives what they saw and how long it took."""
    tally, began = Tally(), time.monotonic()
    threads = [
        threading.Thread(
            target=Client(url, number + 1, tally).draw_until, args=(began + seconds, sizes, steps, survives)
        )
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    meanwhile(tally)
    for thread in threads:
        thread.join()
    return tally, time.monotonic() - began


def measure_load(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    running = Running(folder / "load", "--queue", str(options.queue), model=options.model, threads=None).wait()
    try:
        crowd(lambda: running.url, 2, 1.0, SIZES, options.steps)  # the first of everything is slower
        tally, took = crowd(lambda: running.url, options.clients, options.seconds, SIZES, options.steps)
        redrawn = draw_again(running, tally, options.sample)
    finally:
        running.stop()
    times = sorted(one.seconds for one in tally.drawn)
    counts = [tally.by_client[number + 1] for number in range(options.clients)]
    return {
        "clients": options.clients, "seconds": round(took, 1), "steps": options.steps, "sizes": list(SIZES),
        "queue": options.queue, "pictures": len(tally.drawn), "pictures_per_s": round(len(tally.drawn) / took, 2),
        "seconds_p50": at(times, 50), "seconds_p95": at(times, 95), "seconds_p99": at(times, 99),
        "told_to_wait": len(tally.told), "told_seconds_median": median(tally.told) if tally.told else None,
        "pictures_of_a_client": {"least": min(counts), "most": max(counts)},
        "errors": len(tally.broken), "first_errors": tally.broken[:3],
        **faults(folder / "load" / "pictures", tally.drawn), **redrawn,
    }  # fmt: skip


def faults(folder: Path, drawn: list[Drawn]) -> dict[str, int]:
    """Lost: not kept by the server as it was answered. Doubled: one job or one picture twice. Crossed: another's."""
    lost = crossed = 0
    for one in drawn:
        kept = folder / f"{one.job}-0.png"
        lost += not kept.is_file() or kept.read_bytes() != one.data
        record = json.loads(Image.open(io.BytesIO(one.data)).info["leanlens"])["request"]
        got = (record["prompt"], record["seed"], f"{record['width']}x{record['height']}")
        crossed += got != (one.asked["prompt"], one.asked["seed"], one.asked["size"])
    jobs = {one.job for one in drawn}
    pictures = {hashlib.sha256(one.data).digest() for one in drawn}
    return {"lost": lost, "doubled": 2 * len(drawn) - len(jobs) - len(pictures), "crossed": crossed}


def draw_again(running: Running, tally: Tally, sample: int) -> dict[str, int]:
    """Some of the pictures alone, one after another: their pixels are those of the crowded ones within 2 of 255."""
    client = Client(lambda: running.url, 1, Tally())
    chosen = random.Random(0).sample(tally.drawn, min(sample, len(tally.drawn)))
    most = 0
    for one in chosen:
        _, _, answer = client.ask(one.asked)
        alone, crowded = (
            np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int)
            for data in (base64.b64decode(answer["data"][0]["b64_json"]), one.data)
        )
        most = max(most, int(np.abs(alone - crowded).max()))
    return {"drawn_again_alone": len(chosen), "levels_of_255_apart_at_most": most}


def measure_batching(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Pictures a second of both servers in turns, the best of the rounds; only one works at a time."""
    rates: dict[int, list[float]] = {8: [], 1: []}
    servers = {
        most: Running(folder / f"batch-{most}", "--batch", str(most), model=options.model, threads=None).wait()
        for most in rates
    }
    try:
        for running in servers.values():
            crowd(lambda url=running.url: url, 2, 1.0, SIZES[:1], options.steps)
        for _ in range(options.rounds):
            for most, running in servers.items():
                tally, took = crowd(
                    lambda url=running.url: url, 32, options.seconds / 6, SIZES[:1], options.steps
                )  # fmt: skip
                rates[most].append(round(len(tally.drawn) / took, 2))
    finally:
        for running in servers.values():
            running.stop()
    return {
        "clients": 32, "size": SIZES[0], "steps": options.steps,
        "pictures_per_s_batch_8": rates[8], "pictures_per_s_batch_1": rates[1],
        "together / alone, pictures_per_s": round(max(rates[8]) / max(rates[1]), 2),
    }  # fmt: skip


def measure_kills(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Clients that go on asking while the server is killed and started anew."""
    output = folder / "kills"
    place = [Running(output, model=options.model, threads=None).wait()]
    heard: list[int] = []

    def kill(tally: Tally) -> None:
        chance = random.Random(1)
        for _ in range(options.kills):
            before = len(tally.drawn)
            deadline = time.monotonic() + options.seconds
            while len(tally.drawn) < before + 8 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(chance.random())
            heard.append(len(tally.drawn))
            place[-1].process.kill()
            place[-1].process.wait()
            place.append(Running(output, model=options.model, threads=None).wait())

    seconds = options.seconds * 3 / 4
    try:
        tally, _ = crowd(lambda: place[-1].url, 16, seconds, SIZES, options.steps, survives=True, meanwhile=kill)
        states = Counter(job_state(place[-1].url, one) for one in tally.drawn)
    finally:
        place[-1].stop()
    return {
        "kills": options.kills, "clients": 16, "pictures_heard_of_at_each_kill": heard, "pictures": len(tally.drawn),
        "states_after": dict(states), **faults(output / "pictures", tally.drawn),
    }  # fmt: skip


def job_state(url: str, one: Drawn) -> str:
    """What a server now says of a job to the client that asked for it."""
    number = one.asked["prompt"].removeprefix("client ")
    connection = http.client.HTTPConnection(
        url.removeprefix("http://"), timeout=TIMEOUT, source_address=(f"127.0.1.{number}", 0)
    )
    try:
        connection.request("GET", f"/v1/jobs/{one.job}")
        answer = json.loads(connection.getresponse().read())
        return str(answer["state"] if "state" in answer else answer["error"]["code"])
    finally:
        connection.close()


def at(times: list[float], share: int) -> float:
    """The time that `share` percent do not pass, by the nearest rank."""
    return round(times[max(0, -(-share * len(times) // 100) - 1)], 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--queue", type=int, default=48, help="places to wait; fewer than clients, so some are told so")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="a rehearsal of seconds")
    options = parser.parse_args()
    options.sample, options.rounds, options.kills = 24, 3, 5
    if options.quick:
        options.seconds, options.sample, options.rounds, options.kills = min(options.seconds, 6), 2, 1, 1
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        result: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "model": options.model}
        for name, measure in (("load", measure_load), ("batching", measure_batching), ("kills", measure_kills)):
            result[name] = measure(folder, options) | {"load_average_after": round(os.getloadavg()[0], 2)}
            print(name, json.dumps(result[name]), file=sys.stderr, flush=True)
    result["machine"] = machine
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
