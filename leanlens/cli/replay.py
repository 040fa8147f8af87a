"""Implements `leanlens replay`, which draws an image again from the settings that it carries, and compares."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leanlens.cli.imports import unneeded_left_out

if TYPE_CHECKING:
    from leanlens.pipeline.draw import DrawnPicture
    from leanlens.pipeline.opened_model import OpenedModel
    from leanlens.pipeline.request import ImageRequest


def replay(
    picture: Annotated[Path, typer.Argument(help="Image that leanlens saved.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write. Default: beside the image.")
    ] = None,
    model: Annotated[str | None, typer.Option("-m", "--model", help="Path of the same model, if it has moved.")] = None,
    device: Annotated[str | None, typer.Option(help="Device to use instead of the recorded one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Precision to use instead of the recorded one.")] = None,
    image: Annotated[Path | None, typer.Option(help="Image that the drawing started from.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Mask of the drawing.")] = None,
    lora: Annotated[list[str] | None, typer.Option(help="LoRA file, in the recorded order; may be repeated.")] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust/--no-trust", help="Open the local files that the image names. Only for your own images."),
    ] = False,
) -> None:
    """Draw an image again from its settings, and compare.

    Exit code 0 if it is identical, 1 if it differs. On the same machine and versions it is identical.
    """
    from leanlens.pipeline.metadata import read_record, save_picture
    from leanlens.pipeline.request import ImageRequest

    if not picture.is_file():
        raise ValueError(f"picture {picture} does not exist; give a file that leanlens saved")
    record = read_record(picture)
    _require_form(picture, record)
    target = _target(picture, output)
    if lora and len(lora) != len(record["request"]["loras"]):
        raise ValueError(f"--lora names {len(lora)} files; {picture} was drawn with {len(record['request']['loras'])}")
    _ask_to_open(picture, _files_named(record, model, image, mask, lora), trust)
    request = ImageRequest.checked(**_with_files(record["request"], image, mask, lora))

    opened = _open_recorded(picture, record, model, device, dtype)
    drawn = _draw(opened, request, record)
    if drawn.record["inputs"] != record["inputs"]:
        raise ValueError(f"a picture or LoRA file that {picture} was drawn from has changed since")
    for name in ("marking", "safety"):  # these fields of the file stay as they were
        drawn.record.pop(name)
        drawn.record.update({name: record[name]} if name in record else {})
    save_picture(drawn.image, target, drawn.record)
    if not _compare(picture, target, record["run"], drawn.record["run"]):
        raise typer.Exit(1)


def _target(picture: Path, output: Path | None) -> Path:
    """The file to write: `output`, or one beside the picture in the picture's own format."""
    from PIL import Image

    from leanlens.pipeline.metadata import FORMATS, picture_format

    with Image.open(picture) as given:
        held = given.format
    suffix = picture.suffix  # unless the name does not match the format
    if FORMATS.get(suffix.lower()) != held:
        suffix = next(name for name, format in FORMATS.items() if format == held)
    target = output or picture.with_name(f"{picture.stem}-replay{suffix}")
    picture_format(target)
    return target


def _open_recorded(
    picture: Path, record: dict[str, Any], model: str | None, device: str | None, dtype: str | None
) -> "OpenedModel":
    """Open the model that drew the picture; raises a ValueError if its weights are others."""
    with unneeded_left_out():
        from leanlens.pipeline import draw  # noqa: F401 - imported here, used by `_draw`
        from leanlens.pipeline.open import open_model
        from leanlens.pipeline.speed import Speed
        from leanlens.plan.options import LoadOptions

    run, recorded = record["run"], record["model"]
    parts = recorded.get("parts") if model is None else None
    opened = open_model(
        model or recorded["name"], device or run["device"], dtype or run["dtype"], parts, run["compiled"],
        LoadOptions.of_record(run), speed=Speed.of_record(run),
    )  # fmt: skip
    if opened.fingerprint != recorded["fingerprint"]:
        raise ValueError(
            f"{opened.name} is another model than the one that drew {picture} "
            f"(fingerprint {opened.fingerprint[:12]}, recorded {recorded['fingerprint'][:12]}); "
            "give the same one with --model"
        )
    return opened


def _draw(opened: "OpenedModel", request: "ImageRequest", record: dict[str, Any]) -> "DrawnPicture":
    """Draw with the recorded numbers of threads, since sums are taken in another order with other numbers."""
    import torch

    from leanlens.pipeline.draw import draw
    from leanlens.threads import check_threads

    run = record["run"]
    plan = run.get("step_threads") or ()
    if opened.device.type == "cpu" and "threads" in run:
        check_threads(run["threads"], plan)
        torch.set_num_threads(run["threads"])
    return draw(opened, request, thread_plan=plan, stop_after=record.get("stopped_after"))


def _compare(picture: Path, target: Path, recorded: dict[str, Any], run: dict[str, Any]) -> bool:
    """Print whether two images are identical, and if they differ, how far and which conditions changed."""
    import numpy as np
    from PIL import Image

    with Image.open(picture) as before, Image.open(target) as after:
        difference = np.abs(np.asarray(before, dtype=int) - np.asarray(after, dtype=int))
    if not difference.any():
        print(f"{target}  identical")
        return True
    changed = {name: (recorded.get(name), value) for name, value in run.items() if recorded.get(name) != value}
    print(f"{target}  differs by up to {difference.max()} of 255 levels in {(difference > 0).mean():.1%} of values")
    for name, (old, new) in changed.items():
        print(f"  {name} was {old}, is {new}", file=sys.stderr)
    return False


def _require_form(picture: Path, record: dict[str, Any]) -> None:
    """Check that the settings have the form that leanlens writes, since anyone may have written the file.

    Raises:
        ValueError: they do not; the message names the first wrong field.
    """
    from pydantic import BaseModel, ValidationError

    from leanlens.pipeline.speed import Speed
    from leanlens.plan.options import LoadOptions

    class Lora(BaseModel):
        path: str

    class Request(BaseModel):
        loras: list[Lora]
        image: str | None = None
        mask: str | None = None

    class Model(BaseModel):
        name: str
        fingerprint: str
        parts: dict[str, str] | None = None

    class Run(BaseModel):
        device: str
        dtype: str
        compiled: bool
        threads: int = 1
        step_threads: list[tuple[int, int]] = []

    class Form(BaseModel):
        request: Request
        model: Model
        run: Run
        inputs: dict[str, Any]
        stopped_after: int | None = None
        marking: str | None = None
        safety: dict[str, Any] | None = None

    damaged = f"the leanlens settings in {picture} are not of a form this version knows"
    try:
        Form.model_validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{damaged}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    try:
        LoadOptions.of_record(record["run"]), Speed.of_record(record["run"])
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{damaged}: run") from None


def _files_named(record: dict[str, Any], model: str | None, image: Any, mask: Any, lora: Any) -> dict[str, str]:
    """Files that only the settings name, and that would be opened: option -> name."""
    from leanlens.hub import is_here

    request, recorded, named = record["request"], record["model"], {}
    if model is None:
        name = str(recorded["name"])
        if not is_here(name):
            if not Path(name).expanduser().exists():  # an image never causes a download
                raise ValueError(f"the model {name[:120]!r} of the picture is not here; give it with --model")
            named["--model"] = name
        named |= {f"its {part}": str(path) for part, path in (recorded.get("parts") or {}).items()}
    for option, given in (("image", image), ("mask", mask)):
        if given is None and request.get(option):
            named[f"--{option}"] = str(request[option])
    if not lora:
        named |= {f"--lora {number}": str(one["path"]) for number, one in enumerate(request["loras"], 1)}
    if "hub" in str(record["run"].get("attention")):
        raise ValueError(f"attention {record['run']['attention'][:60]!r} of the picture is code to be downloaded")
    return named


def _ask_to_open(picture: Path, named: dict[str, str], trust: bool) -> None:
    """Ask before opening files that only the image names, since it may come from a stranger."""
    if trust or not named:
        return
    listed = "; ".join(f"{what}: {name[:120]!r}" for what, name in named.items())
    if sys.stdin.isatty() and sys.stderr.isatty():
        if typer.confirm(f"{picture} names files on this machine: {listed}. Open them?", err=True):
            return
        raise typer.Exit(2)
    raise ValueError(
        f"{picture} names files on this machine ({listed}); add --trust if the picture is your own, "
        "or name them with --model, --image, --mask and --lora"
    )


def _with_files(
    request: dict[str, Any], image: Path | None, mask: Path | None, lora: list[str] | None
) -> dict[str, Any]:
    """A recorded request with the files that the user named."""
    found = dict(request)
    found |= {name: str(path) for name, path in (("image", image), ("mask", mask)) if path is not None}
    if lora:
        found["loras"] = [{**one, "path": path} for one, path in zip(request["loras"], lora, strict=True)]
    return found
