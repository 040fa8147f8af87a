"""Finds objects and their colours with GenEval's detector and classifier; the verdict is made elsewhere.

It is started by `leanlens.evaluate.judges.process` and runs alone in the environment of requirements.txt, on a GPU:

    python detect.py --weights mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth

Source: `evaluate_images.py` of GenEval: Mask2Former (Swin-S, COCO, mmdet 2.x), and CLIP ViT-L/14 for colours.
"""

import argparse
import hashlib
import json
import sys

CONFIG = "configs/mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py"
WEIGHTS_SUM = "743b7d99"  # what the SHA-256 of the weights begins with
MIN_SCORE = 0.3
MOST_BOXES = 16  # per class
RENAMED = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
GREY = (0x99, 0x99, 0x99)  # around an object whose colour is asked for
CRITERION = "detections"


def kept(boxes):
    """Indices of the boxes of a class that count, the most certain first; of equal ones, the later first.

    Args:
        boxes: rows of x0, y0, x1, y1 and score.
    """
    order = sorted(range(len(boxes)), key=lambda at: (float(boxes[at][4]), at), reverse=True)
    return [at for at in order if float(boxes[at][4]) > MIN_SCORE][:MOST_BOXES]


def describe(image, names, boxes, masks, truth, colors_of):
    """The detections of an image, as JSON values.

    Args:
        names: of the classes.
        boxes, masks: for each class, rows as in `kept`, and arrays of bool as large as the image; no masks without any.
        truth: a row of GenEval's metadata; boxes of a class whose colour it states get `colors`.
        colors_of: (crops, name of the class) -> for each crop, colour -> value.
    """
    colored = {clause["class"] for clause in truth.get("include", ()) if "color" in clause}
    found = []
    for index, name in enumerate(names):
        best = kept(boxes[index])
        rows = [
            {"class": name, "score": float(boxes[index][at][4]), "box": [float(side) for side in boxes[index][at][:4]]}
            for at in best
        ]
        if name in colored and best:
            crops = [crop(image, boxes[index][at][:4], masks[index][at] if masks else None) for at in best]
            for row, colors in enumerate(colors_of(crops, name)):
                rows[row]["colors"] = colors
        found += rows
    return found


def crop(image, box, mask):
    """The part of an image in a box, with what is outside the mask painted grey."""
    import numpy
    from PIL import Image

    if mask is not None:
        blank = Image.new("RGB", image.size, GREY)
        image = Image.composite(image, blank, Image.fromarray(numpy.asarray(mask).astype("uint8") * 255))
    return image.crop(tuple(float(side) for side in box))


class Colors:
    """CLIP as a classifier of colours: mean of the templates' features for each colour, and the cosines of crops."""

    def __init__(self, device):
        import open_clip

        self.device = device
        self.model, _, self.transform = open_clip.create_model_and_transforms(
            "ViT-L-14", pretrained="openai", device=device
        )
        self.model.eval()
        self.tokenize = open_clip.get_tokenizer("ViT-L-14")
        self.features = {}

    def __call__(self, crops, name):
        """For each crop, colour -> cosine."""
        import torch

        with torch.no_grad():
            images = torch.stack([self.transform(one) for one in crops]).to(self.device)
            seen = torch.nn.functional.normalize(self.model.encode_image(images), dim=-1)
            cosines = (seen @ self._texts(name).T).float().cpu().tolist()
        return [dict(zip(COLORS, row)) for row in cosines]  # noqa: B905 strict is not known to Python 3.9

    def _texts(self, name):
        import torch

        if name not in self.features:
            rows = []
            for color in COLORS:
                texts = [template.format(color=color, name=name) for template in TEMPLATES]
                tokens = self.tokenize(texts).to(self.device)
                each = torch.nn.functional.normalize(self.model.encode_text(tokens), dim=-1)
                rows.append(torch.nn.functional.normalize(each.mean(dim=0), dim=0))
            self.features[name] = torch.stack(rows)
        return self.features[name]


class Finder:
    """The detector: path of an image and truth -> detections."""

    def __init__(self, weights, config, device):
        import os

        import mmdet
        from mmdet.apis import init_detector

        folder = os.path.dirname(mmdet.__file__)
        places = [os.path.join(folder, inner, CONFIG) for inner in ("..", ".mim")]
        config = config or next((place for place in places if os.path.isfile(place)), places[0])
        self.model = init_detector(config, weights, device=device)
        self.names = [RENAMED.get(name, name) for name in self.model.CLASSES]
        self.colors = Colors(device)

    def __call__(self, path, truth):
        """See `describe`."""
        from PIL import Image, ImageOps

        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        boxes, masks = self.arrays(path)
        return describe(image, self.names, boxes, masks, truth, self.colors)

    def arrays(self, path):
        """Boxes and masks of each class."""
        from mmdet.apis import inference_detector

        result = inference_detector(self.model, path)
        return (result[0], result[1]) if isinstance(result, tuple) else (result, None)


def answer(line, find):
    """What to write for a line that was read: the detections, or why there are none."""
    request = json.loads(line)
    try:
        found = find(request["image"], request["truth"])
    except Exception as error:
        return {"id": request.get("id"), "failed": f"{type(error).__name__}: {error}"[:500]}
    return {"id": request["id"], "score": {CRITERION: len(found)}, "raw": {"detections": found}}


def test_image(folder, color, is_sign):
    """The path of a made image: a sign with eight sides on a pole above a field, or the field alone."""
    import math
    import os

    from PIL import Image, ImageDraw

    image = Image.new("RGB", (512, 512), (150, 190, 230))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 400, 512, 512), fill=(110, 140, 80))
    if is_sign:
        draw.rectangle((250, 200, 262, 470), fill=(120, 120, 120))
        for radius, fill in ((112, (255, 255, 255)), (104, color)):
            angles = [math.pi / 8 + at * math.pi / 4 for at in range(8)]
            draw.polygon([(256 + radius * math.cos(one), 170 + radius * math.sin(one)) for one in angles], fill=fill)
        text = Image.new("L", (24, 11), 0)
        ImageDraw.Draw(text).text((0, 0), "STOP", fill=255)
        draw.bitmap((184, 137), text.resize((144, 66)), fill=(255, 255, 255))
    path = os.path.join(folder, "{}-{}-{}-{}.png".format(*color, is_sign))
    image.save(path)
    return path


def self_test(finder):
    """Cases on made images: the sign is found where it is, and its colour is seen."""
    import tempfile

    from PIL import Image

    cases = []
    with tempfile.TemporaryDirectory() as folder:
        scores = []
        for is_sign in (True, False):
            boxes, _ = finder.arrays(test_image(folder, (190, 20, 30), is_sign))
            scores.append(max([float(row[4]) for row in boxes[finder.names.index("stop sign")]] or [0.0]))
        cases.append({"case": "a stop sign, and the same place without it", "better": scores[0], "worse": scores[1]})
        for name, color in (("red", (200, 20, 30)), ("green", (20, 150, 40)), ("blue", (20, 60, 200))):
            image = Image.open(test_image(folder, color, True)).convert("RGB")
            seen = finder.colors([crop(image, (150, 60, 362, 280), None)], "stop sign")[0]
            cases.append({"case": f"a {name} sign", "expected": name, "found": max(seen, key=seen.get)})
    return cases


def holds(case):
    """Whether a case came out as it must."""
    return case["better"] > case["worse"] if "better" in case else case["expected"] == case["found"]


def main():
    """Answer requests until the input ends, or run the self-test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="the .pth file of the detector")
    parser.add_argument("--config", default=None, help="mmdet's configuration, where it is not found by itself")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    with open(args.weights, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    if not digest.startswith(WEIGHTS_SUM):
        sys.exit(f"{args.weights} has SHA-256 {digest}; GenEval's detector begins with {WEIGHTS_SUM}")
    finder = Finder(args.weights, args.config, args.device)
    if args.self_test:
        cases = self_test(finder)
        print(json.dumps({"passed": all(holds(case) for case in cases), "cases": cases}), file=out, flush=True)
        return
    import mmdet
    import open_clip
    import torch

    version = f"mmdet {mmdet.__version__}, open_clip {open_clip.__version__}, torch {torch.__version__}"
    about = {"name": "mask2former", "version": version, "weights_sha256": digest, "criteria": [CRITERION]}
    print(json.dumps(about), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(line, finder)), file=out, flush=True)


if __name__ == "__main__":
    main()
