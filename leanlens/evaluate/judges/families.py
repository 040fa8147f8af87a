"""Names the family that a judge belongs to, because judges of one family share their likings."""

import re
from collections.abc import Iterable

FAMILIES = {
    "GPT": r"gpt|chatgpt|\bo[1-9]\b",
    "Claude": r"claude",
    "Gemini": r"gemini",
    "Gemma": r"gemma",
    "InternVL": r"intern-?vl|intern-?s",
    "Qwen": r"qwen|qvq",
    "Mistral": r"mistral|pixtral|ministral",
    "Llama": r"llama(?!va)|llama-?4",
    "LLaVA": r"llava",
    "GLM": r"glm|cogvlm",
    "DeepSeek": r"deepseek|janus",
    "Phi": r"\bphi",
    "MiniCPM": r"minicpm",
    "Molmo": r"molmo",
    "Grok": r"grok",
    "Kimi": r"kimi",
}
"""Family -> what the names of its models contain."""

FEWEST = 2  # families


def family_of(model: str) -> str:
    """The family of a model by its name at an endpoint; the name itself where it is of none that is known."""
    name = model.rsplit("/", 1)[-1].casefold().replace("_", "-")
    return next((family for family, pattern in FAMILIES.items() if re.search(pattern, name)), model)


def family_notes(models: Iterable[str]) -> list[str]:
    """What a report must say of its judges: which family judged, and what that means for the models of Lens."""
    models = list(models)
    families = list(dict.fromkeys(map(family_of, models)))
    notes = [_of_family(model) for model in models]
    if len(models) == 1:
        notes.append("One model judges alone; take at least two, of families whose likings differ.")
    elif models and len(families) < FEWEST:
        notes.append(f"All judges are of one family, {families[0]}; take at least two, whose likings differ.")
    if "GPT" in families:
        notes.append(
            "GPT models wrote the captions that Lens was trained on and gave its rewards, so a GPT judge may favour "
            "Lens: do not rest a claim about Lens on it."
        )
    if "Qwen" in families:
        notes.append("A Qwen judge may favour Qwen-Image and other models that were trained with Qwen's captions.")
    return notes


def _of_family(model: str) -> str:
    family = family_of(model)
    return f"{model} judges; its family is {family if family in FAMILIES else 'not known'}."
