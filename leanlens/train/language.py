"""A small language model as a thing that is trained: its recipe, its tokenizer, its loop, its export.

Comes in: captions. Goes out: a folder with `text_encoder` and `tokenizer` that a pipeline opens as its text side: a
GPT-OSS of small sizes which learnt to go on with captions, inside the conversation that Lens wraps prompts in. Knows
nothing of pictures.

One step lowers the cross-entropy of the next token, over the tokens of the captions and the first one after them, plus
the router's balance loss as GPT-OSS has it.

Shapes: B captions, S tokens.

Sources: Lens, arXiv 2605.21573, section 3 (features of several layers of GPT-OSS); the sizes are ours.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leanlens.batches.survey import more_than
from leanlens.log import logger
from leanlens.models.text_encoder import LensGptOssEncoder
from leanlens.pictures.sources import Source, open_source
from leanlens.pipeline.tokens import HarmonyTemplate, learn_tokenizer
from leanlens.train.alone import Progress, claim, is_time_up, rate, replace_export, restore, save
from leanlens.train.language_config import LanguageRecipe, Sizes
from leanlens.train.lock import held
from leanlens.train.metrics import MetricsFile
from leanlens.train.optim import build_optimizers, clip_gradients, set_rate
from leanlens.train.progress import ProgressLine
from leanlens.train.resume import named
from leanlens.train.signals import StopRequest, say_stopped, stop_on_signals

IGNORED = -100  # the label of a token that is not to be learnt
TOKENIZER_CAPTIONS = 20_000  # that the tokenizer is learnt from, at most
BALANCE = 0.01  # weight of the router's balance loss, so that no expert is left unused


def train_language(recipe: LanguageRecipe, device: torch.device) -> Progress:
    """Start or continue the run in `recipe.run.dir`; the finished text side is `run.dir/export`.

    Raises:
        ValueError: sources without captions of the kinds asked for, or a folder that holds another run, or in which
            another process trains.
        FloatingPointError: a loss that is not finite.
    """
    places = places_of(recipe)
    with held(recipe.run.dir), stop_on_signals() as stop:
        claim(recipe)
        return _train(recipe, device, places, stop)


def _train(
    recipe: LanguageRecipe,
    device: torch.device,
    places: Sequence[tuple[Source, int, tuple[str, ...]]],
    stop: StopRequest,
) -> Progress:
    folder = recipe.run.dir
    tokenizer = open_tokenizer(recipe, places)
    model = build_language(recipe, len(tokenizer)).to(device)
    optimizers = build_optimizers(model, recipe.optim)
    progress = restore(folder, model, optimizers)
    metrics = MetricsFile(folder, progress.step)
    began, before, stop.saves = time.monotonic(), progress.seconds, True
    line = ProgressLine(recipe.train.steps, progress.step, recipe.train.minutes)
    model.train()
    while progress.step < recipe.train.steps:
        used = time.monotonic() - began
        if is_time_up(recipe, used):
            break
        if stop:
            progress.stopped = True
            break
        ids, mask, labels = (part.to(device) for part in batch_of_step(places, tokenizer, recipe, progress.step))
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.train.precision == "bfloat16"):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, output_router_logits=True).loss
        if not math.isfinite(float(loss.detach())):
            raise FloatingPointError(f"step {progress.step + 1}: loss {float(loss.detach()):g}; the run stopped")
        model.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(model, recipe.optim.clip)
        set_rate(optimizers, rate(recipe, progress.step, used))
        for optimizer in optimizers:
            optimizer.step()
        progress.step, progress.samples = progress.step + 1, progress.samples + len(ids)
        progress.seconds = before + time.monotonic() - began
        metrics.write({"step": progress.step, "loss": float(loss.detach()), "seconds": progress.seconds})
        if progress.step % recipe.train.save_every == 0:
            save(folder, model, optimizers, progress)
        line.tell(progress.step, f"loss {float(loss.detach()):.4f}", always=progress.step == recipe.train.steps)
    line.close()
    metrics.close()
    save(folder, model, optimizers, progress)
    if progress.stopped:
        say_stopped(stop, progress.step)
        return progress
    export_language(recipe.language, model, tokenizer, folder / "export")
    return progress


def places_of(recipe: LanguageRecipe) -> list[tuple[Source, int, tuple[str, ...]]]:
    """Every caption that a recipe names; a warning where a step takes more of them.

    Raises:
        ValueError: a source that cannot be opened, or none with captions of the kinds asked for.
    """
    with named("captions.sources"):
        sources = [open_source(path) for path in recipe.captions.sources]
    places = captions_of(sources, recipe.captions.kinds)
    for sentence in more_than(recipe.captions.batch, len(places), "captions.batch", "captions"):
        logger.warning("%s", sentence)
    return places


def captions_of(sources: Sequence[Source], kinds: Sequence[str]) -> list[tuple[Source, int, tuple[str, ...]]]:
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
        raise ValueError(f"captions.sources hold no caption of the kinds {', '.join(kinds)}; give others")
    return places


def open_tokenizer(recipe: LanguageRecipe, places: Sequence[tuple[Source, int, tuple[str, ...]]]) -> Any:
    """The run's tokenizer; it is learnt once, from the first captions and the conversation around them."""
    from transformers import AutoTokenizer

    folder = recipe.run.dir / "tokenizer"
    if not folder.exists():
        texts = (source.captions(number)[kinds[0]] for source, number, kinds in places[:TOKENIZER_CAPTIONS])
        replace_export(folder, learn_tokenizer(texts, recipe.language.vocabulary).save_pretrained)
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


def batch_of_step(
    places: Sequence[tuple[Source, int, tuple[str, ...]]], tokenizer: Any, recipe: LanguageRecipe, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels (B, S) of a step, which depend on the seed and the step alone."""
    rng = np.random.default_rng((recipe.run.seed, step))
    texts = []
    for _ in range(recipe.captions.batch):
        source, number, kinds = places[int(rng.integers(len(places)))]
        texts.append(source.captions(number)[kinds[int(rng.integers(len(kinds)))]])
    return labelled(texts, tokenizer)


def labelled(texts: Sequence[str], tokenizer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Captions in their conversation, padded on the right: ids, mask, and labels for what is to be learnt alone."""
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


def export_language(sizes: Sizes, model: Any, tokenizer: Any, output: Path) -> None:
    """`text_encoder`, without what no feature depends on, and `tokenizer`, written anew."""
    bare = LensGptOssEncoder(configuration(sizes, len(tokenizer)))
    bare.load_state_dict(model.state_dict())

    def write(folder: Path) -> None:
        bare.eval().save_pretrained(folder / "text_encoder")
        tokenizer.save_pretrained(folder / "tokenizer")

    replace_export(output, write)
