from leanlens.evaluate.costs import measured_costs
from leanlens.evaluate.draw import KeptImage


def image(seconds, machine=""):
    return KeptImage("k", 0, None, seconds, machine=machine)


def test_seconds_are_those_that_were_measured():
    rows = [[image(1.0, "a"), image(3.0, "b")], [image(None), image(2.0, "b"), image(8.0, "b")]]
    assert measured_costs(rows, 7, {"peak_bytes": 3}) == {
        "seconds": {"median": 2.5, "mean": 3.5, "num": 4}, "peak_bytes": 7, "machine": "b",
    }  # fmt: skip


def test_memory_is_kept_where_nothing_was_drawn():
    assert measured_costs([[image(None)]], None, {"peak_bytes": 3}) == {
        "seconds": {"median": None, "mean": None, "num": 0}, "peak_bytes": 3, "machine": None,
    }  # fmt: skip
