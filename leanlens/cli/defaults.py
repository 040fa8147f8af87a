"""Reads default values of options from the user's file, `leanlens.toml` in the working folder, and the environment.

Files have a table for each command; variables are named LEANLENS_COMMAND_OPTION. The command line takes precedence over
the environment, then the folder's file, then the user's file.
"""

import datetime
import difflib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanlens.files import read_toml

FILE = "leanlens.toml"
PREFIX = "LEANLENS_"
# Options that a working folder must not set, because it may come from someone else -> reason.
_NOT_FROM_A_FOLDER = {
    "serve.safety-scorer": "names code that is run",
    "replay.trust": "opens whatever a picture names",
}
_SECRET = ("api-key", "user")


@dataclass(frozen=True)
class Default:
    """The default value of a command's option, and the file or variable it comes from."""

    command: tuple[str, ...]
    parameter: str
    key: str
    value: Any
    source: str

    def shown(self) -> str:
        """Option and value as text, without keys and passwords."""
        value = " ".join(map(str, self.value)) if isinstance(self.value, list) else str(self.value)
        return f"{self.key} {'(set)' if self.key in _SECRET else value}"


def folder_file() -> Path:
    """The defaults file of the working folder, whether or not it exists."""
    return Path(FILE)


def user_file() -> Path:
    """The user's defaults file, whether or not it exists."""
    if os.name == "nt":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "leanlens" / "config.toml"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "leanlens" / "config.toml"


def read_defaults(root: Any) -> list[Default]:
    """Every default that is set, in order of increasing precedence.

    Args:
        root: the parser's group of all commands.

    Raises:
        ValueError: a file is not TOML, a command or option is unknown (the message suggests the nearest), or a value is
            invalid.
    """
    commands = dict(_commands(root, ()))
    found = [one for path in (user_file(), folder_file()) if path.is_file() for one in _of_file(path, commands)]
    return found + list(_of_environment(commands))


def default_map(defaults: Sequence[Default]) -> dict[str, Any]:
    """The values as nested dictionaries, one level per word of a command, as the parser expects them."""
    values: dict[str, Any] = {}
    for one in defaults:
        place = values
        for word in one.command:
            place = place.setdefault(word, {})
        place[one.parameter] = one.value
    return values


def unknown_variables(root: Any) -> list[str]:
    """A warning for each variable that looks like an option's but matches none."""
    commands = dict(_commands(root, ()))
    return [
        f"environment variable {name} sets nothing: {_nearest(key, _options(commands[words]))}"
        for name, words, key in _variables(commands)
        if key not in _options(commands[words])
    ]


def gives_way(context: Any, name: str, others: Sequence[str]) -> bool:
    """Whether the option `name` has its value from a default while one of `others` is on the command line."""
    return _source(context, name) == "DEFAULT_MAP" and any(_source(context, one) == "COMMANDLINE" for one in others)


def _source(context: Any, name: str) -> str:
    return getattr(context.get_parameter_source(name), "name", "")


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that can be run, by its words."""
    if not hasattr(command, "list_commands"):
        yield words, command
        return
    context = command.context_class(command, info_name="leanlens")
    for name in command.list_commands(context):
        yield from _commands(command.get_command(context, name), (*words, name))


def _options(command: Any) -> dict[str, Any]:
    """Key -> option. The key is the option's name without leading dashes; no-NAME sets NAME to false."""
    options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
    return {max(one.opts, key=len).lstrip("-"): one for one in options}


# ------------------------------------------------------------------------------------------- files


def _of_file(path: Path, commands: dict[tuple[str, ...], Any]) -> Iterator[Default]:
    yield from _of_table(path, (), read_toml(path), commands)


def _of_table(
    path: Path, words: tuple[str, ...], table: dict[str, Any], commands: dict[tuple[str, ...], Any]
) -> Iterator[Default]:
    """The defaults of one command, or of the commands of a group."""
    if words in commands:
        yield from _of_command(path, words, table, commands[words])
        return
    known = {command[len(words)] for command in commands if command[: len(words)] == words}
    for name, inner in table.items():
        place = "".join(f"{word}." for word in words) + name
        if name not in known:
            raise ValueError(f"{path}: [{place}] is no command; {_nearest(name, known, ' '.join(words))}")
        if not isinstance(inner, dict):
            raise ValueError(f"{path}: {place} is {inner!r}; give a table [{place}] of the command's options")
        yield from _of_table(path, (*words, name), inner, commands)


def _of_command(path: Path, words: tuple[str, ...], table: dict[str, Any], command: Any) -> Iterator[Default]:
    options, place = _options(command), ".".join(words)
    seen: set[str] = set()
    for written, value in table.items():
        key = written.replace("_", "-")
        if key not in options:
            raise ValueError(f"{path}: [{place}] has no option {written!r}; {_nearest(key, options)}")
        if key in seen:
            raise ValueError(f"{path}: [{place}] sets {key} twice")
        seen.add(key)
        if (reason := _NOT_FROM_A_FOLDER.get(f"{place}.{key}")) and path == folder_file():
            raise ValueError(f"{path}: {key} {reason}; set it on the command line or in {user_file()}")
        checked = _checked(command, options[key], _plain(options[key], value), f"{path}: [{place}] {written}")
        yield Default(words, options[key].name, key, checked, str(path))


def _plain(option: Any, value: Any) -> Any:
    """A TOML value converted for the parser: dates to text, a single value to a list, ~ to the home folder."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    if option.multiple:
        return [_plain_word(one) for one in (value if isinstance(value, list) else [value])]
    return _plain_word(value)


def _plain_word(value: Any) -> Any:
    return os.path.expanduser(value) if isinstance(value, str) else value


def _checked(command: Any, option: Any, value: Any, where: str) -> Any:
    """The value, after validation by the option.

    Raises:
        ValueError: it is invalid.
    """
    is_flag = getattr(option, "is_bool_flag", False)
    if is_flag and not isinstance(value, bool):
        raise ValueError(f"{where} is {value!r}; give true or false")
    inside = value if option.multiple and isinstance(value, list) else [value]
    if not is_flag and any(isinstance(one, bool | dict | list) for one in inside):
        raise ValueError(f"{where} is {value!r}; give {'a list of values' if option.multiple else 'one value'}")
    context = command.context_class(command, info_name=command.name)
    try:
        option.process_value(context, value)
    except Exception as error:  # the parser's error classes differ between versions
        said = getattr(error, "message", str(error))
        raise ValueError(f"{where} is {value!r}; {' '.join(str(said).split())}") from None
    return value


# ------------------------------------------------------------------------------------------- environment


def _variables(commands: dict[tuple[str, ...], Any]) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(variable, command, key) of every variable that starts with a command's name."""
    for name in sorted(os.environ):
        for words in commands:
            start = PREFIX + "".join(f"{word.upper()}_" for word in words)
            if name.startswith(start) and name != start:
                yield name, words, name.removeprefix(start).lower().replace("_", "-")


def _of_environment(commands: dict[tuple[str, ...], Any]) -> Iterator[Default]:
    for name, words, key in _variables(commands):
        text = os.environ[name]
        if (option := _options(commands[words]).get(key)) is None or not text:
            continue
        value: Any = text
        if getattr(option, "is_bool_flag", False):
            value = _truth(name, text)
        elif option.multiple:
            value = shlex.split(text, posix=os.name != "nt")
        yield Default(words, option.name, key, _checked(commands[words], option, value, f"environment: {name}"), name)


def _truth(name: str, text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.strip().lower() not in words:
        raise ValueError(f"environment: {name} is {text!r}; give true or false")
    return words[text.strip().lower()]


def _nearest(name: str, known: Any, group: str = "") -> str:
    names = sorted(known)
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"the nearest is {close[0]!r}"
    return f"there are {', '.join(names)}" if group or len(names) < 20 else "see --help of the command"


# ------------------------------------------------------------------------------------------- the command line


def use_defaults(context: Any) -> None:
    """Set the parser's defaults before it reads the options of a command, and print those of the working folder's file.

    Errors in the files do not prevent --help; `doctor` reads the files itself to report them.
    """
    asked = context.invoked_subcommand
    if asked is None or asked == "doctor" or {"--help", "-h"} & set(sys.argv[1:]):
        return
    defaults = read_defaults(context.command)
    context.default_map = default_map(defaults)
    for line in unknown_variables(context.command):
        print(line, file=sys.stderr)
    of_folder = [one for one in defaults if one.command[0] == asked and one.source == FILE]
    if of_folder:
        told = ", ".join(" ".join((*one.command[1:], one.shown())) for one in of_folder)
        print(f"Defaults from {FILE}: {told}", file=sys.stderr)
