"""A scorer for tests that speaks the protocol as well or as badly as its first argument says."""

import json
import os
import subprocess
import sys
import time

how, folder = sys.argv[1], sys.argv[2]
VERSION = sys.argv[3] if len(sys.argv) > 3 and not sys.argv[3].startswith("--") else "1"
GOOD = [{"case": "a red circle", "better": 2.0, "worse": -1.0}, {"case": "a word", "expected": "cup", "found": "cup"}]


def say(value):
    print(json.dumps(value), flush=True)


def count(what):
    """How often this was called over all processes, from 1."""
    path = os.path.join(folder, what)
    with open(path, "a") as file:
        file.write("x")
    return os.path.getsize(path)


if "--self-test" in sys.argv:
    count("self-tests")
    if how == "lies":
        say({"passed": True, "cases": [*GOOD, {"case": "noise", "better": 0.5, "worse": 0.5}]})
    elif how == "no cases":
        say({"passed": True, "cases": []})
    elif how == "fails":
        say({"passed": False, "cases": GOOD})
    elif how == "dies in its test":
        print("CUDA out of memory", file=sys.stderr)
        sys.exit(3)
    else:
        say({"passed": True, "cases": GOOD})
    sys.exit(4 if how == "ends badly" else 0)

starts = count("starts")
if how == "slow to start":
    time.sleep(30)
if how == "floods":
    sys.stderr.write("loading 10%\r" * 400_000 + "\n")
if how == "odd":
    say({"name": "mine"})
version = f"{VERSION}.{starts}" if how == "changes" else VERSION
say({"name": "mine", "version": version, "weights_sha256": "0" * 64, "criteria": ["reward", "style"]})
if how == "has children":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with open(os.path.join(folder, "child"), "w") as file:
        file.write(str(child.pid))

for line in sys.stdin:
    request = json.loads(line)
    prompt = request["prompt"]
    with open(request["image"], "rb") as file:
        size = len(file.read())
    if prompt == "sleep":
        time.sleep(30)
    if prompt == "die" or (prompt == "die once" and count("deaths") == 1):
        print("Traceback\n  CUDA error: an illegal access", file=sys.stderr, flush=True)
        os._exit(7)
    if prompt == "prose":
        print("The reward is 3.", flush=True)
        continue
    if prompt == "endless":
        while True:
            sys.stdout.write("x" * 65536)
    if prompt == "other id":
        say({"id": 99, "score": {"reward": 1.0, "style": 0.0}})
        continue
    if prompt == "decline":
        say({"id": request["id"], "failed": "the image is too small"})
        continue
    values = {"odd score": {"reward": "high", "style": float("nan")}, "half": {"reward": 1}, "no score": None}
    scores = values.get(prompt, {"reward": float(request["truth"].get("reward", 1.5)), "style": None})
    odd = {"odd": [float("inf")]} if prompt == "odd score" else {}
    say(
        {
            "id": request["id"],
            "score": scores,
            "raw": {**odd, "bytes": size, "image": os.path.basename(request["image"])},
        }
    )
