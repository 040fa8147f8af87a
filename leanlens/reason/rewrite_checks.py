"""Checks that a rewrite of a prompt is one description which keeps what the prompt states; it asks no model."""

import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from leanlens.reason.language import find_language, main_script
from leanlens.reason.nearest import is_word, nearest
from leanlens.reason.rewrite_facts import Facts, says, stem, without_quoted
from leanlens.reason.spelling import fold, is_unspaced
from leanlens.reason.words import words_of

WORDS = Path(__file__).with_name("rewrite_words.toml")
MOST_WORDS = 350
LETTERS_A_WORD = 2  # of scripts without spaces
SHOWN = 40  # characters of what is lost


def broken_rules(
    original: str,
    written: str,
    most_words: int = MOST_WORDS,
    finish_reason: str = "stop",
    *,
    fits: Callable[[str], bool] | None = None,
    kept: Sequence[str] = (),
) -> list[str]:
    """What is wrong with a rewrite, in a few words each; nothing for one that can be drawn.

    Numbers, colours, negations and names are compared in the languages of `reason/languages`; all else in any.

    Args:
        original: the prompt as it was given.
        written: the rewrite.
        most_words: that a rewrite may have; two letters of a script without spaces count as one.
        finish_reason: why the model ended, as an endpoint tells it; "length" is a cut answer.
        fits: whether a text fits the window of the text encoder.
        kept: words that must stand in the rewrite as they are, such as the triggers of a LoRA.
    """
    if not any(letter.isalnum() for letter in written):
        return ["it is empty"]
    broken = [*_form(original, written, finish_reason)]
    if count_words(written) > most_words:
        broken.append(f"it has {count_words(written)} words; at most {most_words} are accepted")
    elif fits is not None and not fits(written):
        broken.append("it does not fit the text encoder's window")
    broken += [f"it leaves out {word[:SHOWN]!r}" for word in kept if word not in written]
    language = find_language(original)
    if (other := _other_language(original, written, language)) is not None:
        return [*broken, other]
    asked, found = Facts(original, language), Facts(written, find_language(written))
    stated = [*_lost_quoted(asked, found), *_lost_names(asked, found), *_numbers(asked, found),
              *_colors(asked, found), *_added(asked, found), *_unrelated(asked, found)]  # fmt: skip
    return [*broken, *dict.fromkeys(stated)]


def count_words(text: str) -> int:
    """The words of a text; two letters of a script without spaces count as one."""
    letters = sum(is_unspaced(letter) for letter in text if letter.isalpha())
    spaced = "".join(" " if letter.isalpha() and is_unspaced(letter) else letter for letter in text)
    return len(re.findall(r"\w[\w'’-]*", spaced)) + -(-letters // LETTERS_A_WORD)


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(WORDS.read_text(encoding="utf-8"))


@cache
def _pattern(kind: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{one})" for one in _table()[kind]), re.IGNORECASE | re.MULTILINE)


def _form(original: str, written: str, finish_reason: str) -> Iterator[str]:
    """Whether it is one whole description and nothing else."""
    if finish_reason == "length":
        yield "it is cut (finish_reason length)"
    elif _is_unfinished(written):
        yield "it ends in the middle of a sentence"
    plain, asked = without_quoted(written).replace("’", "'"), original.replace("’", "'")
    for kind, said in (
        ("refusals", "it is a refusal"), ("comments", "it holds a comment"),
        ("markers", "it holds markup"), ("lists", "it is a list"),
    ):  # fmt: skip
        if any(match[0].strip().lower() not in asked.lower() for match in _pattern(kind).finditer(plain)):
            yield said
    if re.search("[?？¿]", plain) and not re.search("[?？¿]", asked):
        yield "it asks a question"
    if _repeats(written):
        yield "it repeats itself"


def _is_unfinished(written: str) -> bool:
    text = written.rstrip()
    words = text.split()
    last = re.findall(r"\w+", words[-1]) if words and words[-1][-1].isalnum() else []
    return text.endswith((",", "，", "、", "-", "–", ":")) or (
        len(words) > 3 and bool(last) and last[-1].lower() in _table()["unfinished"]
    )


def _repeats(written: str) -> bool:
    """Whether a sentence comes three times, or five words in a row come four times, as in a model's loop."""
    sentences = Counter(one.strip().lower() for one in re.split(r"[.!?。！？\n]+", written) if len(one.strip()) > 8)
    words = re.findall(r"\w+", written.lower())
    runs = Counter(tuple(words[at : at + 5]) for at in range(len(words) - 4))
    return max(sentences.values(), default=0) >= 3 or max(runs.values(), default=0) >= 4


def _other_language(original: str, written: str, language: str) -> str | None:
    """A sentence where a rewrite is in another language or script than its prompt."""
    scripts = main_script(without_quoted(original)), main_script(without_quoted(written))
    if "other" in scripts:
        return None
    found = find_language(written)
    told = f"it is in another language ({found}) than the prompt ({language})"
    if scripts[0] != scripts[1] and {*scripts} != {"han", "kana"}:
        return told
    if found == language or (count_words(original) < 2 and language == "en"):
        return None
    if language == "en" and not _is_surely_english(original):
        return None
    return told


def _is_surely_english(text: str) -> bool:
    """Whether most words of a text are in the English tables; a language without a table passes for English."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    known = words_of("en").tokens
    return sum(word in known or is_word(word) or nearest(word) is not None for word in words) > 0.6 * len(words)


def _spelled(text: str) -> str:
    """A text with plain quotation marks, apostrophes and spaces."""
    text = unicodedata.normalize("NFC", text).translate(str.maketrans("’‘`´“”„«»", '\'\'\'\'"""""'))
    return " ".join(text.split())


def _lost_quoted(asked: Facts, found: Facts) -> Iterator[str]:
    """Quoted strings that do not stand in the rewrite letter by letter."""
    texts = [_spelled(one) for one in found.quoted]
    whole = _spelled(found.text)
    for string in asked.quoted:
        want = _spelled(string)
        bare = want.rstrip(".,!?;: ")
        quoted = any(one == want or one.rstrip(".,") == bare.rstrip(".,") for one in texts)
        open_ = len(want) > 3 and _holds(whole, want)
        if not quoted and not open_ and not any(_holds(one, want) for one in texts):
            yield f"the text {string[:SHOWN]!r} is lost or changed"


def _holds(text: str, part: str) -> bool:
    """Whether a part stands in a text, and not inside a longer word."""
    before, after = (r"(?<!\w)", r"(?!\w)") if not is_unspaced(part) else ("", "")
    return re.search(rf"{before}{re.escape(part)}{after}", text) is not None


def _lost_names(asked: Facts, found: Facts) -> Iterator[str]:
    text = fold(_spelled(found.text))
    joined = re.sub(r"[\W_]", "", text)
    words = re.findall(r"[^\W_]+", text)
    for name in asked.names:
        plain = fold(_spelled(name))
        if plain in _table()["quality"] or _is_named(plain, text, joined, words):
            continue
        yield f"the name {name[:SHOWN]!r} is lost"


def _is_named(plain: str, text: str, joined: str, words: list[str]) -> bool:
    if says([plain], text) or says(_table()["same"].get(plain, ()), text):
        return True
    bare = re.sub(r"[\W_]", "", plain)
    if len(bare) > 3 and (plain.startswith("@") or re.search(r"\d", bare)):
        return bare in joined and (not plain.startswith("@") or plain in text)
    beginning = bare[: max(4, round(0.6 * len(bare)))]
    return len(bare) > 4 and not re.search(r"\d", bare) and any(word.startswith(beginning) for word in words)


def _numbers(asked: Facts, found: Facts) -> Iterator[str]:
    for number, names in asked.numbers.items():
        given = {other for other, things in found.numbers.items() if things & names}
        if number > 1 and number not in found.numbers and number not in found.all_digits:
            yield f"the number {number} is lost"
        elif given and number not in given and max(given) > 1:
            yield f"the number {number} of {min(names & found.numbers[max(given)])} became {max(given)}"
        elif number > 1 and (more := {one for one in given if one > number} - asked.numbers.keys()):
            yield f"the number {number} of {min(names & found.numbers[min(more)])} became {min(more)}"
    yield from _multiplied(asked, found)


def _multiplied(asked: Facts, found: Facts) -> Iterator[str]:
    """Things that the prompt has once and the rewrite only in a number."""
    single = {one.name for one in found.mentions if not one.plural and not found.is_modifier(one)}
    for one in asked.mentions:
        if one.plural or not _has_article(asked, one.at) or one.name in single:
            continue
        if not any(other.name == one.name and other.plural for other in asked.mentions):
            counts = [number for number, names in found.numbers.items() if one.name in names and number > 1]
            if counts:
                yield f"the number 1 of {one.name} became {counts[0]}"


def _has_article(facts: Facts, at: int) -> bool:
    """Whether "a" belongs to a noun: "a golden retriever puppy"."""
    for tag in reversed(facts.tags[max(0, at - 3) : at]):
        if tag.has("article"):
            return bool(tag.get("article") == "one")
        if tag.has("break", "relation", "and", "number"):
            return False
    return False


def _colors(asked: Facts, found: Facts) -> Iterator[str]:
    words = fold(found.plain)
    for color, word in asked.colors.items():
        here = color in found.colors or color.split()[-1] in {one.split()[-1] for one in found.colors}
        grey = color in ("black", "white") and re.search(
            r"monochrom|gr[ae]yscale|schwarz-?wei|noir et blanc|черно-бел", words
        )
        if not here and not grey and fold(word) not in words:
            yield f"the colour {word!r} is lost"
    for name, colors in asked.colored.items():
        given = found.colored.get(name, set())
        if given and not {one.split()[-1] for one in given} & {one.split()[-1] for one in colors}:
            yield f"the colour of {name} became {min(given)}"


def _added(asked: Facts, found: Facts) -> Iterator[str]:
    """Things that the prompt does not want and the rewrite has."""
    people = _table()["people"]
    for name in asked.negated:
        names = {name, stem(name)}
        if name in {*people["meant"], *(stem(one) for one in people["meant"])}:
            names |= {*people["words"], *(stem(one) for one in people["words"])}
        for one in found.mentions:
            if one.name in names and not _is_denied(found, one.at):
                yield f"it adds {found.tags[one.at].text[:SHOWN]!r}, which is not wanted"
                break


def _is_denied(found: Facts, at: int) -> bool:
    absent = _table()["absent"]
    for step in range(at - 1, max(-1, at - 10), -1):
        tag = found.tags[step]
        if tag.has("not") or fold(tag.text) in absent:
            return True
        if tag.get("break") in (".", "!", ";", "。"):
            break
    following = [fold(tag.text) for tag in found.tags[at + 1 : at + 5]]
    return any(word in absent for word in following) or found.language in ("ja", "ko", "tr", "hi")


def _unrelated(asked: Facts, found: Facts) -> Iterator[str]:
    """Whether no word of the prompt is in the rewrite."""
    names = {one.name for one in asked.mentions}
    given = {one.name for one in found.mentions} | {
        stem(fold(word)) for word in re.findall(r"[^\W\d_]{3,}", found.text)
    }
    given |= {letter for letter in found.text if is_unspaced(letter)} if is_unspaced(asked.text[:1] or "a") else set()
    names |= {letter for letter in asked.plain if letter.isalpha() and is_unspaced(letter)}
    texts = fold(found.text)
    if len(names) >= 2 and not any(name in given or stem(name)[:4] in texts for name in names):
        yield "it has no word of the prompt"
