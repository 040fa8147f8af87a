"""Adds up what the images of an evaluation cost: seconds, memory and machine."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from leanlens.evaluate.draw import KeptImage
from leanlens.evaluate.results_json import rounded


def measured_costs(
    images: Sequence[Sequence[KeptImage]], peak_bytes: int | None, kept: Mapping[str, Any]
) -> dict[str, Any]:
    """What drawing took, for `costs.json`.

    Args:
        peak_bytes: the largest memory that drawing took; None where nothing was drawn now.
        kept: the entry of an earlier run, whose memory is kept in that case.
    """
    drawn = [image for row in images for image in row if image.seconds is not None]
    seconds = [image.seconds for image in drawn if image.seconds is not None]
    machines = Counter(image.machine for image in drawn if image.machine)
    return {
        "seconds": {
            "median": rounded(statistics.median(seconds), 4) if seconds else None,
            "mean": rounded(statistics.fmean(seconds), 4) if seconds else None,
            "num": len(seconds),
        },
        "peak_bytes": peak_bytes or kept.get("peak_bytes"),
        "machine": machines.most_common(1)[0][0] if machines else None,
    }
