"""Callbacks as diffusers has them: what they see, what they may change, and its own ones."""

import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback, SDCFGCutoffCallback, SDXLCFGCutoffCallback

from leanlens.pipeline.toy import toy_pipeline

STEPS = 4
SIZE = {"height": 64, "width": 64, "num_inference_steps": STEPS, "output_type": "latent"}
EVERYTHING = ["latents", "prompt_embeds", "prompt_mask", "negative_prompt_embeds", "negative_prompt_mask"]


@pytest.fixture(scope="module")
def pipeline():
    made = toy_pipeline()
    made.set_progress_bar_config(disable=True)
    return made


def drawn(pipeline, prompt="a cat", guidance=3.0, **options):
    generators = [torch.Generator().manual_seed(seed) for seed in range(1 if isinstance(prompt, str) else len(prompt))]
    return pipeline(prompt, guidance_scale=guidance, generator=generators, **SIZE, **options).images


def watched(pipeline, monkeypatch):
    """The number of rows of text that each call of the transformer sees."""
    seen, forward = [], pipeline.transformer.forward
    monkeypatch.setattr(
        pipeline.transformer,
        "forward",
        lambda *args, **rest: seen.append(args[1][0].shape[1]) or forward(*args, **rest),
    )
    return seen


@pytest.mark.parametrize("prompt", ["a cat", ["a cat", "a dog and a red lamp"]])
def test_the_cutoff_of_diffusers_turns_guidance_off(pipeline, prompt, monkeypatch):
    calls = watched(pipeline, monkeypatch)
    cut = drawn(pipeline, prompt, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.25))
    assert len(calls) == 2 + 2 + 1 + 1  # the callback runs after step 1, of steps 0 to 3
    assert not pipeline.do_classifier_free_guidance
    expected = drawn(pipeline, prompt, guided_share=0.5)
    torch.testing.assert_close(cut, expected, rtol=0, atol=1e-5)
    both = MultiPipelineCallbacks([SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)])
    assert torch.equal(drawn(pipeline, prompt, callback_on_step_end=both), cut)
    assert drawn(pipeline, prompt).equal(drawn(pipeline, prompt))  # nothing of it stays


def test_exact_drawing_is_cut_off_too(pipeline):
    cut = drawn(pipeline, exact=True, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.25))
    torch.testing.assert_close(cut, drawn(pipeline, guided_share=0.5), rtol=0, atol=1e-4)


def test_a_callback_for_another_architecture_is_refused_by_name(pipeline):
    with pytest.raises(ValueError, match=r"callback_on_step_end_tensor_inputs \['add_text_embeds', 'add_time_ids'\]"):
        drawn(pipeline, callback_on_step_end=SDXLCFGCutoffCallback(cutoff_step_ratio=0.25))


def test_guidance_may_rise_from_step_to_step(pipeline):
    def rise(pipeline, step, timestep, tensors):
        pipeline._guidance_scale += 1.0
        return tensors

    risen = drawn(pipeline, callback_on_step_end=rise, callback_on_step_end_tensor_inputs=EVERYTHING)
    assert pipeline.guidance_scale == 3.0 + pipeline.num_timesteps == 3.0 + STEPS
    assert not torch.equal(risen, drawn(pipeline))


def test_everything_is_seen_and_what_comes_back_is_used(pipeline):
    seen = []

    def look(pipeline, step, timestep, tensors):
        seen.append({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        assert pipeline.current_timestep == timestep
        assert pipeline.attention_kwargs == pipeline.joint_attention_kwargs == {"scale": 1.0}
        return tensors

    options = {"callback_on_step_end": look, "callback_on_step_end_tensor_inputs": EVERYTHING}
    plain = drawn(pipeline, attention_kwargs={"scale": 1.0})
    assert torch.equal(drawn(pipeline, attention_kwargs={"scale": 1.0}, **options), plain)
    assert pipeline.current_timestep is None
    tokens = seen[0]["prompt_mask"][1]
    assert seen[0] == {
        "latents": (1, 16, 128), "prompt_embeds": (1, 4, tokens, 48), "prompt_mask": (1, tokens),
        "negative_prompt_embeds": (1, 4, 0, 48), "negative_prompt_mask": (1, 0),
    }  # fmt: skip
    assert len(seen) == STEPS


@pytest.mark.parametrize("in_place", [False, True])
def test_another_text_from_a_step_on(pipeline, in_place):
    length = pipeline.encode_prompt("a cat")[0].mask.shape[1]
    words = ("a dog", "a cup", "a cow", "a car", "a can", "a act", "a tac", "a bat")
    encoded = {word: pipeline.encode_prompt(word)[0] for word in words}
    other = next(word for word, text in encoded.items() if (text.mask.shape[1] == length) == in_place)
    stacked = torch.stack(encoded[other].layers, dim=1)

    def swap(pipeline, step, timestep, tensors):
        if step != 1:
            return {}
        if not in_place:
            return {"prompt_embeds": stacked}
        tensors["prompt_embeds"].copy_(stacked)
        return tensors

    names = ["latents", "prompt_embeds"]
    swapped = drawn(pipeline, callback_on_step_end=swap, callback_on_step_end_tensor_inputs=names)
    assert not torch.equal(swapped, drawn(pipeline))
    assert not torch.equal(swapped, drawn(pipeline, other))

    halves = []

    def keep(pipeline, step, timestep, tensors):
        halves.append(tensors["latents"].clone())

    drawn(pipeline, callback_on_step_end=keep)

    def exchange(pipeline, step, timestep, tensors):  # the second prompt's drawing, on the first one's latents
        return {"latents": halves[1]} if step == 1 else {}

    torch.testing.assert_close(drawn(pipeline, other, callback_on_step_end=exchange), swapped, rtol=0, atol=1e-5)


def test_texts_that_do_not_fit_are_refused(pipeline):
    def wrong(pipeline, step, timestep, tensors):
        return {"prompt_embeds": torch.zeros(1, 3, 5, 48)}

    with pytest.raises(ValueError, match="callback_on_step_end gave prompt_embeds or prompt_mask of shapes"):
        drawn(pipeline, callback_on_step_end=wrong, callback_on_step_end_tensor_inputs=["prompt_embeds"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(1), "gave a Tensor; expected a dict of tensors or None"),
        (False, "gave a bool"),
        ({"latent": torch.zeros(1)}, "gave 'latent', a Tensor; expected tensors called latents, prompt_embeds"),
        ({"latents": None}, "gave 'latents', a NoneType"),
    ],
)
def test_an_answer_that_would_be_ignored_is_refused(pipeline, answer, message):
    with pytest.raises(ValueError, match=message):
        drawn(pipeline, callback_on_step_end=lambda *_: answer)


def test_a_text_that_was_not_asked_for_is_used_too(pipeline):
    other = torch.stack(pipeline.encode_prompt("a dog")[0].layers, dim=1)
    answers = {"prompt_embeds": other}
    swapped = drawn(pipeline, callback_on_step_end=lambda *_: answers)
    asked = drawn(
        pipeline, callback_on_step_end=lambda *_: answers, callback_on_step_end_tensor_inputs=["prompt_embeds"]
    )
    assert torch.equal(swapped, asked)
    assert not torch.equal(swapped, drawn(pipeline))


def test_ones_own_callback_class(pipeline):
    class Halfway(PipelineCallback):
        tensor_inputs = ["latents"]  # noqa: RUF012

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            pipeline.interrupt = step_index == 1
            return callback_kwargs

    half = drawn(pipeline, callback_on_step_end=Halfway())
    assert not torch.equal(half, drawn(pipeline))
