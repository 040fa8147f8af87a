"""Writes snapshots of the averaged weights, and rebuilds averages of other widths from them.

Files: `run/ema/step-00001000-0.05.safetensors`, one for each snapshot and tracked width, float32, with the number of
samples seen in its metadata as `images`.
"""

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from leanlens.files import whole_file
from leanlens.train.best_effort import best_effort
from leanlens.train.ema import Averages, mixture
from leanlens.train.parallel import whole_tensor


def write_snapshots(run: Path, step: int, samples: int, averages: Averages, leads: bool) -> None:
    """Store every tracked average; all processes take part, the leading one writes. A full disk is a warning."""
    for std, copy in averages.copies.items():
        whole = {name: whole_tensor(weight) for name, weight in copy.items()}
        path = run / "ema" / f"step-{step:08d}-{std:g}.safetensors"
        if leads:
            with best_effort(path), whole_file(path) as temporary:
                save_file(whole, temporary, metadata={"images": str(samples), "std": f"{std:g}", "step": str(step)})


def rebuilt(
    run: Path, std: float, averages: dict[str, dict[str, Tensor]], tracked: tuple[float, ...], images: int
) -> dict[str, Tensor]:
    """The average of a width that was not tracked, from every snapshot and the checkpoint's own averages."""
    stored = [((images, float(name)), copy) for name, copy in averages.items()]
    files = {}
    for path in sorted((run / "ema").glob("step-*.safetensors")):
        file = safe_open(path, "pt")
        profile = (int(file.metadata()["images"]), float(file.metadata()["std"]))
        if profile[0] < images:
            files[profile] = file
    if len(stored) + len(files) < 2:
        raise ValueError(
            f"std {std} was not tracked and there are no snapshots to rebuild it from; "
            f"this run has {', '.join(f'{one:g}' for one in tracked)}, and 0 for its last weights"
        )
    profiles = [profile for profile, _ in stored] + list(files)
    weights = mixture(profiles, (images, std))
    rebuilt = {}
    for name in stored[0][1]:
        values = [copy[name] for _, copy in stored] + [file.get_tensor(name) for file in files.values()]
        rebuilt[name] = sum(w * value.double() for w, value in zip(weights, values, strict=True)).float()
    return rebuilt
