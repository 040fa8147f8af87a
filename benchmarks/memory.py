"""Measures every offload and quantisation setting: peak memory per stage, time, and the change in the image.

    python benchmarks/memory.py --grid docs/images/memory_grid.png > benchmarks/results/memory_cpu.json

Two models are measured: the embedded one, for meaningful images, and random weights at the released width with few
layers, for realistic sizes. Each setting runs in its own process, which opens the model from files, encodes, denoises
and decodes. Peaks are of the process's resident memory (on a GPU also of the device's allocations), less what it was
after the imports. PSNR is against the same model with everything in bfloat16 on the device. Each measured peak is
reported with the planner's estimate for the same sizes and settings.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

STAGES = ("opening", "encoding", "denoising", "decoding")
# Name -> load options; `dtype` is bfloat16 but for the first.
SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {},
    "encoder let go": {"offload": "encoder"},
    "encoder from disk": {"offload": "encoder", "encoder_on": "disk"},
    "parts take turns": {"offload": "model", "encoder_on": "disk"},
    "modulation waits": {"offload": "modulation", "encoder_on": "disk"},
    "blocks take turns": {"offload": "block", "encoder_on": "disk"},
    "all from disk": {"offload": "disk", "encoder_on": "disk"},
    "small tiles": {"tile_vae": True},
    "int8": {"quant": "int8"},
    "mxfp8": {"quant": "mxfp8"},
    "fp8": {"quant": "fp8"},
    "nf4": {"quant": "nf4"},
    "int4": {"quant": "int4"},
    "int8, encoder from disk, tiles": {
        "quant": "int8", "offload": "encoder", "encoder_on": "disk", "tile_vae": True,
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=4, help="of the wide model")
    parser.add_argument("--side", type=int, default=512, help="of the wide model's picture, pixels")
    parser.add_argument("--grid", type=Path, help="a picture of all of the embedded model's pictures")
    parser.add_argument("--only", choices=("nano", "wide", "toy"), action="append", help="repeatable; nano and wide")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(json.loads(given.case))))
        return
    import torch  # noqa: F401 - so that the machine is described with it
    from machine import describe_machine

    result: dict[str, Any] = {"benchmark": "memory", "command": " ".join(sys.argv), "machine": describe_machine()}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.only or ("nano", "wide"):
            result[name] = run_model(name, given, Path(folder))
    print(json.dumps(result, indent=2))


def run_model(name: str, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All settings of one model."""
    side, steps, cfg = {"nano": (128, 20, 5.0), "wide": (given.side, 4, 1.0), "toy": (128, 2, 2.0)}[name]
    model = "nano" if name == "nano" else str(folder / name)
    if name != "nano":
        write_model(Path(model), given.layers, wide=name == "wide")
    rows, pictures = {}, {}
    for setting, words in SETTINGS.items():
        if name == "nano" and words.get("encoder_on") == "disk":  # its text encoder is no GPT-OSS
            words = {key: word for key, word in words.items() if key != "encoder_on"}
        picture = folder / f"{name}-{len(pictures)}.png"
        case = {"model": model, "device": given.device, "side": side, "steps": steps, "cfg": cfg, "out": str(picture)}
        case |= {"dtype": "bfloat16", **words}
        run = subprocess.run([sys.executable, __file__, "--case", json.dumps(case)], capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(f"{name}, {setting}: {run.stderr.strip()}")
        rows[setting] = {"words": words, **json.loads(run.stdout.splitlines()[-1])}
        pictures[setting] = picture
    for setting, picture in pictures.items():
        rows[setting]["psnr_db"] = psnr(picture, pictures["bfloat16"])
    if given.grid and name != "wide":
        draw_grid(pictures, given.grid)
    return {"side": side, "steps": steps, "guidance": cfg, "rungs": rows}


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """One setting, in this process."""
    import torch

    from leanlens.models import vae as autoencoder
    from leanlens.models.vae import tiled_decoding
    from leanlens.pipeline.draw import draw
    from leanlens.pipeline.image import from_pixels
    from leanlens.pipeline.open import open_model
    from leanlens.pipeline.request import ImageRequest
    from leanlens.plan.options import LoadOptions
    from leanlens.weights.sizes import model_sizes

    words = {name: case[name] for name in ("quant", "offload", "encoder_on", "tile_vae") if name in case}
    side, grid = case["side"], (case["side"] // 16, case["side"] // 16)
    request = ImageRequest.checked(
        prompt="a red house beside a tall green tree under a yellow sun, painted in flat colours",
        width=side, height=side, num_inference_steps=case["steps"], guidance_scale=case["cfg"], seed=7,
    )  # fmt: skip
    small = request.model_copy(update={"width": 64, "height": 64, "num_inference_steps": 1})
    draw(open_model("toy", case["device"], case["dtype"], options=LoadOptions("int8", "block", "disk")), small)
    watch = _Watch(case["device"])  # every library that is loaded late is there now
    with watch("opening"):
        opened = open_model(case["model"], case["device"], case["dtype"], options=LoadOptions(**words))
    pipeline = opened.pipeline
    with watch("encoding"):
        positive, negative = opened.features(request)
    with watch("denoising"):
        latents = pipeline(
            prompt_embeds=positive.layers, prompt_mask=positive.mask, negative_prompt_embeds=negative.layers,
            negative_prompt_mask=negative.mask, height=side, width=side, num_inference_steps=case["steps"],
            guidance_scale=case["cfg"], generator=torch.Generator().manual_seed(7), output_type="latent",
        ).images  # fmt: skip
    with watch("decoding"), torch.no_grad(), tiled_decoding(pipeline.vae, grid):
        pixels = autoencoder.decode(pipeline.vae, latents.to(opened.device), grid)
    from_pixels(pixels, "pil")[0].save(case["out"])
    tokens = int(positive.mask.sum())
    return {**watch.result(), "planned_gb": planned(model_sizes(case["model"]), case, words, tokens)}


def planned(found: tuple[Any, bool], case: dict[str, Any], words: dict[str, Any], tokens: int) -> dict[str, float]:
    """What the planner says of each stage, without the libraries, in 10^9 bytes."""
    from dataclasses import replace

    from leanlens.plan.devices import card_of, cpu
    from leanlens.plan.options import LoadOptions
    from leanlens.plan.peaks import Drawing, peaks
    from leanlens.plan.rates import assumed

    on_cpu = case["device"] == "cpu"
    drawing = Drawing(case["side"], case["side"], case["steps"], case["cfg"], text_tokens=tokens)
    options = replace(
        LoadOptions(**{"quant": "none", **words}), device="cpu" if on_cpu else "cuda", dtype=case["dtype"]
    ).without_planning()
    vram, ram = peaks(cpu(2) if on_cpu else card_of(80), found[0], drawing, options)
    own = assumed("process") if on_cpu else assumed("context")
    return {stage: round((size - own) / 1e9, 3) for stage, size in (ram if on_cpu else vram).items()}


class _Watch:
    """Seconds and peak memory of each stage; on a GPU that of its allocations, too."""

    def __init__(self, device: str):
        self.device, self.before = device, _memory("VmRSS")
        self.peaks: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.allocated: dict[str, float] = {}

    def __call__(self, stage: str) -> "_Watch":
        self.stage = stage
        return self

    def __enter__(self) -> None:
        import torch

        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        import torch

        if self.device != "cpu":
            torch.cuda.synchronize()
            self.allocated[self.stage] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
        self.seconds[self.stage] = round(time.perf_counter() - self.began, 3)
        self.peaks[self.stage] = round((_memory("VmHWM") - self.before) / 1e9, 3)

    def result(self) -> dict[str, Any]:
        found = {"libraries_gb": round(self.before / 1e9, 3), "peak_gb": self.peaks, "seconds": self.seconds}
        return {**found, **({"device_gb": self.allocated} if self.allocated else {})}


def _memory(what: str) -> float:
    """Bytes of this process, as Linux counts them: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024.0
    raise SystemExit("this benchmark reads /proc/self/status, which only Linux has")


def write_model(folder: Path, layers: int, wide: bool) -> None:
    """A pipeline folder of random weights: the released width and autoencoder, few layers; or the toy."""
    import torch
    from diffusers import AutoencoderKLFlux2

    from leanlens.models.transformer import LensTransformer2DModel
    from leanlens.pipeline.pipeline import LensPipeline
    from leanlens.pipeline.toy import toy_pipeline, toy_tokenizer
    from leanlens.weights.assemble import official_scheduler

    torch.manual_seed(0)
    if not wide:
        toy_pipeline().save_pretrained(folder)
        return
    torch.set_default_dtype(torch.bfloat16)
    tokenizer = toy_tokenizer()
    LensPipeline(
        scheduler=official_scheduler(), vae=AutoencoderKLFlux2(), text_encoder=None, tokenizer=tokenizer,
        transformer=LensTransformer2DModel(num_layers=layers, selected_layer_index=(0, 1, 2, 3)),
    ).save_pretrained(folder)  # fmt: skip
    torch.set_default_dtype(torch.float32)
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder"] = ["transformers", "LensGptOssEncoder"]
    (folder / "model_index.json").write_text(json.dumps(index))
    write_encoder(folder / "text_encoder", len(tokenizer))


def write_encoder(folder: Path, vocabulary: int) -> None:
    """GPT-OSS at the released width: four layers of four experts, their weights in random MXFP4 codes."""
    import torch
    from safetensors.torch import save_file
    from transformers import GptOssConfig

    from leanlens.models.text_encoder import LensGptOssEncoder

    config = GptOssConfig(
        num_hidden_layers=4, num_local_experts=4, num_experts_per_tok=4, vocab_size=vocabulary, pad_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    with torch.device("meta"):
        model = LensGptOssEncoder(config, lens_keep_head=True)
    stored = {}
    for name, tensor in model.state_dict().items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = tensor.shape
            codes = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
            stored[f"{name}_blocks"] = codes
            stored[f"{name}_scales"] = torch.full((experts, outputs, inputs // 32), 119, dtype=torch.uint8)
        else:
            one = torch.ones(tensor.shape) if "norm" in name else torch.randn(tensor.shape) * 0.02
            stored[name] = one.to(torch.bfloat16)
    folder.mkdir()
    save_file(stored, folder / "model.safetensors")
    said = {**config.to_dict(), "architectures": ["LensGptOssEncoder"], "lens_selected_layers": [0, 1, 2, 3]}
    (folder / "config.json").write_text(json.dumps({**said, "quantization_config": {"quant_method": "mxfp4"}}))


def psnr(one: Path, other: Path) -> float | None:
    """Decibels between two pictures; None where they are equal in every bit."""
    import numpy as np
    from PIL import Image

    first, second = (np.asarray(Image.open(path), dtype=float) for path in (one, other))
    error = ((first - second) ** 2).mean()
    return round(10 * math.log10(255**2 / error), 1) if error else None


def draw_grid(pictures: dict[str, Path], target: Path) -> None:
    """Every picture under its name, and under it eight times its difference from the one in bfloat16."""
    from PIL import Image, ImageChops, ImageDraw

    opened = {name: Image.open(path).convert("RGB") for name, path in pictures.items()}
    side, gap, label, across = next(iter(opened.values())).width, 6, 16, 7
    rows = -(-len(opened) // across)
    sheet = Image.new("RGB", (across * (side + gap) + gap, rows * (2 * side + label + 2 * gap) + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (name, picture) in enumerate(opened.items()):
        x, y = gap + index % across * (side + gap), gap + index // across * (2 * side + label + 2 * gap)
        difference = ImageChops.difference(picture, opened["bfloat16"]).point(lambda value: min(255, 8 * value))
        pen.text((x, y), name[:24], fill="black")
        sheet.paste(picture, (x, y + label))
        sheet.paste(difference, (x, y + label + side))
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target)


if __name__ == "__main__":
    main()
