"""What any program that knows diffusers tries on a pipeline."""

import copy
import pickle

import diffusers
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DiffusionPipeline,
)

import leanlens
from leanlens import LensGptOssEncoder, LensImg2ImgPipeline, LensInpaintPipeline, LensPipeline, LensTransformer2DModel
from leanlens.pipeline.toy import toy_pipeline


@pytest.fixture
def pipeline():
    made = toy_pipeline()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy")
    toy_pipeline().save_pretrained(path)
    return path


def drawn(pipeline, **options) -> torch.Tensor:
    settings = {"prompt": "a", "height": 64, "width": 64, "num_inference_steps": 2, "output_type": "latent"}
    return pipeline(**settings | {"generator": torch.Generator().manual_seed(0)} | options)[0]


def test_prompts_are_encoded_without_a_transformer(pipeline):
    parts = {"scheduler": None, "vae": None, "transformer": None}
    text_only = LensPipeline(**{**pipeline.components, **parts})
    positive, negative = text_only.encode_prompt("a", "dark")
    bare = LensPipeline(**{**pipeline.components, "text_encoder": None, "tokenizer": None})
    bare.set_progress_bar_config(disable=True)
    texts = {"prompt_embeds": positive.layers, "negative_prompt_embeds": negative.layers}
    expected = drawn(pipeline, negative_prompt="dark")
    assert torch.equal(drawn(bare, prompt=None, **texts), expected)
    whole = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    assert torch.equal(drawn(bare, prompt=None, **whole), expected)
    padded = text_only.encode_prompt(["a", "a red lamp"])[0]
    apart = {"prompt_embeds": padded.layers, "prompt_mask": padded.mask}
    assert not padded.mask.all()
    assert torch.equal(drawn(bare, prompt=None, prompt_embeds=padded), drawn(bare, prompt=None, **apart))


def test_only_safetensors_are_saved_and_opened(pipeline, folder, tmp_path):
    for one in (pipeline, pipeline.transformer):
        with pytest.raises(ValueError, match="safe_serialization False"):
            one.save_pretrained(tmp_path / "saved", safe_serialization=False)
    assert not (tmp_path / "saved").exists()
    for kind, part in (
        (LensPipeline, ""),
        (LensTransformer2DModel, "transformer"),
        (LensGptOssEncoder, "text_encoder"),
    ):
        with pytest.raises(ValueError, match="use_safetensors False"):
            kind.from_pretrained(folder / part, use_safetensors=False)
    for kind, part, name in (
        (LensTransformer2DModel, "transformer", "diffusion_pytorch_model"),
        (LensGptOssEncoder, "text_encoder", "pytorch_model"),
    ):
        kept = getattr(pipeline, part)
        kept.config.save_pretrained(tmp_path / part) if part == "text_encoder" else kept.save_config(tmp_path / part)
        torch.save(kept.state_dict(), tmp_path / part / f"{name}.bin")
        with pytest.raises(OSError, match="safetensors"):
            kind.from_pretrained(tmp_path / part)
    torch.save({}, tmp_path / "lora.bin")
    with pytest.raises(ValueError, match=r"'lora\.bin' is not a \.safetensors file"):
        pipeline.transformer.load_lora_adapter(tmp_path, weight_name="lora.bin")


def test_variants_and_shards(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "fp16", variant="fp16")
    assert (tmp_path / "fp16/transformer/diffusion_pytorch_model.fp16.safetensors").is_file()
    opened = LensPipeline.from_pretrained(tmp_path / "fp16", variant="fp16")
    opened.set_progress_bar_config(disable=True)
    assert torch.equal(drawn(opened), drawn(pipeline))
    pipeline.save_pretrained(tmp_path / "shards", max_shard_size="1MB")
    assert len([*(tmp_path / "shards/transformer").glob("*.safetensors")]) > 1
    opened = LensPipeline.from_pretrained(tmp_path / "shards")
    opened.set_progress_bar_config(disable=True)
    torch.testing.assert_close(drawn(opened), drawn(pipeline), rtol=0, atol=1e-4)  # weights lie elsewhere in memory


def test_each_part_may_have_a_dtype_of_its_own(folder):
    opened = LensPipeline.from_pretrained(folder, torch_dtype={"transformer": torch.bfloat16, "default": torch.float32})
    dtypes = {name: part.dtype for name, part in opened.components.items() if isinstance(part, torch.nn.Module)}
    assert dtypes == {"vae": torch.float32, "text_encoder": torch.float32, "transformer": torch.bfloat16}
    assert opened.to(torch.bfloat16).vae.dtype == torch.bfloat16


def test_from_one_pipeline_to_another_and_copies(pipeline):
    plain = drawn(pipeline)
    painted = LensInpaintPipeline.from_pipe(LensImg2ImgPipeline.from_pipe(pipeline))
    assert painted.components == pipeline.components
    assert LensPipeline(**painted.components).transformer is pipeline.transformer
    for copied in (copy.deepcopy(pipeline), pickle.loads(pickle.dumps(pipeline))):
        assert torch.equal(drawn(copied), plain)
        assert copied.transformer is not pipeline.transformer


def test_outputs_of_each_kind(pipeline):
    kinds = {kind: drawn(pipeline, output_type=kind, return_dict=False) for kind in ("pil", "np", "pt", "latent")}
    assert kinds["pil"][0].size == (64, 64)
    assert kinds["np"].shape == (1, 64, 64, 3)
    assert tuple(kinds["pt"].shape) == (1, 3, 64, 64)
    assert tuple(kinds["latent"].shape) == (1, 16, 128)


def test_generators_one_for_each(pipeline):
    both = drawn(pipeline, prompt=["a", "b"], generator=(torch.Generator().manual_seed(1), torch.Generator()))
    first = drawn(pipeline, generator=[torch.Generator().manual_seed(1)])
    torch.testing.assert_close(both[:1], first, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="invalid generator 42"):
        drawn(pipeline, generator=42)
    with pytest.raises(ValueError, match="generator holds 1 generators for 2 pictures"):
        drawn(pipeline, prompt=["a", "b"], generator=(torch.Generator(),))
    with pytest.raises(ValueError, match="negative_prompt holds None; expected strings"):
        drawn(pipeline, prompt=["a", "b"], negative_prompt=["x", None])


def test_slicing_of_attention_changes_nothing(pipeline):
    plain = drawn(pipeline)
    pipeline.enable_attention_slicing()
    assert torch.equal(drawn(pipeline), plain)


@pytest.mark.parametrize(
    "kind", [DiffusionPipeline, AutoPipelineForText2Image, AutoPipelineForImage2Image, AutoPipelineForInpainting]
)
def test_diffusers_alone_does_not_know_lens_and_nothing_is_patched_into_it(kind, folder):
    """As `docs/python.md` says; should diffusers learn of Lens or of classes elsewhere, that page is to change."""
    assert leanlens.LensPipeline is LensPipeline
    assert not [name for name in dir(diffusers) if name.startswith("Lens")]
    with pytest.raises((AttributeError, ValueError), match="LensPipeline"):
        kind.from_pretrained(folder)
