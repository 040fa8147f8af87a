"""Generates images in ComfyUI's own process with leanlens's Python API, which is imported on first use."""

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
from PIL import Image

from .watch import Watch


def require_leanlens() -> None:
    """Raise a RuntimeError that says what to install if leanlens is missing."""
    try:
        import leanlens.pipeline.draw  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            f"drawing in this process needs leanlens in ComfyUI's Python ({error}); install it there, or start "
            "`leanlens serve` and use the node that draws at a server"
        ) from error


def open_model(name: str, device: str, dtype: str, make_room: bool) -> Any:
    """Open a model by name; files under ComfyUI's `diffusion_models` may have the names that its loaders show.

    Raises:
        ValueError: an invalid name, device or dtype.
    """
    require_leanlens()
    from leanlens.pipeline.open import open_model as opened

    if make_room:
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
    path = folder_paths.get_full_path("diffusion_models", name) if name.endswith(".safetensors") else None
    where = str(comfy.model_management.get_torch_device()) if device == "as ComfyUI" else device
    return opened(path or name, where, None if dtype == "auto" else dtype)


def filled(opened: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request completed with the model's defaults, as in `leanlens generate`."""
    from leanlens.presets import preset_for

    preset = preset_for(opened.name)
    side = int(opened.pipeline.vae.config.sample_size)
    own = {
        "num_inference_steps": preset.num_inference_steps,
        "guidance_scale": preset.guidance_scale,
        "width": side,
        "height": side,
    }
    return own | fields


def draw(
    opened: Any,
    requests: list[dict[str, Any]],
    image: Image.Image | None = None,
    mask: Image.Image | None = None,
) -> tuple[list[Image.Image], list[dict[str, Any]]]:
    """Generate one image for each request, one by one.

    Raises:
        ValueError: an invalid request.
    """
    from leanlens.pipeline.draw import draw_together
    from leanlens.pipeline.request import ImageRequest

    watch, drawn = Watch(), []
    with ExitStack() as stack:
        sources: dict[str, str] = {}
        if image is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for name, picture in (("image", image), ("mask", mask)):
                if picture is not None:
                    picture.save(folder / f"{name}.png")
                    sources[name] = str(folder / f"{name}.png")
        for index, fields in enumerate(requests):
            request = ImageRequest.checked(**(fields | sources))
            preview = _Preview(opened, request, watch, index, len(requests))
            drawn += draw_together(opened, [request], preview)
    return [one.image for one in drawn], [one.record for one in drawn]


def rewritten(opened: Any, requests: list[dict[str, Any]], word: str) -> list[dict[str, Any]]:
    """The requests with rewritten prompts, as in `leanlens generate`; unchanged if `word` is "off"."""
    from leanlens.pipeline.request import ImageRequest
    from leanlens.reason import reason_request, reasoner_of_model

    reasoner = reasoner_of_model(opened.name, word)
    if reasoner is None:
        return requests
    triggers = _triggers([lora["path"] for lora in requests[0].get("loras", ())])
    return [reason_request(reasoner, ImageRequest.checked(**one), triggers).model_dump() for one in requests]


def reason(model: str, prompt: str, seed: int, size: tuple[int, int], fixed: str, loras: list[str]) -> tuple[str, str]:
    """The caption for a prompt and its record as JSON; the prompt and `null` if the model has no reasoner.

    Raises:
        ValueError: an invalid model, size or fact.
    """
    require_leanlens()
    from leanlens.cli.reason import facts_of, own_side, reasoner_here
    from leanlens.pipeline.request import ImageRequest
    from leanlens.reason import reason_request

    reasoner = reasoner_here(model)
    width, height = size
    if bool(width) != bool(height):
        raise ValueError(f"width {width} and height {height}: give both, or 0 for both to use the model's default")
    width, height = width or own_side(model), height or own_side(model)
    facts = facts_of([line for line in fixed.splitlines() if line.strip()], "fixed")
    request = ImageRequest.checked(
        prompt=prompt, seed=seed, width=width, height=height, num_inference_steps=1, guidance_scale=1.0
    )
    record = (answer := reason_request(reasoner, request, _triggers(loras), facts)).reasoner
    return answer.prompt, "null" if record is None else record.model_dump_json()


def _triggers(paths: list[str]) -> tuple[str, ...]:
    from leanlens.weights.triggers import trigger_phrases

    return tuple(phrase for path in paths for phrase in trigger_phrases(path))


def plan(model: str, width: int, height: int, steps: int | None, gpu: str | None) -> dict[str, Any]:
    """The output of `leanlens plan --json`, run as a command so that this process's memory does not count.

    Raises:
        ValueError: its error message.
    """
    require_leanlens()
    words = [sys.executable, "-m", "leanlens", "plan", "--json", "--model", model, "--size", f"{width}x{height}"]
    words += [] if steps is None else ["--steps", str(steps)]
    words += [] if gpu is None else ["--gpu", gpu]
    run = subprocess.run(words, capture_output=True, text=True, timeout=120)
    try:
        return json.loads(run.stdout)
    except ValueError:
        said = (run.stderr or run.stdout).strip().splitlines()
        raise ValueError(f"leanlens plan: {said[-1] if said else f'exit code {run.returncode}'}") from None


class _Preview:
    """A step callback: updates the progress bar and the preview, and raises on interruption."""

    def __init__(self, opened: Any, request: Any, watch: Watch, index: int, count: int):
        from leanlens.serve.preview import LatentColours

        if not hasattr(opened, "preview_colours"):
            opened.preview_colours = LatentColours.fit(opened.pipeline.vae)
        self.opened, self.watch, self.index, self.count = opened, watch, index, count
        self.steps = request.num_inference_steps
        side = int(2 ** (len(opened.pipeline.vae.config.block_out_channels) - 1))
        side *= opened.pipeline.vae.config.patch_size[0]
        self.grid = (request.height // side, request.width // side)
        self.before: Any = None
        watch.progress(index / count)

    def __call__(self, step: int, latents: Any) -> None:
        from leanlens.serve.preview import LatentPreview

        scheduler = self.opened.pipeline.scheduler
        walked = len(scheduler.timesteps)
        place = (scheduler.begin_index or 0) + step
        if self.before is not None:
            levels = (float(scheduler.sigmas[place - 1]), float(scheduler.sigmas[place]))
            colours = self.opened.preview_colours
            preview = LatentPreview(step, self.before, latents, levels, 0, self.grid, colours)
            self.watch.look(preview.to_image())
        self.before = latents
        self.watch.progress((self.index + step / walked) / self.count)
