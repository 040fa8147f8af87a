"""Scores how well people would like an image for its prompt, with HPSv3: the mean of its reward.

It is started by `leanlens.evaluate.judges.process` and runs alone in the environment of requirements.txt, on a GPU:

    python score.py [--weights HPSv3.safetensors]

The rewards have no fixed range and compare images of one prompt alone: report how often a model wins, not the mean.

Source: Ma et al., arXiv 2508.03789; `inference.py` of the package hpsv3 1.0.0 (Qwen2-VL-7B with a head for mean and
deviation).
"""

import argparse
import hashlib
import json
import math
import os
import sys
import tempfile

REPOSITORY, FILE = "MizzenAI/HPSv3", "HPSv3.safetensors"
CRITERIA = ["reward"]
SIDE = 448  # pixels of made images, as large as the model sees any
RED, BLUE, WHITE = (220, 30, 30), (30, 60, 220), (255, 255, 255)
CASES = (
    ("a red circle", ("circle", RED), ("noise", None)),
    ("a red circle on a white background", ("circle", RED), ("square", BLUE)),
    ("a blue square on a white background", ("square", BLUE), ("circle", RED)),
)
"""Prompt, and the image that must score higher than the other."""


def draw(kind, color, path):
    """Write a made image."""
    from PIL import Image, ImageDraw

    if kind == "noise":
        image = Image.frombytes("RGB", (SIDE, SIDE), hashlib.shake_256(b"noise").digest(3 * SIDE * SIDE))
    else:
        image = Image.new("RGB", (SIDE, SIDE), WHITE)
        box = (SIDE // 4, SIDE // 4, 3 * SIDE // 4, 3 * SIDE // 4)
        drawing = ImageDraw.Draw(image)
        (drawing.ellipse if kind == "circle" else drawing.rectangle)(box, fill=color)
    image.save(path)
    return path


def self_test(reward):
    """Cases on made images: the image that the prompt asks for scores higher.

    Args:
        reward: path and prompt -> (mean, deviation).
    """
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (prompt, *images) in enumerate(CASES):
            paths = [draw(*image, os.path.join(folder, f"{number}-{at}.png")) for at, image in enumerate(images)]
            better, worse = (reward(path, prompt)[0] for path in paths)
            cases.append({"case": f"{prompt}: {images[0][0]} over {images[1][0]}", "better": better, "worse": worse})
    return {"passed": all(case["better"] > case["worse"] for case in cases), "cases": cases}


def answer(line, reward):
    """What to write for a line that was read."""
    request = json.loads(line)
    try:
        mean, deviation = reward(request["image"], request["prompt"])
    except Exception as error:
        return {"id": request["id"], "failed": f"{type(error).__name__}: {error}"[:200]}
    if not math.isfinite(mean):
        return {"id": request["id"], "failed": f"the reward is {mean}"}
    raw = {"deviation": deviation if math.isfinite(deviation) else None}
    return {"id": request["id"], "score": {"reward": mean}, "raw": raw}


def digest(path):
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_model(weights, device):
    """The reward of an image as a function."""
    from hpsv3 import HPSv3RewardInferencer

    model = HPSv3RewardInferencer(checkpoint_path=weights, device=device)

    def reward(path, prompt):
        row = model.reward(image_paths=[path], prompts=[prompt])[0]
        return float(row[0]), float(row[1])

    return reward


def main():
    """Answer requests until the input ends, or run the self-test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help=f"default: {FILE} of {REPOSITORY}, which is downloaded (about 16 GB)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    from importlib import metadata

    import huggingface_hub

    weights = args.weights or huggingface_hub.hf_hub_download(REPOSITORY, FILE)
    reward = open_model(weights, args.device)
    if args.self_test:
        print(json.dumps(self_test(reward)), file=out, flush=True)
        return
    versions = [f"{name} {metadata.version(name)}" for name in ("hpsv3", "transformers", "torch")]
    about = {"name": "hpsv3", "version": ", ".join(versions), "weights_sha256": digest(weights), "criteria": CRITERIA}
    print(json.dumps(about), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(line, reward)), file=out, flush=True)


if __name__ == "__main__":
    main()
