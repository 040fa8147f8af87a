from random import Random

import pytest

from leanlens.score.edit_distance import edit_distance


def by_table(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)))
    return row[-1]


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("same", "same", 0), ("中文字", "中字", 1)],
)
def test_known_distances(a, b, edits):
    assert edit_distance(a, b) == edits


def test_it_equals_the_table_of_all_prefixes():
    random = Random(1)
    for _ in range(300):
        a, b = ("".join(random.choices("abcd ", k=random.randrange(90))) for _ in range(2))
        assert edit_distance(a, b) == by_table(a, b), (a, b)
