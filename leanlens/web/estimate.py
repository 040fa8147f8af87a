"""The page's lines on what an image costs, and on larger models that this machine could run."""

from collections.abc import Mapping

from leanlens.pipeline.auto import ImagePlan


def estimate_line(plan: ImagePlan) -> str:
    """Seconds and gigabytes of an image, or that it does not fit."""
    on_cpu = plan.options.device == "cpu"
    place = "memory" if on_cpu else "GPU memory"
    peak = max((plan.choice.ram if on_cpu else plan.choice.vram).values())
    size = -(-peak // 1e7) / 100  # rounded up, as `leanlens plan` prints it
    if not plan.fits:
        return f"This does not fit here: it needs about {size:g} GB of {place}."
    each = plan.seconds_per_image
    pace = "" if each is None else f"{each:.2g} s per image, "
    return f"Estimate: {pace}{size:g} GB of {place}."


def larger_models_line(models: Mapping[str, float]) -> str:
    """Models that this machine can also run, with their seconds per image; blank without any."""
    if not models:
        return ""
    names = " and ".join(f"{name} (about {_spoken(seconds)} per image)" for name, seconds in models.items())
    return f"This machine can also run {names}: leanlens serve --model {next(iter(models))}"


def _spoken(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 90 else f"{seconds / 60:.0f} min"
