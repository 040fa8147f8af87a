"""A meaning in one line, for tables of prompts.

"2 red apple @left large; 1 ?lighthouse | 0 left of 1 | plain: light blue | flat | "OPEN" on 0 | row": things with
number, colour, place and size (`?` before what is not known), then relations, background, style, texts, arrangement.
"""

from leanlens.reason.meaning import Meaning


def notation(meaning: Meaning) -> str:
    things = "; ".join(_noun(noun) for noun in meaning.things)
    parts = [things, *(f"{a} {word} {b}" for a, word, b in meaning.relations)]
    if meaning.background is not None:
        colors = ", ".join(color or "any" for color in meaning.background.colors)
        parts.append(f"{meaning.background.kind}: {colors}".rstrip(": "))
    parts += [style for style in (meaning.style, meaning.other_style) if style]
    parts += [f'"{text.string}" on {text.on}' for text in meaning.texts]
    parts += [meaning.row] if meaning.row else []
    parts += [f"without {', '.join(meaning.without)}"] if meaning.without else []
    return " | ".join(part for part in parts if part)


def _noun(noun) -> str:
    words = [
        str(noun.number) if noun.number else "some" if noun.plural else "",
        noun.color or "",
        *noun.adjectives,
        ("" if noun.known else "?") + noun.name,
        f"@{noun.side}" if noun.side else "",
        noun.size or "",
        f"({noun.part})" if noun.part else "",
    ]
    return " ".join(word for word in words if word)
