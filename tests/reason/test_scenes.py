"""The embedded reasoner: what it keeps, what it fills in, what it leaves alone, and what can be decided beforehand."""

import time
from contextlib import nullcontext, suppress
from pathlib import Path
from random import Random

import pytest

from leanlens.reason import Ask
from leanlens.reason.scenes import SceneReasoner, is_dense
from leanlens.reason.words import languages, words_of
from leanlens.scenes.describe import brief, dense
from leanlens.scenes.icons import library
from leanlens.scenes.scene import sample_scene


def reason(prompt, seed=0, width=256, height=256, **fields):
    return SceneReasoner()([Ask(prompt, seed, width, height, **fields)])[0]


def facts(answer):
    return {fact.key: fact.value for fact in answer.facts}


def test_a_caption_says_what_was_asked_and_fills_in_the_rest():
    answer = reason("a red apple to the left of a blue teapot, flat style, light blue background")
    assert answer.prompt.split(". ", 1)[1] == (
        "A single even light blue tone fills the background. The red apple is to the left of the blue teapot. "
        "The red apple is large in the frame and sits on the left. The blue teapot is large in the frame and sits on "
        "the right. Nothing else appears in the picture."
    )
    assert "a red apple and a blue teapot" in answer.prompt
    assert not answer.left_alone
    assert answer.original.startswith("a red apple")
    stated = {fact.key for fact in answer.facts if fact.stated}
    assert {"thing 1", "color 1", "thing 2", "color 2", "relation 1", "background", "style"} <= stated
    assert not {"size 1", "place 1", "size 2", "place 2"} & stated


def test_the_example_of_the_page_is_what_comes():
    page = (Path(__file__).parents[2] / "docs" / "reason.md").read_text(encoding="utf-8")
    quoted = " ".join(line.removeprefix("> ") for line in page.splitlines() if line.startswith("> "))
    assert quoted == reason("an apple left of a teapot").prompt


def test_the_seed_chooses_what_is_open_and_nothing_else():
    answers = [reason("three yellow ducks", seed) for seed in range(12)]
    assert all("three yellow ducks" in answer.prompt for answer in answers)
    assert len({facts(answer)["background"] for answer in answers}) > 3
    assert len({facts(answer)["style"] for answer in answers}) > 1
    assert reason("three yellow ducks", 5).prompt == answers[5].prompt


def test_chosen_backgrounds_set_things_off():
    white = {facts(reason("a white ghost", seed))["background"] for seed in range(40)}
    assert not white & {"white", "cream"}


@pytest.mark.parametrize(
    ("width", "height", "places"),
    [(256, 256, ("on the left", "on the right")), (192, 320, ("at the top", "at the bottom"))],
)
def test_two_things_stand_where_the_canvas_has_room(width, height, places):
    found = facts(reason("a cat and a dog", width=width, height=height))
    assert (found["place 1"], found["place 2"]) == places


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a sun at the top, a tree at the bottom", "The sun is above the tree."),
        ("a dog between two trees", "The dog is between the two trees."),
        ("a cat behind a chair", "The chair is in front of the cat."),
        ("four tulips in a row", "The four tulips are arranged side by side"),
        ("an owl on a branch", "The owl is on top of the branch."),
        ("gradient from pale pink to lavender, one rocket", "fades smoothly from pale pink"),
        ("a camel, sandy ground, orange sky", "The ground is sandy and the sky above it is orange."),
    ],
)
def test_arrangements_and_backgrounds_are_said(prompt, said):
    assert said in reason(prompt).prompt


def test_a_dense_caption_is_left_alone():
    icons = library("sample")
    for seed in range(60):
        caption = dense(sample_scene(seed, icons), Random(seed), facts_first=0.5).text
        answer = reason(caption)
        assert answer.prompt == caption, caption
        assert answer.left_alone == "it is a dense caption already"


def test_what_was_rewritten_is_not_rewritten_again():
    icons = library("sample")
    for seed in range(40):
        answer = reason(brief(sample_scene(seed, icons), Random(seed)).text, seed)
        assert answer.left_alone or is_dense(answer.prompt), answer.prompt


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("pale pink and white stripes", "no thing to draw is found in it"),
        ("hello there!", "no thing to draw is found in it"),
        (
            "once upon a midnight dreary while i pondered weak and weary over many a quaint and curious volume of lore",
            "most of its words are not understood",
        ),
        ("a cat left of a dog, and the dog left of the cat", "it asks for relations that go round in a circle"),
        ("a cat, a dog, a cow, a fox, an owl, a bee and an ant", "it names 7 kinds of things; at most 6 are arranged"),
    ],
)
def test_where_it_is_unsure_the_prompt_is_left_alone(prompt, why):
    answer = reason(prompt)
    assert (answer.prompt, answer.left_alone) == (prompt, why)


def test_triggers_are_kept_word_for_word():
    answer = reason("a photo of a zwx cat on a stool, TOKstyle", triggers=("zwx", "TOKstyle"))
    assert "a zwx cat" in answer.prompt
    assert answer.prompt.endswith("TOKstyle.")
    assert facts(answer)["thing 1"] == "zwx cat"
    assert "a Zwx" in reason("Zwx", triggers=("zwx",)).prompt
    assert "zwx" not in reason("a cat", triggers=("zwx",)).prompt


def test_facts_can_be_decided_beforehand():
    fixed = {
        "color 2": "navy",
        "background": "pink and white stripes",
        "style": "3d",
        "number 1": "3",
        "relation 1": "above",
    }
    answer = reason("a red apple to the left of a teapot", fixed=fixed)
    assert "three red apples" in answer.prompt
    assert "The three red apples are above the blue teapot." in answer.prompt
    assert "stripes in pale pink and white" in answer.prompt
    assert "glossy 3D" in answer.prompt
    assert answer.fixed == fixed


def test_every_fact_can_be_sent_back():
    prompt = 'two red apples left of a big sign that says "OPEN", horizontal pale pink and white stripes, flat style'
    answer = reason(prompt)
    assert reason(prompt, fixed=facts(answer)).prompt == answer.prompt


def test_a_fact_can_be_taken_away():
    answer = reason("a cat and a green dog", fixed={"thing 1": "", "color 2": ""})
    assert "cat" not in answer.prompt
    assert "green" not in answer.prompt
    assert facts(answer)["thing 2"] == "dog"
    assert reason("a cat", fixed={"thing 1": ""}).left_alone == "nothing is left of it"


def test_what_is_left_when_a_fact_is_taken_away_keeps_its_keys():
    prompt = 'a cat left of a blue sign that says "OPEN" above a red car right of a sign that says "SHUT"'
    before = facts(reason(prompt))
    gone = {key: "" for key, value in before.items() if value in ("cat", "OPEN")}
    left = facts(reason(prompt, fixed=gone))
    kinds = ("thing", "color", "text", "relation")
    kept = {key: value for key, value in before.items() if key.partition(" ")[0] in kinds}
    assert kept.items() >= {key: value for key, value in left.items() if key in kept}.items()
    assert set(kept) - set(left) == {*gone, "relation 1"}
    edited = facts(reason(prompt, fixed={**gone, "color 2": "green", "color 3": "yellow"}))
    assert (edited["color 2"], edited["color 3"]) == ("green", "yellow")


def test_what_is_decided_for_a_thing_that_is_not_there_has_no_effect():
    answer = reason("a cat", fixed={"color 3": "red", "text 1": "NO", "background": "mint green"})
    assert answer.fixed == {"background": "mint green"}


@pytest.mark.parametrize(
    "fixed",
    [
        {"colour 1": "red"}, {"color": "red"}, {"color x": "red"}, {"background 1": "white"}, {"color 1": "loud"},
        {"number 1": "99"}, {"number 1": "many"}, {"size 1": "giant"}, {"place 1": "somewhere"}, {"relation 1": "near"},
        {"background": "elephant"}, {"style": "banana"}, {"thing 1": "a cat and a dog"}, {"": "x"},
    ],
)  # fmt: skip
def test_what_is_no_fact_is_refused_by_name(fixed):
    ((key, value),) = fixed.items()
    with pytest.raises(ValueError, match="fixed") as error:
        reason("a cat on a table", fixed=fixed)
    assert repr(key) in str(error.value) or repr(value) in str(error.value)


def test_unknown_things_are_said_and_asked_for():
    answer = reason("a lighthouse and a red boat with a wooden mast")
    assert "a lighthouse" in answer.prompt
    assert "lighthouse" in {unknown.word for unknown in answer.not_understood}


def test_it_answers_while_one_types():
    reason("a cat")
    began = time.perf_counter()
    for seed in range(50):
        reason("three red and two green apples on a brown table between a cat and a dog, pink and white stripes", seed)
    assert (time.perf_counter() - began) / 50 < 0.02


@pytest.mark.parametrize(
    "prompt",
    ["", " ", ".", "!!!", "?" * 1000, "a " * 5000, '"', '""', "((((", "🍎" * 200, "-", "\x00\x07", "a" * 30000],
)
def test_odd_prompts_do_no_harm(prompt):
    began = time.perf_counter()
    answer = reason(prompt)
    assert answer.prompt == prompt or answer.facts
    assert time.perf_counter() - began < 1


def test_a_model_of_fewer_things_says_so():
    ask = Ask("an accordion and a cat", 0, 256, 256)
    known, fewer = (SceneReasoner(library)([ask])[0] for library in ("common", "everyday"))
    assert known.prompt == fewer.prompt
    assert not known.not_understood
    assert [unknown.word for unknown in fewer.not_understood] == ["accordion"]


@pytest.mark.parametrize("seed", range(4))
def test_words_in_any_order_do_no_harm(seed):
    """Phrases of every table put together at random, with facts decided at random, end soon in a record."""
    rng, reasoner = Random(seed), SceneReasoner()
    phrases = {
        code: [" ".join(tokens) for row in words_of(code).phrases.values() for tokens, _ in row] for code in languages()
    }
    others = [
        *".,:;?!()\"'-&/",
        "zork",
        "3",
        "STOP",
        '"HI"',
        "the",
        "a",
        "and",
        "on",
        "left of",
        "red",
        "dog",
        "flat",
        "it",
        "one",
    ]
    keys = ["thing 1", "color 1", "number 2", "background", "style", "text 1", "relation 1", "place 1", "size 1"]
    for at in range(150):
        code = rng.choice(["en", *languages()])
        words = [rng.choice(phrases[code] if rng.random() < 0.75 else others) for _ in range(rng.randint(1, 14))]
        fixed = (
            {rng.choice(keys): rng.choice(["", "red", "2", "left of", "large", "flat"])} if rng.random() < 0.3 else {}
        )
        with suppress(ValueError) if fixed else nullcontext():
            answer = reasoner(
                [Ask(" ".join(words), at, *rng.choice([(256, 256), (192, 320), (320, 192)]), fixed=fixed)]
            )[0]
            assert answer.prompt
            assert answer.left_alone or answer.facts


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a flat red apple", "a red apple"),
        (
            "one flat blue fish on a vertical white and pale pink striped wall",
            "vertical stripes in white and pale pink",
        ),
        ("a house, and on each side a tree", "The house is between the two trees."),
        ("a fox, green grass, the wall is grey", "a fox"),
    ],
)
def test_words_of_several_meanings(prompt, said):
    assert said in reason(prompt).prompt


@pytest.mark.parametrize(
    ("prompt", "places"),
    [
        (
            "a cat in the middle, a dog on the left and a bird on the right",
            ("in the centre", "on the left", "on the right"),
        ),
        ("a tree on the right and a sun at the top", ("on the right", "at the top")),
        ("a cat in the center, a dog on the right", ("in the centre", "on the right")),
        ("a fox in the top left corner, a tree on the right", ("in the upper left", "on the right")),
        ("the sun is in the top left corner, a house below it", ("in the upper left", None)),
        (
            "a bear at the bottom and an eagle at the top, a fish in the middle",
            ("at the bottom", "at the top", "in the centre"),
        ),
        ("two cats on the left", ("on the left",)),
    ],
)
def test_places_that_are_given_are_kept(prompt, places):
    found = facts(reason(prompt))
    for number, place in enumerate(places, 1):
        assert place is None or found[f"place {number}"] == place


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat, a dog, a pig", "a cat left of a dog", "a key on a table", "a red apple, two lemons and a tree",
        "a star in a circle", "a cat, a dog, a pig, a fox and an owl", "a fox on the right and a dog on the left",
        "an apple tree", "a hundred ants",
    ],
)  # fmt: skip
def test_all_facts_sent_back_give_the_same_caption(prompt):
    for seed in range(3):
        answer = reason(prompt, seed)
        again = reason(prompt, seed, fixed=facts(answer))
        assert (again.prompt, again.left_alone) == (answer.prompt, answer.left_alone)


def test_a_trigger_is_of_no_language_and_stops_no_recognition():
    answer = reason("a cat, 猫风格", triggers=("猫风格",))
    assert answer.language == "en"
    assert "a cat" in answer.prompt
    caption = reason("a my-trigger cat", triggers=("my-trigger",)).prompt
    assert reason(caption).prompt == caption


def test_a_sky_alone_is_a_plain_background():
    assert "navy blue tone fills the background" in reason("an owl, night sky").prompt


@pytest.mark.parametrize("prompt", ["several apples", "many apples", "a few apples", "lots of apples", "mehrere Äpfel"])
def test_several_are_four(prompt):
    (answer,) = SceneReasoner()([Ask(prompt, 3, 256, 256)])
    assert "four apples" in answer.prompt
    assert not next(fact for fact in answer.facts if fact.key == "number 1").stated


@pytest.mark.parametrize("color", ["hot pink", "ruby", "magenta", "emerald", "bronze", "cobalt", "jade", "jet black"])
@pytest.mark.parametrize("place", ["on a {} background", "under a {} sky", "on {} grass", "on a {} gradient"])
def test_backgrounds_have_colours_that_captions_name(color, place):
    assert color not in reason(f"a cat {place.format(color)}").prompt
