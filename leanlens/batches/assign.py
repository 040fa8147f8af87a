"""Which bucket a picture goes to, what is cut off for it, and how many pictures of each bucket make one micro-batch.

Comes in: picture sizes and a table of buckets. Goes out: buckets, crop boxes, batch sizes; arithmetic only. Knows
nothing of files, tensors or captions.

A table maps a base resolution to its buckets, (height, width) in pixels, as `resolution.TRAINING_BUCKETS` does.

Source: Lens, arXiv 2605.21573, section 3: 27 buckets, and 24, 10 and 6 pictures for each rank at base 512, 768 and
1024. The paper gives no assignment rule; the one here is ours and is stated at `assign`.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from leanlens.plan.compute import MEAN_TEXT_TOKENS
from leanlens.resolution import TOKEN_PIXELS, TRAINING_BUCKETS

Bucket = tuple[int, int]
Table = Mapping[int, Sequence[Bucket]]
BATCH_RULES = ("tokens", "flops")


def assign(height: int, width: int, table: Table, max_upscale: float = 1.25) -> Bucket | str:
    """The bucket of a picture, or the reason why it has none.

    The highest base resolution that the picture reaches without being enlarged by more than `max_upscale`; of its
    buckets the one that cuts the smallest share off.
    """
    possible = candidates(height, width, table, max_upscale)
    if possible:
        return possible[max(possible)]
    least = min(scale_to(height, width, bucket) for bucket in buckets_of(table))
    return (
        f"its {height} x {width} pixels (height x width) would be enlarged {least:.2f} times for the nearest bucket; "
        f"max_upscale is {max_upscale:g}"
    )


def candidates(height: int, width: int, table: Table, max_upscale: float = 1.25) -> dict[int, Bucket]:
    """Base resolution -> its bucket that cuts least off, for every base that the picture is large enough for."""
    best = {}
    for base, buckets in table.items():
        fitting = [bucket for bucket in buckets if scale_to(height, width, bucket) <= max_upscale]
        if fitting:
            best[base] = min(fitting, key=lambda bucket: crop_loss(height, width, bucket))
    return best


def scale_to(height: int, width: int, bucket: Bucket) -> float:
    """By how much a picture is resized so that it just covers `bucket`; above 1 it is enlarged."""
    return max(bucket[0] / height, bucket[1] / width)


def crop_loss(height: int, width: int, bucket: Bucket) -> float:
    """The share of the picture's area, 0..1, that is cut off for `bucket`."""
    scale = scale_to(height, width, bucket)
    return 1 - bucket[0] * bucket[1] / (scale * scale * height * width)


def crop_box(height: int, width: int, bucket: Bucket) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in the picture's pixels: the largest centred box with the aspect ratio of `bucket`."""
    scale = scale_to(height, width, bucket)
    kept_height, kept_width = min(bucket[0] / scale, height), min(bucket[1] / scale, width)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return left, top, min(left + kept_width, width), min(top + kept_height, height)


def batch_sizes(
    table: Table, base: int, rule: str = "tokens", width: int = 1536, text_tokens: int = MEAN_TEXT_TOKENS
) -> dict[Bucket, int]:
    """How many pictures of each bucket make one micro-batch, so that micro-batches of all buckets cost about the same.

    Args:
        base: pictures in a micro-batch of the smallest base resolution (24 in the paper, at 512).
        rule: "tokens" keeps the image tokens of a micro-batch at or below those of the smallest base; this gives the
            paper's 24, 10 and 6. "flops" brings the operations of the transformer, attention included, as near as whole
            pictures allow; this gives 24, 10 and 5, because attention grows faster than tokens do.
        width: channels of the transformer, for "flops".
        text_tokens: text tokens of a typical caption, for "flops".

    Returns:
        Bucket -> pictures, at least 1. All buckets of one base have the same number, as in the paper.

    Raises:
        ValueError: a `base` below 1, an unknown rule, or a table that is not accepted.
    """
    check_table(table)
    if base < 1:
        raise ValueError(f"base {base} is not accepted; give 1 picture or more")
    if rule not in BATCH_RULES:
        raise ValueError(f"rule {rule!r} is not known; use one of {', '.join(BATCH_RULES)}")

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
    """The paper's table at another size, for smaller models: sides are rounded to whole tokens, repeats are left out.

    Raises:
        ValueError: a factor so small that two base resolutions become one.
    """
    table: dict[int, tuple[Bucket, ...]] = {}
    taken: set[Bucket] = set()
    for base, buckets in TRAINING_BUCKETS.items():
        fresh = dict.fromkeys((_scaled(height, factor), _scaled(width, factor)) for height, width in buckets)
        table[_scaled(base, factor)] = tuple(bucket for bucket in fresh if bucket not in taken)
        taken |= set(fresh)
    if len(table) < len(TRAINING_BUCKETS) or not all(table.values()):
        raise ValueError(f"factor {factor:g} is not accepted: base resolutions fall together; give 1/16 or more")
    return table


def buckets_of(table: Table) -> tuple[Bucket, ...]:
    """Every bucket of a table, in its order."""
    return tuple(bucket for buckets in table.values() for bucket in buckets)


def check_table(table: Table) -> None:
    """Refuse a table without buckets, with a bucket twice, or with a side that is not made of whole tokens.

    Raises:
        ValueError: with the bucket that is wrong.
    """
    buckets = buckets_of(table)
    if not buckets:
        raise ValueError("table has no buckets; give {base resolution: [(height, width), ...]}")
    for bucket in buckets:
        if len(bucket) != 2 or any(side < TOKEN_PIXELS or side % TOKEN_PIXELS for side in bucket):
            raise ValueError(f"bucket {bucket} is not accepted; give (height, width), multiples of {TOKEN_PIXELS}")
        if buckets.count(bucket) > 1:
            raise ValueError(f"bucket {bucket} stands twice in the table; give each once")


def _scaled(pixels: int, factor: float) -> int:
    return max(1, int(pixels * factor / TOKEN_PIXELS + 0.5)) * TOKEN_PIXELS
