"""Measures whether rewritten prompts keep their facts, on a thousand prompts that are generated from known facts.

It prints one JSON object: the share of numbers, colours, things, relations, backgrounds, styles and quoted strings in
the prompts of `asked.py` that their captions keep; the number of captions with a contradiction; and the number of
prompts that were not rewritten, with reasons. Errors are listed on stderr. No images are generated.

    python benchmarks/faithfulness.py [--num 1000] [--seed 0] [--show 40]

The captions are read by expressions of this file, which know the words that captions are written in and nothing of the
parser. A prompt that is left as it is keeps everything, and is counted.
"""

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise

from asked import KIN, Wanted, Wish, wishes
from machine import describe_machine

from leanlens.pipeline.reasoned import Ask, Reasoned
from leanlens.reason.scenes import SceneReasoner
from leanlens.scenes.describe import NUMBERS, RELATION_PHRASES, STYLE_PHRASES
from leanlens.scenes.icons import COLORS, Library, library
from leanlens.scenes.names import pluralize, read_vocabulary

ALWAYS = {"sign": "sign", "label": "label"}  # things that no library has as an icon
BACKGROUNDS = {  # kind -> the sentences that captions say it in; the first colour first
    "plain": (r"a single even (.+?) tone fills", r"background is plain (.+?)\.", r"is a flat (.+?) backdrop"),
    "gradient": (
        r"fades smoothly from (.+?) (?:on the left|at the top) to (.+?) (?:on the right|at the bottom)",
        r"behind it, (.+?) (?:on the left|at the top) turns gradually into (.+?) (?:on|at)",
    ),
    "ground": (r"ground is (.+?) and the sky above it is (.+?)\.",),
    "dots": (r"background is (.+?) with regular (.+?) dots",),
    "stripes": (r"background has (?:vertical|horizontal) stripes in (.+?) and (.+?)\.",),
    "checks": (r"checkered pattern of (.+?) and (.+?)\.",),
}  # fmt: skip
OPPOSITES = {"left of": "right of", "above": "below", "right of": "left of", "below": "above"}
PLACES = {
    "in the upper left": (0, 0), "at the top": (1, 0), "in the upper right": (2, 0), "on the left": (0, 1),
    "in the centre": (1, 1), "on the right": (2, 1), "in the lower left": (0, 2), "at the bottom": (1, 2),
    "in the lower right": (2, 2),
}  # fmt: skip
BETWEEN = 4  # words at most from a number to its noun


@dataclass(frozen=True)
class Mention:
    """A thing named in a caption: its concept, the stated number and colours, and where the name ends."""

    concept: str
    count: int | None
    colors: tuple[str, ...]
    start: int
    end: int


class Reader:
    """Reads captions: the things they name, and what they say of them."""

    def __init__(self, icons: Library):
        self.names: dict[str, str] = dict(ALWAYS) | {pluralize(name): name for name in ALWAYS}
        synonyms = read_vocabulary()["synonyms"]
        for concept in icons.concepts:
            for name in (concept, *synonyms.get(concept, ())):
                self.names |= {name: concept, pluralize(name): concept}
        ordered = sorted(self.names, key=len, reverse=True)
        self.pattern = re.compile(rf"(?<![\w'-])({'|'.join(map(re.escape, ordered))})(?![\w'-])", re.IGNORECASE)

    def mentions(self, caption: str) -> list[Mention]:
        """The things of a caption without its quoted strings and without its background."""
        return [self._mention(caption, found) for found in self.pattern.finditer(caption)]

    def _mention(self, caption: str, found: re.Match[str]) -> Mention:
        before = re.findall(r"[\w'-]+|[^\w\s]", caption[: found.start()].lower())[-BETWEEN:]
        count, colors = None, []
        for word in reversed(before):
            if word in ("a", "an", "one"):
                count = 1
                break
            if word in NUMBERS or word.isdigit():
                count = NUMBERS.index(word) if word in NUMBERS else int(word)
                break
            if word == "the" and count is None:
                break
            if not re.match(r"[\w'-]+$", word) or word in ("and", "of", "with", "is", "are", "to", "on"):
                break
            if word in COLORS or word in _KIN:
                colors.append(word)
        return Mention(self.names[found[1].lower()], count, tuple(colors), found.start(), found.end())


_KIN = {word for words in KIN.values() for word in words}


@dataclass(frozen=True)
class Verdict:
    """What a caption keeps of a wish: (kind, kept or not), and the contradictions, each as a kind and a sentence."""

    facts: tuple[tuple[str, bool], ...]
    wrong: tuple[tuple[str, str], ...]


def judge(wish: Wish, caption: str, reader: Reader) -> Verdict:
    """Read a caption and compare it with what its prompt states."""
    facts = [("quoted string", _has_quoted(caption, text)) for text in wish.texts]
    wrong: list[tuple[str, str]] = []
    bare = re.sub(r'"[^"]*"', '""', _without_strings(caption, wish.texts))
    bare, backdrops = _cut_backgrounds(bare)
    mentions = reader.mentions(bare)
    for thing in wish.things:
        facts += _facts_of(thing, wish, mentions)
    wrong += _contradictions(wish, mentions)
    wrong += [("quoted string", said) for said in re.findall(r'"([^"]*)"', caption) if said not in wish.texts]
    named = _listed(bare)
    if named > len(wish.things):
        wrong.append(("extra thing", f"{named} things are listed for {len(wish.things)}"))
    if wish.relation is not None:
        said = _relations(bare, mentions)
        facts.append(("relation", _holds(wish, said)))
        wrong += _wrong_relations(wish, said, bare, mentions)
    if wish.background is not None:
        facts.append(("background", wish.background in backdrops))
        if backdrops and wish.background not in backdrops:
            wrong.append(("background", f"{backdrops[0]} for {wish.background}"))
    if len(backdrops) != 1:
        wrong.append(("background", f"{len(backdrops)} backgrounds are read"))
    if wish.style is not None:
        facts.append(("style", STYLE_PHRASES[wish.style].lower() in bare.lower()))
    others = [phrase for name, phrase in STYLE_PHRASES.items() if name != wish.style and _opens_with(bare, phrase)]
    if wish.style is not None and others and not _opens_with(bare, STYLE_PHRASES[wish.style]):
        wrong.append(("style", f"{others[0]} for {wish.style}"))
    return Verdict(tuple(facts), tuple(wrong))


def _listed(caption: str) -> int:
    """How many things the first sentence lists."""
    match = re.search(r"(?:shows|presents) (.*?)(?:, all of it in .*)?$", caption.split(".")[0])
    return len(re.split(r", (?:and )?| and ", re.sub(r' that says ""', "", match[1]))) if match else 0


def _has_quoted(caption: str, text: str) -> bool:
    return f'"{text}"' in caption


def _without_strings(caption: str, texts: tuple[str, ...]) -> str:
    for text in texts:
        caption = caption.replace(f'"{text}"', '""')
    return caption


def _cut_backgrounds(caption: str) -> tuple[str, list[tuple[str, tuple[str, ...]]]]:
    """The caption without the sentences on its background, and what they say."""
    kept, found = [], []
    for sentence in re.split(r"(?<=\.)\s+", caption):
        read = [
            (kind, match.groups())
            for kind, patterns in BACKGROUNDS.items()
            for pattern in patterns
            if (match := re.search(pattern, sentence, re.IGNORECASE))
        ]
        found += read[:1]
        kept += [] if read else [sentence]
    return " ".join(kept), found


def _colors_of(thing: Wanted) -> set[str]:
    """The words that state a thing's colour: its name among the twelve, and as it was typed."""
    return {str(thing.color), *thing.color_word.split()}


def _same_concept(thing: Wanted, wish: Wish) -> list[Wanted]:
    return [one for one in wish.things if one.concept == thing.concept]


def _is_of(mention: Mention, thing: Wanted, wish: Wish) -> bool:
    """Whether a mention may mean this thing and not another of the same name."""
    if mention.concept != thing.concept:
        return False
    return len(_same_concept(thing, wish)) == 1 or bool(set(mention.colors) & _colors_of(thing))


def _facts_of(thing: Wanted, wish: Wish, mentions: list[Mention]) -> list[tuple[str, bool]]:
    own = [mention for mention in mentions if _is_of(mention, thing, wish)]
    facts = [("thing", bool(own)), ("number", any(mention.count == thing.count for mention in own))]
    if thing.color is not None:
        facts.append(("color", any(set(mention.colors) & _colors_of(thing) for mention in own)))
    return facts


def _contradictions(wish: Wish, mentions: list[Mention]) -> list[tuple[str, str]]:
    found = []
    for mention in mentions:
        alike = [thing for thing in wish.things if thing.concept == mention.concept]
        if not alike:
            kind = "unwanted thing" if mention.concept in wish.unwanted else "extra thing"
            found.append((kind, mention.concept))
            continue
        if mention.count is not None and mention.count not in {thing.count for thing in alike}:
            found.append(("number", f"{mention.count} {mention.concept} for {alike[0].count}"))
        right = set().union(*(_colors_of(thing) for thing in alike if thing.color)) if alike else set()
        if mention.colors and not set(mention.colors) <= right | {"dark", "lime", "hot"}:
            found.append(("color", f"{' '.join(mention.colors)} {mention.concept} for {alike[0].color}"))
    return found


def _relations(caption: str, mentions: list[Mention]) -> list[tuple[Mention, str, Mention]]:
    """(thing, word, thing) of each phrase between two mentions of one sentence that follow each other."""
    phrases = sorted(
        ((phrase, word) for word, all_ in RELATION_PHRASES.items() for phrase in all_), key=lambda one: -len(one[0])
    )
    found = []
    for a, b in pairwise(mentions):
        between = caption[a.end : b.start]
        if "." in between:
            continue
        word = next((word for phrase, word in phrases if re.search(rf"\b{phrase}\b", between)), None)
        if word is not None and " and " not in between:
            found.append((a, word, b))
    return found


def _matches(wish: Wish, row: tuple[Mention, str, Mention]) -> str | None:
    """The word that a read relation has for the two things that the wish relates, the wished first."""
    assert wish.relation is not None
    first, second = wish.things[wish.relation[0]], wish.things[wish.relation[2]]
    a, word, b = row
    if _is_of(a, first, wish) and _is_of(b, second, wish):
        return word
    if _is_of(a, second, wish) and _is_of(b, first, wish):
        return OPPOSITES.get(word, f"the inverse of {word}")
    return None


def _holds(wish: Wish, said: list[tuple[Mention, str, Mention]]) -> bool:
    assert wish.relation is not None
    return any(_matches(wish, row) == wish.relation[1] for row in said)


def _wrong_relations(
    wish: Wish, said: list[tuple[Mention, str, Mention]], caption: str, mentions: list[Mention]
) -> list[tuple[str, str]]:
    assert wish.relation is not None
    a, word, b = wish.relation
    found = [("relation", f"{match} for {word}") for row in said if (match := _matches(wish, row)) not in (None, word)]
    places = [_place(wish.things[at], wish, caption, mentions) for at in (a, b)]
    if None not in places and word in OPPOSITES:
        axis = 0 if word in ("left of", "right of") else 1
        first, second = (place[axis] for place in places if place is not None)
        if first > second:
            found.append(("place", f"{word}, but placed the other way round"))
    return found


def _place(thing: Wanted, wish: Wish, caption: str, mentions: list[Mention]) -> tuple[int, int] | None:
    for mention in mentions:
        rest = caption[mention.end :].split(".")[0]
        match = re.match(rf" (?:is|are) .*?\b(?:sits|sit|placed|lies|appears) ({'|'.join(PLACES)})$", rest)
        if match and _is_of(mention, thing, wish):
            return PLACES[match[1]]
    return None


def _opens_with(caption: str, phrase: str) -> bool:
    return phrase.lower() in caption.split(".")[0].lower()


def measure(num: int, seed: int, icons: Library) -> tuple[dict, list[tuple[str, Wish, Reasoned]]]:
    """Counts of what is kept, and the prompts that lost something or were contradicted, by kind."""
    asked, reader, reasoner = wishes(num, seed, icons), Reader(icons), SceneReasoner()
    kept, wrong, alone, failed = defaultdict(list), Counter(), Counter(), []
    faithful, seconds = 0, []
    for index, wish in enumerate(asked):
        try:
            (answer,) = reasoner([Ask(wish.prompt, index, 256, 256)])
        except Exception as error:
            answer = Reasoned(original=wish.prompt, prompt="", source=reasoner.source, left_alone=f"crash: {error!r}")
        seconds.append(answer.seconds)
        if answer.left_alone:
            alone[answer.left_alone] += 1
            failed.append(("left alone", wish, answer))
            continue
        verdict = judge(wish, answer.prompt, reader)
        for kind, is_kept in verdict.facts:
            kept[kind].append(is_kept)
        kinds = [f"lost {kind}" for kind, is_kept in verdict.facts if not is_kept]
        kinds += [f"wrong {kind}: {said}" for kind, said in verdict.wrong]
        wrong.update(kind for kind, _ in verdict.wrong)
        faithful += not kinds
        if kinds:
            failed.append((", ".join(dict.fromkeys(kinds)), wish, answer))
    stated = [is_kept for kind in ("thing", "number", "color", "quoted string") for is_kept in kept[kind]]
    return {
        "prompts": num,
        "rewritten": num - sum(alone.values()),
        "left_alone": dict(alone.most_common()),
        "kept": {kind: {"yes": sum(rows), "num": len(rows)} for kind, rows in sorted(kept.items())},
        "things, numbers, colors and strings": round(sum(stated) / max(1, len(stated)), 5),
        "faithful_prompts": faithful,
        "contradictions": dict(wrong.most_common()),
        "ms": {"median": round(1000 * sorted(seconds)[num // 2], 3), "most": round(1000 * max(seconds[1:]), 3)},
    }, failed  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sources", default="common")
    parser.add_argument("--show", type=int, default=40, help="how many prompts that went wrong are shown")
    given = parser.parse_args()
    counts, failed = measure(given.num, given.seed, library(given.sources))
    for kind, wish, answer in failed[: given.show]:
        print(f"{kind}\n  {wish.prompt}\n  {answer.left_alone or answer.prompt}", file=sys.stderr)
    print(json.dumps({"command": " ".join(["python", *sys.argv]), "machine": describe_machine(), **counts}, indent=1))


if __name__ == "__main__":
    main()
