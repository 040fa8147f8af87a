import pytest

from leanlens.evaluate.judges.families import family_notes, family_of


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4.1-mini", "GPT"),
        ("openai/o3", "GPT"),
        ("Qwen/Qwen3-VL-8B-Instruct", "Qwen"),
        ("OpenGVLab/InternVL3_5-8B", "InternVL"),
        ("google/gemma-3-27b-it", "Gemma"),
        ("gemini-2.5-pro", "Gemini"),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", "Qwen"),
        ("llava-v1.6", "LLaVA"),
        ("meta-llama/Llama-4-Scout", "Llama"),
        ("zai-org/GLM-4.5V", "GLM"),
        ("my-own", "my-own"),
    ],
)
def test_the_family_of_a_model(model, family):
    assert family_of(model) == family


def test_what_a_report_says_of_its_judges():
    assert family_notes([]) == []
    two = family_notes(["gemma-3-27b-it", "InternVL3-8B"])
    assert two == ["gemma-3-27b-it judges; its family is Gemma.", "InternVL3-8B judges; its family is InternVL."]
    assert family_notes(["acme/eye"]) == [
        "acme/eye judges; its family is not known.",
        "One model judges alone; take at least two, of families whose likings differ.",
    ]
    one = family_notes(["gpt-4.1", "gpt-4.1-mini"])
    assert "All judges are of one family, GPT; take at least two, whose likings differ." in one
    assert any("GPT models wrote the captions that Lens was trained on" in note for note in one)
    assert any("Qwen-Image" in note for note in family_notes(["Qwen3-VL-8B", "gemma-3"]))
