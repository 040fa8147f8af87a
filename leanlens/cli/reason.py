"""Implements `leanlens reason`, which prints rewritten prompts without opening a model, and reports on rewriting.

It does not import torch, so that it answers at once.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leanlens.cli.options import IMAGE, MODEL, OUTPUT, ReasonOrAddress, ReasonPrompt, flag, option
from leanlens.cli.prompts import checked_number, lora_choice, read_prompts
from leanlens.cli.size import image_size

if TYPE_CHECKING:
    from leanlens.pipeline.reasoned import Reasoned
    from leanlens.reason import Reasoner
    from leanlens.reason.remote import EndpointReasoner

_SHOWN = 100  # characters of a prompt in a log line of another command


def reason(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="What to draw. Without it: --prompts, or one prompt per line on standard input. The word servers "
            "lists the language models of this machine, and prompts the system prompts."
        ),
    ] = None,
    name: Annotated[str | None, typer.Argument(help="After prompts: the system prompt to print.")] = None,
    prompts: Annotated[
        Path | None, option(IMAGE, "Text file with one prompt per line; - reads standard input.")
    ] = None,
    seed: Annotated[
        int | None,
        option(IMAGE, "Seed of the first caption of each prompt, as generate takes it. Default, and -1: a random one."),
    ] = None,
    number: Annotated[
        int, option(IMAGE, "Number of captions for each prompt; their seeds count up.", "-n", "--number")
    ] = 1,
    size: Annotated[str | None, option(IMAGE, "Size of the image in pixels, such as 128x96.", metavar="WxH")] = None,
    fix: Annotated[
        list[str] | None,
        option(
            IMAGE, "Fact that the caption is to state, such as 'color 1=blue'; without a value, one to leave out. "
            "Repeatable.", metavar="KEY=VALUE",
        ),
    ] = None,
    model: Annotated[str, option(MODEL, "Model: nano, or the folder of another.", "-m", "--model")] = "nano",
    lora: Annotated[
        list[str] | None,
        option(MODEL, "LoRA file whose trigger words are kept as they are. Repeatable.", metavar="FILE[:SCALE]"),
    ] = None,
    reason: ReasonOrAddress = "default",
    reason_prompt: ReasonPrompt = None,
    as_json: Annotated[bool, flag(OUTPUT, "json", "Print one JSON line for each caption.")] = False,
) -> None:  # fmt: skip
    """Print the caption that would be drawn for a prompt, and say what was understood.

    `leanlens generate` with the same seed and size draws this caption.
    """
    from leanlens.pipeline.request import ImageRequest, resolve_seed
    from leanlens.reason import reason_request

    if prompt in LISTS and prompts is None:
        return LISTS[prompt](name)
    if name is not None:
        raise ValueError(f"unexpected {name!r} after the prompt; put the whole prompt into quotation marks")
    asked = reasoner_at_address(reason, reason_prompt)
    reasoner = asked or (reasoner_here(model) if reason != "off" else None)
    texts = read_prompts(prompt, prompts)
    count = checked_number(number, len(texts))
    triggers = triggers_of([lora_choice(text)["path"] for text in lora or []])
    fixed = facts_of(fix or [])
    if fixed and (reasoner is None or asked is not None):
        why = f"{model} has no reasoner" if asked is None else "a language model takes no facts"
        raise ValueError(f"invalid --fix {(fix or [''])[0]!r}: {why}")
    sides = image_size(size, None, None, own_side(model), None)
    for text in texts:
        first = resolve_seed(seed)
        for index in range(count):
            request = ImageRequest.checked(
                prompt=text, seed=first + index, num_inference_steps=1, guidance_scale=1.0, **sides
            )
            _print(reason_request(reasoner, request, triggers, fixed), model, as_json, reason == "off")


def _print_servers(name: str | None) -> None:
    """List the language models of this machine as addresses for --reason."""
    from leanlens.reason.servers import PORTS, find_servers

    if name is not None:
        raise ValueError(f"unexpected {name!r} after servers")
    found = find_servers()
    if not found:
        ports = ", ".join(f"{program} {port}" for program, port in PORTS.items())
        print(f"no server of language models answers on this machine (looked at the ports of {ports})", file=sys.stderr)
    for server in found:
        print(f"{server.name} at {server.url}{'' if server.models else ': no models'}", file=sys.stderr, flush=True)
        for address in server.addresses:
            print(address, flush=True)


def _print_prompts(name: str | None) -> None:
    """List the system prompts, or print one."""
    from leanlens.reason.system_prompts import prompt_names, read_system_prompt

    if name is not None:
        print(read_system_prompt(name).text)
        return
    for prompt in map(read_system_prompt, prompt_names()):
        made_for = f"for the benchmark {prompt.benchmark}" if prompt.benchmark else "for people's prompts"
        print(f"{prompt.name:<10} sha256:{prompt.sha256[:12]}  {made_for}")


LISTS: dict[str, Callable[[str | None], None]] = {"servers": _print_servers, "prompts": _print_prompts}
"""Words that list something in place of a prompt."""


def _print(request: Any, model: str, as_json: bool, is_off: bool) -> None:
    """Print a caption on standard output, and its facts on standard error."""
    record = request.reasoner
    if as_json:
        where = {"model": model, "seed": request.seed, "width": request.width, "height": request.height}
        record = None if record is None else record.model_dump(mode="json")
        print(json.dumps({**where, "prompt": request.prompt, "reasoner": record}), flush=True)
        return
    told = ["an empty prompt is drawn as it is"] if not request.prompt.strip() else _told(record, request.seed, model)
    told = ["--reason off: prompts are drawn as they are"] if is_off else told
    for line in told:
        print(line, file=sys.stderr)
    print(request.prompt, flush=True)


def _told(record: "Reasoned | None", seed: int, model: str) -> list[str]:
    if record is None:
        return [f"{model} has no reasoner: prompts are drawn as they are"]
    if record.left_alone:
        return [f"left alone: {record.left_alone}", *(word.sentence(model) for word in record.not_understood)]
    rows = [
        f"  {fact.key:<12} {fact.value}{'' if fact.stated else f'   (chosen by seed {seed})'}" for fact in record.facts
    ]
    return [*rows, *(word.sentence(model) for word in record.not_understood)]


def reasoner_here(model: str) -> "Reasoner | None":
    """The reasoner of a model on this machine; nothing is downloaded."""
    from leanlens.hub import is_here
    from leanlens.reason import reasoner_of_model

    if not is_here(model) and not Path(model).expanduser().exists():
        raise ValueError(f"--model {model!r} is not on this machine; give nano or a model folder")
    return reasoner_of_model(model)


def own_side(model: str) -> int:
    """The side of a model's default square size."""
    from leanlens.files import read_json
    from leanlens.hub import model_folder
    from leanlens.presets import preset_for

    folder = model_folder(model)
    config = folder and folder / "vae" / "config.json"
    if config and config.is_file() and (side := read_json(config).get("sample_size")):
        return int(side)
    return preset_for(model).base_resolution


def facts_of(words: list[str], name: str = "--fix") -> dict[str, str]:
    """Parse KEY=VALUE facts; `name` is the option's name in messages."""
    found: dict[str, str] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not key.strip():
            raise ValueError(f"invalid {name} {word!r}: expected KEY=VALUE, such as 'color 1=blue'")
        found[key.strip()] = value.strip()
    return found


def reasoner_at_address(word: str, system_prompt: str | None) -> "EndpointReasoner | None":
    """The reasoner that an address in --reason names; None for one of the words.

    Raises:
        ValueError: an invalid --reason or --reason-prompt, or a --reason-prompt without an address.
    """
    from leanlens.reason.reasoner import ADDRESS, check_word, is_address, reasoner_at

    try:
        if is_address(word):
            return reasoner_at(word, system_prompt)
        check_word(word)
    except ValueError as error:
        message = str(error).replace("invalid reason", "invalid --reason")
        raise ValueError(message if is_address(word) else f"{message}, or {ADDRESS}") from None
    if system_prompt is not None:
        raise ValueError(f"--reason-prompt {system_prompt!r} is for a language model; give --reason {ADDRESS} too")
    return None


def triggers_of(paths: list[str]) -> tuple[str, ...]:
    """The trigger phrases in the headers of LoRA files."""
    if not paths:
        return ()
    from leanlens.weights.triggers import trigger_phrases

    return tuple(dict.fromkeys(phrase for path in paths for phrase in trigger_phrases(path)))


class RewritingLog:
    """Reports how each prompt was rewritten: one line per caption, and each unknown word once.

    Args:
        model: the model's name as the user gave it.
        say: prints a line.
    """

    def __init__(self, model: str, say: Callable[[str], None]):
        self.model = model
        self.say = say
        self._said: set[str] = set()

    def tell(self, record: "Reasoned | None") -> None:
        """Report one record, if there is one."""
        if record is None:
            return
        asked = _short(record.original)
        if record.left_alone:
            self._once(f'reasoner: "{asked}" is drawn as it is: {record.left_alone}')
        else:
            hint = "" if self._said else " (--reason off draws your words as they are)"
            self._once(f'reasoner: "{asked}" → "{_short(record.prompt)}"{hint}')
        for word in record.not_understood:
            self._once(word.sentence(self.model))

    def _once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.say(line)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN].rstrip()} …"
