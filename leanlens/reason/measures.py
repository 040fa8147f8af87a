"""Separates numbers that do not count things: ages, sizes, years, fractions, and options of other programs."""

import re
from collections.abc import Iterator

_WORDS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen|twenty|thirty|forty|fifty|hundred"
)
_UNITS = (
    "m|cm|mm|km|kg|lbs?|ft|feet|foot|inch|inches|met(?:er|re)s?|kilomet(?:er|re)s?|centimet(?:er|re)s?|kilos?|"
    "kilograms?|pounds|miles?|mph|kmh|percent|degrees?|px|pixels?|minutes?|hours?|seconds?|days?|weeks?|months?|"
    "dollars?|euros?|am|pm"
)
_AMOUNT = rf"(?:\d+(?:[.,]\d+)?|{_WORDS})"
_MEASURE = re.compile(
    r"(?<!\S)--(?!no\b)\w+(?:[ =](?:\d[\d.:]*(?!\S)))?"  # "--ar 16:9 --v 6"
    rf"|(?<![\w.]){_AMOUNT}[\s-]?years?(?:[\s-]olds?)?\b"
    rf"|(?<![\w.]){_AMOUNT}[\s-]?(?:{_UNITS})\b(?:[\s-](?:tall|high|long|wide|deep|away|ago|apart)\b)?"
    rf"|(?<![\w.]){_AMOUNT}[\s-](?:legged|headed|eyed|armed|horned|tailed|winged|wheeled|stor(?:e?y|ied)|sided|"
    r"pointed|tiered|layered|layer|tier|door|seater|humped|masted)\b"
    r"|(?<!\w)(?:1[0-9]|20)?\d0'?s\b(?:[\s-]styled?\b)?"  # "1980s style"
    r"|\b(?:in|from|since)\s(?:1[5-9]|20)\d\d\b(?!\s\w+s\b)"
    r"|(?<![\w.])\d+(?:st|nd|rd|th)\b(?:\scentury\b)?"
    r"|(?<![\w.,])(?:\d+\s)?\d+/\d+(?![\w/])|(?<![\w.])\d+:\d+(?!\w)|(?<![\w.])\d+\.\d+(?![\w.])"
    r"|(?<=phone )\d+\b(?:\s(?:pro|max|plus|mini))*\b|(?<=pad )\d+\b|(?<=playstation )\d+\b|(?<=version )\d+\b"
    r"|\d+\s?%",
    re.IGNORECASE,
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_SAID_TWICE = re.compile(rf"\b({_WORDS})\s?\(\d+\)", re.IGNORECASE)


def split_measures(text: str) -> Iterator[tuple[str, bool]]:
    """(part, whether it is a measure): "a ", "5 kg", " pumpkin"."""
    text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    text = _SAID_TWICE.sub(r"\1", text)
    at = 0
    for match in _MEASURE.finditer(text):
        if match.start() > at:
            yield text[at : match.start()], False
        yield match[0], True
        at = match.end()
    if at < len(text) or not at:
        yield text[at:], False
