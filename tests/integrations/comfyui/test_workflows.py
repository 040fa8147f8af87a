"""The shipped workflows: both forms say the same, links hold, and stock nodes draw what our pipeline draws."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from leanlens.flow.guidance import guided_velocity
from leanlens.flow.schedule import inference_sigmas
from leanlens.pipeline.start import set_levels
from leanlens.pipeline.toy import toy_pipeline
from leanlens.pipeline.variants import LensImg2ImgPipeline
from leanlens.presets import PRESETS
from leanlens.resolution import BUCKETS
from tests.integrations.comfyui import stock

PACK = Path(__file__).parents[3] / "integrations" / "comfyui"
NAMES = ["lens_base", "lens_img2img", "lens_lora", "lens_rl", "lens_turbo"]


def script(path: Path = PACK / "make_workflows.py"):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name: str) -> dict:
    return json.loads((PACK / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))


def api(name: str) -> dict:
    return json.loads((PACK / "api_workflows" / f"{name}.json").read_text(encoding="utf-8"))


def node(graph: dict, kind: str) -> dict:
    (found,) = [node for node in graph.values() if node["class_type"] == kind]
    return found


def test_the_files_are_what_the_script_writes():
    module = script()
    assert sorted(path.stem for path in PACK.glob("*_workflows/*.json")) == sorted(NAMES * 2)
    for path, text in module.files().items():
        assert path.read_text(encoding="utf-8") == text, "run `python integrations/comfyui/make_workflows.py`"


def test_the_script_refuses_wrong_wires():
    module = script()
    graph = module.Graph("x", "")
    vae = (graph.add("VAELoader", (0, 0)), 0)
    with pytest.raises(ValueError, match="samples of VAEDecode is LATENT, but output"):
        graph.add("VAEDecode", (1, 0), samples=vae, vae=vae)
    with pytest.raises(ValueError, match=r"needs \['samples'\]"):
        graph.add("VAEDecode", (1, 0), vae=vae)


@pytest.mark.parametrize("name", NAMES)
def test_links_of_the_page_form_hold(name):
    graph = page(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"]) == graph["last_node_id"]
    assert [link[0] for link in graph["links"]] == list(range(1, graph["last_link_id"] + 1))
    for number, origin, origin_slot, target, target_slot, kind in graph["links"]:
        output, entry = nodes[origin]["outputs"][origin_slot], nodes[target]["inputs"][target_slot]
        assert number in output["links"]
        assert entry["link"] == number
        assert kind == output["type"] == entry["type"]
        assert nodes[origin]["order"] < nodes[target]["order"]
    ends = [node for node in graph["nodes"] if not node["outputs"] and node["type"] != "MarkdownNote"]
    assert [node["type"] for node in ends] == ["SaveImage"]


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_say_the_same(name):
    graph, links = page(name), {link[0]: link for link in page(name)["links"]}
    said = {}
    for entry in graph["nodes"]:
        if entry["type"] == "MarkdownNote":
            continue
        values = list(entry["widgets_values"])
        inputs = {}
        for slot in entry["inputs"]:
            value = values.pop(0) if "widget" in slot else None
            if slot["name"] in ("noise_seed", "value", "image") and "widget" in slot:
                values.pop(0)  # what only the page has: a seed's control, an upload button
            link = links.get(slot["link"])
            inputs[slot["name"]] = value if link is None else [str(link[1]), link[2]]
        assert values == []
        said[str(entry["id"])] = (entry["type"], inputs)
    assert said == {number: (entry["class_type"], entry["inputs"]) for number, entry in api(name).items()}


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_the_presets(name):
    preset = PRESETS[{"lens_turbo": "turbo", "lens_base": "base"}.get(name, "rl")]
    graph = api(name)
    assert node(graph, "Flux2Scheduler")["inputs"]["steps"] == preset.num_inference_steps
    if preset.guidance_scale == 1:
        assert not [entry for entry in graph.values() if entry["class_type"] in ("CFGGuider", "CFGNorm")]
    else:
        assert node(graph, "CFGGuider")["inputs"]["cfg"] == preset.guidance_scale
        assert node(graph, "CFGNorm")["inputs"] | {"model": 0} == {"model": 0, "strength": 1.0, "pre_cfg": True}
    sizes = [entry["inputs"] for entry in graph.values() if "width" in entry["inputs"]]
    assert len(sizes) == 2
    assert sizes[0]["width"] == sizes[1]["width"] != sizes[0]["height"] == sizes[1]["height"]


@pytest.mark.parametrize("steps", [1, 2, 4, 20, 50])
@pytest.mark.parametrize("size", [(512, 512), *BUCKETS[1024].values(), *BUCKETS[1440].values()])
def test_levels_of_the_stock_scheduler_are_ours(size, steps):
    height, width = size
    ours = torch.tensor(inference_sigmas(height // 16 * (width // 16), steps), dtype=torch.float64)
    assert (stock.levels(steps, width, height).double() - ours).abs().max() < 1e-6


def test_guidance_of_the_stock_node_is_ours():
    c, u = torch.randn(2, 2, 128, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u[0, :, 0, 0] = 0.0
    c[0, :, 0, 0] = 0.0  # a combination of length zero
    for scale in (0.0, 1.0, 5.0, 12.5):
        theirs = stock.norm_before_guidance(1.0)({"cond": c, "uncond": u, "cond_scale": scale})
        ours = guided_velocity(c.flatten(2).transpose(1, 2), u.flatten(2).transpose(1, 2), scale)
        assert (theirs.flatten(2).transpose(1, 2) - ours).abs().max() < 1e-6


@pytest.fixture(scope="module")
def pipeline():
    pipeline = toy_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def small(name: str, size: tuple[int, int]) -> dict:
    """A shipped graph at (height, width); everything else as it is."""
    graph = api(name)
    height, width = [entry for entry in graph.values() if entry["class_type"] == "PrimitiveInt"][::-1]
    height["inputs"]["value"], width["inputs"]["value"] = size
    return graph


def drawn_by_stock_nodes(pipeline, graph: dict, noise: torch.Tensor, picture=None) -> torch.Tensor:
    """Packed latents (B, L, C)."""
    outputs = stock.Machine(pipeline, noise, picture).run(graph)
    (sampler,) = [number for number, entry in graph.items() if entry["class_type"] == "SamplerCustomAdvanced"]
    return outputs[sampler][0].flatten(2).transpose(1, 2)


def request(graph: dict) -> dict:
    texts = [entry["inputs"]["text"] for entry in graph.values() if entry["class_type"] == "CLIPTextEncode"]
    guiders = [entry["inputs"]["cfg"] for entry in graph.values() if entry["class_type"] == "CFGGuider"]
    return {
        "prompt": texts[0],
        "num_inference_steps": node(graph, "Flux2Scheduler")["inputs"]["steps"],
        "guidance_scale": guiders[0] if guiders else 1.0,
        "output_type": "latent",
    }


@pytest.mark.parametrize("name", ["lens_base", "lens_rl", "lens_turbo"])
def test_a_graph_draws_what_the_pipeline_draws(pipeline, name):
    graph = small(name, (64, 96))
    noise = torch.randn(1, 128, 4, 6, generator=torch.Generator().manual_seed(1))
    theirs = drawn_by_stock_nodes(pipeline, graph, noise)
    packed = noise.flatten(2).transpose(1, 2)
    ours = pipeline(height=64, width=96, latents=packed, **request(graph)).images
    assert (theirs - packed).abs().max() > 0.1
    assert (theirs - ours).abs().max() < 2e-5 * ours.abs().max()


def test_the_picture_graph_draws_what_the_pipeline_draws(pipeline):
    graph = small("lens_img2img", (64, 96))
    noise = torch.randn(1, 128, 4, 6, generator=torch.Generator().manual_seed(1))
    picture = Image.radial_gradient("L").convert("RGB").resize((200, 150))
    theirs = drawn_by_stock_nodes(pipeline, graph, noise, picture)
    strength = node(graph, "SplitSigmasDenoise")["inputs"]["denoise"]
    ours = LensImg2ImgPipeline(**pipeline.components)(
        image=picture, strength=strength, height=64, width=96, latents=noise.flatten(2).transpose(1, 2),
        **request(graph),
    ).images  # fmt: skip
    assert (theirs - ours).abs().max() < 2e-5 * ours.abs().max()


def test_the_template_of_comfyui_draws_something_else(pipeline):
    """What the corrected graph corrects: its levels at 1024 x 1024, and guidance that only shrinks."""
    module = script()
    ours, template = inference_sigmas(4096, 20), module.template_sigmas(4096, 20)
    assert max(abs(a - b) for a, b in zip(ours, template, strict=True)) > 0.2
    assert module.template_sigmas(8100, 20) == pytest.approx(inference_sigmas(8100, 20), abs=1e-3)
    graph = small("lens_rl", (64, 96))
    noise = torch.randn(1, 128, 4, 6, generator=torch.Generator().manual_seed(1))
    right = drawn_by_stock_nodes(pipeline, graph, noise)
    node(graph, "CFGNorm")["inputs"]["pre_cfg"] = False
    assert (drawn_by_stock_nodes(pipeline, graph, noise) - right).abs().max() > 0.01


def test_the_pictures_side_by_side_are_of_the_templates_formulas(pipeline):
    """`docs/make_comfyui_pictures.py` puts both formulas into our pipeline; the stock nodes give the same latents."""
    module = script(Path(__file__).parents[3] / "docs" / "make_comfyui_pictures.py")
    opened = SimpleNamespace(pipeline=pipeline)
    with module.template_levels(opened, True):
        set_levels(pipeline.scheduler, (4, 6), 20)
        levels = pipeline.scheduler.sigmas.clone()
    assert levels.tolist() == pytest.approx(script().template_sigmas(4096, 20), abs=1e-6)
    set_levels(pipeline.scheduler, (4, 6), 20)
    assert (pipeline.scheduler.sigmas - levels).abs().max() > 0.1  # and are as before afterwards
    graph = small("lens_rl", (64, 96))
    node(graph, "CFGNorm")["inputs"]["pre_cfg"] = False
    noise = torch.randn(1, 128, 4, 6, generator=torch.Generator().manual_seed(1))
    theirs = drawn_by_stock_nodes(pipeline, graph, noise)
    with module.template_guidance(opened, True):
        ours = pipeline(height=64, width=96, latents=noise.flatten(2).transpose(1, 2), **request(graph)).images
    assert (theirs - ours).abs().max() < 2e-5 * ours.abs().max()


def test_the_lora_graph_has_the_lora_before_the_guidance():
    graph = api("lens_lora")
    (lora,) = [number for number, entry in graph.items() if entry["class_type"] == "LoraLoaderModelOnly"]
    assert node(graph, "CFGNorm")["inputs"]["model"] == [lora, 0]
    assert graph[node(graph, "LoraLoaderModelOnly")["inputs"]["model"][0]]["class_type"] == "UNETLoader"
