"""An endless, seeded, resumable sequence of micro-batches of encoded pictures in the device's memory.

A small model on a large device would wait for a stream that reads, decodes and encodes pictures. The
sequence is a pure function of seed, pictures and settings, and rank r of w takes the micro-batches r, r + w, r + 2 w,
..., as in `stream`.

Shapes: B pictures in a micro-batch, S text tokens, L image tokens, C packed latent channels, E text width.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leanlens.batches.assign import Bucket
from leanlens.batches.encode import EncodedBatch
from leanlens.batches.encoded import EncodedPictures, rounded
from leanlens.batches.stream import require_same_settings
from leanlens.models.text_encoder import layer_features
from leanlens.pipeline.feature_cache import FeatureCache
from leanlens.pipeline.features import TextFeatures, TextSide, join
from leanlens.pipeline.tokens import template_named

NO_CAPTION = -1


@dataclass(frozen=True)
class ResidentBatch:
    """A micro-batch: numbers of pictures of one size (B,), and which caption each has: 0, 1 or NO_CAPTION.

    `index` is the number of the micro-batch in the whole sequence, over all ranks and epochs.
    """

    index: int
    bucket: Bucket
    rows: np.ndarray
    captions: np.ndarray

    @property
    def keys(self) -> list[str]:
        """Names of the pictures."""
        return [f"{self.bucket[0]}x{self.bucket[1]}/{row}" for row in self.rows]


class ResidentStream:
    """Endless micro-batches, each full and of one size. An epoch uses every picture once, except a remainder.

    All captions of a micro-batch are of one kind, so brief ones are not padded to the length of dense ones.

    Args:
        pictures: of each size.
        batch_sizes: size -> pictures in a micro-batch.
        seed: decides order, captions and dropout, together with the epoch.
        brief_share: the share of micro-batches with brief captions.
        caption_dropout: the share of pictures without a caption.
        rank, world_size: this process and the number of processes.

    Attributes:
        epoch: the epoch of the micro-batch that came last, from 0.

    Raises:
        ValueError: no size has enough pictures for one micro-batch.
    """

    def __init__(
        self,
        pictures: Mapping[Bucket, EncodedPictures],
        batch_sizes: Mapping[Bucket, int],
        seed: int,
        brief_share: float,
        caption_dropout: float,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.counts = {bucket: len(encoded.latents) for bucket, encoded in sorted(pictures.items())}
        self.batch_sizes, self.seed = dict(batch_sizes), seed
        self.brief_share, self.caption_dropout = brief_share, caption_dropout
        self.rank, self.world_size = rank, world_size
        self.micro_batches_of_epoch = sum(count // batch_sizes[bucket] for bucket, count in self.counts.items())
        if not self.micro_batches_of_epoch:
            raise ValueError(f"{len(self)} pictures fill no micro-batch; give more, or a smaller batch in data.buckets")
        self.epoch = 0
        self._consumed = 0  # micro-batches of all ranks that were handed out
        self._settings = {
            "seed": seed,
            "brief_share": brief_share,
            "caption_dropout": caption_dropout,
            "buckets": [[*bucket, batch_sizes[bucket], count] for bucket, count in self.counts.items()],
            "pictures": _fingerprint(pictures),
        }

    def __len__(self) -> int:
        """Pictures of all sizes."""
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[ResidentBatch]:
        """Continue after the last micro-batch that was handed out, or from a loaded state."""
        drawn, plan = -1, list[ResidentBatch]()
        while True:
            epoch, place = divmod(self._consumed + self.rank, self.micro_batches_of_epoch)
            if epoch != drawn:
                drawn, plan = epoch, self._plan(epoch)
            self.epoch = epoch
            self._consumed += self.world_size
            yield plan[place]

    def state_dict(self) -> dict[str, Any]:
        """The position in the sequence, equal on all ranks after equally many micro-batches; plain JSON values."""
        return {"consumed": self._consumed, "settings": self._settings}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state, with any number of ranks.

        Raises:
            ValueError: the state belongs to other pictures or settings.
        """
        require_same_settings(self._settings, state["settings"])
        self._consumed = state["consumed"]
        self.epoch = max(0, self._consumed - 1) // self.micro_batches_of_epoch

    def _plan(self, epoch: int) -> list[ResidentBatch]:
        """The micro-batches of an epoch, in order."""
        rng = np.random.default_rng([self.seed, epoch])
        batches: list[tuple[Bucket, np.ndarray, np.ndarray]] = []
        for bucket, count in self.counts.items():
            order, size = rng.permutation(count), self.batch_sizes[bucket]
            dropped = rng.random(count) < self.caption_dropout
            for first in range(0, count // size * size, size):
                rows = order[first : first + size]
                kind = int(rng.random() >= self.brief_share)
                batches.append((bucket, rows, np.where(dropped[rows], NO_CAPTION, kind)))
        start = epoch * self.micro_batches_of_epoch
        return [ResidentBatch(start + n, *batches[place]) for n, place in enumerate(rng.permutation(len(batches)))]


class ResidentEncoder:
    """`ResidentBatch` -> `EncodedBatch`, from tensors on the device.

    A GPU computes the features of captions in every step, for a whole micro-batch. A processor computes each caption by
    itself at its first turn and keeps the features in 16 bits, so that they are the same in whatever micro-batch it
    comes, and whether or not a run was stopped before.

    Args:
        pictures: of each size.
        text_side: tokenizer, language model and template; on `device`.
        token_pixels: side of an image token, pixels.
        text_multiple: text is padded to a multiple of so many tokens.
        precision: of the language model's products, "float32" or "bfloat16".
    """

    def __init__(
        self,
        pictures: Mapping[Bucket, EncodedPictures],
        text_side: TextSide,
        device: torch.device,
        token_pixels: int = 16,
        text_multiple: int = 1,
        precision: str = "float32",
    ):
        self.pictures = {
            bucket: EncodedPictures(encoded.latents.to(device), encoded.tokens.to(device), encoded.lengths)
            for bucket, encoded in pictures.items()
        }
        self.side, self.prefix, self.device = text_side, prefix_tokens(text_side), device
        self.token_pixels, self.multiple, self.precision = token_pixels, text_multiple, precision
        self._cache = FeatureCache(memory=math.inf)

    @torch.no_grad()
    def __call__(self, batch: ResidentBatch) -> EncodedBatch:
        """Latents and text features of a micro-batch; a dropped caption has zero tokens."""
        encoded, rows = self.pictures[batch.bucket], torch.from_numpy(batch.rows)
        captions = torch.from_numpy(batch.captions.astype(np.int64))
        kinds = captions.clamp(min=0)
        lengths = encoded.lengths[rows, kinds]
        longest = -(-(int(lengths.max()) - self.prefix) // self.multiple) * self.multiple + self.prefix
        mask = torch.arange(longest)[None] < lengths[:, None]
        if self.device.type == "cpu":
            states = self._recall(batch.bucket, rows.tolist(), kinds.tolist(), longest - self.prefix)
        else:
            ids = encoded.tokens[rows.to(self.device), kinds.to(self.device), :longest].long()
            ids = torch.nn.functional.pad(ids, (0, longest - ids.shape[1]))
            states = self._states(ids, mask.to(self.device))
        seen = (mask & (captions != NO_CAPTION)[:, None])[:, self.prefix :].to(self.device)
        text = TextFeatures([state * seen[..., None] for state in states], seen)
        grid = (batch.bucket[0] // self.token_pixels, batch.bucket[1] // self.token_pixels)
        return EncodedBatch(encoded.latents[rows.to(self.device)], grid, text, batch.keys, batch.index)

    def _states(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Features of the tokens behind the template's prefix, (B, S, E) of each layer."""
        with rounded(self.device, self.precision):
            states = layer_features(self.side.encoder, self.side.layers, ids, mask.long())
        return [state[:, self.prefix :] for state in states]

    def _recall(self, bucket: Bucket, rows: Sequence[int], kinds: Sequence[int], length: int) -> Sequence[Tensor]:
        """Features of captions, (B, length, E) of each layer, with zeros after the last token."""
        found = [self._caption(bucket, row, kind) for row, kind in zip(rows, kinds, strict=True)]
        return [layer.float() for layer in join(found).padded(length).layers]

    def _caption(self, bucket: Bucket, row: int, kind: int) -> TextFeatures:
        """One caption's own tokens, (1, S, E) bfloat16 of each layer; computed when it is first used."""

        def encode() -> tuple[TextFeatures]:
            encoded = self.pictures[bucket]
            ids = encoded.tokens[row, kind, : int(encoded.lengths[row, kind])][None].long()
            states = [state.to(torch.bfloat16) for state in self._states(ids, torch.ones_like(ids))]
            return (TextFeatures(states, torch.ones(states[0].shape[:2], dtype=torch.bool)),)

        return self._cache.find(f"{bucket} {row} {kind}", encode)[0]


def prefix_tokens(side: TextSide) -> int:
    """Tokens of the template that are encoded before every caption and carry no feature."""
    prefix = template_named(side.template).prefix()
    return len(side.tokenizer(prefix, add_special_tokens=False)["input_ids"]) if prefix else 0


def _fingerprint(pictures: Mapping[Bucket, EncodedPictures]) -> str:
    """A digest of the captions' tokens, which are other ones where the pictures are."""
    digest = hashlib.sha256()
    for bucket, encoded in sorted(pictures.items()):
        digest.update(f"{bucket} {tuple(encoded.tokens.shape)}".encode())
        digest.update(encoded.tokens.cpu().numpy().tobytes())
    return digest.hexdigest()
