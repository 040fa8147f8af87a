"""Answers the questions of DPG-Bench about images with mPLUG-large, the official vision model.

It is started by `leanlens.evaluate.judges.process` and runs alone in the environment of requirements.txt:

    python answer.py --model mplug_visual-question-answering_coco_large_en

Source: `compute_dpg_bench.py` of ELLA.
"""

import argparse
import hashlib
import json
import os
import sys

WEIGHTS = "pytorch_model.bin"
CRITERION = "answered"
COLORS = (("red", (220, 20, 20)), ("green", (20, 160, 40)), ("blue", (20, 40, 220)))


class Model:
    """The vision model: image and question -> answer."""

    def __init__(self, folder, device):
        from modelscope.pipelines import pipeline
        from modelscope.utils.constant import Tasks

        self.ask = pipeline(Tasks.visual_question_answering, model=folder, device=device)

    def __call__(self, image, question):
        """The answer as the model gives it, such as "yes"."""
        return str(self.ask({"image": image, "question": question})["text"])


def answer(line, model):
    """What to write for a line that was read: an answer to each question, or why there are none."""
    from PIL import Image

    request = json.loads(line)
    try:
        with Image.open(request["image"]) as opened:
            image = opened.convert("RGB")
        found = {str(row["id"]): model(image, row["question"]) for row in request["truth"]["questions"]}
    except Exception as error:
        return {"id": request.get("id"), "failed": f"{type(error).__name__}: {error}"[:500]}
    return {"id": request["id"], "score": {CRITERION: len(found)}, "raw": {"answers": found}}


def self_test(model):
    """Cases on made images: the colour of a disc is told, and whether it has another one."""
    from PIL import Image, ImageDraw

    cases = []
    for at, (name, color) in enumerate(COLORS):
        image = Image.new("RGB", (512, 512), "white")
        ImageDraw.Draw(image).ellipse((106, 106, 406, 406), fill=color)
        other = COLORS[(at + 1) % len(COLORS)][0]
        for asked, expected in ((name, "yes"), (other, "no")):
            question = f"is the circle {asked}?"
            cases.append({"case": f"{name}: {question}", "expected": expected, "found": model(image, question)})
    return cases


def checksum(path):
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


def main():
    """Answer requests until the input ends, or run the self-test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--device", default="gpu")
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    digest = checksum(os.path.join(args.model, WEIGHTS))
    model = Model(args.model, args.device)
    if args.self_test:
        cases = self_test(model)
        passed = all(case["expected"] == case["found"] for case in cases)
        print(json.dumps({"passed": passed, "cases": cases}), file=out, flush=True)
        return
    import modelscope

    about = {"name": "mplug-large", "version": f"modelscope {modelscope.__version__}", "weights_sha256": digest}
    print(json.dumps({**about, "criteria": [CRITERION]}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(line, model)), file=out, flush=True)


if __name__ == "__main__":
    main()
