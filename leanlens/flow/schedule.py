"""Computes the time shift `mu` and the noise levels (sigmas) of the denoising steps.

Legend: sigma is the fraction of noise, 1 pure noise and 0 the image; x_sigma = (1 - sigma) x0 + sigma noise; n image
tokens (16 x 16 pixels each); N steps.

Source: the released Lens code, which shares its empirical mu with FLUX.2; Lens, arXiv 2605.21573, for the pipeline.
"""

import math

SHIFT_RULES = ("empirical", "linear", "constant")


def empirical_mu(tokens: int, steps: int) -> float:
    """The time shift of the released code: a line in n fitted at 10 steps and one at 200, interpolated in N.

    Above 4300 tokens, only the 200-step line is used, for any number of steps.
    """
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    slope = (at_200 - at_10) / 190
    return slope * steps + (at_200 - 200 * slope)


def linear_mu(tokens: int, low: float, high: float, low_tokens: int, high_tokens: int) -> float:
    """The straight line through (`low_tokens`, `low`) and (`high_tokens`, `high`), evaluated at `tokens`."""
    return low + (high - low) * (tokens - low_tokens) / (high_tokens - low_tokens)


def shift_mu(scheduler_config: dict, tokens: int, steps: int) -> float:
    """The shift for a scheduler's configuration.

    Its key `shift_rule` is "empirical" (the default, `empirical_mu`), "linear" (`base_shift` and `max_shift` at
    `base_image_seq_len` and `max_image_seq_len`) or "constant" (the logarithm of `shift`).

    Raises:
        ValueError: unknown `shift_rule`.
    """
    rule = scheduler_config.get("shift_rule", "empirical")
    if rule == "empirical":
        return empirical_mu(tokens, steps)
    if rule == "linear":
        keys = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
        return linear_mu(tokens, *(scheduler_config[key] for key in keys))
    if rule == "constant":
        return math.log(scheduler_config["shift"])
    raise ValueError(
        f"invalid shift_rule {rule!r} in the scheduler's configuration: expected one of {', '.join(SHIFT_RULES)}"
    )


def linear_sigmas(steps: int) -> list[float]:
    """N equally spaced levels from 1 down to 1/N, before the shift; the scheduler adds the final 0."""
    return [1.0 - index / steps for index in range(steps)]


def shifted(sigma: float, mu: float) -> float:
    """e^mu / (e^mu + 1/sigma - 1), the exponential time shift; 0 stays 0."""
    return 0.0 if sigma == 0 else math.exp(mu) / (math.exp(mu) + (1 / sigma - 1))


def inference_sigmas(tokens: int, steps: int) -> list[float]:
    """The N + 1 levels of a released Lens pipeline, including the final 0."""
    mu = empirical_mu(tokens, steps)
    return [*(shifted(sigma, mu) for sigma in linear_sigmas(steps)), 0.0]
