"""What is faster at a price: asked for by option, written into the picture, drawn again by `replay`."""

import json

import pytest

TOY = ("generate", "a lamp", "--model", "toy", "--seed", 3, "--steps", 6, "--cfg", 4, "--size", "64x96", "--json")


@pytest.mark.parametrize(
    ("words", "recorded"),
    [
        (("--guided-share", 0.5), {"guided_share": 0.5}),
        (("--cache", "taylor:2"), {"cache": "taylor:2"}),
        (("--attention", "native"), {"attention": "native"}),
    ],
)
def test_options_are_recorded_and_replayed(leanlens, words, recorded):
    drawn = leanlens(*TOY, "-o", "out.png", *words)
    run = json.loads(drawn.out)["run"]
    assert {name: run[name] for name in recorded} == recorded
    assert leanlens("replay", "out.png").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--guided-share", 0), "invalid guided_share 0.0"),
        (("--cache", "magic"), "invalid cache 'magic': expected one of first-block"),
        (("--fp8",), "multiples of 16"),
        (("--attention", "nothing"), "must be one of"),
    ],
)
def test_wrong_words(leanlens, words, message):
    drawn = leanlens(*TOY, "-o", "out.png", *words)
    assert drawn.code == 2
    assert message in drawn.err
