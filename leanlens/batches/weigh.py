"""How much each sample counts in the loss of an optimiser step whose micro-batches differ in size.

Comes in: how many samples each micro-batch holds. Goes out: a weight for each sample. Knows nothing of losses.

Averaging the means of micro-batches, which distributed training does when nobody decides, gives a sample of a batch of
6 four times the weight of one in a batch of 24. Here it is a choice.
"""

from collections.abc import Sequence

WEIGHT_MODES = ("sample", "rank")


def sample_weights(counts: Sequence[int], mode: str = "sample") -> list[float]:
    """The weight of one sample in each micro-batch of an optimiser step, over all ranks and all accumulation.

    The loss of the step is the sum over all samples of weight * loss of the sample (a mean over its own tokens and
    channels); the weights of all samples sum to 1.

    Args:
        counts: samples in each micro-batch of the step.
        mode: "sample": every sample counts the same. "rank": every micro-batch counts the same.

    Raises:
        ValueError: an unknown mode, no micro-batches, or one without samples.
    """
    if mode not in WEIGHT_MODES:
        raise ValueError(f"mode {mode!r} is not known; use one of {', '.join(WEIGHT_MODES)}")
    if not counts or min(counts) < 1:
        raise ValueError(f"counts {list(counts)} is not accepted; give one or more samples for each micro-batch")
    if mode == "sample":
        return [1 / sum(counts)] * len(counts)
    return [1 / (len(counts) * count) for count in counts]
