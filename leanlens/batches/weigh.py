"""Computes the weight of each sample in the loss of an optimiser step with micro-batches of different sizes.

Averaging the means of micro-batches, the default of distributed training, gives a sample in a batch of 6 four times the
weight of one in a batch of 24. Here it is a choice.
"""

from collections.abc import Sequence

WEIGHT_MODES = ("sample", "rank")


def sample_weights(counts: Sequence[int], mode: str = "sample") -> list[float]:
    """The weight of one sample in each micro-batch of an optimiser step, over all ranks and accumulation steps.

    The loss of the step is the sum over all samples of weight * loss of the sample (a mean over its own tokens and
    channels); the weights of all samples sum to 1.

    Args:
        counts: samples in each micro-batch of the step.
        mode: "sample" weights all samples equally, "rank" all micro-batches.

    Raises:
        ValueError: an unknown mode, no micro-batches, or an empty one.
    """
    if mode not in WEIGHT_MODES:
        raise ValueError(f"invalid mode {mode!r}: expected one of {', '.join(WEIGHT_MODES)}")
    if not counts or min(counts) < 1:
        raise ValueError(f"invalid counts {list(counts)}: expected one or more samples for each micro-batch")
    if mode == "sample":
        return [1 / sum(counts)] * len(counts)
    return [1 / (len(counts) * count) for count in counts]
