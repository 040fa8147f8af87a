"""A script for AUTOMATIC1111 and Forge that generates images of both tabs on a leanlens server.

Neither leanlens nor any model runs in this process.
"""

import base64
import io
import random

import gradio as gr
from modules import images, script_callbacks, scripts, shared
from modules.processing import Processed
from PIL import Image, ImageFilter, ImageOps

from leanlens_client import Server, ServerError
from leanlens_sizes import CHOICES, NEAREST_1024, size_for

ADDRESS = "http://127.0.0.1:8000"
SECTION = ("leanlens", "leanlens")
MODEL_OWN = "The model's own"
FROM_TAB = "As in the tab"
MAX_SEED = 2**32 - 1
WAITS = {"minimum": 10, "maximum": 7200, "step": 10}


class Script(scripts.Script):
    """The entry in the web UI's Script list."""

    def title(self):
        """The name in the list, and for `script_name` of the API."""
        return "Lens (leanlens)"

    def show(self, is_img2img):
        """Available in both tabs."""
        return True

    def ui(self, is_img2img):
        """The input fields, passed to `run` in this order."""
        model = gr.Textbox(label="Model", value="", placeholder="empty: the server's default",
                           elem_id=self.elem_id("model"))  # fmt: skip
        steps = gr.Radio(label="Steps and CFG scale", choices=[MODEL_OWN, FROM_TAB], value=MODEL_OWN,
                         elem_id=self.elem_id("steps"))  # fmt: skip
        size = gr.Dropdown(label="Size", choices=CHOICES, value=option("leanlens_size", NEAREST_1024),
                           elem_id=self.elem_id("size"))  # fmt: skip
        return [model, steps, size]

    def run(self, p, model, steps, size):
        """Generate images; called instead of the web UI's own generation."""
        server = Server(
            option("leanlens_address", ADDRESS), option("leanlens_key", ""), float(option("leanlens_timeout", 600))
        )
        free_memory()
        body, notes = request_for(p, model, steps, size)
        drawn = Drawn()
        shared.state.job_count = p.n_iter
        for iteration in range(p.n_iter):
            if shared.state.interrupted or getattr(shared.state, "stopping_generation", False):
                break
            shared.state.job = f"Lens {iteration + 1} out of {p.n_iter}"
            answer = server.draw(
                "img2img" if "init_images" in body else "txt2img",
                {**body, "seed": (body["seed"] + iteration * p.batch_size) & MAX_SEED},
                show_progress,
                lambda: shared.state.interrupted or shared.state.skipped,
            )
            if shared.state.skipped and not shared.state.interrupted:
                answer["images"] = []  # a skipped iteration keeps no images, as in the web UI
            drawn.add(p, answer)
            shared.state.skipped = False
            shared.state.nextjob()
        return processed(p, body, drawn, notes)


class Drawn:
    """Images of all iterations, with the server's infotext of each."""

    def __init__(self):
        self.images, self.infotexts, self.prompts, self.negatives, self.seeds, self.notes = [], [], [], [], [], []
        self.info = {}

    def add(self, p, answer):
        """Add a response, and save its images like the web UI's own."""
        info = self.info = answer["info"]
        if info.get("comments") and info["comments"] not in self.notes:
            self.notes.append(info["comments"])
        for index, data in enumerate(answer["images"]):
            image = Image.open(io.BytesIO(base64.b64decode(data)))
            image.load()
            text = info["infotexts"][index]
            image.info["parameters"] = text
            self.images.append(image)
            self.infotexts.append(text)
            self.prompts.append(info["all_prompts"][index])
            self.negatives.append(info["all_negative_prompts"][index])
            self.seeds.append(info["all_seeds"][index])
            if shared.opts.samples_save and not p.do_not_save_samples:
                images.save_image(
                    image, p.outpath_samples, "", self.seeds[-1], self.prompts[-1], shared.opts.samples_format,
                    info=text, p=p,
                )  # fmt: skip


def request_for(p, model, steps, size):
    """(body, notes): the request for the server, and notes on options of the tab that it does not support.

    Fields with a model default are omitted unless the user chose the tab's values.
    """
    prompts = p.prompt if isinstance(p.prompt, str) else p.prompt[0]
    negative = p.negative_prompt if isinstance(p.negative_prompt, str) else p.negative_prompt[0]
    if p.styles:
        prompts = shared.prompt_styles.apply_styles_to_prompt(prompts, p.styles)
        negative = shared.prompt_styles.apply_negative_styles_to_prompt(negative, p.styles)
    seed = p.seed if isinstance(p.seed, int) else int(p.seed or -1)
    body = {
        "prompt": prompts,
        "negative_prompt": negative,
        "seed": random.randrange(MAX_SEED) if seed < 0 else seed,
        "batch_size": p.batch_size,
        "n_iter": 1,
    }
    if steps == FROM_TAB:
        body.update(steps=p.steps, cfg_scale=p.cfg_scale)
    chosen = size_for(size, p.width, p.height)
    if chosen:
        body.update(width=chosen[0], height=chosen[1])
    if model.strip():
        body["override_settings"] = {"sd_model_checkpoint": model.strip()}
    if option("leanlens_reason", "default") == "off":
        body["reason"] = "off"
    notes = [f"{what} is not done by Lens" for what, asked in not_done(p).items() if asked]
    if getattr(p, "init_images", None):
        add_picture(p, body, chosen)
    return body, notes


def not_done(p):
    """Options of the tab that are not supported: name -> whether it is set."""
    return {
        "Hires. fix": getattr(p, "enable_hr", False),
        "Restore faces": p.restore_faces,
        "Tiling": p.tiling,
        "Variation seed": p.subseed_strength,
        "Inpaint area: only masked": getattr(p, "image_mask", None) is not None and getattr(p, "inpaint_full_res", 0),
    }


def add_picture(p, body, size):
    """Add the input image and its mask, resized to `size` in the tab's resize mode."""
    picture = flat(p.init_images[0])
    mask = getattr(p, "image_mask", None)
    if mask is not None:
        mask = grey(mask)
        if p.inpainting_mask_invert:
            mask = ImageOps.invert(mask)
        if p.mask_blur:
            mask = mask.filter(ImageFilter.GaussianBlur(p.mask_blur))
    if size:
        mode = p.resize_mode if p.resize_mode in (0, 1, 2) else 0
        picture = images.resize_image(mode, picture, *size)
        mask = mask and images.resize_image(mode, mask, *size)
    body["init_images"] = [encoded(picture)]
    body["denoising_strength"] = p.denoising_strength
    if mask is not None:
        body["mask"] = encoded(mask)
        body.update(mask_blur=0, inpainting_mask_invert=0, inpaint_full_res=False)


def flat(picture):
    """An image without transparency, on the background colour of the web UI's settings."""
    if "A" not in picture.getbands():
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, getattr(shared.opts, "img2img_background_color", None) or "#ffffff")
    return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")


def grey(mask):
    """A mask as in the web UI: the opaque part is repainted if it has transparency, otherwise the white part."""
    if mask.mode == "RGBA" and mask.getextrema()[-1] != (255, 255):
        return mask.getchannel("A").point(lambda level: 255 if level > 128 else 0)
    return mask.convert("L")


def encoded(picture):
    """An image as base64 PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def show_progress(progress):
    """Show the server's progress in the web UI's bar and preview."""
    state = progress.get("state") or {}
    shared.state.sampling_steps = state.get("sampling_steps") or 0
    shared.state.sampling_step = state.get("sampling_step") or 0
    shared.state.textinfo = progress.get("textinfo")
    if progress.get("current_image"):
        shared.state.assign_current_image(Image.open(io.BytesIO(base64.b64decode(progress["current_image"]))))


def processed(p, body, drawn, notes):
    """The `Processed` object: the text under the images, and the web UI's records."""
    info = drawn.info
    if drawn.images:
        p.width, p.height = drawn.images[0].size
        p.steps, p.cfg_scale, p.sampler_name = info["steps"], info["cfg_scale"], info["sampler_name"]
        p.sd_model_name, p.sd_model_hash = info["sd_model_name"], info["sd_model_hash"]
    for note in [*notes, *drawn.notes]:
        p.comments[note] = 1
    return Processed(
        p,
        drawn.images,
        seed=drawn.seeds[0] if drawn.seeds else body["seed"],
        info=drawn.infotexts[0] if drawn.infotexts else "",
        all_prompts=drawn.prompts or [body["prompt"]],
        all_negative_prompts=drawn.negatives or [body["negative_prompt"]],
        all_seeds=drawn.seeds or [body["seed"]],
        all_subseeds=drawn.seeds or [body["seed"]],
        infotexts=drawn.infotexts or [""],
    )


def free_memory():
    """Unload the web UI's own model before the server uses the same GPU, if the settings request it."""
    if not option("leanlens_free_memory", False):
        return
    try:
        from backend import memory_management  # Forge
    except ImportError:
        from modules import sd_models

        sd_models.unload_model_weights()
    else:
        memory_management.unload_all_models()


def option(name, default):
    """A setting, or its default if the settings page was never saved."""
    return shared.opts.data.get(name, default)


def add_settings():
    """Add the extension's page to the settings."""
    for key, default, label, component, arguments in (
        ("leanlens_address", ADDRESS, "Address of the leanlens server", gr.Textbox, {}),
        ("leanlens_key", "", "API key, or name:password", gr.Textbox, {"type": "password"}),
        ("leanlens_timeout", 600, "Seconds to wait for a batch", gr.Slider, WAITS),
        ("leanlens_size", NEAREST_1024, "Size when the script is opened", gr.Dropdown, {"choices": CHOICES}),
        ("leanlens_reason", "default", "Rewrite prompts for models that ask for it: default, or off", gr.Radio,
         {"choices": ["default", "off"]}),
        ("leanlens_free_memory", False, "Unload the web UI's own model before drawing", gr.Checkbox, {}),
    ):  # fmt: skip
        shared.opts.add_option(key, shared.OptionInfo(default, label, component, arguments, section=SECTION))


script_callbacks.on_ui_settings(add_settings)

__all__ = ["Script", "ServerError"]
