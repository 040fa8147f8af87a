"""`leanlens generate`: a prompt, or a file of them, to picture files."""

import json
import random
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

_PARTS = "A component that MODEL does not hold."


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="What to draw. Without it: --prompts, or lines on standard input.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", help="Picture file (.png .jpg .webp); may contain {seed}, {index} and {prompt}."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("-m", "--model", help="nano, turbo, rl, base, a folder, a file, a repository id, or toy.")
    ] = "nano",
    seed: Annotated[
        int | None, typer.Option(help="Of the first picture; the next ones count up. Random without it.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Noise levels; the model's own number without it.")] = None,
    cfg: Annotated[float | None, typer.Option(help="Guidance scale; the model's own without it, 1 is none.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels, multiples of 16, such as 1024x1024.")] = None,
    aspect: Annotated[
        str | None, typer.Option(metavar="W:H", help="Instead of a size: 1:1, 16:9, 2:3 and so on.")
    ] = None,
    base: Annotated[int | None, typer.Option(help="With --aspect: side of the square of the same area.")] = None,
    number: Annotated[int, typer.Option("-n", "--number", help="Pictures for each prompt.")] = 1,
    negative: Annotated[str, typer.Option(help="What to keep away from.")] = "",
    image: Annotated[Path | None, typer.Option(help="A picture to start from.")] = None,
    strength: Annotated[
        float | None, typer.Option(help="With --image: share of the noise walked again, 0 to 1; 0.6, with --mask 1.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="With --image: white is repainted; same size as the picture.")
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="FILE[:SCALE]", help="A LoRA file; may be repeated.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A text file with one prompt on each line; - for standard input.")
    ] = None,
    date: Annotated[str | None, typer.Option(help="Date inside the text template, YYYY-MM-DD or today.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Both guidance branches in one masked batch, as the original.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the transformer: a slow start, faster steps.")
    ] = False,
    transformer: Annotated[Path | None, typer.Option(help=_PARTS)] = None,
    text_encoder: Annotated[Path | None, typer.Option(help=_PARTS)] = None,
    vae: Annotated[Path | None, typer.Option(help=_PARTS)] = None,
    tokenizer: Annotated[Path | None, typer.Option(help=_PARTS)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line for each picture.")] = False,
) -> None:
    """Draw pictures.

    The picture file carries every setting; `leanlens replay FILE` draws it again.
    """
    texts = _read_prompts(prompt, prompts)
    names = _OutputNames(output, len(texts) * _positive("number", number))
    first_seed = random.randrange(2**32) if seed is None else seed

    from leanlens.pipeline.request import ImageRequest
    from leanlens.presets import preset_for

    preset = preset_for(model)
    fields: dict[str, Any] = {
        "negative_prompt": negative,
        "num_inference_steps": (4 if model == "toy" else preset.num_inference_steps) if steps is None else steps,
        "guidance_scale": preset.guidance_scale if cfg is None else cfg,
        "loras": [_lora_choice(text) for text in lora or []],
        "exact": exact,
        **({"template_date": date} if date is not None else {}),
        **_source_fields(image, mask, strength),
    }
    wanted = _wanted_size(size, aspect, base)
    size_of = {} if wanted is None else {"height": wanted[0], "width": wanted[1]}
    for text in texts:  # what is wrong is said before anything heavy is loaded
        ImageRequest.checked(prompt=text, seed=first_seed, **{"height": 16, "width": 16, **fields, **size_of})
    names.require_writable(texts, first_seed)

    started = time.monotonic()
    from leanlens.pipeline.draw import draw
    from leanlens.pipeline.metadata import save_picture
    from leanlens.pipeline.placement import open_model

    parts = {"transformer": transformer, "text_encoder": text_encoder, "vae": vae, "tokenizer": tokenizer}
    given = {part: str(path) for part, path in parts.items() if path is not None}
    opened = open_model(model, device, dtype, given, compile)
    if not size_of:
        size_of = _default_size(opened, image)
    _say(
        f"{model} on {opened.device.type} in {str(opened.dtype).removeprefix('torch.')}, "
        f"{size_of['width']}x{size_of['height']}, {fields['num_inference_steps']} steps, "
        f"guidance {fields['guidance_scale']:g}; opened in {time.monotonic() - started:.1f} s"
    )
    count = 0
    for text in texts:
        for index in range(number):
            request = ImageRequest.checked(prompt=text, seed=first_seed + index, **fields, **size_of)
            began = time.monotonic()
            with _steps_bar(request) as bar:
                drawn = draw(opened, request, on_step=lambda _: bar.update())
            path = save_picture(drawn.image, names.path(count, text, request.seed), drawn.record)
            count += 1
            if as_json:
                print(json.dumps({"path": str(path), **drawn.record}), flush=True)
            else:
                print(f"{path}  seed {request.seed}  {time.monotonic() - began:.1f} s", flush=True)


class _OutputNames:
    """Where the pictures go: a pattern, a file, or files beside each other numbered from 1."""

    def __init__(self, pattern: str | None, count: int):
        from leanlens.pipeline.metadata import picture_format

        self.pattern = pattern or "{prompt}-{seed}.png"
        self.count = count
        picture_format(self.pattern)
        unknown = set(re.findall(r"{(\w*)}", self.pattern)) - {"seed", "index", "prompt"}
        if unknown:
            raise ValueError(
                f"output {pattern!r} holds {{{unknown.pop()}}}; {{seed}}, {{index}} and {{prompt}} are accepted"
            )
        if count > 1 and not {"{seed}", "{index}"} & set(re.findall(r"{\w+}", self.pattern)):
            path = Path(self.pattern)
            self.pattern = str(path.with_name(f"{path.stem}-{{index}}{path.suffix}"))

    def path(self, index: int, prompt: str, seed: int) -> Path:
        words = "-".join(re.findall(r"[a-z0-9]+", prompt.lower()))[:40].strip("-") or "picture"
        values = {"seed": str(seed), "index": str(index + 1), "prompt": words}
        return Path(re.sub(r"{(\w+)}", lambda match: values[match[1]], self.pattern)).expanduser()

    def require_writable(self, texts: list[str], seed: int) -> None:
        from leanlens.files import require_writable

        paths = [
            self.path(i, text, seed + i % (self.count // len(texts)))
            for i, text in enumerate(texts * (self.count // len(texts)))
        ]
        if len(set(paths)) < len(paths):
            raise ValueError(f"output {self.pattern!r} gives several pictures the same name; add {{index}}")
        require_writable(paths[0])


def _read_prompts(prompt: str | None, file: Path | None) -> list[str]:
    if prompt is not None:
        if file is not None:
            raise ValueError("give either a prompt or --prompts, not both")
        return [prompt]
    if file is None and sys.stdin.isatty():
        raise ValueError("a prompt is missing; give one in quotes, --prompts FILE, or lines on standard input")
    if file is None or str(file) == "-":
        text = sys.stdin.read()
    else:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"prompts {file} cannot be read: {error}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(
            f"{'standard input' if file is None or str(file) == '-' else file} holds no prompt; give one on each line"
        )
    return lines


def _lora_choice(text: str) -> dict[str, Any]:
    """FILE[:SCALE]; a colon that is part of a path (C:\\...) is not taken for a scale."""
    path, separator, scale = text.rpartition(":")
    if separator and path and not Path(text).exists():
        try:
            return {"path": path, "scale": float(scale)}
        except ValueError:
            pass
    return {"path": text}


def _source_fields(image: Path | None, mask: Path | None, strength: float | None) -> dict[str, Any]:
    if image is None:
        return {"mask": None if mask is None else str(mask), "strength": strength}
    for name, path in (("image", image), ("mask", mask)):
        if path is not None and not path.is_file():
            raise ValueError(f"{name} {path} does not exist; give a picture file")
    default = 0.6 if mask is None else 1.0
    return {
        "image": str(image),
        "mask": None if mask is None else str(mask),
        "strength": default if strength is None else strength,
    }


def _wanted_size(size: str | None, aspect: str | None, base: int | None) -> tuple[int, int] | None:
    """(height, width) that the options ask for, or None for the model's own."""
    from leanlens.resolution import resolve_size

    if size is not None:
        if aspect is not None or base is not None:
            raise ValueError("give either --size, or --aspect and --base")
        match = re.fullmatch(r"(\d+)[xX×](\d+)", size)
        if not match:
            raise ValueError(f"size {size!r} is not accepted; give width and height in pixels, such as 1024x768")
        return resolve_size(int(match[2]), int(match[1]))
    if aspect is None and base is None:
        return None
    return resolve_size(base_resolution=base, aspect_ratio=aspect)


def _default_size(opened: Any, image: Path | None) -> dict[str, int]:
    """The model's own square, or the size of the picture to start from, cut to whole tokens."""
    if image is None:
        side = int(opened.pipeline.vae.config.sample_size)
        return {"height": side, "width": side}
    from PIL import Image, ImageOps

    with Image.open(image) as picture:
        turned = ImageOps.exif_transpose(picture)
    return {"height": max(16, turned.height // 16 * 16), "width": max(16, turned.width // 16 * 16)}


def _steps_bar(request: Any) -> Any:
    from tqdm import tqdm

    walked = request.num_inference_steps
    if request.strength is not None:
        walked = max(1, round(walked * request.strength))
    return tqdm(total=walked, unit="step", leave=False, disable=None, file=sys.stderr)


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} {value} is not accepted; give a whole number from 1")
    return value


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
