"""Lens in one file: the image, the levels and the transformer are those of the library, and it needs three packages."""

import ast
import importlib.util
import io
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leanlens import LensPipeline, LensTransformer2DModel
from leanlens.flow.guidance import guided_velocity
from leanlens.flow.schedule import inference_sigmas

EXAMPLE = Path(__file__).parents[2] / "examples" / "one_file.py"
PROMPT = "a penguin to the left of a pink cupcake"
PACKAGES = {"torch", "safetensors", "tokenizers"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module")
def one_file():
    spec = importlib.util.spec_from_file_location("one_file", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pipelines():
    opened = {name: LensPipeline.from_pretrained("nano", torch_dtype=dtype) for name, dtype in DTYPES.items()}
    for pipeline in opened.values():
        pipeline.set_progress_bar_config(disable=True)
    return opened


def both(one_file, pipelines, dtype, height, width, steps, guidance, prompt=PROMPT):
    """The image of the pipeline and that of the file, as integers (H, W, 3)."""
    wanted = {"height": height, "width": width, "num_inference_steps": steps, "guidance_scale": guidance}
    expected = pipelines[dtype](prompt, generator=torch.Generator().manual_seed(1), **wanted).images[0]
    drawn = one_file.draw(prompt, 1, height, width, steps, guidance, DTYPES[dtype])
    return np.asarray(expected).astype(int), drawn.numpy().astype(int)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("height", "width", "steps", "guidance"), [(256, 256, 2, 2.0), (80, 176, 4, 5.0), (128, 96, 3, 1.0)]
)
def test_the_image_is_that_of_the_pipeline(one_file, pipelines, dtype, height, width, steps, guidance):
    expected, drawn = both(one_file, pipelines, dtype, height, width, steps, guidance)
    assert drawn.shape == (height, width, 3)
    assert np.abs(drawn - expected).max() <= 1
    assert drawn.std() > 10  # not a blank one


@pytest.mark.parametrize("prompt", ["Ein Café, 東京 & a naïve 3D-owl!", "", "apple " * 600])
def test_prompts_are_tokenized_as_in_the_pipeline(one_file, pipelines, prompt):
    """Accents, other scripts, no words at all, and more words than the encoder has positions."""
    expected, drawn = both(one_file, pipelines, "float32", 32, 32, 1, 1.0, prompt)
    assert np.abs(drawn - expected).max() <= 1


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(256, 256), (192, 320)])
def test_a_whole_drawing_is_that_of_the_pipeline(one_file, pipelines, dtype, size):
    expected, drawn = both(one_file, pipelines, dtype, *size, 20, 2.0)
    assert np.abs(drawn - expected).max() <= 1


def test_other_packages_are_not_needed():
    tree = ast.parse(EXAMPLE.read_text(encoding="utf-8"))
    names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == PACKAGES


def test_it_draws_where_the_library_is_not_installed():
    absent = ["leanlens", "diffusers", "transformers", "accelerate", "PIL", "huggingface_hub"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); sys.path.insert(0, {str(EXAMPLE.parent)!r})\n"
        "import one_file; print(one_file.draw('a red apple', height=16, width=32, steps=1).shape)"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "torch.Size([16, 32, 3])"), run.stderr


@pytest.mark.parametrize("tokens", [1, 256, 4096, 4300, 4301, 8100])
@pytest.mark.parametrize("steps", [1, 4, 20, 50])
def test_the_levels_are_those_of_the_library(one_file, tokens, steps):
    found = one_file.noise_levels(tokens, steps)
    assert found.shape == (steps + 1,)
    torch.testing.assert_close(found, torch.tensor(inference_sigmas(tokens, steps)), rtol=1e-5, atol=1e-6)


def test_the_guidance_is_that_of_the_library(one_file):
    conditional, unconditional = torch.randn(2, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    unconditional[0, 0] = conditional[0, 0] = 0
    expected = guided_velocity(conditional, unconditional, 4.0)
    assert torch.equal(one_file.guided(conditional, unconditional, 4.0), expected)


@pytest.mark.parametrize("text_tokens", [0, 5])
def test_the_transformer_is_that_of_every_size(one_file, text_tokens):
    """Four feature layers, as Lens has them, an odd grid, and random weights, modulation included."""
    sizes = {"num_layers": 2, "num_attention_heads": 3, "enc_hidden_dim": 24, "selected_layer_index": (0, 1, 2, 3)}
    model = LensTransformer2DModel(**sizes).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.normal_(0, 0.1, generator=generator)
    latents = torch.randn(1, 15, 128, generator=generator)
    features = list(torch.randn(4, 1, text_tokens, 24, generator=generator))
    level = torch.tensor(0.3)
    expected = model(latents, features, timestep=level, img_shapes=[(1, 3, 5)])
    weights = one_file.Weights(dict(model.state_dict()))
    found = one_file.predict_velocity(dict(model.config), weights, latents, features, level, (3, 5))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_every_weight_is_read(one_file, monkeypatch):
    """Of the three parts, all but what encodes pixels and the pooled sentence."""
    names, read = set(), set()

    class Watched(dict):
        def __getitem__(self, name):
            read.add(name)
            return super().__getitem__(name)

        def get(self, name, default=None):
            read.add(name)
            return super().get(name, default)

    def load(folder, dtype, plain=one_file.load):
        config, weights = plain(folder, dtype)
        names.update(weights.tensors)
        return config, one_file.Weights(Watched(weights.tensors))

    monkeypatch.setattr(one_file, "load", load)
    one_file.draw(PROMPT, height=16, width=16, steps=1, guidance=1.0)
    unread = {name for name in names - read if not name.startswith(("encoder.", "quant_conv.", "pooler."))}
    assert unread == {"bn.num_batches_tracked"}
    assert not [name for name in names - read if name.startswith("encoder.layer.")]  # BERT's own


def test_the_command_writes_a_png(one_file, tmp_path, monkeypatch, capsys):
    out = tmp_path / "apple.png"
    small = partial(one_file.draw, height=32, width=48, steps=1)
    monkeypatch.setattr(one_file, "draw", small)
    monkeypatch.setattr(sys, "argv", ["one_file.py", "a red apple", str(out), "7"])
    one_file.main()
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (48, 32))
        assert np.array_equal(np.asarray(image), small("a red apple", 7).numpy())


def test_the_bytes_of_a_png_are_any_image(one_file):
    image = torch.randint(0, 256, (5, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(one_file.png(image)))), image.numpy())


@pytest.mark.parametrize("wrong", [{"height": 250}, {"width": 0}, {"width": -16}, {"steps": 0}])
def test_a_size_that_is_not_whole_tokens_is_refused(one_file, wrong):
    with pytest.raises(ValueError, match="expected multiples of 16"):
        one_file.draw(PROMPT, **wrong)
