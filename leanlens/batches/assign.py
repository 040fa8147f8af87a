"""Assigns images to resolution buckets and computes crop boxes and the micro-batch size of each bucket.

A table maps a base resolution to its buckets, (height, width) in pixels, as `resolution.TRAINING_BUCKETS` does.

Source: Lens, arXiv 2605.21573, section 3: 27 buckets, and 24, 10 and 6 images per rank at base 512, 768 and 1024. The
paper does not give an assignment rule; `assign` documents ours.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from leanlens.plan.compute import MEAN_TEXT_TOKENS
from leanlens.resolution import TOKEN_PIXELS, TRAINING_BUCKETS

Bucket = tuple[int, int]
Table = Mapping[int, Sequence[Bucket]]
BATCH_RULES = ("tokens", "flops")


def assign(height: int, width: int, table: Table, max_upscale: float = 1.25) -> Bucket | str:
    """The bucket of an image, or the reason why it has none.

    Chooses the highest base resolution that needs no upscaling beyond `max_upscale`, and of its buckets the one that
    crops the smallest share.
    """
    possible = candidates(height, width, table, max_upscale)
    if possible:
        return possible[max(possible)]
    least = min(scale_to(height, width, bucket) for bucket in buckets_of(table))
    return (
        f"its {height} x {width} pixels (height x width) would be upscaled {least:.2f} times for the nearest bucket; "
        f"max_upscale is {max_upscale:g}"
    )


def candidates(height: int, width: int, table: Table, max_upscale: float = 1.25) -> dict[int, Bucket]:
    """Base resolution -> its bucket that crops least, for every base that the image is large enough for."""
    best = {}
    for base, buckets in table.items():
        fitting = [bucket for bucket in buckets if scale_to(height, width, bucket) <= max_upscale]
        if fitting:
            best[base] = min(fitting, key=lambda bucket: crop_loss(height, width, bucket))
    return best


def scale_to(height: int, width: int, bucket: Bucket) -> float:
    """The factor by which an image is resized to cover `bucket`; above 1 it is upscaled."""
    return max(bucket[0] / height, bucket[1] / width)


def crop_loss(height: int, width: int, bucket: Bucket) -> float:
    """The share of the image's area, 0..1, that is cropped for `bucket`."""
    scale = scale_to(height, width, bucket)
    return 1 - bucket[0] * bucket[1] / (scale * scale * height * width)


def crop_box(height: int, width: int, bucket: Bucket) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in the image's pixels: the largest centred box with the aspect ratio of `bucket`."""
    scale = scale_to(height, width, bucket)
    kept_height, kept_width = min(bucket[0] / scale, height), min(bucket[1] / scale, width)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return left, top, min(left + kept_width, width), min(top + kept_height, height)


def batch_sizes(
    table: Table, base: int, rule: str = "tokens", width: int = 1536, text_tokens: int = MEAN_TEXT_TOKENS
) -> dict[Bucket, int]:
    """The micro-batch size of each bucket, such that micro-batches of all buckets cost about the same.

    Args:
        base: images in a micro-batch of the smallest base resolution (24 in the paper, at 512).
        rule: "tokens" keeps the image tokens of a micro-batch at or below those of the smallest base; this gives the
            paper's 24, 10 and 6. "flops" balances the operations of the transformer, including attention; this gives
            24, 10 and 5, because attention grows faster than the number of tokens.
        width: channels of the transformer, for "flops".
        text_tokens: text tokens of a typical caption, for "flops".

    Returns:
        Bucket -> number of images, at least 1. All buckets of one base have the same number, as in the paper.

    Raises:
        ValueError: `base` is below 1, the rule is unknown, or the table is invalid.
    """
    check_table(table)
    if base < 1:
        raise ValueError(f"invalid base {base}: expected 1 or more")
    if rule not in BATCH_RULES:
        raise ValueError(f"invalid rule {rule!r}: expected one of {', '.join(BATCH_RULES)}")

    def cost(resolution: int) -> Fraction:
        tokens = Fraction(resolution, TOKEN_PIXELS) ** 2
        if rule == "tokens":
            return tokens
        tokens += text_tokens
        return tokens * (6 * width + tokens)  # 24 D^2 for each token and 4 D for each pair, over 4 D

    budget = base * cost(min(table))
    sizes = {
        resolution: int(budget / cost(resolution)) if rule == "tokens" else round(budget / cost(resolution))
        for resolution in table
    }
    return {bucket: max(1, sizes[resolution]) for resolution, buckets in table.items() for bucket in buckets}


def scaled_table(factor: float) -> dict[int, tuple[Bucket, ...]]:
    """The paper's table scaled for smaller models: sides are rounded to whole tokens, duplicates are dropped.

    Raises:
        ValueError: the factor is so small that two base resolutions become equal.
    """
    table: dict[int, tuple[Bucket, ...]] = {}
    taken: set[Bucket] = set()
    for base, buckets in TRAINING_BUCKETS.items():
        fresh = dict.fromkeys((_scaled(height, factor), _scaled(width, factor)) for height, width in buckets)
        table[_scaled(base, factor)] = tuple(bucket for bucket in fresh if bucket not in taken)
        taken |= set(fresh)
    if len(table) < len(TRAINING_BUCKETS) or not all(table.values()):
        raise ValueError(f"invalid factor {factor:g}: base resolutions become equal; expected 1/16 or more")
    return table


def buckets_of(table: Table) -> tuple[Bucket, ...]:
    """Every bucket of a table, in its order."""
    return tuple(bucket for buckets in table.values() for bucket in buckets)


def check_table(table: Table) -> None:
    """Check a table of buckets.

    Raises:
        ValueError: it is empty, or has a duplicate bucket or a side that is not a multiple of 16.
    """
    buckets = buckets_of(table)
    if not buckets:
        raise ValueError("table has no buckets: expected {base resolution: [(height, width), ...]}")
    for bucket in buckets:
        if len(bucket) != 2 or any(side < TOKEN_PIXELS or side % TOKEN_PIXELS for side in bucket):
            raise ValueError(f"invalid bucket {bucket}: expected (height, width), multiples of {TOKEN_PIXELS}")
        if buckets.count(bucket) > 1:
            raise ValueError(f"duplicate bucket {bucket} in the table")


def _scaled(pixels: int, factor: float) -> int:
    return max(1, int(pixels * factor / TOKEN_PIXELS + 0.5)) * TOKEN_PIXELS
