"""The page's scripts as Gradio takes them: files whole, and a call of their functions for each event."""

import json
from collections.abc import Sequence
from pathlib import Path


def _read(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


ON_LOAD = "() => {\n" + "\n".join(f"{{\n{_read(name)}}}" for name in ("page.js", "waiting.js")) + "\n}"
"""Run once, before anything is shown."""
PRESSED, READING, SUGGESTING = _read("press.js"), _read("reading.js"), _read("suggest.js")
"""Scripts of pieces of HTML: buttons inside them, what is understood of the prompt, known things below the prompt."""

TOGGLE_THEME = "() => leanlensPage.toggleTheme()"
GROUP_ASPECTS = "() => leanlensPage.groupAspects()"
TELL = "(...values) => leanlensPage.tell(values)"
DECIDED = """() => document.querySelector("#reading .reading").dataset.choices"""
"""What was decided on how the prompt is read, for the form."""
BEGIN = """(...values) => { leanlensWaiting.begin("form"); return values; }"""
END = """() => { leanlensWaiting.end("form"); leanlensWaiting.end("settings"); }"""
"""Before and after an event that fills in the form; a press on Draw waits for it."""
SOURCE_ADDED = "() => leanlensWaiting.sourceChanged(true)"
SOURCE_CLEARED = "() => leanlensWaiting.sourceChanged(false)"


def press(fields: int) -> str:
    """The script that adds the fields as shown to the arguments of a drawing; `fields` are the last of these."""
    return f"(...values) => leanlensWaiting.press({fields}, values)"


def remember(reason: int) -> str:
    """The script that keeps the form's fields in the browser; `reason` is the place of the switch for rewriting."""
    return f"(...values) => leanlensPage.remember(values, {json.dumps({'reason': reason})})"


def restore(models: Sequence[str], model: int, reason: int) -> str:
    """The script that gives the fields back after a reload.

    Args:
        models: names of the offered models.
        model, reason: the places of the model's name and of the switch for rewriting.
    """
    places = json.dumps({"models": list(models), "model": model, "reason": reason})
    return f"(...values) => leanlensPage.restore(values, {places})"
