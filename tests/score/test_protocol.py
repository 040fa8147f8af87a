import pytest

from leanlens.score.protocol import Failed, require_same_length, score_as_json


def test_lists_go_together():
    require_same_length([1, 2], ["a", "b"], None)
    require_same_length([1], ["a"], [{}])
    with pytest.raises(ValueError, match="truths has 1 entries for 2 images"):
        require_same_length([1, 2], ["a", "b"], [{}])


def test_a_failure_in_json_has_its_reason():
    score = {"object": 0.5, "count": None, "text": Failed("timeout")}
    assert score_as_json(score) == {"object": 0.5, "count": None, "text": {"failed": "timeout"}}
