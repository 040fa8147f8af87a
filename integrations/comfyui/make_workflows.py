"""Writes the example workflows: ComfyUI's stock nodes, connected to sample Lens like the original code.

For each graph below it writes `example_workflows/NAME.json`, which ComfyUI's page opens, and `api_workflows/NAME.json`,
which its `/prompt` route takes. It does not need ComfyUI.

    python integrations/comfyui/make_workflows.py           # write the files
    python integrations/comfyui/make_workflows.py --check   # exit code 1 if the files are out of date
    python integrations/comfyui/make_workflows.py --table   # the noise levels of ComfyUI's template next to Lens's

Sources: the schemas and formulas of ComfyUI's `Flux2Scheduler`, `CFGNorm`, `ModelSamplingFlux` and custom sampler
nodes; the form of its workflow files, version 0.4.
"""

import argparse
import json
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leanlens.files import whole_file
from leanlens.flow.schedule import empirical_mu, inference_sigmas, linear_mu, linear_sigmas, shifted
from leanlens.presets import PRESETS

FOLDER = Path(__file__).parent
PROMPT = "a red fox in the snow at dusk, its breath visible in the cold air, pine trees behind it"
REPOSITORY = "https://huggingface.co/Comfy-Org/Lens/resolve/main"
SEED_CONTROL = "control_after_generate"  # the widget that ComfyUI's page shows next to a seed

# ComfyUI writes a widget's value into `widgets_values` whether or not a link overrides it.


@dataclass(frozen=True)
class StockNode:
    """The schema of a stock node: sockets and widgets in order, then outputs.

    `sockets` and `outputs` are name -> type; `widgets` name -> (type, default value). Widgets that exist only on the
    page (a seed's control, an upload button) are in `page_widgets`, under the widget they follow.
    """

    sockets: dict[str, str] = field(default_factory=dict)
    widgets: dict[str, tuple[str, Any]] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    page_widgets: dict[str, Any] = field(default_factory=dict)


STOCK: dict[str, StockNode] = {
    "UNETLoader": StockNode({}, {"unet_name": ("COMBO", ""), "weight_dtype": ("COMBO", "default")}, {"MODEL": "MODEL"}),
    "CLIPLoader": StockNode(
        {},
        {"clip_name": ("COMBO", ""), "type": ("COMBO", "lens"), "device": ("COMBO", "default")},
        {"CLIP": "CLIP"},
    ),
    "VAELoader": StockNode({}, {"vae_name": ("COMBO", "")}, {"VAE": "VAE"}),
    "LoraLoaderModelOnly": StockNode(
        {"model": "MODEL"},
        {"lora_name": ("COMBO", ""), "strength_model": ("FLOAT", 1.0)},
        {"MODEL": "MODEL"},
    ),
    "CFGNorm": StockNode(
        {"model": "MODEL"},
        {"strength": ("FLOAT", 1.0), "pre_cfg": ("BOOLEAN", False)},
        {"patched_model": "MODEL"},
    ),
    "CLIPTextEncode": StockNode({"clip": "CLIP"}, {"text": ("STRING", "")}, {"CONDITIONING": "CONDITIONING"}),
    "CFGGuider": StockNode(
        {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING"},
        {"cfg": ("FLOAT", 1.0)},
        {"GUIDER": "GUIDER"},
    ),
    "BasicGuider": StockNode({"model": "MODEL", "conditioning": "CONDITIONING"}, {}, {"GUIDER": "GUIDER"}),
    "PrimitiveInt": StockNode({}, {"value": ("INT", 1024)}, {"INT": "INT"}, {"value": "fixed"}),
    "RandomNoise": StockNode({}, {"noise_seed": ("INT", 0)}, {"NOISE": "NOISE"}, {"noise_seed": "randomize"}),
    "KSamplerSelect": StockNode({}, {"sampler_name": ("COMBO", "euler")}, {"SAMPLER": "SAMPLER"}),
    "Flux2Scheduler": StockNode(
        {},
        {"steps": ("INT", 20), "width": ("INT", 1024), "height": ("INT", 1024)},
        {"SIGMAS": "SIGMAS"},
    ),
    "SplitSigmasDenoise": StockNode(
        {"sigmas": "SIGMAS"},
        {"denoise": ("FLOAT", 1.0)},
        {"high_sigmas": "SIGMAS", "low_sigmas": "SIGMAS"},
    ),
    "EmptyFlux2LatentImage": StockNode(
        {},
        {"width": ("INT", 1024), "height": ("INT", 1024), "batch_size": ("INT", 1)},
        {"LATENT": "LATENT"},
    ),
    "LoadImage": StockNode({}, {"image": ("COMBO", "")}, {"IMAGE": "IMAGE", "MASK": "MASK"}, {"image": "image"}),
    "ImageScale": StockNode(
        {"image": "IMAGE"},
        {
            "upscale_method": ("COMBO", "lanczos"),
            "width": ("INT", 1024),
            "height": ("INT", 1024),
            "crop": ("COMBO", "center"),
        },
        {"IMAGE": "IMAGE"},
    ),
    "VAEEncode": StockNode({"pixels": "IMAGE", "vae": "VAE"}, {}, {"LATENT": "LATENT"}),
    "SamplerCustomAdvanced": StockNode(
        {"noise": "NOISE", "guider": "GUIDER", "sampler": "SAMPLER", "sigmas": "SIGMAS", "latent_image": "LATENT"},
        {},
        {"output": "LATENT", "denoised_output": "LATENT"},
    ),
    "VAEDecode": StockNode({"samples": "LATENT", "vae": "VAE"}, {}, {"IMAGE": "IMAGE"}),
    "SaveImage": StockNode({"images": "IMAGE"}, {"filename_prefix": ("STRING", "lens")}, {}),
}

# Folder under ComfyUI's `models` -> loader and its widget; the page offers to download what is missing.
FILES = {"UNETLoader": "diffusion_models", "CLIPLoader": "text_encoders", "VAELoader": "vae"}


@dataclass
class Placed:
    """A node in a graph; its inputs are values, or (id, slot) of linked outputs."""

    number: int
    kind: str
    inputs: dict[str, Any]
    title: str | None
    place: tuple[int, int]


class Graph:
    """Nodes in the order they are added, which is an order they can run in."""

    def __init__(self, name: str, note: str):
        self.name, self.note = name, note
        self.nodes: list[Placed] = []

    def add(self, kind: str, place: tuple[int, int], title: str | None = None, **inputs: Any) -> int:
        """Add a stock node at (column, row); values fill widgets, (id, slot) tuples are links. Returns its id.

        Raises:
            ValueError: an input the node does not have, a socket left open, or a link of the wrong type.
        """
        stock = STOCK[kind]
        unknown = set(inputs) - set(stock.sockets) - set(stock.widgets)
        missing = set(stock.sockets) - set(inputs)
        if unknown or missing:
            raise ValueError(f"{kind} has no inputs {sorted(unknown)}, and needs {sorted(missing)}")
        for name, value in inputs.items():
            wanted = stock.sockets.get(name) or stock.widgets[name][0]
            if isinstance(value, tuple) and self.type_of(value) != wanted:
                raise ValueError(f"{name} of {kind} is {wanted}, but output {value} is {self.type_of(value)}")
        values = {name: inputs.get(name, default) for name, (_, default) in stock.widgets.items()}
        ordered = {name: inputs[name] for name in stock.sockets} | values
        self.nodes.append(Placed(len(self.nodes) + 1, kind, ordered, title, place))
        return len(self.nodes)

    def type_of(self, output: tuple[int, int]) -> str:
        """The type of output (id, slot)."""
        number, slot = output
        return list(STOCK[self.nodes[number - 1].kind].outputs.values())[slot]


def text_to_image(name: str, preset: str, file: str, lora: str | None = None, image: str | None = None) -> Graph:
    """The graph of one preset, optionally with a LoRA or an input image."""
    settings = PRESETS[preset]
    side = settings.base_resolution
    graph = Graph(name, _note(preset, file, lora, image))
    model = (graph.add("UNETLoader", (0, 0), unet_name=file), 0)
    clip = (graph.add("CLIPLoader", (0, 1), clip_name="gpt_oss_20b_nvfp4.safetensors"), 0)
    vae = (graph.add("VAELoader", (0, 2), vae_name="flux2-vae.safetensors"), 0)
    width = (graph.add("PrimitiveInt", (0, 3), "Width (a multiple of 16)", value=side), 0)
    height = (graph.add("PrimitiveInt", (0, 4), "Height (a multiple of 16)", value=side), 0)
    if lora:
        model = (graph.add("LoraLoaderModelOnly", (1, 3), model=model, lora_name=lora), 0)
    positive = (graph.add("CLIPTextEncode", (1, 0), "Prompt", clip=clip, text=PROMPT), 0)
    if settings.guidance_scale == 1:
        guider = (graph.add("BasicGuider", (2, 0), model=model, conditioning=positive), 0)
    else:
        negative = (graph.add("CLIPTextEncode", (1, 1), "Negative prompt (empty: no text at all)", clip=clip), 0)
        model = (graph.add("CFGNorm", (1, 2), "CFG as Lens has it: pre_cfg on", model=model, pre_cfg=True), 0)
        scale = settings.guidance_scale
        guider = (graph.add("CFGGuider", (2, 0), model=model, positive=positive, negative=negative, cfg=scale), 0)
    noise = (graph.add("RandomNoise", (2, 1), noise_seed=0), 0)
    sampler = (graph.add("KSamplerSelect", (2, 2)), 0)
    steps = settings.num_inference_steps
    sigmas = (graph.add("Flux2Scheduler", (2, 3), "Lens's noise levels", steps=steps, width=width, height=height), 0)
    if image:
        picture = (graph.add("LoadImage", (0, 5), "The picture to start from", image=image), 0)
        scaled = (graph.add("ImageScale", (1, 5), image=picture, width=width, height=height), 0)
        start = (graph.add("VAEEncode", (2, 5), pixels=scaled, vae=vae), 0)
        title = "Strength: 1 keeps nothing of the picture"
        sigmas = (graph.add("SplitSigmasDenoise", (2, 4), title, sigmas=sigmas, denoise=0.6), 1)
    else:
        start = (graph.add("EmptyFlux2LatentImage", (2, 4), width=width, height=height), 0)
    drawn = graph.add(
        "SamplerCustomAdvanced", (3, 0), noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=start
    )
    pixels = (graph.add("VAEDecode", (3, 1), samples=(drawn, 0), vae=vae), 0)
    graph.add("SaveImage", (3, 2), images=pixels, filename_prefix=name)
    return graph


def graphs() -> list[Graph]:
    """All example graphs."""
    rl, turbo = "lens_bf16.safetensors", "lens_turbo_bf16.safetensors"
    return [
        text_to_image("lens_rl", "rl", rl),
        text_to_image("lens_turbo", "turbo", turbo),
        text_to_image("lens_base", "base", "lens_base_bf16.safetensors"),
        text_to_image("lens_img2img", "rl", rl, image="example.png"),
        text_to_image("lens_lora", "rl", rl, lora="lens_lora.safetensors"),
    ]


def api_form(graph: Graph) -> dict[str, Any]:
    """The value of the key `prompt` in `POST /prompt`."""
    return {
        str(node.number): {
            "inputs": {
                name: [str(value[0]), value[1]] if isinstance(value, tuple) else value
                for name, value in node.inputs.items()
            },
            "class_type": node.kind,
            "_meta": {"title": node.title or node.kind},
        }
        for node in graph.nodes
    }


def page_form(graph: Graph) -> dict[str, Any]:
    """The workflow format of ComfyUI's page, version 0.4, with a note on the required files."""
    links = [
        (value[0], value[1], node.number, slot, graph.type_of(value))
        for node in graph.nodes
        for slot, value in enumerate(node.inputs.values())
        if isinstance(value, tuple)
    ]
    numbered = [[index + 1, *link] for index, link in enumerate(links)]
    nodes = [_page_node(node, numbered) for node in graph.nodes]
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"leanlens/{graph.name}")),
        "revision": 0,
        "last_node_id": len(nodes) + 1,
        "last_link_id": len(numbered),
        "nodes": [*nodes, _page_note(len(nodes) + 1, graph.note)],
        "links": numbered,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _page_node(node: Placed, links: list[list[Any]]) -> dict[str, Any]:
    stock = STOCK[node.kind]
    types = stock.sockets | {name: kind for name, (kind, _) in stock.widgets.items()}
    inputs: list[dict[str, Any]] = []
    values: list[Any] = []
    for slot, (name, value) in enumerate(node.inputs.items()):
        link = next((link[0] for link in links if link[3:5] == [node.number, slot]), None)
        mark = {"widget": {"name": name}} if name in stock.widgets else {}
        inputs.append({"name": name, "type": types[name], **mark, "link": link})
        if name in stock.widgets:
            values.append(stock.widgets[name][1] if isinstance(value, tuple) else value)
            values += [stock.page_widgets[name]] if name in stock.page_widgets else []
    outputs = [
        {"name": name, "type": kind, "links": [link[0] for link in links if link[1:3] == [node.number, slot]]}
        for slot, (name, kind) in enumerate(stock.outputs.items())
    ]
    properties: dict[str, Any] = {"cnr_id": "comfy-core", "Node name for S&R": node.kind}
    if node.kind in FILES and (url := _address(FILES[node.kind], values[0])):
        properties["models"] = [{"name": values[0], "url": url, "directory": FILES[node.kind]}]
    title = {"title": node.title} if node.title else {}
    return {
        "id": node.number,
        "type": node.kind,
        "pos": [420 * node.place[0], 240 * node.place[1]],
        "size": [380, 60 + 26 * max(len(inputs) - (node.kind == "CLIPTextEncode"), 1) + _text_height(node.kind)],
        "flags": {},
        "order": node.number - 1,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        **title,
        "properties": properties,
        "widgets_values": values,
    }


def _text_height(kind: str) -> int:
    return {"CLIPTextEncode": 90, "SaveImage": 380, "LoadImage": 300}.get(kind, 0)


def _page_note(number: int, text: str) -> dict[str, Any]:
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": [-480, 0],
        "size": [440, 520],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "Files, and what this graph does",
        "properties": {},
        "widgets_values": [text],
    }


def _address(folder: str, file: str) -> str | None:
    """The download address of a file; Lens-Base is not available as a single file."""
    return None if file.startswith("lens_base") else f"{REPOSITORY}/{folder}/{file}"


def _note(preset: str, file: str, lora: str | None, image: str | None) -> str:
    """The note next to the graph."""
    settings = PRESETS[preset]
    get = f"[{file}]({url})" if (url := _address("diffusion_models", file)) else file
    lines = [
        f"## {settings.title}, as the original draws it",
        "",
        f"{settings.num_inference_steps} steps, CFG {settings.guidance_scale:g}. The noise levels come from "
        "Flux2Scheduler; set width and height once, on the two Int nodes.",
        "",
        "Put these files into `ComfyUI/models`:",
        f"- `diffusion_models`: {get}",
        f"- `text_encoders`: [gpt_oss_20b_nvfp4.safetensors]({REPOSITORY}/text_encoders/gpt_oss_20b_nvfp4.safetensors)",
        f"- `vae`: [flux2-vae.safetensors]({REPOSITORY}/vae/flux2-vae.safetensors)",
    ]
    if preset == "base":
        lines += [
            "",
            "Lens-Base is published as a folder only. `leanlens weights fetch base --to Lens-Base`, then "
            f"`leanlens weights convert Lens-Base/transformer {file} --to comfy --dtype bf16` makes the file.",
        ]
    if settings.guidance_scale == 1:
        lines += ["", "Turbo needs no guidance: BasicGuider leaves the second pass of every step out."]
    else:
        lines += ["", "CFGNorm needs `pre_cfg` on. If the node has no such switch, update ComfyUI."]
    if lora:
        lines += ["", "LoRA: a file in `models/loras` whose keys begin with `diffusion_model.` or `lora_unet_`."]
    if image:
        lines += [
            "",
            "The picture is scaled and cropped to the size; strength is `denoise` on SplitSigmasDenoise.",
        ]
    return "\n".join(lines)


def files() -> dict[Path, str]:
    """Path -> text of every file that this script writes."""
    written = {}
    for graph in graphs():
        for folder, form in (("example_workflows", page_form(graph)), ("api_workflows", api_form(graph))):
            written[FOLDER / folder / f"{graph.name}.json"] = json.dumps(form, indent=2) + "\n"
    return written


def template_sigmas(tokens: int, steps: int) -> list[float]:
    """The levels of ComfyUI's own template: `ModelSamplingFlux` at 1.15 and 0.5, read by the simple scheduler."""
    mu = linear_mu(tokens, 0.5, 1.15, 256, 4096)
    return [*(shifted(sigma, mu) for sigma in linear_sigmas(steps)), 0.0]


def table() -> str:
    """Markdown: the last noise levels and mu of the template beside those of Lens."""
    lines = ["| size, steps | | mu | first levels | last levels before 0 |", "|---|---|---|---|---|"]
    for side, steps in ((1024, 20), (1024, 4), (1440, 20), (1440, 4)):
        tokens = (side // 16) ** 2
        for title, mu, sigmas in (
            ("Lens", empirical_mu(tokens, steps), inference_sigmas(tokens, steps)),
            ("template", linear_mu(tokens, 0.5, 1.15, 256, 4096), template_sigmas(tokens, steps)),
        ):
            first = ", ".join(f"{sigma:.3f}" for sigma in sigmas[:2])
            last = ", ".join(f"{sigma:.3f}" for sigma in sigmas[-3:-1])
            lines.append(f"| {side} x {side}, {steps} | {title} | {mu:.3f} | {first} | {last} |")
    return "\n".join(lines)


def main() -> int:
    """Write, check or print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file differs")
    parser.add_argument("--table", action="store_true", help="print the noise levels of the template beside Lens's")
    options = parser.parse_args()
    if options.table:
        print(table())
        return 0
    stale = [path for path, text in files().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if options.check:
            print(f"{path} is not what {Path(__file__).name} writes", file=sys.stderr)
            continue
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(files()[path], encoding="utf-8")
        print(path)
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
