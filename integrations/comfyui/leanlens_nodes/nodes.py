"""Defines the ComfyUI nodes of leanlens: their schemas and what they execute.

Steps 0, guidance -1 and width or height 0 stand for the model's defaults.
"""

import os
from io import BytesIO
from typing import Any

import folder_paths
from comfy_api.latest import ComfyExtension, io, ui
from PIL import Image

from . import local
from .pictures import notes_for, png, settings_of, to_mask, to_picture, to_tensor, with_hole
from .server import Server
from .shapes import BASES, SHAPES, size_of
from .watch import Watch

CATEGORY = "leanlens"
ADDRESS = "http://127.0.0.1:8000"
MAX_SEED = 2**64 - 1  # like ComfyUI's own seeds

Model = io.Custom("LEANLENS_MODEL")
Loras = io.Custom("LEANLENS_LORAS")  # [{"name", "path" or None, "scale"}]
Settings = io.Custom("LEANLENS_SETTINGS")  # one record per image, as leanlens writes it into files


class Shape(io.ComfyNode):
    """A standard image size of Lens."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LeanLensShape",
            display_name="Lens size",
            category=CATEGORY,
            description="One of the nine standard sizes of Lens. Link it to the sampler's nodes or to a draw node.",
            inputs=[
                io.Combo.Input("base", options=[str(base) for base in BASES], default="1024",
                               tooltip="Side of the square of the same area. 1024 and 1440 for the released models."),
                io.Combo.Input("aspect", options=list(SHAPES), default="1:1", tooltip="Width to height."),
            ],
            outputs=[io.Int.Output("width", display_name="width"), io.Int.Output("height", display_name="height")],
        )  # fmt: skip

    @classmethod
    def execute(cls, base: str, aspect: str) -> io.NodeOutput:
        return io.NodeOutput(*size_of(int(base), aspect))


class Lora(io.ComfyNode):
    """A LoRA for the draw nodes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LeanLensLora",
            display_name="LoRA for leanlens",
            category=CATEGORY,
            description="A LoRA file of any trainer. A server takes the file of that name in its own folder.",
            inputs=[
                io.Combo.Input("file", options=folder_paths.get_filename_list("loras")),
                io.Float.Input("scale", default=1.0, min=-100.0, max=100.0, step=0.05),
                io.String.Input("name_at_server", default="", optional=True,
                                tooltip="Name on the server, for a file that is only there; `file` is then ignored."),
                Loras.Input("loras", optional=True, tooltip="LoRAs to apply before this one."),
            ],
            outputs=[Loras.Output("all", display_name="loras")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, file: str, scale: float, name_at_server: str = "", loras: list[dict[str, Any]] | None = None
    ) -> io.NodeOutput:
        if name_at_server.strip():
            one = {"name": name_at_server.strip(), "path": None, "scale": scale}
        else:
            path = folder_paths.get_full_path_or_raise("loras", file)
            one = {"name": _stem(path), "path": path, "scale": scale}
        return io.NodeOutput([*(loras or []), one])


class OpenModel(io.ComfyNode):
    """A model in this process."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LeanLensOpenModel",
            display_name="Open a Lens model (leanlens)",
            category=CATEGORY,
            description="Any layout: a preset, a model folder, a file under models/diffusion_models, a repository id.",
            inputs=[
                io.String.Input("model", default="nano",
                                tooltip="nano, turbo, rl, base, toy, a path, or a file under models/diffusion_models."),
                io.Combo.Input("device", options=["as ComfyUI", "auto", "cpu", "cuda", "mps"], default="as ComfyUI"),
                io.Combo.Input("dtype", options=["auto", "bfloat16", "float32", "float16"], default="auto"),
                io.Boolean.Input("make_room", default=True, tooltip="Unload ComfyUI's own models first."),
            ],
            outputs=[Model.Output("opened", display_name="model")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: str, device: str, dtype: str, make_room: bool) -> io.NodeOutput:
        return io.NodeOutput(local.open_model(model.strip(), device, dtype, make_room))


def _request_inputs() -> list[Any]:
    """The inputs of both draw nodes."""
    return [
        io.String.Input("prompt", multiline=True, default="", dynamic_prompts=True),
        io.String.Input("negative_prompt", multiline=True, default="", tooltip="Empty for none."),
        io.Int.Input("seed", default=0, min=-1, max=MAX_SEED, control_after_generate=True,
                     tooltip="-1: a random one at every run."),
        io.Int.Input("width", default=0, min=0, max=8192, step=16, tooltip="0: the model's own size."),
        io.Int.Input("height", default=0, min=0, max=8192, step=16, tooltip="0: the model's own size."),
        io.Int.Input("steps", default=0, min=0, max=1000, tooltip="0: the model's own."),
        io.Float.Input("guidance_scale", default=-1.0, min=-1.0, max=100.0, step=0.1,
                       tooltip="-1: the model's own; 1: no guidance."),
        io.Int.Input("count", default=1, min=1, max=64,
                     tooltip="Number of images; the seed counts up by one for each."),
        io.Float.Input("strength", default=0.6, min=0.01, max=1.0, step=0.01,
                       tooltip="With an image: how much of it changes; 1 ignores it."),
        io.Image.Input("image", optional=True, tooltip="Input image for image-to-image."),
        io.Mask.Input("mask", optional=True, tooltip="Mask of the input image: white is repainted."),
        Loras.Input("loras", optional=True),
        Settings.Input("settings", optional=True,
                       tooltip="Settings of an image to reproduce; the other fields are ignored."),
        io.Combo.Input("reason", options=["default", "off"], default="default", optional=True,
                       tooltip="default: rewrites the prompt into the caption format of the model, if it has one; "
                       "off: uses the prompt as typed."),
    ]  # fmt: skip


def _changes(seed: int | None) -> float:
    """The fingerprint that makes ComfyUI run a draw node again: always with a random seed."""
    return float("nan") if seed == -1 else 0.0


def _drawn_outputs() -> list[Any]:
    return [
        io.Image.Output("images", display_name="images"),
        Settings.Output("drawn", display_name="settings", tooltip="For the node that saves them into the files."),
    ]


class DrawAtServer(io.ComfyNode):
    """Generates images on a leanlens server."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LeanLensDrawAtServer",
            display_name="Draw with Lens at a server (leanlens)",
            category=CATEGORY,
            description="Draws at a running `leanlens serve`. Its key is read from LEANLENS_API_KEY.",
            inputs=[
                io.String.Input("address", default=ADDRESS),
                io.String.Input("model", default="", tooltip="Name of a model on the server; empty for its default."),
                *_request_inputs(),
            ],
            outputs=_drawn_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, seed: int | None = None, **inputs: Any) -> float:
        return _changes(seed)

    @classmethod
    def execute(cls, address: str, model: str, **inputs: Any) -> io.NodeOutput:
        server, watch = Server(address), Watch()
        image, mask, files = _sources(inputs)
        if image is not None:
            files = {"image": png(image)} | ({"mask": with_hole(image, mask)} if mask is not None else {})
        if inputs.get("settings"):
            jobs = [_again_at_server(record, model, files) for record in inputs["settings"]]
        else:
            jobs = [_fields_for_server(inputs, model, bool(files))]
        found: list[bytes] = []
        for index, fields in enumerate(jobs):
            found += server.draw(
                fields, files, watch.look, lambda done, index=index: watch.progress((index + done) / len(jobs))
            )
        drawn = [(picture, settings_of(picture, "the server's picture")) for picture in map(_opened, found)]
        if not inputs.get("settings"):  # the server returns a batch in the order in which images finish
            drawn.sort(key=lambda pair: pair[1]["request"]["seed"])
        records = [record for _, record in drawn]
        for wanted, record in zip(inputs.get("settings") or [], records, strict=False):
            _require_same_model(wanted, record["model"]["fingerprint"], f"{address} drew with")
            if wanted["request"].get("reasoner"):  # the reasoner's record is not sent, but still applies
                record["request"]["reasoner"] = wanted["request"]["reasoner"]
        return io.NodeOutput(to_tensor([picture for picture, _ in drawn]), records)


class DrawHere(io.ComfyNode):
    """Generates images in this process."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LeanLensDrawHere",
            display_name="Draw with Lens (leanlens)",
            category=CATEGORY,
            description="Draws in this process with an opened model. The result equals that of `leanlens generate`.",
            inputs=[Model.Input("model"), *_request_inputs()],
            outputs=_drawn_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, seed: int | None = None, **inputs: Any) -> float:
        return _changes(seed)

    @classmethod
    def execute(cls, model: Any, **inputs: Any) -> io.NodeOutput:
        image, mask, _ = _sources(inputs)
        if inputs.get("settings"):
            requests = [_again_here(record, model, image, mask) for record in inputs["settings"]]
        else:
            requests = _requests_here(model, inputs, image)
        pictures, records = local.draw(model, requests, image, mask)
        return io.NodeOutput(to_tensor(pictures), records)


class Replay(io.ComfyNode):
    """Reads the settings of an image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LeanLensReplay",
            display_name="Lens settings of a picture",
            category=CATEGORY,
            description="Reads what leanlens wrote into a picture. Link `settings` to a draw node to draw it again.",
            inputs=[io.Combo.Input("picture", options=_input_pictures(), upload=io.UploadType.image)],
            outputs=[
                Settings.Output("settings", display_name="settings"),
                io.String.Output("prompt", display_name="prompt"),
                io.String.Output("negative_prompt", display_name="negative_prompt"),
                io.Int.Output("seed", display_name="seed"),
                io.Int.Output("width", display_name="width"),
                io.Int.Output("height", display_name="height"),
                io.Int.Output("steps", display_name="steps"),
                io.Float.Output("guidance_scale", display_name="guidance_scale"),
                io.String.Output("model", display_name="model"),
            ],
        )

    @classmethod
    def execute(cls, picture: str) -> io.NodeOutput:
        with Image.open(folder_paths.get_annotated_filepath(picture)) as opened:
            record = settings_of(opened, picture)
        names = (
            "prompt", "negative_prompt", "seed", "width", "height", "num_inference_steps", "guidance_scale",
        )  # fmt: skip
        values = [record["request"][name] for name in names]
        return io.NodeOutput([record], *values, record["model"]["name"])

    @classmethod
    def validate_inputs(cls, picture: str) -> bool | str:
        there = folder_paths.exists_annotated_filepath(picture)
        return True if there else f"there is no picture {picture!r} in ComfyUI's input folder"

    @classmethod
    def fingerprint_inputs(cls, picture: str) -> float:
        return os.path.getmtime(folder_paths.get_annotated_filepath(picture))


class Save(io.ComfyNode):
    """Saves images with their settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LeanLensSave",
            display_name="Save with Lens settings",
            category=CATEGORY,
            description="Saves PNG files that `leanlens replay`, galleries and ComfyUI itself can read settings from.",
            inputs=[
                io.Image.Input("images"),
                Settings.Input("settings"),
                io.String.Input("filename_prefix", default="lens"),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Any, settings: list[dict[str, Any]], filename_prefix: str) -> io.NodeOutput:
        if len(settings) != images.shape[0]:
            raise ValueError(f"there are settings for {len(settings)} pictures but {images.shape[0]} images; link both "
                             "from the same draw node")  # fmt: skip
        height, width = images.shape[1:3]
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), width, height
        )
        saved = []
        for index, record in enumerate(settings):
            file = f"{name}_{counter + index:05}_.png"
            notes = notes_for(record, _parameters(record), cls.hidden.prompt, cls.hidden.extra_pnginfo)
            target = os.path.join(folder, file)
            to_picture(images[index : index + 1]).save(target + ".part", "PNG", pnginfo=notes)
            os.replace(target + ".part", target)
            saved.append(ui.SavedResult(file, subfolder, io.FolderType.output))
        return io.NodeOutput(ui={"images": saved})


class PromptReasoner(io.ComfyNode):
    """Rewrites a prompt into the caption format of a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LeanLensPromptReasoner",
            display_name="Lens prompt reasoner",
            category=CATEGORY,
            description="Rewrites a prompt into the caption format that nano was trained on, so that it can be "
            "inspected or edited. A draw node does not change such a caption.",
            inputs=[
                io.String.Input("prompt", multiline=True, default="", dynamic_prompts=True),
                io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True,
                             tooltip="Chooses what the prompt leaves open."),
                io.Int.Input("width", default=0, min=0, max=8192, step=16, tooltip="0: the model's own size."),
                io.Int.Input("height", default=0, min=0, max=8192, step=16, tooltip="0: the model's own size."),
                io.String.Input("model", default="nano", tooltip="nano, or the folder of a model."),
                io.String.Input("fixed", multiline=True, default="", optional=True,
                                tooltip="Facts to set, one per line: color 1=blue. An empty value removes one."),
                Loras.Input("loras", optional=True, tooltip="LoRAs whose trigger words are kept unchanged."),
            ],
            outputs=[
                io.String.Output("caption", display_name="caption"),
                io.String.Output("record", display_name="record", tooltip="What was understood, as JSON."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, prompt: str, seed: int, width: int, height: int, model: str, fixed: str = "",
        loras: list[dict[str, Any]] | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        paths = [lora["path"] for lora in loras or [] if lora["path"] is not None]
        return io.NodeOutput(*local.reason(model.strip(), prompt, seed, (width, height), fixed, paths))


class Plan(io.ComfyNode):
    """Plans memory and time without opening a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LeanLensPlan",
            display_name="Plan for Lens (leanlens)",
            category=CATEGORY,
            description="Estimates whether a model fits and how long an image takes, without opening it.",
            inputs=[
                io.String.Input("model", default="turbo", tooltip="turbo, rl, base, or a model folder here."),
                io.Int.Input("width", default=1024, min=16, max=8192, step=16),
                io.Int.Input("height", default=1024, min=16, max=8192, step=16),
                io.Int.Input("steps", default=0, min=0, max=1000, tooltip="0: the model's own."),
                io.String.Input("gpu", default="", tooltip="Such as RTX 3060 12GB; empty for this machine."),
            ],
            outputs=[
                io.String.Output("report", display_name="report"),
                io.Boolean.Output("fits", display_name="fits"),
                io.Float.Output("seconds", display_name="seconds_per_image"),
                io.String.Output("device", display_name="device"),
                io.String.Output("dtype", display_name="dtype"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: str, width: int, height: int, steps: int, gpu: str) -> io.NodeOutput:
        plan = local.plan(model.strip(), width, height, steps or None, gpu.strip() or None)
        settings = plan["settings"]
        report = _plan_in_words(plan)
        values = (plan["fits"], float(plan["seconds_per_image"] or 0), settings["device"], settings["dtype"])
        return io.NodeOutput(report, *values, ui=ui.PreviewText(report))


class LeanLensExtension(ComfyExtension):
    """The extension object that ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node."""
        return [Shape, Lora, OpenModel, PromptReasoner, DrawHere, DrawAtServer, Replay, Save, Plan]


async def comfy_entrypoint() -> LeanLensExtension:
    """Called once by ComfyUI when it loads the pack."""
    return LeanLensExtension()


# --------------------------------------------------------------------------------- inputs -> requests


def _chosen(inputs: dict[str, Any]) -> dict[str, Any]:
    """The fields that the user set.

    Raises:
        ValueError: only one of width and height is set.
    """
    width, height = inputs["width"], inputs["height"]
    if bool(width) != bool(height):
        raise ValueError(f"width {width} and height {height}: give both, or 0 for both to use the model's default")
    fields: dict[str, Any] = {"prompt": inputs["prompt"], "negative_prompt": inputs["negative_prompt"]}
    if width:
        fields |= {"width": width, "height": height}
    if inputs["steps"]:
        fields["num_inference_steps"] = inputs["steps"]
    if inputs["guidance_scale"] >= 0:
        fields["guidance_scale"] = inputs["guidance_scale"]
    return fields


def _sources(inputs: dict[str, Any]) -> tuple[Image.Image | None, Image.Image | None, dict[str, bytes]]:
    if inputs.get("image") is None:
        if inputs.get("mask") is not None:
            raise ValueError("mask needs an image; link image as well")
        return None, None, {}
    image = to_picture(inputs["image"])
    mask = inputs.get("mask")
    return image, None if mask is None else to_mask(mask, image.size), {}


def _fields_for_server(inputs: dict[str, Any], model: str, has_image: bool) -> dict[str, Any]:
    fields = _chosen(inputs) | {"seed": inputs["seed"], "n": inputs["count"]}
    if model.strip():
        fields["model"] = model.strip()
    if has_image:
        fields["strength"] = inputs["strength"]
    if inputs.get("reason") == "off":
        fields["reason"] = "off"
    if inputs.get("loras"):
        fields["loras"] = [{"name": lora["name"], "scale": lora["scale"]} for lora in inputs["loras"]]
    return fields


def _requests_here(opened: Any, inputs: dict[str, Any], image: Image.Image | None) -> list[dict[str, Any]]:
    fields = _chosen(inputs)
    if image is not None:
        fields["strength"] = inputs["strength"]
        if "width" not in fields:
            fields |= {"width": max(16, image.width // 16 * 16), "height": max(16, image.height // 16 * 16)}
    loras = inputs.get("loras") or []
    for lora in loras:
        if lora["path"] is None:
            raise ValueError(f"LoRA {lora['name']!r} is on a server; choose a file to draw in this process")
    fields["loras"] = [{"path": lora["path"], "scale": lora["scale"]} for lora in loras]
    fields = local.filled(opened, fields)
    from leanlens.pipeline.request import resolve_seed

    seed = resolve_seed(inputs["seed"])
    requests = [fields | {"seed": seed + index} for index in range(inputs["count"])]
    return requests if image is not None else local.rewritten(opened, requests, inputs.get("reason") or "default")


def _again_at_server(record: dict[str, Any], model: str, files: dict[str, bytes]) -> dict[str, Any]:
    """The request of an image's record, in the server's format."""
    request = record["request"]
    _require_sources(request, bool(files.get("image")), bool(files.get("mask")))
    names = ("prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale", "seed")
    fields = {name: request[name] for name in names} | {"reason": "off"}  # its prompt is what was drawn
    fields["model"] = model.strip() or _stem(record["model"]["name"])
    fields["loras"] = [{"name": _stem(lora["path"]), "scale": lora["scale"]} for lora in request["loras"]]
    if request["strength"] is not None:
        fields["strength"] = request["strength"]
    return fields


def _again_here(
    record: dict[str, Any], opened: Any, image: Image.Image | None, mask: Image.Image | None
) -> dict[str, Any]:
    """The request of an image's record; the model must be the one that drew it."""
    _require_sources(record["request"], image is not None, mask is not None)
    _require_same_model(record, opened.fingerprint, "the opened model is")
    return {name: value for name, value in record["request"].items() if name not in ("image", "mask")}


def _require_sources(request: dict[str, Any], has_image: bool, has_mask: bool) -> None:
    for name, has in (("image", has_image), ("mask", has_mask)):
        if bool(request[name]) != has:
            raise ValueError(
                f"the picture was drawn {'with' if request[name] else 'without'} {name}; "
                f"{'link the same one' if request[name] else 'unlink it'} to draw it again"
            )


def _require_same_model(record: dict[str, Any], fingerprint: str, what: str) -> None:
    wanted = record["model"]["fingerprint"]
    if fingerprint != wanted:
        raise ValueError(
            f"{what} another model (fingerprint {fingerprint[:12]}) than {record['model']['name']} "
            f"({wanted[:12]}), which drew the picture"
        )


def _plan_in_words(plan: dict[str, Any]) -> str:
    settings = plan["settings"]
    lines = [
        f"{'Fits' if plan['fits'] else 'Does not fit'}: {plan['machine']}",
        f"device {settings['device']}, dtype {settings['dtype']}, text encoder in {settings['encoder']}",
        *(f"{name} {settings[name]}" for name in ("quant", "offload") if settings.get(name, "none") != "none"),
    ]
    for title, used, limit in (
        ("GPU memory", "peak_vram_gb", "vram_limit_gb"),
        ("memory", "peak_ram_gb", "ram_limit_gb"),
    ):
        if plan[used]:
            of = "" if plan[limit] is None else f" of {plan[limit]:.1f}"
            lines.append(f"{title} at the peak: {plan[used]:.1f}{of} GB")
    if plan["seconds_per_image"] is not None:
        lines.append(f"about {plan['seconds_per_image']:.1f} s for a picture, predicted")
    return "\n".join(lines)


def _parameters(record: dict[str, Any]) -> str:
    """A1111's text of the settings, if leanlens is installed here; otherwise empty."""
    try:
        from leanlens.pipeline.metadata import parameters_text
    except ImportError:
        return ""
    return parameters_text(record)


def _opened(data: bytes) -> Image.Image:
    picture = Image.open(BytesIO(data))
    picture.load()
    return picture


def _stem(path: str) -> str:
    name = path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return name.removesuffix(".safetensors")


def _input_pictures() -> list[str]:
    """Names of the pictures in ComfyUI's input folder."""
    folder = folder_paths.get_input_directory()
    names = [name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))]
    return sorted(folder_paths.filter_files_content_types(names, ["image"]))
