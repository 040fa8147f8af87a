"""Pictures that are encoded before training: their latents and caption tokens by size, in memory and in files.

Shapes: N pictures of one size, K = 2 captions of each (brief, dense), S text tokens, L image tokens, C packed latent
channels.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2
from safetensors.torch import load_file, save_file
from torch import Tensor

from leanlens.batches.assign import Bucket
from leanlens.batches.encode import ENCODING, checksum
from leanlens.batches.stream import cut_caption
from leanlens.files import whole_file
from leanlens.models import vae as autoencoder
from leanlens.pipeline.features import TextSide
from leanlens.pipeline.template_date import MAX_SEQUENCE_LENGTH
from leanlens.pipeline.tokens import template_named
from leanlens.scenes.draw import CHUNK, Chunk

PART = 8 * CHUNK  # pictures in a file of a folder, at least
AT_ONCE = {"cuda": 125}  # pictures of one size that the autoencoder encodes together, at most
AT_ONCE_ELSEWHERE = 16
CAPTIONS = 2  # of each picture: brief and dense
KEY, WHOLE = "key", "whole"  # in a folder of parts: what its pictures are made of; there once no part is missing


@dataclass(frozen=True)
class EncodedPictures:
    """Pictures of one size: latents (N, L, C) float16, tokens (N, K, S) int32 and their numbers (N, K)."""

    latents: Tensor
    tokens: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class ChunkEncoder:
    """Chunks of pictures -> `HxW.latents`, `HxW.tokens` and `HxW.lengths` of them on the CPU.

    Attributes:
        caption_words: captions are cut to their first sentences of so many words together; None keeps them whole.
        precision: "float32", or "bfloat16" for the autoencoder's convolutions and products alone.
    """

    vae: AutoencoderKLFlux2
    text_side: TextSide
    caption_words: int | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision == "bfloat16":  # the order that its convolutions are fastest in
            self.vae.to(memory_format=torch.channels_last)

    @property
    def key(self) -> dict[str, Any]:
        """What latents and tokens depend on, besides the pictures."""
        tokenizer = self.text_side.tokenizer.backend_tokenizer.to_str()
        return {"words": self.caption_words, "vae": checksum(self.vae, ENCODING), "tokens": tokenizer}

    def parts(self, chunks: Iterator[Chunk]) -> Iterator[dict[str, Tensor]]:
        """The tensors of `PART` pictures at a time."""
        while taken := list(islice(chunks, PART // CHUNK)):
            yield self(taken)

    @torch.no_grad()
    def __call__(self, chunks: Sequence[Chunk]) -> dict[str, Tensor]:
        """The tensors of some chunks."""
        device = self.vae.device
        latents: dict[Bucket, list[Tensor]] = {}
        words: dict[Bucket, list[list[int]]] = {}
        for chunk in chunks:
            for bucket, (pixels, captions) in chunk.items():
                for part in torch.from_numpy(pixels).split(AT_ONCE.get(device.type, AT_ONCE_ELSEWHERE)):
                    scaled = part.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
                    with rounded(device, self.precision):
                        latents.setdefault(bucket, []).append(autoencoder.encode(self.vae, scaled).half().cpu())
                words.setdefault(bucket, []).extend(self._tokens(captions))
        found: dict[str, Tensor] = {}
        for bucket, parts in latents.items():
            name = f"{bucket[0]}x{bucket[1]}"
            found[f"{name}.latents"] = torch.cat(parts)
            found[f"{name}.tokens"], found[f"{name}.lengths"] = _padded(words[bucket])
        return found

    def _tokens(self, captions: Sequence[Sequence[str]]) -> list[list[int]]:
        """Tokens of every caption of every picture, in order, as `pipeline.tokens.tokenize` has them."""
        template = template_named(self.text_side.template)
        cut = [template.render(cut_caption(text, self.caption_words)) for both in captions for text in both]
        return [row[:MAX_SEQUENCE_LENGTH] for row in self.text_side.tokenizer(cut)["input_ids"]]


def rounded(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Context in which the matrix products of frozen models have this precision."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Parts one after another."""
    whole: dict[str, Tensor] = {}
    for name in sorted({name for part in parts for name in part}):
        rows = [part[name] for part in parts if name in part]
        if name.endswith(".tokens"):
            longest = max(row.shape[2] for row in rows)
            rows = [torch.nn.functional.pad(row, (0, longest - row.shape[2])) for row in rows]
        whole[name] = torch.cat(rows)
    return whole


def by_size(tensors: Mapping[str, Tensor]) -> dict[Bucket, EncodedPictures]:
    """The pictures of each size, (height, width)."""
    sizes = sorted({tuple(int(side) for side in name.split(".")[0].split("x")) for name in tensors})
    kinds = ("latents", "tokens", "lengths")
    return {(h, w): EncodedPictures(*(tensors[f"{h}x{w}.{kind}"] for kind in kinds)) for h, w in sizes}


# ------------------------------------------------------------------------------------------------ folders of parts


def claim_parts(folder: Path, key: str) -> int:
    """Write into the folder what its pictures are made of; the number of its parts.

    Raises:
        ValueError: it holds others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / KEY).exists():
        with whole_file(folder / KEY) as temporary:
            temporary.write_text(key, encoding="utf-8")
    elif (folder / KEY).read_text(encoding="utf-8") != key:
        raise ValueError(f"{folder} holds scenes of another recipe, library or autoencoder; give another folder")
    return len(_parts([folder]))


def write_parts(folder: Path, parts: Iterator[dict[str, Tensor]], first: int) -> None:
    """Write parts as files number `first`, `first` + 1, ..., each whole or not at all, and say at the end that no part
    is missing."""
    for number, part in enumerate(parts, first):
        with whole_file(folder / f"part-{number:05d}.safetensors") as temporary:
            save_file(part, temporary)
    (folder / WHOLE).touch()


def read_parts(folders: Sequence[Path]) -> dict[str, Tensor]:
    """What is in some folders by now.

    Raises:
        ValueError: nothing.
    """
    paths = _parts(folders)
    if not paths:
        raise ValueError(f"no scenes are in {', '.join(map(str, folders))}; run `leanlens scenes encode` first")
    return joined([load_file(path) for path in paths])


def _parts(folders: Sequence[Path]) -> list[Path]:
    return sorted(path for folder in folders for path in folder.glob("part-*.safetensors"))


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Tokens (N, K, S) int32 of all pictures, with zeros up to the longest caption, and their numbers (N, K)."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = np.zeros((len(rows), int(lengths.max())), np.int32)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return torch.from_numpy(ids).unflatten(0, (-1, CAPTIONS)), lengths.unflatten(0, (-1, CAPTIONS))
