"""Reads the system prompts with which a language model rewrites prompts: those of the package, or a user's own file."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "system_prompts"
DEFAULT = "lens"
MOST_BYTES = 100_000
_BENCHMARK = re.compile(r"# benchmark: *(\S[^\n]*?) *\n\s*")


@dataclass(frozen=True)
class SystemPrompt:
    """A system prompt.

    Attributes:
        name: of the package's prompts, or the file's name without its suffix.
        text: what the model is sent.
        sha256: of the whole file, as hexadecimal digits.
        benchmark: the benchmark that it is written for; "" for a prompt that is written for people.
    """

    name: str
    text: str
    sha256: str
    benchmark: str = ""

    @property
    def label(self) -> str:
        """For records, such as "lens sha256:0123456789ab"."""
        made_for = f" (for the benchmark {self.benchmark})" if self.benchmark else ""
        return f"{self.name}{made_for} sha256:{self.sha256[:12]}"


def prompt_names() -> list[str]:
    """The names of the package's system prompts, the default first."""
    names = sorted(path.stem for path in FOLDER.glob("*.txt"))
    return sorted(names, key=lambda name: name != DEFAULT)


def read_system_prompt(name_or_path: str | Path = DEFAULT) -> SystemPrompt:
    """Read a system prompt by its name, or from a text file.

    A first line `# benchmark: NAME` says that the prompt is written for a benchmark. It is not sent.

    Raises:
        ValueError: neither a name nor a readable UTF-8 file of at most MOST_BYTES, or the file has no words.
    """
    text = str(name_or_path)
    path = FOLDER / f"{text}.txt" if text in prompt_names() else Path(text).expanduser()
    if not path.is_file():
        raise ValueError(f"invalid system prompt {text!r}: expected {', '.join(prompt_names())} or a text file")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"invalid system prompt {text!r}: expected a file of at most {MOST_BYTES:,} bytes")
    content = path.read_bytes()
    try:
        words = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ValueError(f"invalid system prompt {text!r}: expected a text file in UTF-8") from None
    marked = _BENCHMARK.match(words)
    words = (words[marked.end() :] if marked else words).strip()
    if not words:
        raise ValueError(f"invalid system prompt {text!r}: the file has no words")
    return SystemPrompt(path.stem, words, hashlib.sha256(content).hexdigest(), marked[1] if marked else "")
