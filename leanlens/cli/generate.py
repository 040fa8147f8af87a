"""Implements `leanlens generate`, which draws a prompt, or each of a file of prompts, into image files."""

import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from leanlens.cli import options as opt
from leanlens.cli.auto import features_folder, options_sentence, settle
from leanlens.cli.defaults import gives_way
from leanlens.cli.imports import unneeded_left_out
from leanlens.cli.prompts import checked_number, lora_choice, read_prompts
from leanlens.cli.reason import RewritingLog, reasoner_at_address, triggers_of
from leanlens.cli.size import image_size, planned_size
from leanlens.plan.options import AUTO, LoadOptions
from leanlens.presets import preset_for

if TYPE_CHECKING:
    from leanlens.dist import Group
    from leanlens.pipeline.auto import ModelChoice
    from leanlens.pipeline.opened_model import OpenedModel
    from leanlens.pipeline.request import ImageRequest
    from leanlens.reason.remote import EndpointReasoner

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
    prompt: opt.Prompt = None,
    output: opt.OutputPattern = None,
    prompts: opt.Prompts = None,
    seed: opt.Seed = None,
    number: opt.Number = 1,
    size: opt.Size = None,
    aspect: opt.Aspect = None,
    base: opt.Base = None,
    steps: opt.Steps = None,
    cfg: opt.Cfg = None,
    negative: opt.Negative = "",
    date: opt.Date = None,
    exact: opt.Exact = False,
    image: opt.SourceImage = None,
    mask: opt.SourceMask = None,
    strength: opt.Strength = None,
    reason: opt.ReasonOrAddress = "default",
    reason_prompt: opt.ReasonPrompt = None,
    model: opt.ModelName = None,
    lora: opt.Loras = None,
    transformer: opt.Transformer = None,
    text_encoder: opt.TextEncoder = None,
    vae: opt.Vae = None,
    tokenizer: opt.Tokenizer = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    quant: opt.Quant = "auto",
    offload: opt.Offload = "auto",
    encoder_on: opt.EncoderOn = "auto",
    tile_vae: opt.TileVae = False,
    features: opt.Features = None,
    compile: opt.Compile = False,
    attention: opt.Attention = None,
    fp8: opt.Fp8 = False,
    cache: opt.Cache = None,
    guided_share: opt.GuidedShare = 1.0,
    share: opt.Share = None,
    preview: opt.Preview = None,
    marking: opt.Marking = True,
    as_json: opt.JsonForEachImage = False,
) -> None:
    """Draw images from text, or from text and an image.

    Each file carries every setting; `leanlens replay FILE` draws it again.
    """
    prompts = None if prompt is not None and gives_way(context, "prompts", ["prompt"]) else prompts
    canvas = _canvas(context, size, aspect, base, image)
    asked = reasoner_at_address(reason, reason_prompt)
    texts = read_prompts(prompt, prompts)
    options = LoadOptions(quant, offload, encoder_on, tile_vae or None, device, dtype, compile or None)
    options, group, seeds = _joined(share, options, _seeds(seed, texts))
    say = _say if group is None or group.leads else _keep_quiet
    jobs = _jobs(texts, seeds, number)
    paths = _writable_paths(output, preview, jobs, [path for path in (image, mask) if path], say)
    parts = _given_parts(transformer=transformer, text_encoder=text_encoder, vae=vae, tokenizer=tokenizer)
    drawing = {
        **canvas.planned(), "num_inference_steps": steps, "guidance_scale": cfg, "num_images": number, "parts": parts,
    }  # fmt: skip
    name, features = _model_or_nano(model, say), features_folder(features)
    decide = functools.cache(partial(settle, name, options, say, **drawing))
    name = decide().model if name == AUTO else name  # auto is decided first: requests have the chosen model's defaults
    fields = _sampling(name, steps, cfg) | _fields(negative, lora, exact, date) | _source_fields(image, mask, strength)
    requests_at = partial(_requests, jobs, fields, canvas)
    _check_before_opening(requests_at, image, mask, fields["loras"], texts, say)

    started = time.monotonic()
    speed = {"attention": attention, "fp8": fp8, "cache": cache, "guided_share": guided_share}
    opened = _opened(decide, parts, features, speed)
    _share(opened, share, group)
    requests = requests_at(int(opened.pipeline.vae.config.sample_size))
    _say_opened(name, opened, decide().options, requests[0], time.monotonic() - started, say)
    rewrite = _rewriter(name, reason, fields["loras"], asked, _window(opened, requests[0]))
    if opened.pipeline.encoder_loader is not None:  # all are encoded before the encoder is unloaded
        requests = [rewrite(request) for request in requests]
    opened.prepare(requests)
    _draw_all(opened, requests, paths, rewrite, RewritingLog(name, say).tell, preview, group, marking, as_json)
    _leave(group)


@dataclass(frozen=True)
class _Canvas:
    """The options that decide an image's size."""

    size: str | None
    aspect: str | None
    base: int | None
    image: Path | None

    def planned(self) -> dict[str, int]:
        """Height and width for the planner; empty for the model's own size."""
        return planned_size(self.size, self.aspect, self.base, self.image)

    def sides(self, own: int) -> dict[str, int]:
        """Height and width of an image; `own` is the side of the model's default square."""
        return image_size(self.size, self.aspect, self.base, own, self.image)


def _canvas(
    context: typer.Context, size: str | None, aspect: str | None, base: int | None, image: Path | None
) -> _Canvas:
    """The size as given: what is on the command line overrides a file's defaults for the same thing."""
    return _Canvas(
        None if gives_way(context, "size", ["aspect", "base"]) else size,
        None if gives_way(context, "aspect", ["size"]) else aspect,
        None if gives_way(context, "base", ["size"]) else base,
        image,
    )


def _seeds(seed: int | None, texts: list[str]) -> list[int]:
    """The first seed of each prompt."""
    from leanlens.pipeline.request import resolve_seed

    return [resolve_seed(seed) for _ in texts]


def _jobs(texts: list[str], seeds: list[int], number: int) -> list[tuple[str, int]]:
    """The prompt and the seed of each image."""
    count = checked_number(number, len(texts))
    return [(text, first + index) for text, first in zip(texts, seeds, strict=True) for index in range(count)]


def _writable_paths(
    output: str | None,
    preview: Path | None,
    jobs: list[tuple[str, int]],
    sources: list[Path],
    say: Callable[[str], None],
) -> list[Path]:
    """The file of each image; raises a ValueError if one, or the preview, cannot be written."""
    paths = output_paths(output, jobs, sources, say)
    if preview is not None:
        _check_preview(preview, [*paths, *sources])
    return paths


def _model_or_nano(model: str | None, say: Callable[[str], None]) -> str:
    if model is not None:
        return model
    say("No --model: drawing with the small embedded one, nano (illustrations). The full Lens: --model turbo")
    return "nano"


def _given_parts(**paths: Path | None) -> dict[str, str]:
    return {part: str(path) for part, path in paths.items() if path is not None}


def _sampling(model: str, steps: int | None, cfg: float | None) -> dict[str, Any]:
    preset = preset_for(model)
    return {
        "num_inference_steps": preset.num_inference_steps if steps is None else steps,
        "guidance_scale": preset.guidance_scale if cfg is None else cfg,
    }


def _fields(negative: str, lora: list[str] | None, exact: bool, date: str | None) -> dict[str, Any]:
    fields = {"negative_prompt": negative, "loras": [lora_choice(text) for text in lora or []], "exact": exact}
    return fields if date is None else {**fields, "template_date": date}


def _requests(jobs: list[tuple[str, int]], fields: dict[str, Any], canvas: _Canvas, own: int) -> "list[ImageRequest]":
    """The request of each image, for a model whose default square has the side `own`."""
    sides = canvas.sides(own)
    return [_checked(prompt=text, seed=seed, **fields, **sides) for text, seed in jobs]


def _check_before_opening(
    requests_at: "Callable[[int], list[ImageRequest]]",
    image: Path | None,
    mask: Path | None,
    loras: list[dict[str, Any]],
    texts: list[str],
    say: Callable[[str], None],
) -> None:
    """Report what is wrong before anything heavy is loaded."""
    requests_at(1024)  # the model's own size is not known yet
    _check_sources(image, mask)
    _check_loras(loras)
    if not all(texts):
        say("The prompt is empty; the model draws whatever it likes.")


def _opened(
    decide: "Callable[[], ModelChoice]", parts: dict[str, str], features: Path | None, speed: dict[str, Any]
) -> "OpenedModel":
    with unneeded_left_out():
        from leanlens.pipeline import draw, metadata  # noqa: F401 - imported here, used by `_draw_all`
        from leanlens.pipeline.open import open_model
        from leanlens.pipeline.speed import Speed

    checked = Speed(**speed)
    choice = decide()
    return open_model(choice.model, parts=parts, options=choice.options, features=features, speed=checked)


def _share(opened: "OpenedModel", way: str | None, group: "Group | None") -> None:
    if group is not None and way is not None:
        from leanlens.pipeline.share import share_drawing

        share_drawing(opened.pipeline, way, group)


def _leave(group: "Group | None") -> None:
    if group is not None:
        from leanlens.dist import leave

        leave()


def _say_opened(
    model: str,
    opened: "OpenedModel",
    options: LoadOptions,
    request: "ImageRequest",
    seconds: float,
    say: Callable[[str], None],
) -> None:
    """Report what draws, where and with which settings, and warn of a size that the model was not trained for."""
    say(
        f"{model} on {opened.device.type} in {str(opened.dtype).removeprefix('torch.')}, "
        f"{request.width}x{request.height}, {request.num_inference_steps} steps, guidance {request.guidance_scale:g}"
        f"{options_sentence(options)}; opened in {seconds:.1f} s"
    )
    # The preset of a user's folder is a guess; the size that the folder states itself is always right for it.
    fits = request.width * request.height == int(opened.pipeline.vae.config.sample_size) ** 2
    if not fits and (advice := preset_for(model).advice_on(request.width, request.height)):
        say(f"warning: {advice}")


def _rewriter(
    model: str,
    reason: str,
    loras: list[dict[str, Any]],
    asked: "EndpointReasoner | None",
    fits: Callable[[str], bool] | None,
) -> "Callable[[ImageRequest], ImageRequest]":
    """What rewrites the prompt of a request: the language model that `--reason` names, or the model's own reasoner."""
    from leanlens.reason import reason_request, reasoner_of_model

    if asked is not None:
        asked.fits = fits
    reasoner = asked or reasoner_of_model(model, reason)
    triggers = triggers_of([one["path"] for one in loras])
    return lambda request: reason_request(reasoner, request, triggers)


def _window(opened: "OpenedModel", request: "ImageRequest") -> Callable[[str], bool] | None:
    """Whether a prompt is read to its end by the text encoder; None where the pipeline has no tokenizer."""
    from leanlens.pipeline.tokens import template_named

    tokenizer = opened.pipeline.tokenizer
    if tokenizer is None:
        return None
    template = template_named(opened.pipeline.config.get("text_template") or "harmony", request.template_date)
    return lambda text: len(tokenizer(template.render(text))["input_ids"]) <= request.max_sequence_length


def _draw_all(
    opened: "OpenedModel",
    requests: "list[ImageRequest]",
    paths: list[Path],
    rewrite: "Callable[[ImageRequest], ImageRequest]",
    tell: Callable[[Any], None],
    preview: Path | None,
    group: "Group | None",
    marking: bool,
    as_json: bool,
) -> None:
    """Draw each request and write its file; of a group of processes only the leading one writes."""
    from leanlens.pipeline.draw import draw_together
    from leanlens.pipeline.metadata import save_picture

    leads = group is None or group.leads
    shown = None if preview is None or not leads else _preview(opened, preview)
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


def _joined(share: str | None, options: LoadOptions, seeds: list[int]) -> "tuple[LoadOptions, Group | None, list[int]]":
    """Join the processes that a launcher started: the options and the leading process's seeds for all of them."""
    if share is None:
        return options, None, seeds
    from leanlens.dist import gathered, join
    from leanlens.pipeline.share import WAYS

    if share not in WAYS:
        raise ValueError(f"invalid --share {share!r}: expected one of {', '.join(WAYS)}")
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise ValueError(
            f"--share {share} needs several processes; start them with torchrun --nproc-per-node 2 -m leanlens generate"
        )
    group = join(options.device)
    options = replace(options, device=str(group.device))
    if share == "tensor":
        offload, quant = _undivided("--offload", options.offload), _undivided("--quant", options.quant)
        options = replace(options, offload=offload, quant=quant)
    return options, group, gathered(seeds)[0]


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
            message = re.sub(rf"^(invalid )?{field}\b", rf"\g<1>{option}", message)
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
