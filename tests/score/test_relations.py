import pytest

from leanlens.score.relations import holds

LEFT, RIGHT = (10.0, 40.0, 50.0, 80.0), (60.0, 45.0, 90.0, 75.0)


def test_relations():
    assert holds(LEFT, "left of", RIGHT)
    assert holds(RIGHT, "right of", LEFT)
    assert not holds(RIGHT, "left of", LEFT)
    assert not holds(LEFT, "above", RIGHT)
    assert not holds(None, "left of", RIGHT)
    top = (20.0, 10.0, 40.0, 41.0)
    assert holds(top, "on", LEFT)
    assert holds(top, "above", LEFT)
    assert not holds(LEFT, "on", top)
    inner = (20.0, 50.0, 40.0, 70.0)
    assert holds(inner, "inside", LEFT)
    assert not holds(LEFT, "inside", inner)
    assert holds((30.0, 60.0, 48.0, 84.0), "in front of", LEFT)
    with pytest.raises(ValueError, match="invalid relation 'near': expected one of left of"):
        holds(LEFT, "near", RIGHT)
