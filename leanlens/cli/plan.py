"""`leanlens plan`: what fits a machine, how long an image or a training run takes, and the command to run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from leanlens.cli.options import IMAGE, MODEL, AsJson, Cfg, Steps, option
from leanlens.cli.size import width_and_height
from leanlens.plan.options import AUTO, ENCODERS, OFFLOADS, QUANTS, LoadOptions

MACHINE, PINS, TRAINING = "Machine", "Settings to fix", "Training runs"


def plan(
    what: Annotated[str, typer.Argument(help="image, train or finetune; the last two need a recipe.")] = "image",
    recipe: Annotated[
        Path | None, typer.Argument(help="With train and finetune: a TOML recipe, or the name of one.")
    ] = None,
    size: Annotated[
        str | None, option(IMAGE, "Size in pixels. Default: the model's own.", metavar="WxH")
    ] = None,
    steps: Steps = None,
    cfg: Cfg = None,
    batch: Annotated[int, option(IMAGE, "Number of images of one prompt, drawn one after the other.")] = 1,
    model: Annotated[
        str, option(MODEL, "Model: nano, turbo, rl, base, or a folder here. Nothing is downloaded.", "-m", "--model")
    ] = "turbo",
    gpu: Annotated[
        str | None, option(MACHINE, "GPU, laptop or chip by name, such as 'RTX 3060 12GB'. Default: this machine.")
    ] = None,
    vram: Annotated[
        float | None, option(MACHINE, "Memory of the GPU, instead of its name or beside it.", metavar="GB")
    ] = None,
    ram: Annotated[float | None, option(MACHINE, "Main memory.", metavar="GB")] = None,
    device: Annotated[str, option(PINS, "Fix the device: cuda, mps or cpu.")] = "auto",
    dtype: Annotated[str, option(PINS, "Fix the precision: bfloat16, float16 or float32.")] = "auto",
    quant: Annotated[str, option(PINS, f"Fix the quantisation: {', '.join(QUANTS)}.")] = "auto",
    offload: Annotated[str, option(PINS, f"Fix what is offloaded: {', '.join(OFFLOADS)}.")] = "auto",
    encoder_on: Annotated[str, option(PINS, f"Fix where the text encoder runs: {', '.join(ENCODERS)}.")] = "auto",
    count: Annotated[int, option(TRAINING, "Number of devices.")] = 1,
    price_per_hour: Annotated[float | None, option(TRAINING, "Price of one device for an hour.")] = None,
    changes: Annotated[
        list[str] | None, option(TRAINING, "Change one key of the recipe. Repeatable.", "--set", metavar="A.B=C")
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Predict what fits a machine, what it needs, how long it takes, and the command to run.

    Without --gpu and --vram it plans for this machine. Seconds are predicted, not measured; docs/plan.md says how.
    """
    if what not in ("image", "train", "finetune"):
        raise ValueError(f"invalid plan {what!r}: expected image, train or finetune")
    from leanlens.cli.plan_answer import image_answer
    from leanlens.cli.plan_text import plan_lines
    from leanlens.cli.plan_training import plan_run
    from leanlens.pipeline.auto import find_machine, plan_image

    machine = find_machine(gpu, vram, ram)
    if what == "image":
        if recipe is not None:
            raise ValueError(f"recipe {recipe} is for train and finetune; an image is planned without one")
        if device not in (AUTO, "cuda", "mps", "cpu"):
            raise ValueError(f"invalid device {device!r}: expected one of {AUTO}, cuda, mps, cpu")
        width, height = width_and_height(size)
        options = LoadOptions(quant, offload, encoder_on, device=device, dtype=dtype)
        planned = plan_image(
            model, width=width, height=height, num_inference_steps=steps, guidance_scale=cfg, num_images=batch,
            options=options, machine=machine,
        )  # fmt: skip
        answer = image_answer(planned)
    else:
        answer = plan_run(what, recipe, changes or [], machine.device, count, price_per_hour)
    print(json.dumps(answer, indent=2) if as_json else "\n".join(plan_lines(answer)))
