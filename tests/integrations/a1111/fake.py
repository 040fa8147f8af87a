"""As much of AUTOMATIC1111 as its script interface promises: enough to load a script and press Generate.

It provides the modules `gradio` and `modules.*`, written from the interface's names and signatures.
"""

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from PIL import Image

EXTENSION = Path(__file__).parents[3] / "integrations" / "a1111"


class Component:
    """A gradio component keeps what it is given."""

    def __init__(self, **given: Any):
        self.given = given


class State:
    """`shared.state`, as far as a script uses it."""

    def __init__(self) -> None:
        self.skipped = self.interrupted = self.stopping_generation = False
        self.job, self.job_no, self.job_count = "", 0, -1
        self.sampling_step = self.sampling_steps = 0
        self.textinfo = self.current_image = None
        self.previews: list[Image.Image] = []
        self.steps_seen: list[int] = []

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "sampling_step" and hasattr(self, "steps_seen"):
            self.steps_seen.append(value)

    def nextjob(self) -> None:
        self.job_no += 1

    def assign_current_image(self, image: Image.Image) -> None:
        image.load()
        self.previews.append(image)


class Processed:
    """Keeps what it is given, and reads from `p` what the original reads."""

    def __init__(self, p, images_list, seed=-1, info="", subseed=None, all_prompts=None, all_negative_prompts=None,
                 all_seeds=None, all_subseeds=None, index_of_first_image=0, infotexts=None, comments=""):  # fmt: skip
        self.images, self.seed, self.info, self.infotexts = images_list, seed, info, infotexts
        self.all_prompts, self.all_negative_prompts, self.all_seeds = all_prompts, all_negative_prompts, all_seeds
        self.width, self.height, self.steps, self.cfg_scale = p.width, p.height, p.steps, p.cfg_scale
        self.sampler_name, self.sd_model_name, self.sd_model_hash = p.sampler_name, p.sd_model_name, p.sd_model_hash
        self.comments = "".join(f"{comment}\n" for comment in p.comments)


def processing(**fields: Any) -> SimpleNamespace:
    """A tab's request with the tab's own defaults; `sd_model` loads a checkpoint, so reading it is an error."""
    given = {
        "prompt": "a fox", "negative_prompt": "", "styles": [], "seed": -1, "steps": 20, "cfg_scale": 7.0,
        "width": 512, "height": 512, "batch_size": 1, "n_iter": 1, "sampler_name": "DPM++ 2M", "restore_faces": False,
        "tiling": False, "subseed_strength": 0, "sd_model_name": None, "sd_model_hash": None, "comments": {},
        "outpath_samples": "out", "do_not_save_samples": False,
    }  # fmt: skip
    return SimpleNamespace(**(given | fields))


def picture_processing(image: Image.Image, mask: Image.Image | None = None, **fields: Any) -> SimpleNamespace:
    """The same of the img2img tab."""
    given = {
        "init_images": [image], "image_mask": mask, "mask_blur": 0, "inpainting_mask_invert": 0, "resize_mode": 0,
        "denoising_strength": 0.75, "inpaint_full_res": 0,
    }  # fmt: skip
    return processing(**(given | fields))


def modules(saved: list) -> dict[str, ModuleType]:
    """Name -> module; `saved` collects what is handed to `images.save_image`."""

    def save_image(image, path, basename, seed=None, prompt=None, extension="png", info=None, p=None):
        saved.append({"image": image, "path": path, "seed": seed, "prompt": prompt, "info": info})

    options = SimpleNamespace(data={}, templates={}, samples_save=True, samples_format="png")
    options.add_option = lambda key, info: options.templates.__setitem__(key, info)
    styles = SimpleNamespace(
        apply_styles_to_prompt=lambda prompt, names: ", ".join([prompt, *names]),
        apply_negative_styles_to_prompt=lambda prompt, names: prompt,
    )
    info = lambda default, label, component, arguments, section: SimpleNamespace(default=default, section=section)  # noqa: E731
    shared = module("modules.shared", state=State(), opts=options, prompt_styles=styles, OptionInfo=info)
    callbacks: list = []
    images = module(
        "modules.images",
        save_image=save_image,
        resize_image=lambda mode, picture, width, height: picture.resize((width, height)),
    )
    script = type("Script", (), {"elem_id": lambda self, name: f"script_{name}"})
    return {
        "gradio": module("gradio", Textbox=Component, Radio=Component, Dropdown=Component, Slider=Component,
                         Checkbox=Component),
        "modules": module("modules"),
        "modules.shared": shared,
        "modules.images": images,
        "modules.scripts": module("modules.scripts", Script=script),
        "modules.script_callbacks": module("modules.script_callbacks", on_ui_settings=callbacks.append, all=callbacks),
        "modules.processing": module("modules.processing", Processed=Processed),
        "modules.sd_models": module("modules.sd_models", unload_model_weights=lambda: saved.append("unloaded")),
    }  # fmt: skip


def module(name: str, **content: Any) -> ModuleType:
    """A module of that name."""
    made = ModuleType(name)
    made.__dict__.update(content)
    return made
