"""What a command leaves open, decided by the planner for this machine, and said to the user."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanlens.plan.options import AUTO, LoadOptions

if TYPE_CHECKING:
    from leanlens.pipeline.auto import ModelChoice


def settle(model: str, options: LoadOptions, say: Callable[[str], None], **drawing: Any) -> "ModelChoice":
    """Decide what is open, and say what was planned.

    Args:
        model: a model as every command takes it, or "auto" (`pipeline.auto.choose_model`).
        say: takes a line for the user.
        drawing: size, steps, guidance, number of images and parts, as `choose_model` takes them.

    Raises:
        ValueError: an invalid option.
    """
    from leanlens.pipeline.auto import choose_model

    choice = choose_model(model, options, **drawing)
    plan = choice.plan
    if model == AUTO:
        if plan is None:
            say(
                "--model auto: nano, the small embedded one; no released model is here and fits (leanlens weights "
                "fetch turbo)"
            )
        else:
            say(f"--model auto: {choice.model}, by the planner ({plan.choice.loss})")
    if plan is None:
        return choice
    if not plan.fits:
        from leanlens.cli.plan_answer import gigabytes

        vram, ram = (gigabytes(max(peaks.values())) for peaks in (plan.choice.vram, plan.choice.ram))
        say(
            f"Planned: {choice.model} does not fit here at {', '.join(plan.choice.tight)}; it needs {vram} GB of the "
            f"device and {ram} GB of main memory. Trying; `leanlens plan` says more."
        )
    if plan.options.quant not in ("none", options.quant) or plan.options.tile_vae != bool(options.tile_vae):
        say(f"Planned: only with loss does it fit here: {plan.choice.loss}")
    return choice


def options_sentence(options: LoadOptions) -> str:
    """How a model is loaded, where that is not the plain way; with a comma in front."""
    parts = [f"weights in {options.quant}"] if options.quant not in (AUTO, "none") else []
    parts += [f"offload {options.offload}"] if options.offload not in (AUTO, "none") else []
    parts += [f"text encoder on {options.encoder_on}"] if options.encoder_on not in (AUTO, "device") else []
    parts += ["decoded in tiles"] if options.tile_vae else []
    return "".join(f", {part}" for part in parts)


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
