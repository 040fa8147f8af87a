"""A request put to a reasoner."""

from leanlens.pipeline.reasoned import Fact, Reasoned
from leanlens.pipeline.request import ImageRequest
from leanlens.reason import reason_request

ASKED = {"width": 128, "height": 64, "num_inference_steps": 4, "guidance_scale": 3.0, "seed": 7}


def as_asked(asks):
    """A reasoner that says what it was asked."""
    return [
        Reasoned(
            original=ask.prompt,
            prompt=f"{ask.prompt}, {ask.seed}, {ask.width}x{ask.height}, {' '.join(ask.triggers)}",
            facts=(Fact(key="background", kind="background", value=ask.fixed.get("background", "cream"), label="x"),),
            fixed=dict(ask.fixed),
            source="echo 1",
        )
        for ask in asks
    ]


def test_the_record_holds_the_words_the_caption_and_what_was_decided_beforehand():
    fixed = {"background": "navy blue", "color 1": ""}
    request = reason_request(as_asked, ImageRequest.checked(prompt="a fox", **ASKED), ["ink"], fixed)
    assert request.prompt == "a fox, 7, 128x64, ink"
    assert request.reasoner is not None
    assert (request.reasoner.original, request.reasoner.fixed) == ("a fox", fixed)
    assert request.reasoner.facts[0].value == "navy blue"
    again = ImageRequest.model_validate_json(request.model_dump_json())
    assert again == request
    assert reason_request(as_asked, again) is again  # what was rewritten is not rewritten twice


def test_what_is_not_for_a_reasoner_is_left_alone():
    for fields in ({"prompt": " "}, {"prompt": "a fox", "image": "a.png", "strength": 0.5}):
        request = ImageRequest.checked(**{**ASKED, **fields})
        assert reason_request(as_asked, request) is request
    request = ImageRequest.checked(prompt="a fox", **ASKED)
    assert reason_request(None, request) is request


def test_what_was_spent_stands_in_a_record_only_where_something_was():
    plain = Reasoned(original="a fox", prompt="A red fox.", source="echo 1")
    assert not {"tokens", "cost"} & set(plain.model_dump())
    spent = plain.model_copy(update={"tokens": (310, 95), "cost": 0.25, "seconds": 2.0})
    assert Reasoned.model_validate_json(spent.model_dump_json()) == spent
    request = ImageRequest.checked(prompt="A red fox.", reasoner=spent, **ASKED)
    written = request.model_dump(mode="json")["reasoner"]
    assert (written["tokens"], written["cost"], "seconds" in written) == ([310, 95], 0.25, False)
