"""Measures the speed of the embedded model for `leanlens doctor --share`, as one line to paste into a report.

The line has the machine, nano's seconds alone and next to a busy loop, and the planner's prediction. It does not
contain the user, paths or the host name.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from leanlens.cli.size import width_and_height

PROMPT = "a snowman, flat style, navy blue background"


def measure(model: str = "nano", size: str = "256x256", steps: int | None = None) -> dict[str, Any]:
    """Generate on the CPU, alone and next to a busy loop, and on the GPU if torch finds one.

    Returns:
        JSON values: `alone_s` and `busy_s`, the better of two runs with an opened model; `planned_s`, the planner's
        prediction on the CPU, None if unknown; `others`, the average number of cores that other programs kept busy
        during the run alone; `gpu` and `gpu_s`, None without a GPU.
    """
    import torch

    import leanlens
    from leanlens.machine import processor_name
    from leanlens.threads import Load

    load = Load()
    alone, others, busy = _seconds(model, size, steps, "cpu", load)
    has_gpu = torch.cuda.is_available()
    return {
        "leanlens": leanlens.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "model": model,
        "size": size,
        "alone_s": alone,
        "others": others,
        "busy_s": busy,
        "planned_s": _planned(model, size, steps),
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
        "gpu_s": _seconds(model, size, steps, "cuda", None)[0] if has_gpu else None,
    }


def as_line(found: dict[str, Any]) -> str:
    """The result of `measure` as one line."""
    planned = "not planned" if found["planned_s"] is None else f"planned {found['planned_s']:.2g} s"
    gpu = "no GPU" if found["gpu"] is None else f"{found['gpu']} {found['gpu_s']:.2f} s"
    return (
        f"leanlens {found['leanlens']} on {found['system']}, Python {found['python']}, torch {found['torch']}; "
        f"{found['processor']}, {found['cores']} cores; {found['model']} {found['size']}: "
        f"{found['alone_s']:.2f} s alone ({found['others']:.1f} cores busy with others), "
        f"{found['busy_s']:.2f} s beside a busy loop, {planned}; {gpu}"
    )


def _seconds(
    model: str, size: str, steps: int | None, device: str, load: Any
) -> tuple[float, float | None, float | None]:
    """Seconds of one image; with `load`, also the load meanwhile, and the seconds next to a busy loop."""
    from leanlens.pipeline.draw import draw
    from leanlens.pipeline.open import open_model
    from leanlens.pipeline.request import ImageRequest
    from leanlens.presets import preset_for

    preset, (width, height) = preset_for(model), map(int, size.split("x"))
    opened = open_model(model, device)

    def best_of_two() -> float:
        times = []
        for seed in (1, 2):
            request = ImageRequest.checked(
                prompt=PROMPT,
                width=width,
                height=height,
                num_inference_steps=steps or preset.num_inference_steps,
                guidance_scale=preset.guidance_scale,
                seed=seed,
            )
            began = time.perf_counter()
            draw(opened, request)
            times.append(time.perf_counter() - began)
        return round(min(times), 3)

    if load is None:
        return best_of_two(), None, None
    load.measure()
    alone, others = best_of_two(), round(load.measure(), 2)
    with busy_loop():
        return alone, others, best_of_two()


@contextmanager
def busy_loop() -> Iterator[None]:
    """Run another process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # from here on it loops
        yield
    finally:
        process.kill()
        process.communicate()


def _planned(model: str, size: str, steps: int | None) -> float | None:
    from leanlens.pipeline.auto import plan_image
    from leanlens.plan.options import LoadOptions

    options = LoadOptions(device="cpu", compile=False)
    try:
        width, height = width_and_height(size)
        seconds = plan_image(
            model, width=width, height=height, num_inference_steps=steps, options=options
        ).seconds_per_image
    except ValueError:
        return None
    return None if seconds is None else float(f"{seconds:.3g}")
