"""A small language model as a task of the training loop: a GPT-OSS of small sizes, trained to continue captions.

Its export is a folder with `text_encoder` and `tokenizer`, which a pipeline opens as its text side. In training,
captions stand inside the conversation that Lens wraps prompts in.

One step lowers the cross-entropy of the next token, over the tokens of the captions and the first one after them, plus
the router's balance loss as GPT-OSS has it.

Shapes: B captions, S tokens.

Sources: Lens, arXiv 2605.21573, section 3 (features of several layers of GPT-OSS); the sizes are ours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leanlens.batches.numbered import Numbered
from leanlens.batches.survey import more_than
from leanlens.dist import Group
from leanlens.files import replaced_folder
from leanlens.log import logger
from leanlens.models.text_encoder import LensGptOssEncoder
from leanlens.pictures.sources import Source, open_source
from leanlens.pipeline.tokens import HarmonyTemplate, learn_tokenizer
from leanlens.train.language_config import LanguageRecipe, Sizes
from leanlens.train.loop import StepFigures, Task, train
from leanlens.train.resume import named
from leanlens.train.state import Progress, StepSums

IGNORED = -100  # label of a token without a loss
TOKENIZER_CAPTIONS = 20_000  # at most, to train the tokenizer
BALANCE = 0.01  # weight of the router's balance loss, so that no expert is left unused

Places = Sequence[tuple[Source, int, tuple[str, ...]]]  # source, number of a picture, kinds of its captions


@dataclass(frozen=True)
class OpenLanguage:
    """Model and data of a language run; `model` is the whole GPT-OSS."""

    recipe: LanguageRecipe
    device: torch.device
    places: Places
    tokenizer: Any
    model: Any


def train_language(recipe: LanguageRecipe, group: Group) -> Progress:
    """Start or continue the run in `recipe.run.dir`; see `leanlens.train.loop.train`."""
    return train(LANGUAGE, recipe, group)


def build(recipe: LanguageRecipe, group: Group, begun: bool) -> OpenLanguage:
    """Everything that a run needs, on the device of `group`.

    Raises:
        ValueError: sources that cannot be opened, or without captions of the kinds asked for.
    """
    places = places_of(recipe)
    tokenizer = open_tokenizer(recipe, places, begun)
    model = build_language(recipe, len(tokenizer)).to(group.device).train()
    return OpenLanguage(recipe, group.device, places, tokenizer, model)


def places_of(recipe: LanguageRecipe) -> Places:
    """Every caption that a recipe names; a warning if a step needs more of them.

    Raises:
        ValueError: a source that cannot be opened, or none with captions of the kinds asked for.
    """
    with named("captions.sources"):
        sources = [open_source(path) for path in recipe.captions.sources]
    places = captions_of(sources, recipe.captions.kinds)
    for sentence in more_than(recipe.captions.batch, len(places), "captions.batch", "captions"):
        logger.warning("%s", sentence)
    return places


def captions_of(sources: Sequence[Source], kinds: Sequence[str]) -> Places:
    """Every picture that has a caption of one of the kinds: its source, its number, those kinds.

    Raises:
        ValueError: there is none.
    """
    places = []
    for source in sources:
        for number, entry in enumerate(source.index()):
            if found := tuple(kind for kind in entry.kinds if kind in kinds):
                places.append((source, number, found))
    if not places:
        raise ValueError(f"captions.sources: no caption of the kinds {', '.join(kinds)}")
    return places


def open_tokenizer(recipe: LanguageRecipe, places: Places, begun: bool) -> Any:
    """The tokenizer of the run; a new run trains it on the first captions and the conversation around them."""
    from transformers import AutoTokenizer

    folder = recipe.run.dir / "tokenizer"
    if not begun or not folder.exists():
        texts = (source.captions(number)[kinds[0]] for source, number, kinds in places[:TOKENIZER_CAPTIONS])
        with replaced_folder(folder) as temporary:
            learn_tokenizer(texts, recipe.language.vocabulary).save_pretrained(temporary)
    return AutoTokenizer.from_pretrained(folder)


def build_language(recipe: LanguageRecipe, vocabulary: int) -> Any:
    """The stock GPT-OSS of a recipe in float32, random by `run.seed`."""
    from transformers import GptOssForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        return GptOssForCausalLM(configuration(recipe.language, vocabulary))


def configuration(sizes: Sizes, vocabulary: int) -> Any:
    """The configuration that both GPT-OSS and `LensGptOssEncoder` are built with; each writes into its own."""
    from transformers import GptOssConfig

    return GptOssConfig(
        num_hidden_layers=sizes.layers,
        num_local_experts=sizes.experts,
        num_experts_per_tok=sizes.experts_per_token,
        vocab_size=vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.expert_width,
        head_dim=sizes.head_dim,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        sliding_window=sizes.window,
        router_aux_loss_coef=BALANCE,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        lens_selected_layers=list(sizes.features),
    )


def _trainable(opened: OpenLanguage) -> nn.Module:
    return opened.model


def _batches(opened: OpenLanguage) -> Numbered:
    def batches(first: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return (batch_of_step(opened.places, opened.tokenizer, opened.recipe, step) for step in count(first))

    return Numbered(batches)


def _loss(opened: OpenLanguage, batches: Iterator[tuple[Tensor, Tensor, Tensor]], step: int) -> StepSums:
    ids, mask, labels = (part.to(opened.device) for part in next(batches))
    with torch.autocast(opened.device.type, torch.bfloat16, enabled=opened.recipe.train.precision == "bfloat16"):
        loss = opened.model(input_ids=ids, attention_mask=mask, labels=labels, output_router_logits=True).loss
    loss.backward()
    return StepSums(float(loss.detach()), len(ids))


def batch_of_step(places: Places, tokenizer: Any, recipe: LanguageRecipe, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels (B, S) of a step, which depend on the seed and the step alone."""
    rng = np.random.default_rng((recipe.run.seed, step))
    texts = []
    for _ in range(recipe.captions.batch):
        source, number, kinds = places[int(rng.integers(len(places)))]
        texts.append(source.captions(number)[kinds[int(rng.integers(len(kinds)))]])
    return labelled(texts, tokenizer)


def labelled(texts: Sequence[str], tokenizer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Captions in their conversation, padded on the right: ids, mask, and labels of the caption's tokens alone."""
    template = HarmonyTemplate()
    before = len(tokenizer(template.prefix(), add_special_tokens=False)["input_ids"])
    rows = [tokenizer(template.render(text))["input_ids"] for text in texts]
    after = len(tokenizer(template.suffix(), add_special_tokens=False)["input_ids"])
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), int(tokenizer.pad_token_id))
    labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row)], mask[at, : len(row)] = torch.tensor(row), 1
        end = len(row) - after + 1  # the first token after a caption says that it ends
        labels[at, before:end] = ids[at, before:end]
    return ids, mask, labels


def _line(opened: OpenLanguage, progress: Progress, sums: StepSums, figures: StepFigures) -> dict[str, Any]:
    return {"step": progress.step, "loss": sums.loss, "seconds": progress.seconds}


def _words(line: dict[str, Any]) -> str:
    return f"loss {line['loss']:.4f}"


def _export(opened: OpenLanguage, folder: Path) -> None:
    """Write `text_encoder`, without the layers that no feature depends on, and `tokenizer`."""
    bare = LensGptOssEncoder(configuration(opened.recipe.language, len(opened.tokenizer)))
    bare.load_state_dict(opened.model.state_dict())
    with replaced_folder(folder) as temporary:
        bare.eval().save_pretrained(temporary / "text_encoder")
        opened.tokenizer.save_pretrained(temporary / "tokenizer")
    logger.info("exported %s", folder)


LANGUAGE: Task[LanguageRecipe, OpenLanguage] = Task(
    build=build,
    trainable=_trainable,
    batches=_batches,
    loss=_loss,
    line=_line,
    words=_words,
    export=_export,
)
