"""Detects the language of a prompt from its script and its words.

The result is a two-letter code that `words_of` accepts. Prompts are usually short: "ein roter Apfel" is German; "pizza"
alone is English, because a word that is also English counts as English.
"""

import re
from collections import Counter, defaultdict

from leanlens.reason import lexicon
from leanlens.reason.nearest import is_word, nearest
from leanlens.reason.spelling import script_of
from leanlens.reason.words import QUOTED, split, words_of

LONGEST = 4  # words of the longest phrase to look up
# Precedence of languages that share a word; the others follow in order of their code.
PREFERRED = (
    "en", "zh", "es", "fr", "de", "it", "pt", "ja", "ru", "ar", "hi", "ko", "nl", "pl", "tr", "vi", "id", "uk", "sv",
    "cs", "ro", "hu", "el", "th", "fa", "bn", "ur", "mr", "ta", "te", "da", "no", "fi", "sk", "hr", "sr", "bg", "ca",
    "ms", "fil",
)  # fmt: skip
# Scripts that many languages share; for others, the first language of `lexicon.FIRST` is used.
SHARED = ("cyrillic", "arabic", "thai")
LATIN = "latin"
# Letters that decide between languages with equally many known words.
LETTERS = {
    "de": "äöüß", "fr": "éèêëàâçîïôùûœ", "es": "áíóúñ¿¡", "it": "èàìòù", "pt": "ãõçáâêíóúà", "pl": "ąćęłńóśźż",
    "tr": "ğışçöü", "sv": "åäö", "da": "æøå", "no": "æøå", "ca": "àçèéíïòóúü", "ro": "ăâîșț", "cs": "áčďéěíňóřšťúůýž",
    "uk": "іїєґ", "ru": "ыэъё", "fa": "پچژگیک", "ur": "ٹڈڑےں",
}  # fmt: skip
ALSO_ENGLISH = ("elf", "lamp", "man", "van")  # English words missing from the table that other languages have, too
HINT = 0.05
SPELLED = {"três": "pt", "très": "fr", "tres": "es", "é": "pt", "è": "it"}  # words that differ only in the accent
MARKED_LANGUAGE = "vi"  # accents distinguish its words
_CAPITALS = re.compile(r"\b[A-ZÀ-ÖØ-Þ]{2,}\b")  # text on a sign, as in "Schild: STOP"
MARKED = 1.5  # weight of a function word such as "ein", relative to a thing


def find_language(text: str) -> str:
    """The language of most words of a prompt; English in a tie.

    Quoted strings do not count: a German prompt may ask for a sign that says "OPEN".
    """
    plain = QUOTED.sub(" ", text)
    script = main_script(plain)
    if script == "other":
        return "en"
    if script in lexicon.FIRST and script not in SHARED:
        return lexicon.FIRST[script]
    plain = _CAPITALS.sub(" ", plain) if _CAPITALS.sub("", plain).strip(" .,:;!?") else plain
    tokens = _with_apostrophes(split(plain, elided=True))
    if script != LATIN:
        votes = count_words([token for token in tokens if script_of(token) == script], script)
        return _best(_with_hints(votes, plain), _only_language(script))
    typed = [token for token in split(plain) if token[0].isalpha()]
    covered = count_english(typed)
    if covered >= len(tokens) or _is_all_english(typed):
        return "en"
    votes = count_words([token for token in tokens if script_of(token) == LATIN], LATIN)
    marked = [token for token in split(plain, marked=True) if script_of(token) == LATIN]
    votes[MARKED_LANGUAGE] = count_words(marked, LATIN)[MARKED_LANGUAGE]
    votes = _with_hints(votes, plain)
    best = _best(votes, "en")
    most = votes[best]
    enough = 2 * most > len(tokens) or (most >= 2 and 3 * most > len(tokens))  # "frying pan" is no Spanish bread
    return best if most > covered and enough else "en"


def _with_apostrophes(tokens: list[str]) -> list[str]:
    """Words with an apostrophe attached to the word before it: "d'", "eau"."""
    found: list[str] = []
    for token in tokens:
        if token[0].isalpha():
            found.append(token)
        elif token == "'" and found:
            found[-1] += token
    return found


def _with_hints(votes: dict[str, float], text: str) -> dict[str, float]:
    """Votes with a small bonus for letters that are typical of a language."""
    for word in text.lower().split():
        if votes.get(SPELLED.get(word, "")):
            votes[SPELLED[word]] += 1
    for language, letters in LETTERS.items():
        if votes.get(language):
            votes[language] += HINT * sum(letter in letters for letter in text.lower())
    return votes


def main_script(text: str) -> str:
    """The script of most of a text; "kana" for Japanese, even with many Chinese characters."""
    counts = Counter(script_of(letter) for letter in text if letter.isalpha())
    del counts["other"]
    if not counts:
        return "other"
    if counts["kana"] and counts["kana"] + counts["han"] >= counts[LATIN] / 3:
        return "kana"
    for script in ("han", "hangul"):  # one character counts like a word in other scripts
        counts[script] *= 3
    return counts.most_common(1)[0][0]


def count_english(tokens: list[str]) -> int:
    """Count the tokens that belong to words and phrases of the English table."""
    words, at, found = words_of("en"), 0, 0
    while at < len(tokens):
        hit = words.longest(tokens, at)
        found += hit[0] if hit else 0
        at += hit[0] if hit else 1
    return found


def _is_all_english(tokens: list[str]) -> bool:
    """Whether every word may be English, even if the table lacks some: "red hat", but not "Pizza und ein Burger", with
    words that only other languages have."""
    words = words_of("en")
    known = words.tokens | set(ALSO_ENGLISH)
    named = [token in known or ((near := nearest(token)) is not None and near.same) for token in tokens]
    pairs = zip(tokens, named, strict=True)
    return any(named) and all(sure or (is_word(token) and not lexicon.speakers(token, LATIN)) for token, sure in pairs)


def count_words(tokens: list[str], script: str) -> dict[str, float]:
    """Language -> number of tokens that it knows, matching the longest phrases first."""
    found: dict[str, float] = defaultdict(float)
    until: Counter[str] = Counter()  # language -> the first token that no phrase of it has covered
    for at in range(len(tokens)):
        for length in range(min(LONGEST, len(tokens) - at), 0, -1):
            phrase = " ".join(tokens[at : at + length]).replace("' ", "'").rstrip("'")
            for language, word in lexicon.speakers(phrase, script).items():
                if until[language] <= at:
                    until[language] = at + length
                    found[language] += length * (MARKED if length > 1 or word == lexicon.MARKER else 1)
    return found


def _only_language(script: str) -> str:
    """The most widely used language of a script, for prompts without a known word."""
    spoken = [code for code, scripts in lexicon.languages().items() if scripts[0] == script]
    return min(spoken, key=_rank, default="en")


def _best(votes: dict[str, float], otherwise: str) -> str:
    return min(votes, key=lambda code: (-votes[code], _rank(code), code), default=otherwise)


def _rank(code: str) -> int:
    return PREFERRED.index(code) if code in PREFERRED else len(PREFERRED)
