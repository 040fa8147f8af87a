"""Every entry of docs/log.md has its form: a date, a title, what was tried, the result, a commit; newest first."""

import re
from datetime import date
from pathlib import Path

LOG = Path(__file__).parents[1] / "docs" / "log.md"
ENTRY = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d): (?P<title>[^\n]+?)(?P<negative> \(negative\))?\n\n"
    r"\*\*Tried\.\*\* (?P<tried>.+?)\n\n(?:\|.*?\n\n)?"
    r"\*\*Result\.\*\* (?P<result>.+?)\n\n"
    r"Commit `(?P<commit>[0-9a-f]{7})`\.\n*",
    re.DOTALL,
)
SCREEN = 35  # lines


def entries() -> list[re.Match[str]]:
    found = []
    for text in LOG.read_text(encoding="utf-8").split("\n## ")[1:]:
        match = ENTRY.fullmatch(text)
        assert match, f"not an entry as docs/log.md has them: {text[:200]}"
        found.append(match)
    return found


def test_entries_are_dated_and_the_newest_is_first():
    dates = [date.fromisoformat(entry["date"]) for entry in entries()]
    assert len(dates) > 60
    assert dates == sorted(dates, reverse=True)


def test_no_entry_is_longer_than_a_screen_and_titles_are_unique():
    titles = [entry["title"] for entry in entries()]
    assert len(set(titles)) == len(titles)
    for entry in entries():
        assert entry[0].count("\n") <= SCREEN, entry["title"]
        assert "negative" not in entry["title"].lower(), entry["title"]  # only as the mark at its end


def test_failures_are_marked():
    marked = [entry for entry in entries() if entry["negative"]]
    assert 0 < len(marked) < len(entries())
