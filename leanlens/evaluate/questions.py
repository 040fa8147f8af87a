"""The questions of an evaluation: captions of held-out scenes or prompts by people, each with its ground truth."""

import re
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from leanlens.evaluate.truth import read_prompts
from leanlens.scenes.describe import NUMBERS, RELATION_PHRASES, STYLE_PHRASES, brief, dense
from leanlens.scenes.icons import Library
from leanlens.scenes.names import pluralize, read_vocabulary
from leanlens.scenes.render import render
from leanlens.scenes.scene import Scene, sample_scene

PEOPLE = Path(__file__).parent / "prompts" / "people.jsonl"
PROMPTS = ("dense", "brief", "human")
HELD_OUT_SEEDS = 2**40  # the first; training counts up from 0
SCENES = 200  # held-out scenes where no number is given
LARGEST = 3  # scenes of one thing, of two and of three or more take turns


@dataclass(frozen=True)
class Question:
    """A prompt, what it states in the form of `Scene.truth()`, and the true picture where there is one.

    Attributes:
        seed: seed of the scene, or the number of the prompt.
        size: (width, height) in pixels of the requested image.
    """

    prompt: str
    truth: dict[str, Any]
    seed: int
    size: tuple[int, int]
    picture: Image.Image | None = None


def held_out_questions(
    num: int, seed: int, library: Library, prompts: str = "dense", split: str = "test", size: int = 256
) -> list[Question]:
    """`num` held-out scenes, a third of them with one thing, a third with two.

    Args:
        seed: other seeds give other scenes.
        prompts: "dense" or "brief"; a truth contains only what its caption states.
        size: base of the canvas in pixels, as in `sample_scene`.
    """
    found: list[Question] = []
    at = HELD_OUT_SEEDS + seed * 10**6
    while len(found) < num:
        scene = sample_scene(at, library, split, size)
        at += 1
        if min(len(scene.things), LARGEST) == 1 + len(found) % LARGEST:
            found.append(_ask(scene, library, prompts))
    return found


def _ask(scene: Scene, library: Library, prompts: str) -> Question:
    describe = {"dense": dense, "brief": brief}[prompts]
    text = describe(scene, Random(f"question {scene.seed}")).text
    truth = stated_truth(scene.truth(), text)
    return Question(text, truth, scene.seed, (scene.width, scene.height), render(scene, library))


def stated_truth(truth: dict[str, Any], caption: str) -> dict[str, Any]:
    """The part of a scene's truth that its caption states.

    A thing is stated by its name with its colour and count; a relation by one of its phrases between two stated things;
    a background by all of its colours; a style by its phrase; a text by its quotation.
    """
    text = caption.lower()
    objects = [stated for stated in truth["objects"] if _names_thing(text, stated)]
    kept = {stated["id"] for stated in objects}
    background = truth["background"]
    colors = list(background["colors"])
    says_kind = background["kind"] in ("plain", "ground") or len(text.split()) > 20  # dense captions always state it
    return {
        "canvas": truth["canvas"],
        "objects": objects,
        "relations": [
            [a, word, b]
            for a, word, b in truth["relations"]
            if {a, b} <= kept and any(phrase in text for phrase in RELATION_PHRASES[word])
        ],
        "texts": [text_ for text_ in truth["texts"] if f'"{text_[0]}"' in caption],
        **({"background": background} if says_kind and all(_has(text, color) for color in colors) else {}),
        **({"style": truth["style"]} if STYLE_PHRASES[truth["style"]].lower() in text else {}),
    }


def _names_thing(text: str, stated: dict[str, Any]) -> bool:
    names = [stated["concept"], *read_vocabulary()["synonyms"].get(stated["concept"], ())]
    color = "" if stated["color"] == "natural" else f"{stated['color']} "
    if stated["count"] == 1:
        return any(_has(text, f"{color}{name}") for name in names)
    return any(_has(text, f"{NUMBERS[stated['count']]} {color}{pluralize(name)}") for name in names)


def _has(text: str, words: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(words.lower())}(?![\w-])", text) is not None


def people_questions(num: int | None = None, size: int = 256, path: str | Path = PEOPLE) -> list[Question]:
    """The first `num` prompts of a file, all of them without it, with the facts that can be checked; square.

    Args:
        path: a file as `truth.read_prompts` reads it; the prompts that people wrote without it.

    Raises:
        ValueError: more are asked for than there are, or a line is not as it should be.
    """
    rows = read_prompts(path)
    if num is not None and num > len(rows):
        whose = "people wrote" if path == PEOPLE else f"{path} has"
        raise ValueError(f"invalid num {num}: {whose} {len(rows)} prompts")
    return [Question(prompt, truth, index, (size, size)) for index, (prompt, truth) in enumerate(rows[:num])]


def questions_from(
    num: int | None, seed: int, library: Library, prompts: str, split: str, size: int, needs_truth: bool
) -> list[Question]:
    """The questions that `prompts` names: a word of PROMPTS, or a file.

    Raises:
        ValueError: another word, or people's prompts where true images are needed.
    """
    if prompts in ("dense", "brief"):
        return held_out_questions(SCENES if num is None else num, seed, library, prompts, split, size)
    if prompts != "human" and not Path(prompts).is_file():
        raise ValueError(f"invalid prompts {prompts!r}: expected {', '.join(PROMPTS)} or the path of a file of prompts")
    if needs_truth:
        what = "human prompts" if prompts == "human" else f"the prompts of {prompts}"
        raise ValueError(f"{what} have no true pictures; leave real and reconstruction out")
    return people_questions(num, size) if prompts == "human" else people_questions(num, size, prompts)


def unknown_concepts(questions: list[Question], library: Library) -> list[str]:
    """Stated concepts that a library does not have, so that nothing can judge them."""
    stated = [thing for question in questions for thing in question.truth.get("objects", [])]
    return sorted({one["concept"] for one in stated if one.get("category") != "sign"} - set(library.concepts))
