"""Calls of the pipeline, on random weights of every real class."""

import json

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from transformers import BertConfig, BertModel

from leanlens import LensPipeline, LensPipelineOutput
from leanlens.weights.assemble import OFFICIAL_SCHEDULER
from tests.reasoning import FakeReasoner

QUICK = {"num_inference_steps": 2, "height": 64, "width": 48, "guidance_scale": 3.0}


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4, rtol=1e-4)


def latents(pipeline, prompt="a red cube", **options) -> torch.Tensor:
    return pipeline(prompt, **{**QUICK, "output_type": "latent", **options}).images


def test_outputs(toy):
    output = toy("a red cube", **QUICK)
    assert isinstance(output, LensPipelineOutput)
    assert isinstance(output.images[0], Image.Image)
    assert output.images[0].size == (48, 64)
    assert toy("a red cube", **QUICK, return_dict=False)[0][0].size == (48, 64)
    array = toy("a red cube", **QUICK, output_type="np").images
    tensor = toy("a red cube", **QUICK, output_type="pt").images
    assert (array.shape, tuple(tensor.shape)) == ((1, 64, 48, 3), (1, 3, 64, 48))
    assert 0 <= array.min() <= array.max() <= 1
    assert latents(toy).shape == (1, 12, 128)


def test_default_size_is_the_autoencoders_and_buckets_are_width_to_height(toy):
    assert toy("a", num_inference_steps=1, guidance_scale=1).images[0].size == (128, 128)
    counted = toy("a", num_inference_steps=np.int64(1), guidance_scale=1, num_images_per_prompt=np.int32(2)).images
    assert len(counted) == 2
    wide = toy("a", num_inference_steps=1, guidance_scale=1, base_resolution=128, aspect_ratio="2:1").images[0]
    assert wide.width > wide.height


def test_batches_of_different_prompts_equal_single_calls(toy):
    prompts = ["a red cube", "a very long description of a blue teapot on a wooden table", "dog"]
    negatives = ["", "blurry, dark", ""]
    together = latents(toy, prompts, negative_prompt=negatives, generator=seeded(1, 2, 3))
    for index, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        alone = latents(toy, prompt, negative_prompt=negative, generator=seeded(index + 1))
        assert close(together[index], alone[0])


def test_a_generator_for_each_picture(toy):
    four = latents(toy, num_images_per_prompt=4, generator=seeded(5, 6, 5, 7))
    assert torch.equal(four[0], four[2])
    assert not close(four[0], four[1])
    assert close(four[3:], latents(toy, generator=seeded(7)))
    with pytest.raises(ValueError, match="2 generators for 1 pictures"):
        latents(toy, generator=seeded(1, 2))


def test_guidance_1_skips_the_unconditional_branch_and_exact_keeps_it(toy, monkeypatch):
    rows = []
    forward = toy.transformer.forward
    monkeypatch.setattr(
        toy.transformer, "forward", lambda *args, **options: rows.append(args[0].shape[0]) or forward(*args, **options)
    )
    skipped = latents(toy, guidance_scale=1.0, generator=seeded(1))
    assert rows == [1, 1]
    rows.clear()
    kept = latents(toy, guidance_scale=1.0, generator=seeded(1), exact=True)
    assert rows == [2, 2]
    assert close(skipped, kept)
    rows.clear()
    latents(toy, guidance_scale=3.0)
    assert rows == [1, 1, 1, 1]


@pytest.mark.parametrize("negative", ["", "dark and blurry", "  "])
def test_exact_and_plain_agree(toy, negative):
    options = {"negative_prompt": negative, "generator": seeded(1)[0]}
    plain = latents(toy, **options)
    options["generator"] = seeded(1)[0]
    assert close(plain, latents(toy, **options, exact=True))


def test_a_blank_negative_prompt_is_no_text_at_all(toy):
    positive, negative = toy.encode_prompt("a red cube", " ")
    assert negative.mask.shape[1] == 0
    assert toy.encode_prompt("a red cube", "dark")[1].mask.all()
    assert positive.mask.all()


def test_features_instead_of_prompts_need_no_text_side(toy):
    positive, negative = toy.encode_prompt(["a red cube", "a dog on a hill"], "dark")
    bare = LensPipeline(**{**toy.components, "text_encoder": None, "tokenizer": None})
    bare.set_progress_bar_config(disable=True)
    drawn = bare(
        prompt_embeds=positive.layers, prompt_mask=positive.mask, negative_prompt_embeds=negative.layers,
        negative_prompt_mask=negative.mask, generator=seeded(1, 2), **QUICK, output_type="latent",
    ).images  # fmt: skip
    assert close(drawn, latents(toy, ["a red cube", "a dog on a hill"], negative_prompt="dark", generator=seeded(1, 2)))
    one_for_all = {"negative_prompt_embeds": [layer[:1] for layer in negative.layers], "generator": seeded(1, 2)}
    both = bare("not read", prompt_embeds=positive.layers, prompt_mask=positive.mask, **one_for_all, **QUICK,
                output_type="latent").images  # fmt: skip
    assert close(both, drawn)
    alone = bare(prompt_embeds=[layer[:1] for layer in positive.layers], **QUICK, output_type="latent")
    assert alone.images.isfinite().all()
    with pytest.raises(ValueError, match="pass prompt_embeds instead of prompt"):
        bare("a red cube", **QUICK)
    with pytest.raises(ValueError, match="pass prompt_embeds instead of prompt"):
        bare(prompt_embeds=positive.layers, negative_prompt="dark", **QUICK)


def test_callbacks_see_and_change_latents_and_interrupt_stops(toy):
    seen = []

    def zero(pipeline, step, timestep, tensors):
        seen.append((step, float(timestep), tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    assert not latents(toy, callback_on_step_end=zero).any()
    assert [entry[0] for entry in seen] == [0, 1]
    assert seen[0][1] == 1000

    def stop(pipeline, step, timestep, tensors):
        seen.append(step)
        pipeline.interrupt = True
        return {}

    seen.clear()
    latents(toy, num_inference_steps=9, callback_on_step_end=stop)
    assert seen == [0]
    assert latents(toy, generator=seeded(1)).isfinite().all()  # the next call is not interrupted


def test_given_latents_are_the_noise(toy):
    noise = torch.randn(1, 12, 128, generator=torch.Generator().manual_seed(9), dtype=torch.float32)
    assert torch.equal(latents(toy, latents=noise), latents(toy, generator=seeded(9)))


def test_the_date_changes_the_picture_and_is_frozen_by_default(toy):
    default = latents(toy, generator=seeded(1))
    assert torch.equal(default, latents(toy, generator=seeded(1), template_date="2026-05-23"))
    assert not torch.equal(default, latents(toy, generator=seeded(1), template_date="2026-05-24"))


def test_reasoner_rewrites_when_asked(toy):
    toy.reasoner = lambda prompts: [f"{prompt}, in the snow" for prompt in prompts]
    plain = latents(toy, generator=seeded(1))
    assert not torch.equal(plain, latents(toy, generator=seeded(1), enable_reasoner=True))
    output = toy(["a red cube", "a dog"], **QUICK, output_type="latent", enable_reasoner=True, num_images_per_prompt=2)
    assert [(one.original, one.prompt, one.source) for one in output.reasoned] == [
        ("a red cube", "a red cube, in the snow", "<lambda>"), ("a dog", "a dog, in the snow", "<lambda>"),
    ]  # fmt: skip
    assert len(output.images) == 4
    assert toy("a dog", **QUICK, output_type="latent").reasoned is None
    toy.reasoner = None
    with pytest.raises(ValueError, match=r"enable_reasoner needs a reasoner; set pipeline.reasoner to leanlens.reason"):
        latents(toy, enable_reasoner=True)
    for wrong in (lambda prompts: prompts * 2, lambda prompts: [None]):
        toy.reasoner = wrong
        with pytest.raises(ValueError, match="for 1 prompts; it has to give a text for each"):
            latents(toy, enable_reasoner=True)


def test_a_reasoner_reads_the_prompt_anew_for_each_image(toy):
    toy.reasoner = FakeReasoner()
    negatives, more = ["dark", ""], {"enable_reasoner": True, "num_images_per_prompt": 2}
    output = toy(["two cats", "a dog"], negatives, **QUICK, output_type="latent", generator=seeded(5, 6, 7, 9), **more)
    captions = [
        f"This flat picture shows {prompt}. Choice {seed}."
        for prompt, seed in (("two cats", 5), ("two cats", 6), ("a dog", 7), ("a dog", 9))
    ]
    assert [one.prompt for one in output.reasoned] == captions
    assert {(ask.width, ask.height) for ask in toy.reasoner.asks} == {(48, 64)}
    plain = latents(toy, captions, negative_prompt=["dark", "dark", "", ""], generator=seeded(5, 6, 7, 9))
    assert torch.equal(output.images, plain)
    none = toy.encode_prompt("a", "dark")[1]
    given = latents(toy, "two cats", negative_prompt_embeds=none, generator=seeded(5, 6), **more)
    assert torch.equal(given, latents(toy, captions[:2], negative_prompt_embeds=none, generator=seeded(5, 6)))


@pytest.mark.parametrize(
    ("generator", "seeds"),
    [(None, [0, 1]), (torch.Generator().manual_seed(7), [7, 8]), (seeded(2**64 - 1, 3), [2**64 - 1, 3])],
)
def test_what_is_left_open_is_chosen_by_the_generator(toy, generator, seeds):
    toy.reasoner = FakeReasoner()
    latents(toy, "two cats", generator=generator, enable_reasoner=True, num_images_per_prompt=2)
    assert [ask.seed for ask in toy.reasoner.asks] == seeds


def test_the_embedded_reasoner_writes_captions_in_python(toy):
    import leanlens.reason

    toy.reasoner = leanlens.reason.SceneReasoner()
    (record,) = toy("two red cats", **QUICK, output_type="latent", generator=seeded(5), enable_reasoner=True).reasoned
    assert record.original == "two red cats"
    assert "two red cats" in record.prompt
    assert record.prompt != record.original


def test_not_finite_latents_stop_with_the_step(toy, monkeypatch):
    broken = torch.full((1, 12, 128), torch.nan)
    with pytest.raises(FloatingPointError, match=r"after step 1 of 2: a damaged weight file or LoRA is likely"):
        latents(toy, latents=broken)
    scale = toy.transformer.proj_out.weight.data.clone()
    try:
        toy.transformer.proj_out.weight.data.fill_(torch.inf)
        with pytest.raises(FloatingPointError, match="step 1"):
            latents(toy)
    finally:
        toy.transformer.proj_out.weight.data.copy_(scale)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 65}, "height 65: expected a positive multiple of 16; nearest: 64 and 80"),
        ({"width": None}, "height 64 was given without width"),
        ({"num_inference_steps": 0}, "invalid num_inference_steps 0"),
        ({"guidance_scale": float("nan")}, "invalid guidance_scale nan"),
        ({"num_images_per_prompt": -1}, "invalid num_images_per_prompt -1"),
        ({"height": None, "width": None, "aspect_ratio": "5:1"}, "invalid aspect_ratio '5:1'"),
        ({"output_type": "jpg"}, "invalid output_type 'jpg'"),
        ({"latents": torch.zeros(1, 3, 128)}, r"latents has shape \(1, 3, 128\)"),
        ({"prompt": None}, "prompt is missing; give it, or prompt_embeds"),
        ({"prompt": []}, r"invalid prompt \[\]: expected a string or a list of strings"),
        ({"negative_prompt": ["a", "b"]}, "2 texts for 1 prompts"),
        ({"template_date": "May"}, "YYYY-MM-DD"),
        ({"max_sequence_length": 20}, "invalid max_sequence_length 20"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "expected some of latents"),
    ],
)
def test_bad_input_is_named(toy, options, message):
    with pytest.raises(ValueError, match=message):
        toy(**{"prompt": "a", **QUICK, **options})


def test_save_and_reopen_with_the_official_names(toy, tmp_path):
    before = latents(toy, generator=seeded(1))
    toy.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert {name: index[name] for name in ("_class_name", "transformer", "text_encoder", "scheduler", "vae")} == {
        "_class_name": "LensPipeline",
        "transformer": ["diffusers", "LensTransformer2DModel"],
        "text_encoder": ["transformers", "LensGptOssEncoder"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
    }
    assert "text_template" not in index
    reopened = LensPipeline.from_pretrained(tmp_path)
    reopened.set_progress_bar_config(disable=True)
    assert torch.equal(latents(reopened, generator=seeded(1)), before)
    half = LensPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert {half.transformer.dtype, half.vae.dtype} == {torch.bfloat16}


def test_a_damaged_folder_is_refused_before_anything_is_loaded(toy, tmp_path):
    toy.save_pretrained(tmp_path)
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors"):
        LensPipeline.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match="transformer"):
        LensPipeline.from_pretrained(tmp_path)


def test_another_language_model_opens_the_same_way(toy, tmp_path):
    """A folder with BERT in place of GPT-OSS: no conversation, the layers that the transformer's config names."""
    config = BertConfig(
        vocab_size=len(toy.tokenizer), hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64
    )
    pipeline = LensPipeline(**{**toy.components, "text_encoder": BertModel(config).eval()})
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.load_text_side().template == "plain"
    positive, _ = pipeline.encode_prompt("a red cube")
    assert len(positive.layers) == 4
    assert positive.mask.shape[1] == len(toy.tokenizer("a red cube")["input_ids"])
    before = latents(pipeline, generator=seeded(1))
    pipeline.save_pretrained(tmp_path)
    reopened = LensPipeline.from_pretrained(tmp_path)
    reopened.set_progress_bar_config(disable=True)
    assert torch.equal(latents(reopened, generator=seeded(1)), before)


def test_the_time_shift_is_a_setting_of_the_scheduler(toy, tmp_path):
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        {**OFFICIAL_SCHEDULER, "shift_rule": "constant", "shift": 2.0}
    )
    pipeline = LensPipeline(**{**toy.components, "scheduler": scheduler})
    pipeline.set_progress_bar_config(disable=True)
    latents(pipeline, num_inference_steps=4)
    expected = [2 * sigma / (1 + sigma) for sigma in (1, 0.75, 0.5, 0.25, 0)]
    assert np.allclose(pipeline.scheduler.sigmas, expected, atol=1e-6)
    pipeline.save_pretrained(tmp_path)
    assert LensPipeline.from_pretrained(tmp_path).scheduler.config["shift_rule"] == "constant"


def test_large_pictures_are_decoded_in_tiles_and_official_sizes_are_not(toy, monkeypatch):
    from leanlens.models import vae as autoencoder

    calls = []
    tiled = toy.vae._tiled_decode if hasattr(toy.vae, "_tiled_decode") else toy.vae.tiled_decode
    monkeypatch.setattr(toy.vae, "tiled_decode", lambda *args, **options: calls.append(1) or tiled(*args, **options))
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "height": 192, "width": 192}
    whole = toy("a", generator=seeded(1), **options, output_type="pt").images
    assert not calls
    assert autoencoder.TILE_ABOVE_TOKENS >= 1040 * 2080 // 256
    monkeypatch.setattr(autoencoder, "TILE_ABOVE_TOKENS", 100)
    parts = toy("a", generator=seeded(1), **options, output_type="pt").images
    assert calls
    assert not toy.vae.use_tiling
    assert (whole - parts).abs().mean() < 0.1


def test_placement_of_diffusers_finds_its_way(tmp_path):
    """Group offload keeps weights elsewhere than it computes; the pipeline must send inputs to where it computes."""
    from leanlens.pipeline.device import compute_device
    from leanlens.pipeline.toy import toy_pipeline

    assert LensPipeline.model_cpu_offload_seq == "text_encoder->transformer->vae"
    pipeline = toy_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    before = latents(pipeline, generator=seeded(1))
    pipeline.transformer.enable_group_offload(
        onload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        offload_to_disk_path=str(tmp_path),
    )
    assert compute_device(pipeline.transformer) == torch.device("cpu")
    assert torch.equal(latents(pipeline, generator=seeded(1)), before)
    assert list(tmp_path.iterdir())

    pipeline.vae._hf_hook = type("Hook", (), {"execution_device": "meta"})()
    assert compute_device(pipeline.vae) == torch.device("meta")
