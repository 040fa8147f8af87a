"""Reports what a stream will train on before any image is decoded: counts, sizes, skipped images and the reasons.

It also warns if batches are larger than the data.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from leanlens.batches.assign import Bucket, crop_loss
from leanlens.batches.stream import NAMED, Stream


@dataclass(frozen=True)
class Survey:
    """Counts of the first epoch.

    Attributes:
        found: images whose size is readable. used: images to train on.
        buckets: (height, width) -> number of images, and the mean share of their area, 0..1, that is cropped.
        too_small: images too small for every bucket. uncaptioned: images without the requested caption.
        unreadable: "<name>" -> reason.
    """

    found: int
    used: int
    buckets: dict[Bucket, tuple[int, float]]
    too_small: list[str]
    uncaptioned: list[str]
    unreadable: dict[str, str]

    @property
    def cut_away(self) -> float:
        """The mean share of an image, 0..1, that is cropped."""
        return sum(count * cut for count, cut in self.buckets.values()) / max(1, self.used)


def survey(stream: Stream) -> Survey:
    """Count what `stream` found and will use in its first epoch; no image is decoded."""
    unreadable = {f"{source.name}: {name}": why for source in stream.sources for name, why in source.skipped.items()}
    small = [name for name, why in stream.skipped.items() if "max_upscale" in why and name not in unreadable]
    cuts: dict[Bucket, list[float]] = {}
    for bucket, samples in stream.first_epoch():
        for entry in samples:
            cuts.setdefault(bucket, []).append(crop_loss(entry.height, entry.width, bucket))
    buckets = {bucket: (len(lost), sum(lost) / len(lost)) for bucket, lost in sorted(cuts.items())}
    found = sum(len(source.index()) for source in stream.sources)
    return Survey(found, len(stream), buckets, small, stream.uncaptioned, unreadable)


def survey_lines(seen: Survey, batch_sizes: dict[Bucket, int]) -> list[str]:
    """A survey as text, one fact per line."""
    lines = [f"{'pictures':12} {seen.found} found, {seen.used} used; {seen.cut_away:.1%} of their area is cut away"]
    for bucket, (count, cut) in seen.buckets.items():
        size = f"{bucket[0]}x{bucket[1]}"
        lines.append(f"{size:>12} {count} pictures in micro-batches of {batch_sizes[bucket]}, {cut:.1%} cut away")
    for name, examples in (
        ("too small", seen.too_small),
        ("no caption", seen.uncaptioned),
        ("unreadable", [f"{name}: {why}" for name, why in seen.unreadable.items()]),
    ):
        if examples:
            more = "; ..." if len(examples) > NAMED else ""
            lines.append(f"{name:12} {len(examples)}: {'; '.join(examples[:NAMED])}{more}")
    return lines


def large_batches(stream: Stream, micro_batches: int) -> list[str]:
    """Warnings for batches that are larger than the data."""
    counts: Counter[Bucket] = Counter()
    for bucket, samples in stream.first_epoch():
        counts[bucket] += len(samples)
    said = [
        f"bucket {bucket[0]}x{bucket[1]} has {count} pictures and micro-batches of {stream.batch_sizes[bucket]}: "
        + ("none is ever full, so they are left out" if stream.full_batches else "they are smaller than that")
        for bucket, count in sorted(_of_table(stream, counts).items())
        if 0 < count < stream.batch_sizes[bucket]
    ]
    return said + _larger_than_data(
        micro_batches, "micro-batches", stream.micro_batches_of_epoch, "train.micro_batches"
    )


def _of_table(stream: Stream, counts: Counter[Bucket]) -> Counter[Bucket]:
    """Images by bucket, including those that `full_batches` drops, if each image has a single bucket."""
    return stream.reached() if stream.full_batches and stream.resolution == "largest" else counts


def _larger_than_data(wanted: int, unit: str, there: int, key: str) -> list[str]:
    if wanted <= there:
        return []
    return [f"{key} {wanted} is more than the {there} {unit} of an epoch: a step repeats pictures"]


def more_than(wanted: int, there: int, key: str, unit: str) -> Sequence[str]:
    """A warning if a step takes more samples than there are."""
    return [] if wanted <= there else [f"{key}: a step takes {wanted} {unit} and there are {there}: some are repeated"]
