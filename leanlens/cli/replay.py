"""`leanlens replay`: a picture that leanlens saved, drawn again from the settings it carries."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from leanlens.cli.imports import unneeded_left_out


def replay(
    picture: Annotated[Path, typer.Argument(help="Image that leanlens saved.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write. Default: beside the image.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="Where the same model is, if it has moved.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device to use instead of the recorded one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Precision to use instead of the recorded one.")] = None,
) -> None:
    """Draw an image again from its settings, and compare.

    Exit code 0 if it is identical, 1 if it differs. On the same machine and versions it is identical.
    """
    import numpy as np
    import torch
    from PIL import Image

    from leanlens.pipeline.metadata import FORMATS, picture_format, read_record, save_picture
    from leanlens.pipeline.request import ImageRequest

    if not picture.is_file():
        raise ValueError(f"picture {picture} does not exist; give a file that leanlens saved")
    record = read_record(picture)
    with Image.open(picture) as given:
        held = given.format
    suffix = picture.suffix  # unless the file is named as what it is not
    if FORMATS.get(suffix.lower()) != held:
        suffix = next(name for name, format in FORMATS.items() if format == held)
    target = output or picture.with_name(f"{picture.stem}-replay{suffix}")
    picture_format(target)
    request = ImageRequest.checked(**record["request"])

    with unneeded_left_out():
        from leanlens.pipeline.draw import draw
        from leanlens.pipeline.ladder import Holding
        from leanlens.pipeline.placement import open_model
        from leanlens.pipeline.speed import Speed
    from leanlens.threads import check_threads

    run, recorded = record["run"], record["model"]
    parts = recorded["parts"] if model is None else None
    opened = open_model(
        model or recorded["name"], device or run["device"], dtype or run["dtype"], parts, run["compiled"],
        Holding.of_record(run), speed=Speed.of_record(run),
    )  # fmt: skip
    if opened.fingerprint != recorded["fingerprint"]:
        raise ValueError(
            f"{opened.name} is another model than the one that drew {picture} "
            f"(fingerprint {opened.fingerprint[:12]}, recorded {recorded['fingerprint'][:12]}); "
            "give the same one with --model"
        )
    plan = run.get("step_threads", ())
    if opened.device.type == "cpu" and "threads" in run:  # sums are taken in another order with another number
        check_threads(run["threads"], plan)
        torch.set_num_threads(run["threads"])
    drawn = draw(opened, request, thread_plan=plan, stop_after=record.get("stopped_after"))
    if drawn.record["inputs"] != record["inputs"]:
        raise ValueError(f"a picture or LoRA file that {picture} was drawn from has changed since")
    for name in ("marking", "safety"):  # what the file says about the picture, as it did before
        drawn.record.pop(name)
        drawn.record.update({name: record[name]} if name in record else {})
    save_picture(drawn.image, target, drawn.record)

    with Image.open(picture) as before, Image.open(target) as after:
        difference = np.abs(np.asarray(before, dtype=int) - np.asarray(after, dtype=int))
    if not difference.any():
        print(f"{target}  identical")
        return
    changed = {name: (run.get(name), value) for name, value in drawn.record["run"].items() if run.get(name) != value}
    print(f"{target}  differs by up to {difference.max()} of 255 levels in {(difference > 0).mean():.1%} of values")
    for name, (old, new) in changed.items():
        print(f"  {name} was {old}, is {new}", file=sys.stderr)
    raise typer.Exit(1)
