"""Writes leanlens/reason/languages/lexicon from Unicode's CLDR annotations: `python docs/make_lexicon.py`.

Each language names every emoji; the concepts of the scenes are emoji, so each language names each concept. A name may
say more than the concept ("red apple", "face of a dog"). What a person would type is taken: the name, the keywords that
are a part of the name and belong to nothing else, and the keywords that all emoji of one concept share. Loose keywords
("ripe", "pet") are left out, since a wrong thing is worse than none.

It writes `<script>.txt`, one phrase per line with the concepts it stands for and the languages that say so, sorted;
`concepts.json`, the names that these lines count; `emoji.json`, each emoji in English words that the grammar reads.
The packages are those of `leanlens scenes sources`, fetched with `npm pack` where they are missing.
"""

import json
import re
import tarfile
import tomllib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from leanlens.reason.lexicon import MARKER, NOUN
from leanlens.reason.spelling import fold, is_unspaced, script_of
from leanlens.reason.words import SIGNS, words_of
from leanlens.reason.words import languages as languages_with_tables
from leanlens.scenes import sources
from leanlens.scenes.icons import cache_folder
from leanlens.scenes.shapes import CONTAINERS, SUPPORTS

Lines = dict[str, dict[str, dict[str, set[str]]]]  # script -> phrase -> concept -> languages
FOLDER = Path(__file__).parents[1] / "leanlens" / "reason" / "languages"
TARGET = FOLDER / "lexicon"
NOTICE = "From Unicode CLDR, {name} {version}. Copyright 2004-2026 Unicode, Inc.; licence Unicode-3.0."

# Other emoji of a concept; what all of them are called is what the concept is called.
KIN = {
    "dog": "🐶",
    "cat": "🐱",
    "cow": "🐮",
    "horse": "🐴",
    "pig": "🐷",
    "rabbit": "🐰",
    "tiger": "🐯",
    "mouse": "🐭",
    "dragon": "🐲",
    "monkey": "🐵",
    "camera": "📸",
    "whale": "🐳",
    "taxi": "🚖",
    "car": "🚘",
    "bus": "🚍",
    "police car": "🚔",
    "airplane": "🛩",
    "ship": "🛳",
    "telephone": "📞",
    "umbrella": "☔",
    "mobile phone": "📲",
    "magnifying glass": "🔎",
    "house": "🏡",
    "sun": "🌞",
    "apple": "🍏",
    "heart": "💙",
    "star": "🌟",
    "bullet train": "🚄",
    "hourglass": "⏳",
    "key": "🗝",
    "padlock": "🔐",
    "bell": "🔕",
    "snowman": "☃",
    "tram": "🚋",
    "mushroom": "🍄‍🟫",
    "ice cream": "🍦",
    "paperclip": "🖇",
    "traffic light": "🚦",
    "full moon": "🌝",
    "stack of books": "📘",
    "bird": "🐦‍⬛",
    "microphone": "🎙",
    "crescent moon": "🌛",
}
ANIMALS = ["dog", "cat", "cow", "horse", "pig", "rabbit", "tiger", "mouse", "dragon", "monkey", "whale"]
TRIMMED = ["apple", "heart", "star", "magnifying glass", "padlock"]  # whose names say more than the concept
COLORED = ["apple", "heart", "star"]  # a name may say a colour that is not a part of the concept  # fmt: skip
# Emoji that are no concept of their own, as the words that they stand for.
WORDS = {
    "🐶": "dog", "🦮": "dog", "🐕‍🦺": "dog", "🐱": "cat", "🐈‍⬛": "black cat", "🐮": "cow", "🐴": "horse", "🐷": "pig",
    "🐽": "pig", "🐰": "rabbit", "🐯": "tiger", "🐭": "mouse", "🐀": "mouse", "🐲": "dragon", "🦖": "dinosaur",
    "🐵": "monkey", "🙈": "monkey", "🙉": "monkey", "🙊": "monkey", "🐳": "whale", "🐦‍⬛": "black bird", "🐂": "cow",
    "🐃": "cow", "🐏": "goat", "😸": "cat", "😺": "cat", "😻": "cat", "😼": "cat", "😽": "cat", "🙀": "cat",
    "😿": "cat",
    "😾": "cat", "🐣": "chicken", "🐤": "chicken", "🐥": "chicken", "🐞": "ladybug", "🍏": "green apple",
    "🍄‍🟫": "brown mushroom", "🍦": "ice cream", "🍧": "ice cream", "🍻": "two beer mugs", "🥂": "two wine glasses",
    "🍵": "cup of tea", "🍰": "birthday cake", "💮": "white blossom", "🏵": "blossom", "🌲": "pine tree",
    "💙": "blue heart", "💚": "green heart", "💛": "yellow heart", "🧡": "orange heart", "💜": "purple heart",
    "🖤": "black heart", "🤍": "white heart", "🤎": "brown heart", "🩷": "pink heart", "🩵": "turquoise heart",
    "🩶": "grey heart", "♥": "red heart", "❤": "red heart", "💗": "pink heart", "💓": "pink heart",
    "💖": "pink heart", "💘": "pink heart", "💝": "pink heart", "💕": "two pink hearts", "💞": "two pink hearts",
    "❣": "red heart", "🔴": "red circle", "🟠": "orange circle", "🟡": "yellow circle", "🟢": "green circle",
    "🔵": "blue circle", "🟣": "purple circle", "🟤": "brown circle", "⚫": "black circle", "⚪": "white circle",
    "⭕": "red circle", "🟥": "red square", "🟧": "orange square", "🟨": "yellow square", "🟩": "green square",
    "🟦": "blue square", "🟪": "purple square", "🟫": "brown square", "⬛": "black square", "⬜": "white square",
    "◼": "black square", "◻": "white square", "◾": "black square", "◽": "white square", "▪": "black square",
    "▫": "white square", "🔶": "orange diamond", "🔷": "blue diamond", "🔸": "orange diamond", "🔹": "blue diamond",
    "♦": "red diamond", "🛑": "red octagon", "🏷": "label", "🪧": "sign", "📕": "red stack of books",
    "📗": "green stack of books", "📘": "blue stack of books", "📙": "orange stack of books",
    "📖": "stack of books", "📔": "stack of books", "📓": "stack of books", "🚐": "bus", "🚍": "bus",
    "🚔": "police car", "🚖": "taxi", "🚘": "car", "🚎": "bus", "🚄": "bullet train", "🚆": "bullet train",
    "🚃": "bullet train", "🚋": "tram", "🚛": "truck", "🚚": "truck", "🛳": "ship", "⛴": "ship", "🛩": "airplane",
    "🛫": "airplane", "🛬": "airplane", "⏳": "hourglass", "🏡": "house", "🏘": "house", "🗻": "snowy mountain",
    "⛰": "snowy mountain", "🌞": "sun", "🌝": "full moon", "🌙": "crescent moon", "🌛": "crescent moon",
    "🌜": "crescent moon", "🌒": "crescent moon", "🌘": "crescent moon", "🌟": "star", "⭐": "star", "☃": "snowman",
    "☔": "umbrella", "🌂": "umbrella", "⛱": "umbrella", "⚡": "lightning bolt", "📸": "camera", "📞": "telephone",
    "📲": "mobile phone", "🔎": "magnifying glass", "🗝": "key", "🔓": "padlock", "🔏": "padlock", "🔐": "padlock",
    "🔕": "bell", "🎙": "microphone", "✉": "envelope", "📧": "envelope", "📨": "envelope", "📩": "envelope",
    "🖇": "paperclip", "📍": "pushpin", "🚦": "traffic light", "🎵": "musical note", "👟": "sneaker", "👞": "sneaker",
    "🥿": "sneaker", "👡": "sneaker", "👚": "t-shirt", "🎽": "t-shirt", "👒": "top hat", "👛": "handbag",
    "👝": "handbag", "🛍": "shopping bag", "🏐": "volleyball", "🏉": "american football", "💍": "ring",
    "💧": "water drop", "💦": "water drop", "🦷": "tooth", "😀": "grinning face", "😃": "grinning face",
    "😄": "grinning face", "😁": "grinning face", "😆": "grinning face", "🙂": "grinning face",
    "😊": "grinning face", "☺": "grinning face", "🍴": "fork and knife", "🎟": "ticket", "🪾": "tree",
}  # fmt: skip
COLOR_EMOJI = {
    "red": "🔴🟥❤", "orange": "🟠🟧🧡", "yellow": "🟡🟨💛", "green": "🟢🟩💚", "blue": "🔵🟦💙",
    "purple": "🟣🟪💜", "brown": "🟤🟫🤎", "black": "⚫🖤", "white": "⚪🤍", "pink": "🩷", "grey": "🩶",
}  # fmt: skip
MERGED = {  # varieties whose words count as the language's own
    "zh": ("zh", "zh-Hant"), "pt": ("pt", "pt-PT"), "es": ("es", "es-419", "es-MX", "es-US"), "fr": ("fr", "fr-CA"),
    "sr": ("sr", "sr-Latn"), "ar": ("ar", "ar-SA"), "de": ("de", "de-CH"), "hi": ("hi", "hi-Latn"),
    "pa": ("pa", "pa-Arab"), "kk": ("kk", "kk-Arab"), "yue": ("yue", "yue-Hans"), "sw": ("sw", "sw-KE"),
}  # fmt: skip
NOUNS = {"ground", "sky", "person", "pattern", "background noun", "style", "other style", "qualities"}  # readings
FEWEST = 200  # names of concepts that a language must have of its own


def main() -> None:
    """Write every file anew."""
    tarballs = sources.fetch_packages(cache_folder() / "packages")
    tables = read_annotations(tarballs["annotations"])
    emoji = find_emoji(tarballs)
    names = sorted({*emoji, *CONTAINERS, *SUPPORTS, *SIGNS})
    found: Lines = defaultdict(lambda: defaultdict(lambda: defaultdict(set)))
    for language, table in languages(tables).items():
        phrases = list(name_all(table, emoji))
        if len(phrases) < FEWEST:
            continue
        for phrase, concept in phrases:
            for spelling in spellings(phrase, language):
                found[script_of(spelling)][spelling][concept].add(language)
    add_tables(found)
    TARGET.mkdir(parents=True, exist_ok=True)
    for path in TARGET.glob("*.txt"):
        path.unlink()
    for script, lines in found.items():
        (TARGET / f"{script}.txt").write_text(written(lines, names), encoding="utf-8")
    package = sources.PACKAGES["annotations"]
    notice = NOTICE.format(name=package.name, version=package.version)
    write_json(TARGET / "concepts.json", {"notice": notice, "concepts": names, "languages": scripts_of(found)})
    write_json(TARGET / "emoji.json", {"notice": notice, "words": emoji_words(tables["en"], emoji)})


def add_tables(found: Lines) -> None:
    """The words of the tables, so that a language is found by them: things, and MARKER for all others."""
    for code in languages_with_tables():
        english = set(words_of("en").phrases) if code != "en" else set()
        for path in (FOLDER / "things" / f"{code}.txt",):
            for line in path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else ():
                concept, _, forms = line.partition(": ")
                for phrase in re.split(r" \| |, ", forms):
                    for key in spellings(phrase, code):
                        found[script_of(key)][key][concept].add(code)
        if code == "en":
            continue
        table = (FOLDER / f"{code}.toml").read_text(encoding="utf-8")
        endings = tomllib.loads(table).get("endings", ())
        starred = {fold(word) for word in re.findall(r'"([^"\s]+)\*"', table)}
        for key, rows in words_of(code).phrases.items():
            plain = [readings for tokens, readings in rows if len(tokens) == 1]
            if plain and key[0].isalpha() and not {"thing", "name"} & plain[0].keys():
                forms = [key + fold(ending) for ending in endings] if key in starred else [key]
                kind = NOUN if NOUNS & plain[0].keys() else MARKER
                for form in set(forms) - english:
                    found[script_of(form)][form][kind].add(code)


def scripts_of(found: Lines) -> dict[str, list[str]]:
    """Language -> the scripts that its words are in, the one with most words first."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for script, lines in found.items():
        for concepts in lines.values():
            for spoken in concepts.values():
                for language in spoken:
                    counts[language][script] += 1
    return {code: [script for script, _ in rows.most_common()] for code, rows in sorted(counts.items())}


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def read_annotations(tarball: Path) -> dict[str, dict[str, dict]]:
    """Locale -> emoji without variation selectors -> its short name ("tts") and keywords ("default")."""
    tables = {}
    with tarfile.open(tarball, "r|gz") as archive:
        for member in archive:
            match = re.fullmatch(r"package/annotations/([^/]+)/annotations\.json", member.name)
            file = archive.extractfile(member) if match else None
            if match and file:
                rows = json.load(file)["annotations"].get("annotations", {})
                tables[match[1]] = {bare(text): row for text, row in rows.items() if row.get("tts")}
    return tables


def find_emoji(tarballs: dict[str, Path]) -> dict[str, str]:
    """Concept -> its emoji, for all concepts of the full library."""
    concepts, _ = sources.read_packages(tarballs)
    (_, content), = sources.read_members(tarballs["iconify"], {f"package/json/{sources.REFERENCE}.json"})  # fmt: skip
    chars = json.loads(content)["chars"]
    texts: dict[str, str] = {}
    for code, icon in chars.items():
        texts.setdefault(icon, bare("".join(chr(int(point, 16)) for point in code.split("-"))))
    return {concept.name: texts[concept.icon] for concept in concepts}


def bare(text: str) -> str:
    return text.replace("\ufe0f", "")


def languages(tables: dict[str, dict[str, dict]]) -> dict[str, dict[str, dict]]:
    """Language -> its table, varieties merged into it; English is not among them."""
    found = {}
    for locale in sorted(tables):
        if "-" in locale or locale in ("en", "und"):
            continue
        merged: dict[str, dict] = {}
        for variety in MERGED.get(locale, (locale,)):
            for text, row in tables.get(variety, {}).items():
                have = merged.setdefault(text, {"tts": [], "default": []})
                have["tts"] = [*have["tts"], *row["tts"]]
                have["default"] = [*have["default"], *row.get("default", [])]
        found[locale] = merged
    return found


def name_all(table: dict[str, dict], emoji: dict[str, str]) -> Iterable[tuple[str, str]]:
    """(phrase, concept) of a language, and (phrase, "=red") for its colours."""
    used = Counter(fold(word) for row in table.values() for word in set(row["default"]))
    colors = find_colors(table)
    for color, words in colors.items():
        words = {word for word in words if not is_unspaced(word)}
        yield from ((word, f"={color}") for word in sorted(words))
    titles = {concept: {fold(name) for name in table[text]["tts"]} for concept, text in emoji.items() if text in table}
    plain = {part for words in colors.values() for word in words for part in (word, *word.split())}
    for concept, text in emoji.items():
        row = table.get(text)
        if row is None:
            continue
        other = table.get(bare(KIN.get(concept, "")), {"tts": [], "default": []})
        shared = {fold(word) for word in row["default"]} & {fold(word) for word in [*other["default"], *other["tts"]]}
        others = {name for other, names in titles.items() if other != concept for name in names}
        yield from ((phrase, concept) for phrase in choose(row, concept, shared, used, plain, others))


FACE = re.compile(r"\bface\b")
BEASTS = {
    "bear",
    "fox",
    "frog",
    "hamster",
    "koala",
    "lion",
    "panda",
    "polar bear",
    "raccoon",
    "unicorn",
    "wolf",
    "robot",
}


def choose(row: dict, concept: str, shared: set[str], used: Counter, colors: set[str], others: set[str]) -> set[str]:
    """The names of one concept that a person would type."""
    names = {part.strip() for name in row["tts"] for part in re.split("[,،、;|/]|\\(.*?\\)", name)} - {""}
    folded = {fold(name) for name in names}
    found = {name for name in names if fold(name) not in colors}
    if concept in COLORED:
        rests = {name: [word for word in name.split() if not is_color(fold(word), colors)] for name in names}
        found = {name for name, rest in rests.items() if " ".join(rest) == name}  # or the colour would be lost
        found |= {" ".join(rest) for rest in rests.values()}
        found = {name for name in found if not any(_is_tail(fold(word), fold(name)) for word in row["default"])}
    is_face = FACE.search(concept) is not None or concept in BEASTS
    for word in row["default"]:
        key = fold(word)
        if key in colors or "," in word or (len(key) < 2 and key.isascii()):
            continue
        if key in others:
            continue
        inside = any(key in name and key != name for name in folded)
        trimmed = inside and concept in TRIMMED and key in shared and used[key] <= 4
        of_face = inside and is_face and used[key] == 1
        animal = concept in ANIMALS and key in shared and used[key] <= 3
        variant = used[key] == 1 and any(is_variant(key, name) for name in folded)
        if trimmed or of_face or animal or variant:
            found.add(word)
    return {word for word in found if 0 < len(word.split()) <= 4}


def _is_tail(word: str, name: str) -> bool:
    """A keyword that ends a name of a script without spaces: "苹果" of "红苹果"."""
    return is_unspaced(name) and name != word and name.endswith(word)


def is_color(word: str, colors: set[str]) -> bool:
    """The word is a colour, or another form of one: "rotes" and "roter"."""
    if word in colors:
        return True
    return len(word) > 3 and any(len(color) > 3 and word[:-1] in (color[:-1], color) for color in colors)


def is_variant(word: str, name: str) -> bool:
    """Another spelling or a form of the name: "brokkoli" and "broccoli"."""
    if word == name or " " in word or " " in name or min(len(word), len(name)) < 4:
        return False
    same = 0
    for one, other in zip(word, name, strict=False):
        if one != other:
            break
        same += 1
    return same >= max(4, len(name) - 2) and abs(len(word) - len(name)) <= 3


def find_colors(table: dict[str, dict]) -> dict[str, set[str]]:
    """Colour -> its words in a language: what is left of "red circle" without what the circles of all colours share."""
    names = {
        color: [fold(table[one]["tts"][0]).split() for one in text if one in table]
        for color, text in COLOR_EMOJI.items()
    }
    counts = Counter(word for rows in names.values() for word in {word for row in rows for word in row})
    shapes = {word for word, count in counts.items() if count > len(COLOR_EMOJI) // 2}
    found: dict[str, set[str]] = {}
    for color, rows in names.items():
        rests = [[word for word in row if word not in shapes] for row in rows]
        words = {" ".join(rest) for rest in rests if 0 < len(rest) <= 3 and len(rest[0]) > 1}
        if words:
            found[color] = words
    return found


def spellings(phrase: str, language: str) -> set[str]:
    """How the phrase may be typed: folded, and with its marks where other words would become the same without."""
    text = " ".join(phrase.replace("-", " ").split())
    return {fold(text)} if language != "vi" else {unicodedata.normalize("NFC", text.lower())}


def written(lines: dict[str, dict[str, set[str]]], names: list[str]) -> str:
    """ "phrase<tab>concept number=languages ...", sorted by phrase."""
    numbers = {name: str(at) for at, name in enumerate(names)}
    rows = []
    for phrase in sorted(lines):
        cells = [
            f"{numbers.get(concept, concept)}={'.'.join(sorted(spoken))}"
            for concept, spoken in sorted(lines[phrase].items())
        ]
        rows.append(f"{phrase}\t{' '.join(cells)}")
    return "\n".join(rows) + "\n"


def emoji_words(english: dict[str, dict], emoji: dict[str, str]) -> dict[str, str]:
    """Emoji -> words that the English grammar reads: the concept, what it stands for, or its English name."""
    found = {text: mood(text) + row["tts"][0].lower() for text, row in english.items() if is_emoji(text)}
    found |= {text: concept for concept, text in emoji.items()}
    return dict(sorted((found | {bare(text): words for text, words in WORDS.items()}).items()))


def mood(text: str) -> str:
    """ "~" before what is no thing to draw: smileys, gestures, signs."""
    point = ord(text[0])
    things = 0x1F300 <= point <= 0x1F5FF or 0x1F680 <= point <= 0x1F6FF or 0x1F900 <= point <= 0x1FAFF
    smiles = 0x1F442 <= point <= 0x1F450 or 0x1F4A0 <= point <= 0x1F4AF or 0x1F910 <= point <= 0x1F92F
    smiles = smiles or 0x1F970 <= point <= 0x1F97A or 0x1FAE0 <= point <= 0x1FAEF or 0x1F500 <= point <= 0x1F5FF
    return "" if things and not smiles else "~"


def is_emoji(text: str) -> bool:
    """Not punctuation, a letter or a sign of mathematics."""
    return ord(text[0]) >= 0x1F000 or (
        len(text) == 1 and 0x231A <= ord(text) <= 0x2BFF and unicodedata.category(text) == "So"
    )


if __name__ == "__main__":
    main()
