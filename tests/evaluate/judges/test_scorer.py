from PIL import Image

from leanlens.evaluate.judges.scorer import ScorerJudge
from leanlens.evaluate.suite import Item


class Scorer:
    name, criteria = "letters", ("long",)

    def __call__(self, images, prompts, truths=None):
        return [{"long": float(len(prompt) > truth["than"])} for prompt, truth in zip(prompts, truths, strict=True)]


def test_a_scorer_is_asked_with_each_items_truth():
    judge = ScorerJudge(Scorer())
    images = [Image.new("RGB", (4, 4))] * 2
    items = [Item("a", "four", truth={"than": 3}), Item("b", "four", truth={"than": 4})]
    assert [one.score for one in judge(images, items)] == [{"long": 1.0}, {"long": 0.0}]
    assert set(judge.identity()) == {"scorer", "leanlens"}


def test_a_scorer_with_an_identity_counts_by_it():
    class Known(Scorer):
        def identity(self):
            return {"weights": "abc"}

    assert ScorerJudge(Known()).identity() == {"scorer": "letters", "weights": "abc"}
