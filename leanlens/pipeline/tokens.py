"""Turns prompts into token ids: wraps them in a conversation, and truncates them as the released code does.

Source: the Harmony conversation and the length rules of the released Lens code, byte for byte.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from leanlens.log import logger
from leanlens.pipeline.template_date import DEFAULT_DATE, MAX_SEQUENCE_LENGTH, resolve_date

TEMPLATES = ("harmony", "plain")

_SYSTEM = (
    "You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\n"
    "Current date: {date}\n\n"
    "Reasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
)
_INSTRUCTIONS = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background."
)
_THOUGHT = "Need to generate one image according to the description."


@dataclass(frozen=True)
class HarmonyTemplate:
    """The conversation Lens was trained with: GPT-OSS is asked to describe an image, the prompt is the user's turn.

    The released code writes today's date into the system turn, so that its pictures drift from day to day; here the
    date is a setting.
    """

    date: str = DEFAULT_DATE

    def prefix(self) -> str:
        """The text before the prompt; 97 tokens of the GPT-OSS tokenizer for any date."""
        return (
            f"<|start|>system<|message|>{_SYSTEM.format(date=self.date)}<|end|>"
            f"<|start|>developer<|message|># Instructions\n\n{_INSTRUCTIONS}\n\n<|end|>"
            "<|start|>user<|message|>"
        )

    def suffix(self) -> str:
        """The text after the prompt; 22 tokens, which are encoded and kept."""
        return (
            f"<|end|><|start|>assistant<|channel|>analysis<|message|>{_THOUGHT}<|end|>"
            "<|start|>assistant<|channel|>final<|message|>"
        )

    def render(self, prompt: str) -> str:
        """The whole conversation, cut at the first `<|return|>` as the released code cuts it."""
        return (self.prefix() + prompt + self.suffix()).split("<|return|>", 1)[0]


@dataclass(frozen=True)
class PlainTemplate:
    """No conversation: the prompt as it is, with whatever special tokens its tokenizer adds. For small models."""

    date: str = DEFAULT_DATE

    def prefix(self) -> str:
        return ""

    def render(self, prompt: str) -> str:
        return prompt


Template = HarmonyTemplate | PlainTemplate

# Of GPT-OSS, in the order of their numbers in a tokenizer that is learnt here: begin, padding, end, and the turns'.
_SPECIAL_TOKENS = [
    "<|startoftext|>", "<|endoftext|>", "<|return|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>",
]  # fmt: skip


def learn_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A byte-level tokenizer of transformers with GPT-OSS's special tokens.

    Args:
        texts: texts to learn merges from, besides the conversation around a prompt.
        vocabulary: number of tokens, including special ones and the 256 bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    template = HarmonyTemplate()
    tokenizer.train_from_iterator(
        chain([template.prefix(), template.suffix()], texts),
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=1,
            show_progress=False,
            special_tokens=_SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|startoftext|>", eos_token="<|return|>", pad_token="<|endoftext|>"
    )


def template_named(name: str, date: str = DEFAULT_DATE) -> Template:
    """The template called `name`, dated `date` ("today" for the current day).

    Raises:
        ValueError: an unknown name, or a date that is not YYYY-MM-DD.
    """
    if name not in TEMPLATES:
        raise ValueError(f"invalid text template {name!r}: expected one of {', '.join(TEMPLATES)}")
    date = resolve_date(date)
    return HarmonyTemplate(date) if name == "harmony" else PlainTemplate(date)


@dataclass(frozen=True)
class Tokens:
    """`ids` and `mask` (B, S) int64, right-padded; the first `prefix` columns are the wrapping's."""

    ids: Tensor
    mask: Tensor
    prefix: int


def tokenize(
    tokenizer: Any, prompts: list[str], template: Template, max_sequence_length: int = MAX_SEQUENCE_LENGTH
) -> Tokens:
    """Wrap, tokenize, truncate on the right and pad on the right to the longest.

    `max_sequence_length` counts the prefix. Truncation takes the end of the suffix first, then the end of the prompt;
    a warning names the words that a prompt loses.

    Raises:
        ValueError: `max_sequence_length` leaves no room for a prompt, or the tokenizer cannot pad.
    """
    prefix_text = template.prefix()
    prefix = len(tokenizer(prefix_text, add_special_tokens=False)["input_ids"]) if prefix_text else 0
    if max_sequence_length <= prefix:
        raise ValueError(
            f"invalid max_sequence_length {max_sequence_length}: the template alone takes {prefix} tokens; "
            f"give more than that ({MAX_SEQUENCE_LENGTH} is usual)"
        )
    pad = tokenizer.pad_token_id
    if pad is None:
        raise ValueError("the tokenizer has no padding token; set its pad_token")
    rows = []
    for prompt in prompts:
        encoded = tokenizer(template.render(prompt), return_offsets_mapping=True)
        ids = encoded["input_ids"]
        if len(ids) > max_sequence_length:
            _warn_of_cut(prompt, len(prefix_text), encoded["offset_mapping"], max_sequence_length)
            ids = ids[:max_sequence_length]
        rows.append(ids)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], dtype=torch.int64)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], dtype=torch.int64)
    return Tokens(ids, mask, prefix)


def _warn_of_cut(prompt: str, prefix_length: int, offsets: list[tuple[int, int]], kept: int) -> None:
    first_cut = next((start for start, end in offsets[kept:] if end > start), prefix_length + len(prompt))
    cut = prompt[max(0, first_cut - prefix_length) :]
    if not cut:
        logger.warning(
            "The prompt just fits %d tokens, and the end of the conversation around it was cut, as the original does.",
            kept,
        )
        return
    quoted = cut if len(cut) <= 200 else f"{cut[:120]} ... {cut[-60:]}"
    logger.warning(
        "The prompt is longer than %d tokens (template included); its last %d characters are not seen by the model: %r",
        kept, len(cut), quoted,
    )  # fmt: skip
