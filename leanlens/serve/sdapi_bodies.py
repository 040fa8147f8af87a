"""Bodies of AUTOMATIC1111's txt2img and img2img: every field is used, rejected, or named in a comment.

Source: modules/api and modules/processing of AUTOMATIC1111's web UI 1.10.
"""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from leanlens.serve.errors import APIError
from leanlens.serve.reasoning import Fixed

_MOST_NAMED = 20  # unknown fields that one response names
# Our names of fields -> those of these clients.
NAMES = {
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale",
    "strength": "denoising_strength",
    "n": "batch_size x n_iter",
    "size": "width x height",
    "image": "init_images",
    "model": "sd_model_checkpoint",
}


class DrawingBody(BaseModel):
    """Fields of both txt2img and img2img. Any other field is echoed and named in a comment."""

    model_config = ConfigDict(extra="allow")

    prompt: str | None = ""
    negative_prompt: str | None = ""
    seed: int | None = None
    subseed_strength: float | None = None
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: int | None = None
    n_iter: int | None = None
    steps: int | None = None
    cfg_scale: float | None = Field(None, allow_inf_nan=False)
    width: int | None = None
    height: int | None = None
    styles: list[str] | None = None
    restore_faces: bool | None = None
    tiling: bool | None = None
    denoising_strength: float | None = Field(None, allow_inf_nan=False)
    override_settings: dict[str, Any] | None = None
    script_name: str | None = None
    alwayson_scripts: dict[str, Any] | None = None
    send_images: bool | None = True
    force_task_id: str | None = None
    reason: str | None = None
    fixed: Fixed | None = None


class TextBody(DrawingBody):
    """The body of `/sdapi/v1/txt2img`; the fields from `hr_scale` on count with `enable_hr`."""

    enable_hr: bool | None = None
    hr_scale: float | None = Field(None, allow_inf_nan=False)
    hr_upscaler: str | None = None
    hr_second_pass_steps: int | None = None
    hr_resize_x: int | None = None
    hr_resize_y: int | None = None
    hr_prompt: str | None = None
    hr_negative_prompt: str | None = None
    hr_checkpoint_name: str | None = None
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    firstphase_width: int | None = None
    firstphase_height: int | None = None


class PictureBody(DrawingBody):
    """The body of `/sdapi/v1/img2img`."""

    init_images: list[str] | None = None
    resize_mode: int | None = None
    mask: str | None = None
    mask_blur: float | None = Field(None, ge=0, le=256, allow_inf_nan=False)
    inpainting_mask_invert: int | bool | None = None
    inpaint_full_res: bool | None = None
    inpainting_fill: int | None = None
    include_init_images: bool | None = False


# Fields without a counterpart -> values that need no comment, as do None, empty texts and empty lists.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "restore_faces": (False,), "tiling": (False,), "styles": (), "subseed_strength": (0,), "eta": (0,),
    "s_churn": (0,), "s_tmax": (0, math.inf), "s_tmin": (0,), "s_noise": (1,), "s_min_uncond": (0,),
    "seed_resize_from_w": (-1, 0), "seed_resize_from_h": (-1, 0), "refiner_checkpoint": ("None",),
    "disable_extra_networks": (False,), "infotext": (), "image_cfg_scale": (), "initial_noise_multiplier": (1,),
    "clip_skip": (0, 1), "latent_mask": (), "mask_blur_x": (4,), "mask_blur_y": (4,), "distilled_cfg_scale": (3.5,),
    "hr_checkpoint_name": ("Use same checkpoint", "None"), "hr_cfg": (0,), "hr_distilled_cfg": (3.5,),
}  # fmt: skip
# Fields that affect no image, or only together with another field that has a comment.
_SILENT = {
    "subseed", "save_images", "do_not_save_samples", "do_not_save_grid", "override_settings_restore_afterwards",
    "refiner_switch_at", "script_args", "comments", "mask_round", "inpaint_full_res_padding",
    "hr_additional_modules",
}  # fmt: skip
_SAMPLERS = ("euler", "k_euler", "automatic", "use same sampler", "none", "")
_SCHEDULERS = ("automatic", "lens", "use same scheduler", "none", "")
# Settings of the web UI that one request can override.
DONE_SETTINGS = ("sd_model_checkpoint", "samples_format", "jpeg_quality", "reason")
_PLAIN_SETTINGS: dict[str, tuple[Any, ...]] = {
    "sd_vae": ("Automatic", "None", None, ""), "CLIP_stop_at_last_layers": (1,), "enable_pnginfo": (True,),
}  # fmt: skip


def comments_on(body: DrawingBody) -> list[str]:
    """Comments on fields and settings without effect."""
    given = body.model_dump(exclude_none=True)
    notes = [f"{name} is ignored: it is not supported"
             for name, plain in _PLAIN.items() if _asks(given.get(name), plain)]  # fmt: skip
    for field, known in (("sampler_name", _SAMPLERS), ("sampler_index", _SAMPLERS), ("scheduler", _SCHEDULERS),
                         ("hr_sampler_name", _SAMPLERS), ("hr_scheduler", _SCHEDULERS)):  # fmt: skip
        value = given.get(field, "")
        if value.lower() not in known:
            notes.append(f"{field}: {'scheduler' if 'scheduler' in field else 'sampler'} {value[:40]} is ignored: "
                         "Lens is drawn with Euler at its own noise levels")  # fmt: skip
    for name, value in (body.override_settings or {}).items():
        if name not in DONE_SETTINGS and not any(value == plain for plain in _PLAIN_SETTINGS.get(name, ())):
            notes.append(f"override_settings {name[:60]} is ignored: it is not supported")
    unknown = [name for name, value in (body.model_extra or {}).items()
               if name not in _PLAIN and name not in _SILENT and _asks(value, ())]  # fmt: skip
    notes += [f"{name[:60]} is unknown and is ignored" for name in unknown[:_MOST_NAMED]]
    if len(unknown) > _MOST_NAMED:
        notes.append(f"{len(unknown) - _MOST_NAMED} more fields are unknown and are ignored")
    return notes


def _asks(value: Any, plain: tuple[Any, ...]) -> bool:
    return value is not None and value not in ("", [], {}) and not any(value == one for one in plain)


def in_whole_tokens(width: int, height: int, most: int, names: str = "width x height") -> tuple[int, int, list[str]]:
    """The nearest size in multiples of 16, within `most` pixels if the given size is, and a comment.

    Raises:
        APIError: a side below 1.
    """
    for side in (width, height):
        if side < 1:
            raise APIError("invalid", f"invalid {names} {width}x{height}: expected at least 16 pixels a side", names)
    sides = [max(16, (side + 8) // 16 * 16) for side in (width, height)]
    if sides[0] * sides[1] > most >= width * height:
        sides = [max(16, side // 16 * 16) for side in (width, height)]
    if sides == [width, height]:
        return width, height, []
    return (
        sides[0],
        sides[1],
        [f"{names} {width}x{height} is drawn as {sides[0]}x{sides[1]}: Lens draws multiples of 16"],
    )
