import pytest

from leanlens.evaluate.bradley_terry import Ballot
from leanlens.evaluate.vote.raters import agreement_of, ballots_of, check_raters
from leanlens.evaluate.vote.votes import Vote


def vote(choice, voter="ann", item="1", kind="pair", answer="", question="prompt", swapped=False):
    images, models = [f"images/a{item}.png", f"images/b{item}.png"], ["alpha", "beta"]
    if swapped:
        images.reverse()
        models.reverse()
    return Vote(
        f"{voter}{item}{kind}{question}", voter, question, kind, item, *models, *images, choice, answer, 1.0, ""
    )


def checks(voter, gold, same):
    """A voter with gold pairs answered right or not, and repeats answered the same or not."""
    found = [vote("left" if right else "tie", voter, f"g{at}", "gold", "left") for at, right in enumerate(gold)]
    for at, equal in enumerate(same):
        found += [vote("left", voter, f"r{at}"), vote("right" if equal else "left", voter, f"r{at}", "repeat",
                                                      swapped=True)]  # fmt: skip
    return found


def test_a_repeat_is_the_same_if_the_same_image_is_chosen():
    (rater,) = check_raters(checks("ann", [True, False], [True, True, False]))
    assert (rater.num, rater.gold, rater.golds, rater.same, rater.repeats) == (8, 1, 2, 2, 3)
    ties = [vote("bad", item="7"), vote("bad", item="7", kind="repeat", swapped=True)]
    assert check_raters(ties)[0].same == 1
    assert check_raters([vote("left", kind="repeat")])[0].repeats == 0  # its first vote was undone


def test_who_clicks_at_random_fails():
    attentive = [one for at in range(9) for one in checks(f"good{at}", [True] * 3, [True, True, True, False])]
    clicking = checks("random", [False, True, False], [False, True, False, False])
    found = {one.voter: one.failed for one in check_raters(attentive + clicking)}
    assert found.pop("random")
    assert not any(found.values())


def test_one_mistake_fails_nobody():
    rows = [one for at in range(9) for one in checks(f"v{at}", [True] * 3, [True] * 4)]
    found = {
        one.voter: one.failed for one in check_raters([*rows, *checks("tired", [True, False, True], [True, False])])
    }
    assert not found["tired"]


def test_nobody_fails_without_checks_or_where_all_click():
    assert not any(one.failed for one in check_raters([vote("left", item=str(at)) for at in range(50)]))
    assert not any(one.failed for one in check_raters(checks("a", [False] * 4, []) + checks("b", [False] * 4, [])))


def test_only_pairs_of_the_question_are_ranked():
    votes = [vote("left"), vote("bad", item="2"), vote("left", kind="repeat"), vote("left", kind="gold", answer="left"),
             vote("right", question="looks")]  # fmt: skip
    assert ballots_of(votes, "prompt") == [
        Ballot("ann", "1", "alpha", "beta", "left"), Ballot("ann", "2", "alpha", "beta", "tie"),
    ]  # fmt: skip


def test_agreement_counts_images_and_not_sides():
    votes = [vote("left", "ann"), vote("right", "bob", swapped=True), vote("right", "eve")]
    found = agreement_of(votes, "prompt")
    assert (found.num, found.share) == (3, pytest.approx(1 / 3))
    assert agreement_of(votes[:1], "prompt") is None
    assert agreement_of(votes, "looks") is None


def test_alpha_is_that_of_krippendorffs_definition():
    one = ["left", "right", "right", "bad", "tie", "tie", "tie", "bad", "bad", "left"]
    other = ["right", "right", "right", "right", "tie", "tie", "tie", "bad", "bad", "bad"]
    votes = [
        vote(choice, voter, str(at)) for voter, row in (("ann", one), ("bob", other)) for at, choice in enumerate(row)
    ]
    # By hand: 3 of 10 units differ; of the 20 values 2 are left, 6 right, 6 tie and 6 bad.
    expected = 1 - (2 * 1 + 3 * 6 * 5) / (20 * 19)
    assert agreement_of(votes, "prompt").alpha == pytest.approx(1 - 0.3 / expected)
