"""A reasoner for tests of the APIs: what it writes can be told from the ask alone."""

from leanlens.pipeline.reasoned import Ask, Fact, Reasoned, Unknown

SOURCE = "fake 1"


class FakeReasoner:
    """Writes prompt, seed, triggers and fixed facts into a sentence; knows no lighthouse, and leaves captions alone."""

    source = SOURCE

    def __init__(self):
        self.asks: list[Ask] = []

    def __call__(self, asks):
        self.asks += asks
        return [self._one(ask) for ask in asks]

    def _one(self, ask: Ask) -> Reasoned:
        if ask.prompt.startswith("This flat picture"):
            return Reasoned(original=ask.prompt, prompt=ask.prompt, source=SOURCE, left_alone="it is a caption already")
        if unknown := set(ask.fixed) - {"color 1", "background"}:
            raise ValueError(f"fixed {unknown.pop()!r} is no fact of this prompt")
        said = "".join(f", {value}" for value in (*ask.fixed.values(), *ask.triggers))
        facts = [Fact(key="thing 1", kind="thing", value="cat", label=ask.prompt)]
        facts += [Fact(key=key, kind="color", value=value, label=value) for key, value in ask.fixed.items()]
        unknown = [Unknown(word="lighthouse", nearest="house", nearness=0.62)] if "lighthouse" in ask.prompt else []
        return Reasoned(
            original=ask.prompt, prompt=f"This flat picture shows {ask.prompt}{said}. Choice {ask.seed}.",
            facts=tuple(facts), not_understood=tuple(unknown), source=SOURCE, seconds=0.001,
        )  # fmt: skip
