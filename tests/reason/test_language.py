"""Prompts in other languages: which language they are in, and what they mean."""

import time
from pathlib import Path

import pytest

from leanlens.reason import lexicon
from leanlens.reason.language import find_language
from leanlens.reason.parse import parse
from leanlens.reason.reasoner import Ask
from leanlens.reason.scenes import SceneReasoner, keep_english
from leanlens.reason.spelling import fold, lower, script_of
from leanlens.reason.words import LANGUAGES, known_things, languages, tag, words_of
from tests.reason.notation import notation

PROMPTS = Path(__file__).parent / "prompts"


def read(prompt):
    """(language, meaning in one line)."""
    language = find_language(prompt)
    words = words_of(language)
    meaning = parse(tag(prompt, words), words)
    if language != "en":
        keep_english(meaning)
    return language, notation(meaning)


def pairs(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    return zip(lines[::2], lines[1::2], strict=True)


EMOJI = list(pairs(Path(__file__).parent / "emoji.txt"))
TABLES = [(path.stem, *pair) for path in sorted(PROMPTS.glob("*.txt")) for pair in pairs(path)]


@pytest.mark.parametrize(("language", "prompt", "meaning"), TABLES, ids=[prompt[:30] for _, prompt, _ in TABLES])
def test_what_a_prompt_of_a_language_means(language, prompt, meaning):
    assert read(prompt) == (language, meaning.strip())


@pytest.mark.parametrize(("prompt", "meaning"), EMOJI, ids=[ascii(prompt) for prompt, _ in EMOJI])
def test_emoji_are_words(prompt, meaning):
    assert read(prompt)[1] == meaning.strip()


def test_an_emoji_of_a_mood_is_named_among_what_is_not_understood():
    (answer,) = SceneReasoner()([Ask("a cat 😂", 3, 256, 256)])
    assert [unknown.word for unknown in answer.not_understood] == ["face with tears of joy"]


@pytest.mark.parametrize(
    ("prompt", "language"),
    [
        ("pizza", "en"), ("red apple", "en"), ("", "en"), ("123", "en"), ("flurble", "en"), ("a frying pan", "en"),
        ("frying pan", "en"), ("red hat", "en"), ("the hat", "en"), ("my hat", "en"), ("old man", "en"),
        ("red van", "en"), ("lamp", "en"), ("elf", "en"), ("beer", "en"), ("three oranges", "en"), ("un chat", "fr"),
        ("rote Rose", "de"), ("ein roter Apfel", "de"), ("una mela rossa", "it"), ("una manzana roja", "es"),
        ("une pomme rouge", "fr"), ("红苹果", "zh"), ("Hund", "de"), ("le chat", "fr"), ("ein Schaf", "de"),
        ("Aepfel", "de"), ("manana: una manzana", "es"), ('ein Schild mit "THE END OF THE ROAD"', "de"),
        ("a sign that says 'ein roter Apfel'", "en"), ("a dog and ein roter Apfel auf dem Tisch", "de"),
        ("a red dog and a blue cat near the Apfel", "en"), ("Schild: OPEN", "de"), ("りんご", "ja"),
        ("赤いリンゴ", "ja"),
        ("사과", "ko"), ("красное яблоко", "ru"), ("تفاحة حمراء", "ar"), ("μήλο", "el"), ("תפוח", "he"),
        ("แอปเปิล", "th"),
        ("a red apple, please, for my café", "en"), ("Draw a piñata", "en"),
    ],
)  # fmt: skip
def test_the_language_is_found(prompt, language):
    assert find_language(prompt) == language


@pytest.mark.parametrize("code", [code for code in languages() if code != "en"])
def test_a_table_names_every_thing_that_the_model_knows(code):
    words = words_of(code)
    named = {row[1]["thing"][0] for rows in words.phrases.values() for row in rows if "thing" in row[1]}
    assert sorted(set(known_things()) - named) == []


@pytest.mark.parametrize("code", [path.stem for path in sorted((LANGUAGES / "things").glob("*.txt"))])
def test_the_lexicon_holds_the_words_of_the_tables(code):
    """Where this fails, run docs/make_lexicon.py."""
    for line in (LANGUAGES / "things" / f"{code}.txt").read_text(encoding="utf-8").splitlines()[1:]:
        concept, _, forms = line.partition(": ")
        for phrase in forms.replace(" | ", ", ").split(", "):
            spell = lower if words_of(code).marked else fold
            key = " ".join(spell(phrase.replace("-", " ")).split())
            assert code in lexicon.speakers(key, script_of(key)), f"{phrase} ({concept})"


@pytest.mark.parametrize(
    ("prompt", "language", "meaning"),
    [
        ("sebuah apel merah", "id", "red apple"), ("röd katt", "sv", "red cat"), ("punainen omena", "fi", "red apple"),
        ("piros alma", "hu", "red apple"), ("κόκκινο μήλο", "el", "red apple"), ("3 תפוח אדום", "he", "3 red apple"),
        ("سیب قرمز", "fa", "red apple"), ("লাল আপেল", "bn", "red apple"), ("червоне яблуко", "uk", "red apple"),
        ("2 kočka", "cs", "2 cat"), ("แมว", "th", "cat"), ("rødt hjerte", "da", "red heart"),
    ],
)  # fmt: skip
def test_a_language_without_a_table_has_the_words_of_unicode(prompt, language, meaning):
    assert read(prompt) == (language, meaning)


def test_the_data_is_small():
    files = [path for path in LANGUAGES.parent.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < 3 * 2**20
    assert max(path.stat().st_size for path in files) < 2**20


def test_a_prompt_is_read_within_20_ms_once_its_words_are_loaded():
    prompts = [prompt for _, prompt, _ in TABLES]
    for prompt in prompts:
        read(prompt)
    began = time.perf_counter()
    for prompt in prompts:
        read(prompt)
    assert (time.perf_counter() - began) / len(prompts) < 0.02


@pytest.mark.parametrize(
    ("prompt", "meaning"),
    [
        ("ein roter Schmeterling", "1 red butterfly"), ("une girrafe bleue", "1 blue giraffe"), ("un cane", "1 dog"),
        ("un elefnte azul", "1 blue elephant"), ("tre lenti d'ingrandimento", "3 magnifying glass"),
        ("três carros", "3 car"), ("tres coches", "3 car"), ("très grand chien", "dog large"),
    ],
)  # fmt: skip
def test_typing_errors_and_words_that_are_alike(prompt, meaning):
    assert read(prompt)[1] == meaning


def test_a_long_prompt_in_another_language_is_read_too():
    prompt = (
        "Auf dem Bild sieht man einen großen roten Drachen auf der linken Seite. Rechts steht eine kleine blaue Burg. "
        "Der Hintergrund ist hellgrün und sehr schlicht gehalten. Sonst ist nichts zu sehen."
    )
    (answer,) = SceneReasoner()([Ask(prompt, 3, 256, 256)])
    assert not answer.left_alone
    assert all(words in answer.prompt for words in ("red dragon", "blue castle", "mint green"))


@pytest.mark.parametrize(
    ("prompt", "meaning"),
    [
        ("a black 猫", "1 black cat"), ("a dog and a 猫", "1 dog; 1 cat"), ("犬と赤い車", "dog; red car"),
        ("🍎🐶", "apple; dog"), ("ein Schaf neben einem roten Haus", "1 red house"),
        ("un écureuil, un chat noir et un arbre", "1 black cat; 1 tree"), ("ein Schaf", "1 ?schaf"),
    ],
)  # fmt: skip
def test_unknown_words_of_another_language_are_no_things_beside_known_ones(prompt, meaning):
    assert read(prompt)[1] == meaning


def test_the_caption_is_english_and_the_record_names_the_language():
    (answer,) = SceneReasoner()([Ask("drei rote Äpfel auf einem flauschigen blauen Tisch", 3, 256, 256)])
    assert answer.language == "de"
    assert "three red apples" in answer.prompt
    assert "flauschig" not in answer.prompt
    facts = {fact.key: fact.value for fact in answer.facts}
    assert (facts["thing 1"], facts["number 1"], facts["color 1"]) == ("apple", "3", "red")
