"""`leanlens generate`: a prompt, or a file of them, to picture files."""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leanlens.cli.auto import features_folder, options_sentence, settle
from leanlens.cli.defaults import gives_way
from leanlens.cli.imports import unneeded_left_out
from leanlens.cli.options import (
    IMAGE,
    MODEL,
    MODELS,
    OUTPUT,
    SOURCE,
    SPEED,
    Cfg,
    Compile,
    Device,
    Dtype,
    EncoderOn,
    Features,
    Marking,
    Offload,
    Quant,
    Reason,
    Steps,
    TileVae,
    flag,
    option,
)
from leanlens.cli.prompts import checked_number, lora_choice, read_prompts
from leanlens.cli.size import image_size, planned_size
from leanlens.plan.options import AUTO, LoadOptions

if TYPE_CHECKING:
    from leanlens.cli.preview import PreviewFile
    from leanlens.pipeline.opened_model import OpenedModel
    from leanlens.pipeline.request import ImageRequest

# What a request calls it -> what this command calls it.
_OPTIONS = {
    "num_inference_steps": "--steps",
    "guidance_scale": "--cfg",
    "template_date": "--date",
    "seed": "--seed",
    "strength": "--strength",
    r"loras\.\d+\.scale": "--lora scale",
}


def generate(
    context: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(help="What to draw. Without it: --prompts, or one prompt a line on standard input.")
    ] = None,
    output: Annotated[
        str | None,
        option(
            OUTPUT, "File to write (.png, .jpg, .webp). The name may contain {seed}, {index} and {prompt}.",
            "-o", "--output",
        ),
    ] = None,
    prompts: Annotated[
        Path | None, option(IMAGE, "Text file with one prompt a line; - reads standard input.")
    ] = None,
    seed: Annotated[
        int | None,
        option(
            IMAGE, "Seed of the first image of each prompt; later images count up. Default, and -1: a random one for "
            "each prompt.",
        ),
    ] = None,
    number: Annotated[int, option(IMAGE, "Number of images for each prompt.", "-n", "--number")] = 1,
    size: Annotated[
        str | None, option(IMAGE, "Size in pixels, multiples of 16, such as 1024x768.", metavar="WxH")
    ] = None,
    aspect: Annotated[
        str | None, option(IMAGE, "Aspect ratio instead of a size: 1:1, 16:9, 2:3 and so on.", metavar="W:H")
    ] = None,
    base: Annotated[
        int | None, option(IMAGE, "With --aspect: side of the square of the same area. Default: the model's own.")
    ] = None,
    steps: Steps = None,
    cfg: Cfg = None,
    negative: Annotated[str, option(IMAGE, "What the image should not show.")] = "",
    date: Annotated[str | None, option(IMAGE, "Date in the text template, YYYY-MM-DD or today.")] = None,
    exact: Annotated[
        bool, flag(IMAGE, "exact", "Run both guidance branches in one masked batch, as the released code does.")
    ] = False,
    image: Annotated[Path | None, option(SOURCE, "Image to start from.")] = None,
    mask: Annotated[Path | None, option(SOURCE, "Mask of the same size as the image; white is repainted.")] = None,
    strength: Annotated[
        float | None,
        option(SOURCE, "How far to move away from the image, above 0 and up to 1. Default: 0.6; with --mask, 1."),
    ] = None,
    reason: Reason = "default",
    model: Annotated[str | None, option(MODEL, f"Model: {MODELS}. Default: nano.", "-m", "--model")] = None,
    lora: Annotated[
        list[str] | None, option(MODEL, "LoRA file to apply. Repeatable.", metavar="FILE[:SCALE]")
    ] = None,
    transformer: Annotated[Path | None, option(MODEL, "Transformer to use instead of the model's own.")] = None,
    text_encoder: Annotated[Path | None, option(MODEL, "Text encoder to use instead of the model's own.")] = None,
    vae: Annotated[Path | None, option(MODEL, "Autoencoder to use instead of the model's own.")] = None,
    tokenizer: Annotated[Path | None, option(MODEL, "Tokenizer to use instead of the model's own.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quant: Quant = "auto",
    offload: Offload = "auto",
    encoder_on: EncoderOn = "auto",
    tile_vae: TileVae = False,
    features: Features = None,
    compile: Compile = False,
    attention: Annotated[
        str | None, option(SPEED, "Attention kernel by its name in diffusers, or auto.", metavar="KERNEL")
    ] = None,
    fp8: Annotated[
        bool, flag(SPEED, "fp8", "Multiply in float8: faster on recent GPUs, but a different image.")
    ] = False,
    cache: Annotated[
        str | None,
        option(
            SPEED, "Step cache, such as taylor:2 or first-block:0.1: faster, but a different image.", metavar="WORD"
        ),
    ] = None,
    guided_share: Annotated[
        float, option(SPEED, "Share of the steps that use guidance; below 1 is faster, but a different image.")
    ] = 1.0,
    share: Annotated[
        str | None,
        option(
            SPEED, "With torchrun: how several GPUs draw one image together, guidance or tensor.", metavar="WORD"
        ),
    ] = None,
    preview: Annotated[
        Path | None, option(OUTPUT, "Image file to rewrite after every step while drawing.", metavar="FILE")
    ] = None,
    marking: Marking = True,
    as_json: Annotated[bool, flag(OUTPUT, "json", "Print one JSON line for each image.")] = False,
) -> None:  # fmt: skip
    """Draw images from text, or from text and an image.

    Each file carries every setting; `leanlens replay FILE` draws it again.
    """
    # What stands on the command line goes before what a file says about the same thing.
    prompts = None if prompt is not None and gives_way(context, "prompts", ["prompt"]) else prompts
    size = None if gives_way(context, "size", ["aspect", "base"]) else size
    aspect = None if gives_way(context, "aspect", ["size"]) else aspect
    base = None if gives_way(context, "base", ["size"]) else base

    from leanlens.cli.reason import RewritingLog, check_option, triggers_of
    from leanlens.pipeline.request import resolve_seed
    from leanlens.reason import reason_request, reasoner_of_model

    check_option(reason)
    texts = read_prompts(prompt, prompts)
    seeds = [resolve_seed(seed) for _ in texts]
    group = None
    if share is not None:
        group, seeds = _joined(share, device, seeds)
        device = str(group.device)
        if share == "tensor":
            offload, quant = _undivided("--offload", offload), _undivided("--quant", quant)
    count = checked_number(number, len(texts))
    jobs = [(text, first + index) for text, first in zip(texts, seeds, strict=True) for index in range(count)]

    from leanlens.presets import preset_for

    say = _say if group is None or group.leads else _keep_quiet
    paths = output_paths(output, jobs, [path for path in (image, mask) if path], say)
    if preview is not None:
        _check_preview(preview, [*paths, *(path for path in (image, mask) if path)])
    if model is None:
        model = "nano"
        say("No --model: drawing with the small embedded one, nano (illustrations). The full Lens: --model turbo")
    parts = {"transformer": transformer, "text_encoder": text_encoder, "vae": vae, "tokenizer": tokenizer}
    given = {part: str(path) for part, path in parts.items() if path is not None}
    options = LoadOptions(quant, offload, encoder_on, tile_vae or None, device, dtype, compile or None)
    drawing = {
        **planned_size(size, aspect, base, image), "num_inference_steps": steps, "guidance_scale": cfg,
        "num_images": number, "parts": given,
    }  # fmt: skip
    features = features_folder(features)
    settled = settle(model, options, say, **drawing) if model == AUTO else None
    model = model if settled is None else settled.model
    preset = preset_for(model)
    fields: dict[str, Any] = {
        "negative_prompt": negative,
        "num_inference_steps": preset.num_inference_steps if steps is None else steps,
        "guidance_scale": preset.guidance_scale if cfg is None else cfg,
        "loras": [lora_choice(text) for text in lora or []],
        "exact": exact,
        **({"template_date": date} if date is not None else {}),
        **_source_fields(image, mask, strength),
    }
    # What is wrong is said before anything heavy is loaded. The model's own size is not known yet: 1024 stands for it.
    provisional = image_size(size, aspect, base, 1024, image)
    for text, one_seed in jobs:
        _checked(prompt=text, seed=one_seed, **fields, **provisional)
    _check_sources(image, mask)
    _check_loras(fields["loras"])
    if not all(texts):
        say("The prompt is empty; the model draws whatever it likes.")

    started = time.monotonic()
    with unneeded_left_out():
        from leanlens.pipeline import draw, metadata  # noqa: F401 - imported here, used by `_draw_all`
        from leanlens.pipeline.open import open_model
        from leanlens.pipeline.speed import Speed

    speed = Speed(attention=attention, fp8=fp8, cache=cache, guided_share=guided_share)
    settled = settled or settle(model, options, say, **drawing)
    opened = open_model(settled.model, parts=given, options=settled.options, features=features, speed=speed)
    if group is not None and share is not None:
        from leanlens.pipeline.share import share_drawing

        share_drawing(opened.pipeline, share, group)
    own = int(opened.pipeline.vae.config.sample_size)
    size_of = image_size(size, aspect, base, own, image)
    requests = [_checked(prompt=text, seed=one_seed, **fields, **size_of) for text, one_seed in jobs]
    say(
        f"{_opened_sentence(model, opened, requests[0])}{options_sentence(settled.options)}; "
        f"opened in {time.monotonic() - started:.1f} s"
    )
    # A folder of one's own may be taken for a preset; at the size that it states itself there is nothing to warn of.
    fits = size_of["width"] * size_of["height"] == own * own
    if not fits and (advice := preset.advice_on(size_of["width"], size_of["height"])):
        say(f"warning: {advice}")
    reasoner, triggers = reasoner_of_model(settled.model, reason), triggers_of([one["path"] for one in fields["loras"]])
    if opened.pipeline.encoder_loader is not None:  # all are encoded before the encoder is unloaded
        requests = [reason_request(reasoner, request, triggers) for request in requests]
    opened.prepare(requests)
    leads = group is None or group.leads
    shown = None if preview is None or not leads else _preview(opened, preview)
    _draw_all(
        opened, requests, paths, lambda request: reason_request(reasoner, request, triggers),
        RewritingLog(model, say).tell, shown, leads, marking, as_json,
    )  # fmt: skip
    if group is not None:
        from leanlens.dist import leave

        leave()


def _opened_sentence(model: str, opened: "OpenedModel", request: "ImageRequest") -> str:
    """What draws, where, and with which settings."""
    return (
        f"{model} on {opened.device.type} in {str(opened.dtype).removeprefix('torch.')}, "
        f"{request.width}x{request.height}, {request.num_inference_steps} steps, guidance {request.guidance_scale:g}"
    )


def _draw_all(
    opened: "OpenedModel",
    requests: "list[ImageRequest]",
    paths: list[Path],
    rewrite: "Callable[[ImageRequest], ImageRequest]",
    tell: Callable[[Any], None],
    shown: "PreviewFile | None",
    leads: bool,
    marking: bool,
    as_json: bool,
) -> None:
    """Draw each request and write its file; of a group of processes only the leading one writes."""
    from leanlens.pipeline.draw import draw_together
    from leanlens.pipeline.metadata import save_picture

    for request, path in zip(requests, paths, strict=True):
        began = time.monotonic()
        request = rewrite(request)
        tell(request.reasoner)
        if shown is not None:
            shown.start(request)
        with _steps_bar(request) as bar:
            drawn = draw_together(opened, [request], _watch(bar, shown))[0]
        if not leads:
            continue
        if not marking:
            drawn.record["marking"] = None
        if shown is not None:
            shown.write(drawn.image)
        save_picture(drawn.image, path, drawn.record)
        if as_json:
            print(json.dumps({"path": str(path), **drawn.record}), flush=True)
        else:
            print(f"{path}  seed {request.seed}  {time.monotonic() - began:.1f} s", flush=True)


def _joined(share: str, device: str, seeds: list[int]) -> tuple[Any, list[int]]:
    """The group of processes that a launcher started, and the leading process's seeds."""
    from leanlens.dist import gathered, join
    from leanlens.pipeline.share import WAYS

    if share not in WAYS:
        raise ValueError(f"--share {share!r} is not accepted; use one of {', '.join(WAYS)}")
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise ValueError(
            f"--share {share} needs several processes; start them with torchrun --nproc-per-node 2 -m leanlens generate"
        )
    group = join(device)
    return group, gathered(seeds)[0]


def _undivided(option: str, word: str) -> str:
    if word not in (AUTO, "none"):
        raise ValueError(f"{option} {word} cannot be combined with --share tensor; leave it out")
    return "none"


def _keep_quiet(text: str) -> None:
    """What the other processes of a group say."""


def output_paths(
    pattern: str | None, jobs: list[tuple[str, int]], sources: list[Path], say: Callable[[str], None] = _keep_quiet
) -> list[Path]:
    """Where the picture of each (prompt, seed) goes; folders that are missing are made, and `say` is told.

    A pattern without {seed} or {index} gets an index when there are several. Without a pattern, names are made of
    prompt and seed, and none that exists is taken.

    Raises:
        ValueError: an unknown placeholder or suffix, a name that two pictures would share or that a source has, a
            folder that cannot be written to.
    """
    from leanlens.files import require_writable
    from leanlens.pipeline.metadata import picture_format

    given = pattern or "{prompt}-{seed}.png"
    picture_format(given)
    placeholders = re.findall(r"{([^{}]*)}", given)
    if unknown := [name for name in placeholders if name not in ("seed", "index", "prompt")]:
        raise ValueError(f"output {pattern!r} holds {{{unknown[0]}}}; {{seed}}, {{index}} and {{prompt}} are accepted")
    if len(jobs) > 1 and not {"seed", "index"} & set(placeholders):
        given = str(Path(given).with_name(f"{Path(given).stem}-{{index}}{Path(given).suffix}"))
    paths = [_filled(given, index, *job) for index, job in enumerate(jobs)]
    if pattern is None:
        paths = _free(paths)
    if len(set(paths)) < len(paths):
        raise ValueError(f"output {pattern!r} gives several pictures the same name; add {{index}}")
    if taken := {path.resolve() for path in paths} & {path.resolve() for path in sources}:
        raise ValueError(f"output {taken.pop()} is the picture to start from; give another name")
    for folder, path in {path.parent: path for path in paths}.items():
        was_there = folder.is_dir()
        require_writable(path)
        if not was_there:
            say(f"Made the folder {folder}")
    return paths


def _filled(pattern: str, index: int, prompt: str, seed: int) -> Path:
    words = "-".join(re.findall(r"\w+", prompt.lower()))[:40].strip("-_") or "picture"
    values = {"seed": str(seed), "index": str(index + 1), "prompt": words}
    return Path(re.sub(r"{(\w+)}", lambda match: values[match[1]], pattern)).expanduser()


def _free(paths: list[Path]) -> list[Path]:
    """The same names, counted up where one exists or stands here already."""
    free: list[Path] = []
    for path in paths:
        copy, count = path, 1
        while copy in free or copy.exists():
            count += 1
            copy = path.with_name(f"{path.stem}-{count}{path.suffix}")
        free.append(copy)
    return free


def _check_preview(path: Path, taken: list[Path]) -> None:
    """Refuse a preview file that cannot be written, or that another file of this command has."""
    from leanlens.files import require_writable
    from leanlens.pipeline.metadata import picture_format

    picture_format(path)
    if path.resolve() in {one.resolve() for one in taken}:
        raise ValueError(f"--preview {path} is a file that this command reads or writes; give another name")
    require_writable(path)


def _preview(opened: Any, path: Path) -> Any:
    from leanlens.cli.preview import PreviewFile

    return PreviewFile(opened, path)


def _watch(bar: Any, shown: Any) -> Callable[[int, Any], None]:
    """What is done after every step."""

    def after(step: int, latents: Any) -> None:
        bar.update()
        if shown is not None:
            shown.step(step, latents)

    return after


def _checked(**fields: Any) -> Any:
    """An `ImageRequest`; what is wrong is named as this command's options are."""
    from leanlens.pipeline.request import ImageRequest

    try:
        return ImageRequest.checked(**fields)
    except ValueError as error:
        message = str(error)
        for field, option in _OPTIONS.items():
            message = re.sub(rf"^{field}\b", option, message)
        raise ValueError(message) from None


def _check_sources(image: Path | None, mask: Path | None) -> None:
    """Read the pictures to start from once, before a model is opened."""
    from leanlens.pipeline.image import open_picture, picture_size, to_mask

    if image is not None:
        size = picture_size(open_picture(image, "--image"))
        if mask is not None:
            to_mask(open_picture(mask, "--mask"), size, size)


def _check_loras(loras: list[dict[str, Any]]) -> None:
    """Read LoRA files once, before a model is opened."""
    if loras:
        from leanlens.weights.lora import read_lora

        for lora in loras:
            read_lora(lora["path"])


def _source_fields(image: Path | None, mask: Path | None, strength: float | None) -> dict[str, Any]:
    if image is None:
        return {"mask": None if mask is None else str(mask), "strength": strength}
    for name, path in (("--image", image), ("--mask", mask)):
        if path is not None and not path.is_file():
            raise ValueError(f"{name} {path} is not a file; give a picture file")
    default = 0.6 if mask is None else 1.0
    return {
        "image": str(image),
        "mask": None if mask is None else str(mask),
        "strength": default if strength is None else strength,
    }


def _steps_bar(request: Any) -> Any:
    from tqdm import tqdm

    walked = request.num_inference_steps
    if request.strength is not None:
        walked = max(1, round(walked * request.strength))
    return tqdm(total=walked, unit="step", leave=False, disable=None, file=sys.stderr)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
