"""Writes docs/commands.md from the command line's own options: `python docs/make_commands.py`."""

from pathlib import Path

import typer

from leanlens.cli.main import app

TARGET = Path(__file__).parent / "commands.md"


def reference() -> str:
    """The whole page."""
    parts = ["# Commands\n\nMade by `python docs/make_commands.py`; `leanlens COMMAND --help` prints the same.\n"]
    parts += _sections(typer.main.get_command(app), ["leanlens"])
    return "\n".join(parts)


def _sections(command, words: list[str]) -> list[str]:
    context = command.context_class(command, info_name=" ".join(words))
    if hasattr(command, "list_commands"):
        return [
            part
            for name in command.list_commands(context)
            for part in _sections(command.get_command(context, name), [*words, name])
        ]
    records = [record for option in command.params if (record := option.get_help_record(context))]
    rows = [f"| `{_cell(names)}` | {_cell(text)} |" for names, text in records]
    table = ["| option | meaning |", "|---|---|", *rows] if rows else []
    return [f"## {' '.join(words)}\n", f"{command.help}\n", *table, ""]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
