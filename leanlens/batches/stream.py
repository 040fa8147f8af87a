"""Streams seeded, resumable, bucketed micro-batches of captioned images without end.

The sequence of micro-batches is a pure function of seed, sources and settings. Rank r of w takes the micro-batches r,
r + w, r + 2 w, ...: one process that accumulates 8 micro-batches trains on the same samples per optimiser step as 8
processes. Each micro-batch has its own bucket. Every epoch has each usable image exactly once; the last micro-batch of
a bucket may be short.
"""

import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from leanlens.batches.assign import Bucket, Table, assign, buckets_of, candidates, check_table, crop_box
from leanlens.log import logger
from leanlens.pictures.decode import decode
from leanlens.pictures.record import Entry
from leanlens.pictures.sources import Source, describe_skipped

CAPTION_CHOICES = ("dense", "brief", "mix")
RESOLUTION_CHOICES = ("largest", "draw")
MISSING_CHOICES = ("error", "skip", "empty")
NAMED = 5  # pictures that a message lists
_BATCHES_AHEAD = 2  # micro-batches prefetched per worker
_MAX_UNREADABLE = 64  # unreadable micro-batches in a row; more means that the disk failed


@dataclass(frozen=True)
class Batch:
    """One micro-batch. `pixels` is uint8 (B, 3, H, W); `bucket` is (H, W); a dropped caption is "".

    `index` is the index of the micro-batch in the whole sequence, over all ranks and epochs.
    """

    index: int
    bucket: Bucket
    pixels: Tensor
    captions: list[str]
    keys: list[str]


@dataclass(frozen=True)
class _Plan:
    """One epoch: bucket and sample numbers of each micro-batch, and two random choices for each sample."""

    buckets: list[Bucket]
    samples: list[np.ndarray]
    dropped: np.ndarray
    brief: np.ndarray
    digest: str


class Stream:
    """Micro-batches without end.

    Args:
        sources: one opened source, or several that are combined.
        table: base resolution -> buckets.
        batch_sizes: bucket -> images in a micro-batch, as from `assign.batch_sizes`.
        seed: determines order, captions and dropout, together with the epoch.
        caption_kind: "dense", "brief", or "mix" for either. Captions of unspecified kind ("text") are used if the kind
            is missing.
        brief_share: with "mix", the share of images that use their brief caption.
        caption_dropout: the share of images whose caption is dropped and becomes "".
        rank, world_size: this process and the number of processes.
        max_upscale: images that would be upscaled by more are skipped.
        workers: threads that read and decode ahead; 0 uses the caller's thread. Batches do not depend on it.
        resolution: "largest": an image is used at the largest base resolution that it reaches; otherwise a random one
            of those that it reaches is chosen in every epoch.
        caption_words: truncate captions after whole sentences to this many words; the first sentence is always kept.
            None keeps captions unchanged.
        full_batches: drop the last, short micro-batch of each bucket; every epoch drops different images.
        missing_caption: images without the requested caption raise an error ("error"), are skipped ("skip"), or have an
            empty caption ("empty").

    Attributes:
        uncaptioned: images without the requested caption, as in messages; only "empty" trains on them.
        skipped: everything skipped so far, "<source>: <key>" -> reason. Images that turn out to be unreadable are known
            only to the rank that read them.
        epoch: the epoch of the last micro-batch, from 0.

    Raises:
        ValueError: an invalid setting, a missing caption, or no image that fits the table.
    """

    def __init__(
        self,
        sources: Source | Sequence[Source],
        table: Table,
        batch_sizes: Mapping[Bucket, int],
        seed: int,
        caption_kind: str = "dense",
        caption_dropout: float = 0.1,
        rank: int = 0,
        world_size: int = 1,
        max_upscale: float = 1.25,
        workers: int = 0,
        resolution: str = "largest",
        missing_caption: str = "error",
        caption_words: int | None = None,
        full_batches: bool = False,
        brief_share: float = 0.5,
    ):
        self.sources: list[Source] = list(sources) if isinstance(sources, Sequence) else [sources]
        self.table, self.batch_sizes, self.seed = table, dict(batch_sizes), seed
        self.caption_kind, self.caption_dropout, self.caption_words = caption_kind, caption_dropout, caption_words
        self.full_batches, self.brief_share = full_batches, brief_share
        self.rank, self.world_size, self.workers = rank, world_size, workers
        self.max_upscale, self.resolution, self.missing_caption = max_upscale, resolution, missing_caption
        self._check_settings()
        self.skipped: dict[str, str] = {}
        self.uncaptioned: list[str] = []
        self.epoch = 0
        self._epoch_start = 0  # micro-batches of all earlier epochs
        self._consumed = 0  # micro-batches consumed by all ranks
        self._plans: dict[int, _Plan] = {}
        self._buckets = buckets_of(table)
        self._places: list[tuple[int, int]] = []  # (source, record) of each usable picture
        self._reached: list[tuple[int, ...]] = []  # numbers of its possible buckets
        digest = hashlib.sha256()
        self._choose_usable(digest)
        self._settings = {
            "seed": seed,
            "caption_kind": caption_kind,
            **({} if caption_words is None else {"caption_words": caption_words}),
            **({"full_batches": True} if full_batches else {}),
            **({} if brief_share == 0.5 else {"brief_share": brief_share}),
            **({"missing_caption": "empty"} if missing_caption == "empty" else {}),
            "caption_dropout": caption_dropout,
            "max_upscale": max_upscale,
            "resolution": resolution,
            "buckets": [[*bucket, self.batch_sizes[bucket]] for bucket in self._buckets],
            "pictures": digest.hexdigest(),
        }

    def __len__(self) -> int:
        """Number of images in every epoch."""
        return len(self._places)

    def __iter__(self) -> Iterator[Batch]:
        """Continue after the last consumed micro-batch, or after a loaded state."""
        for number, epoch, start, (batch, skipped) in self._loaded():
            for name, reason in skipped.items():
                if name not in self.skipped:
                    logger.warning("skipped %s: %s", name, reason)
            self.skipped.update(skipped)
            self.epoch, self._epoch_start = epoch, start
            self._consumed = number - self.rank + self.world_size
            yield replace(batch, index=number)

    def captions(self) -> Iterator[str]:
        """Every caption that this stream can give, for encoding in advance; may contain duplicates."""
        for source, record in self._places:
            found = self.sources[source].captions(record)
            yield from dict.fromkeys(
                cut_caption(self._caption(found, kind), self.caption_words) for kind in _wanted(self.caption_kind)
            )

    def first_epoch(self) -> Iterator[tuple[Bucket, list[Entry]]]:
        """Bucket and index entries of each micro-batch of epoch 0; no image is read."""
        plan = self._plan(0)
        for bucket, samples in zip(plan.buckets, plan.samples, strict=True):
            yield (
                bucket,
                [self.sources[source].index()[record] for source, record in map(self._places.__getitem__, samples)],
            )

    @property
    def micro_batches_of_epoch(self) -> int:
        """Micro-batches of epoch 0, over all ranks."""
        return len(self._plan(0).samples)

    def reached(self) -> Counter[Bucket]:
        """Number of images that may go to each bucket."""
        return Counter(self._buckets[number] for reached in self._reached for number in reached)

    def state_dict(self) -> dict[str, Any]:
        """The position in the sequence as JSON values, equal on all ranks that took equally many micro-batches."""
        epoch, start = self.epoch, self._epoch_start
        while self._consumed >= start + len(self._plan(epoch).samples):
            start, epoch = start + len(self._plan(epoch).samples), epoch + 1
        return {
            "consumed": self._consumed,
            "epoch": epoch,
            "epoch_start": start,
            "order": self._plan(epoch).digest,
            "settings": self._settings,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state, with any number of workers and ranks.

        Raises:
            ValueError: the state is from other images or settings, so the sequence cannot be resumed.
        """
        require_same_settings(self._settings, state["settings"])
        if self._plan(state["epoch"]).digest != state["order"]:
            raise ValueError(
                "the order of pictures in the state cannot be reproduced; resume with the same version of NumPy"
            )
        self.epoch, self._epoch_start, self._consumed = state["epoch"], state["epoch_start"], state["consumed"]

    def _check_settings(self) -> None:
        check_table(self.table)
        for name, value, accepted in (
            ("caption_kind", self.caption_kind, CAPTION_CHOICES),
            ("resolution", self.resolution, RESOLUTION_CHOICES),
            ("missing_caption", self.missing_caption, MISSING_CHOICES),
        ):
            if value not in accepted:
                raise ValueError(f"invalid {name} {value!r}: expected one of {', '.join(accepted)}")
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"invalid caption_dropout {self.caption_dropout}: expected a share in 0..1")
        if not 0 <= self.brief_share <= 1:
            raise ValueError(f"invalid brief_share {self.brief_share}: expected a share in 0..1")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"invalid rank {self.rank} of world_size {self.world_size}: expected 0 <= rank < world_size"
            )
        if self.max_upscale < 1:
            raise ValueError(f"invalid max_upscale {self.max_upscale}: expected 1 (no upscaling) or more")
        if self.caption_words is not None and self.caption_words < 1:
            raise ValueError(f"invalid caption_words {self.caption_words}: expected 1 or more, or None")
        if self.workers < 0:
            raise ValueError(f"invalid workers {self.workers}: expected 0 or more")
        for bucket in buckets_of(self.table):
            if self.batch_sizes.get(bucket, 0) < 1:
                raise ValueError(f"invalid batch_sizes: expected a positive number for bucket {bucket}")

    def _choose_usable(self, digest: Any) -> None:
        """Fill `_places` and `_reached`, and report what is skipped."""
        known: dict[tuple[int, int], tuple[int, ...] | str] = {}
        total = 0
        for number, source in enumerate(self.sources):
            self.skipped.update({f"{source.name}: {name}": reason for name, reason in source.skipped.items()})
            for record, entry in enumerate(source.index()):
                total += 1
                digest.update(json.dumps([number, entry.key, entry.height, entry.width, entry.kinds]).encode())
                size = (entry.height, entry.width)
                if size not in known:
                    known[size] = self._reach(*size)
                reached = known[size]
                if isinstance(reached, str):
                    self.skipped[f"{source.name}: {entry.key}"] = reached
                elif self._has_captions(source, entry):
                    self._places.append((number, record))
                    self._reached.append(reached)
        read = {f"{source.name}: {name}" for source in self.sources for name in source.skipped}
        lost = {name: reason for name, reason in self.skipped.items() if name not in read} or self.skipped
        names = ", ".join(source.name for source in self.sources)
        if self.missing_caption == "error" and self.uncaptioned:
            raise ValueError(self._captions_missing(names))
        if not self._places:
            first = describe_skipped({name.rpartition(": ")[2]: reason for name, reason in lost.items()}, most=1)
            raise ValueError(
                f"none of the {total} pictures of {names} can be used with this table; {first or 'there is none'}"
            )
        if len(self._places) < total:
            examples = describe_skipped(lost)
            logger.warning("%s: skipping %d of %d pictures (%s)", names, total - len(self._places), total, examples)

    def _reach(self, height: int, width: int) -> tuple[int, ...] | str:
        if self.resolution == "largest":
            bucket = assign(height, width, self.table, self.max_upscale)
            return bucket if isinstance(bucket, str) else (self._buckets.index(bucket),)
        possible = candidates(height, width, self.table, self.max_upscale)
        if not possible:
            return str(assign(height, width, self.table, self.max_upscale))
        return tuple(self._buckets.index(bucket) for bucket in possible.values())

    def _has_captions(self, source: Source, entry: Entry) -> bool:
        try:
            for kind in _wanted(self.caption_kind):
                pick_caption(dict.fromkeys(entry.kinds, ""), kind)
        except ValueError as error:
            self.uncaptioned.append(f"{source.name}: {entry.file or entry.key}: {error}")
            if self.missing_caption == "empty":
                return True
            self.skipped[f"{source.name}: {entry.key}"] = str(error)
            return False
        return True

    def _captions_missing(self, names: str) -> str:
        advice = "caption it, leave it out, or ask for another kind (caption_kind; data.caption in a recipe)"
        if len(self.uncaptioned) == 1:
            return f"{self.uncaptioned[0]}; {advice}, or set missing_caption (data.missing_caption)"
        examples = "; ".join(self.uncaptioned[:NAMED]) + ("; ..." if len(self.uncaptioned) > NAMED else "")
        return (
            f"{len(self.uncaptioned)} pictures of {names} lack a caption ({examples}); "
            f"{advice.replace(' it', ' them')}, or set missing_caption (data.missing_caption) to skip or empty"
        )

    def _caption(self, captions: Mapping[str, str], kind: str) -> str:
        """The caption of a kind; "" if it is missing and `missing_caption` is "empty"."""
        try:
            return pick_caption(captions, kind)
        except ValueError:
            if self.missing_caption == "empty":
                return ""
            raise

    def _plan(self, epoch: int) -> _Plan:
        if epoch not in self._plans:
            self._plans = {kept: plan for kept, plan in self._plans.items() if kept >= epoch - 1}
            self._plans[epoch] = self._drawn(epoch)
        return self._plans[epoch]

    def _drawn(self, epoch: int) -> _Plan:
        random = np.random.default_rng([self.seed, epoch])
        coins = random.random((3, len(self._places)))
        chosen = np.array(
            [reached[int(coin * len(reached))] for reached, coin in zip(self._reached, coins[0], strict=True)]
        )
        batches = []
        for number, bucket in enumerate(self._buckets):
            order = random.permutation(np.flatnonzero(chosen == number))
            size = self.batch_sizes[bucket]
            end = len(order) // size * size if self.full_batches else len(order)
            batches += [(bucket, order[first : first + size]) for first in range(0, end, size)]
        if not batches:
            raise ValueError("full_batches leaves no pictures: no bucket has enough for one micro-batch")
        batches = [batches[place] for place in random.permutation(len(batches))]
        dropped, brief = coins[1] < self.caption_dropout, coins[2] < self.brief_share
        digest = hashlib.sha256(dropped.tobytes() + brief.tobytes())
        for bucket, samples in batches:
            digest.update(np.array([*bucket, *samples], dtype="<i8").tobytes())
        return _Plan([bucket for bucket, _ in batches], [s for _, s in batches], dropped, brief, digest.hexdigest())

    def _turns(self) -> Iterator[tuple[int, int, int]]:
        """(index of the micro-batch, epoch, first index of the epoch) of this rank's remaining micro-batches."""
        number, epoch, start = self._consumed + self.rank, self.epoch, self._epoch_start
        while True:
            length = len(self._plan(epoch).samples)
            if number >= start + length:
                epoch, start = epoch + 1, start + length
                continue
            yield number, epoch, start
            number += self.world_size

    def _loaded(self) -> Iterator[tuple[int, int, int, tuple[Batch, dict[str, str]]]]:
        turns = self._turns()
        if not self.workers:
            for number, epoch, start in turns:
                yield number, epoch, start, self._load(self._plan(epoch), number - start)
        ahead: deque[tuple[int, int, int, Future]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="leanlens-stream")
        try:
            while True:
                while len(ahead) < _BATCHES_AHEAD * self.workers:
                    number, epoch, start = next(turns)
                    ahead.append((number, epoch, start, pool.submit(self._load, self._plan(epoch), number - start)))
                number, epoch, start, batch = ahead.popleft()
                yield number, epoch, start, batch.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, plan: _Plan, place: int) -> tuple[Batch, dict[str, str]]:
        """A micro-batch of a plan, and its unreadable images. If all are, the next micro-batch is used in its place."""
        skipped: dict[str, str] = {}
        tried = min(len(plan.samples), _MAX_UNREADABLE)
        for step in range(tried):
            at = (place + step) % len(plan.samples)
            bucket, parts = plan.buckets[at], []
            for sample in plan.samples[at]:
                source, record = self._places[sample]
                try:
                    parts.append(self._sample(self.sources[source], record, bucket, plan, sample))
                except ValueError as error:
                    key = self.sources[source].index()[record].key
                    skipped[f"{self.sources[source].name}: {key}"] = str(error)
            if parts:
                pixels, captions, keys = zip(*parts, strict=True)
                batch = Batch(0, bucket, torch.stack(pixels).contiguous(), list(captions), list(keys))
                return batch, skipped
        examples = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise ValueError(f"no picture of {tried} micro-batches in a row is readable: {examples}")

    def _sample(self, source: Source, number: int, bucket: Bucket, plan: _Plan, sample: int) -> tuple[Tensor, str, str]:
        record = source.read(number)
        wanted = _wanted(self.caption_kind)
        caption = self._caption(record.captions, wanted[-1] if plan.brief[sample] else wanted[0])
        caption = "" if plan.dropped[sample] else cut_caption(caption, self.caption_words)
        return fit(decode(record.image), bucket), caption, record.key


def require_same_settings(here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """Check that the settings of a stream are those that its stored state was taken with.

    Raises:
        ValueError: one differs, so that the sequence would not be continued.
    """
    here = json.loads(json.dumps(here))
    for name in {**there, **here}:
        if there.get(name) != here.get(name):
            raise ValueError(
                f"the state was taken with {name} {there.get(name)!r}, this stream has {here.get(name)!r}; "
                "resume with the same sources and settings"
            )


def fit(image: Image.Image, bucket: Bucket) -> Tensor:
    """Crop an RGB image to whole pixels and resize it (bicubic, antialiased) to `bucket`: uint8 (3, H, W)."""
    left, top, right, bottom = (round(side) for side in crop_box(image.height, image.width, bucket))
    pixels = torch.from_numpy(np.array(image))[top:bottom, left:right].permute(2, 0, 1)
    if pixels.shape[1:] == bucket:
        return pixels
    # torch resizes 8-bit pixels three times faster than Pillow, with the same filter.
    return torch.nn.functional.interpolate(pixels[None], bucket, mode="bicubic", antialias=True)[0]


def pick_caption(captions: Mapping[str, str], kind: str) -> str:
    """The caption of a kind, or the one of unspecified kind.

    Raises:
        ValueError: there is neither.
    """
    for name in (kind, "text"):
        if name in captions:
            return captions[name]
    raise ValueError(f"it has no {kind} caption" + (f", only {', '.join(captions)}" if captions else ""))


def cut_caption(caption: str, words: int | None) -> str:
    """The first sentences of a caption, at most `words` words in total; the first sentence is always kept."""
    if words is None:
        return caption
    sentences = re.split(r"(?<=[.!?])\s+", caption)
    kept, total = sentences[:1], len(sentences[0].split())
    for sentence in sentences[1:]:
        total += len(sentence.split())
        if total > words:
            break
        kept.append(sentence)
    return " ".join(kept)


def _wanted(caption_kind: str) -> tuple[str, ...]:
    return ("dense", "brief") if caption_kind == "mix" else (caption_kind,)
