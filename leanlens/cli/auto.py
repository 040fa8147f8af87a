"""What a command leaves open, decided by the planner for this machine.

Comes in: a model and settings in words, "auto" where the planner is to choose. Goes out: `Settled`, in which every
choice is made. The toy, the embedded model and settings that leave nothing open are not planned.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanlens.plan.options import ENCODERS, OFFLOADS, QUANTS

AUTO = "auto"
_SMALL = ("toy", "nano")  # fit wherever Python does
_BEST_FIRST = ("rl", "turbo", "base")


@dataclass(frozen=True)
class Settled:
    """A model and how it is opened; `dtype` and `device` may still be auto, for `open_model` to resolve."""

    model: str
    device: str
    dtype: str
    compile: bool
    options: Any

    def sentence(self) -> str:
        """How the model is held, where that is not the plain way; with a comma in front."""
        held, parts = self.options, []
        parts += [f"weights in {held.quant}"] if held.quant not in (AUTO, "none") else []
        parts += [f"offload {held.offload}"] if held.offload != "none" else []
        parts += [f"text encoder on {held.encoder_on}"] if held.encoder_on != "device" else []
        parts += ["decoded in tiles"] if held.tile_vae else []
        return "".join(f", {part}" for part in parts)


@dataclass(frozen=True)
class Wishes:
    """What was asked for: words of the command line, and what is to be drawn.

    Attributes:
        size: WxH, or None for the model's own.
        parts: paths of single components.
    """

    device: str = AUTO
    dtype: str = AUTO
    quant: str = AUTO
    offload: str = AUTO
    encoder_on: str = AUTO
    tile_vae: bool = False
    compile: bool = False
    size: str | None = None
    steps: int | None = None
    cfg: float | None = None
    number: int = 1
    parts: dict[str, str] | None = None

    def __post_init__(self) -> None:
        for name, accepted in (("quant", QUANTS), ("offload", OFFLOADS), ("encoder_on", ENCODERS)):
            if (word := getattr(self, name)) not in (AUTO, *accepted):
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} {word!r} is not accepted; use one of {AUTO}, {', '.join(accepted)}")


def settle(model: str, wishes: Wishes, say: Callable[[str], None]) -> Settled:
    """Decide what is open.

    Args:
        model: a model as every command takes it, or "auto": the best released one that is on this machine and fits
            it, else the embedded one; then also compiling is the planner's choice.
        say: takes a line for the user.

    Raises:
        ValueError: a word that is not accepted.
    """
    from leanlens.plan.options import LoadOptions

    if model == AUTO:
        return _best(wishes, say)
    if model in _SMALL or AUTO not in (wishes.offload, wishes.encoder_on):
        return Settled(model, wishes.device, wishes.dtype, wishes.compile, _plain(wishes))
    plan = _planned(model, wishes, wishes.compile)
    if not plan["fits"]:
        say(
            f"Planned: {model} does not fit here at {', '.join(plan['too_large'])}; it needs {plan['peak_vram_gb']} GB "
            f"of the device and {plan['peak_ram_gb']} GB of main memory. Trying; `leanlens plan` says more."
        )
    settings = plan["settings"]
    options = LoadOptions(
        wishes.quant if settings["quant"] == "none" else settings["quant"],
        settings["offload"],
        settings["encoder_on"],
        settings["tile_vae"],
    )
    if settings["quant"] not in ("none", wishes.quant) or settings["tile_vae"] != wishes.tile_vae:
        say(f"Planned: only with loss does it fit here: {plan['lost']}")
    return Settled(model, wishes.device, wishes.dtype, wishes.compile, options)


def _plain(wishes: Wishes) -> Any:
    """The words as they are; what is left open stays on the device, as the files have it."""
    from leanlens.plan.options import LoadOptions

    offload = "none" if wishes.offload == AUTO else wishes.offload
    encoder_on = "device" if wishes.encoder_on == AUTO else wishes.encoder_on
    return LoadOptions(wishes.quant, offload, encoder_on, wishes.tile_vae)


def _best(wishes: Wishes, say: Callable[[str], None]) -> Settled:
    from dataclasses import replace

    for name in filter(_is_here, _BEST_FIRST):
        plan = _planned(name, wishes, None)
        if plan["fits"]:
            settings = plan["settings"]
            say(f"--model auto: {name}, by the planner ({plan['lost']})")
            settled = settle(name, replace(wishes, compile=settings["compile"]), say)
            return replace(settled, dtype=settings["dtype"], device=wishes.device)
    say("--model auto: nano, the small embedded one; no released model is here and fits (leanlens weights fetch turbo)")
    return settle("nano", wishes, say)


def _is_here(name: str) -> bool:
    from leanlens.hub import models_folder

    return (models_folder() / name / "model_index.json").is_file()


def _planned(model: str, wishes: Wishes, compiled: bool | None) -> dict[str, Any]:
    """The planner's answer for this machine, with every wish pinned."""
    from leanlens.cli.plan import find_machine, plan_image
    from leanlens.hub import locate
    from leanlens.pipeline.device import resolve_device, resolve_dtype
    from leanlens.presets import PRESETS

    if model not in PRESETS:  # the sizes of those are known before they are fetched
        model = str(locate(model))
    device = resolve_device(wishes.device)
    dtype = str(resolve_dtype(wishes.dtype, device)).removeprefix("torch.")
    words = [None if word == AUTO else word for word in (wishes.quant, wishes.offload, wishes.encoder_on)]
    pins = [dtype, words[0], words[1], device.type, words[2], wishes.tile_vae or None, compiled]
    machine, parts = find_machine(None, None, None), wishes.parts
    return plan_image(machine, model, wishes.size, wishes.steps, wishes.cfg, wishes.number, pins, parts)


def features_folder(path: Path | None) -> Path | None:
    """The folder of text features, checked before anything is opened.

    Raises:
        ValueError: it is a file, or cannot be written to.
    """
    from leanlens.files import require_writable

    if path is not None:
        if path.is_file():
            raise ValueError(f"--features {path} is a file; give a folder")
        require_writable(path / "x")
    return path
