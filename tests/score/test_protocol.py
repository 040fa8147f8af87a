import pytest

from leanlens.score.protocol import require_same_length


def test_lists_go_together():
    require_same_length([1, 2], ["a", "b"], None)
    require_same_length([1], ["a"], [{}])
    with pytest.raises(ValueError, match="truths has 1 entries for 2 images"):
        require_same_length([1, 2], ["a", "b"], [{}])
