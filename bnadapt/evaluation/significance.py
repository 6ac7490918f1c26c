"""What images can show: the interval of an accuracy, and of the difference between two on the same images."""

import math

import numpy as np

from bnadapt.evaluation.results import Difference, Scores

CONFIDENCE = 0.95
Z_95 = 1.959963984540054


def wilson(scores: Scores) -> tuple[float, float]:
    """The 95 % interval of an accuracy by Wilson's score method (JASA 22, 1927), within 0 to 1."""
    count = len(scores.correct)
    return wilson_of(float(np.mean(scores.correct)) if count else 0.0, count)


def wilson_of(share: float, count: float, quantile: float = Z_95) -> tuple[float, float]:
    """The 95 % interval of a share of so many images by Wilson's score method; 0 to 1 without images."""
    if count == 0:
        return 0.0, 1.0
    centre = (share + quantile**2 / (2 * count)) / (1 + quantile**2 / count)
    spread = math.sqrt(share * (1 - share) / count + quantile**2 / (4 * count**2))
    half = quantile * spread / (1 + quantile**2 / count)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def difference(first: Scores, second: Scores, *, resamples: int, seed: int = 0) -> Difference:
    """Accuracy of the first minus the second, with the paired bootstrap's 95 % percentile interval.

    Both scores are of the same images in the same order. Per image the difference is -1, 0 or 1, so that a
    resample of the images is one draw from a multinomial distribution over the three counts
    (Efron & Tibshirani 1993, chapter 13). The p-value is :func:`mcnemar`'s.

    Raises:
        ValueError: the scores are of different numbers of images.
    """
    if first.correct.shape != second.correct.shape:
        raise ValueError(
            f"scores of {first.correct.size} and of {second.correct.size} images cannot be paired"
        )
    per_image = first.correct.astype(int) - second.correct.astype(int)
    images = per_image.size
    lost, gained = int((per_image == -1).sum()), int((per_image == 1).sum())
    shares = np.array([lost, images - lost - gained, gained]) / images
    counts = np.random.default_rng(seed).multinomial(images, shares, size=resamples)
    estimates = (counts[:, 2] - counts[:, 0]) / images
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(estimates, [tail, 1 - tail])
    return Difference(
        estimate=float(per_image.mean()),
        low=float(low),
        high=float(high),
        p_value=mcnemar(gained, lost),
        gained=gained,
        lost=lost,
    )


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided mid-p value of McNemar's test, from the numbers of images that only one of two networks has right.

    Were both right equally often, each such image would be gained or lost like a coin's toss. The exact
    p-value counts the whole probability of what was observed and so is too large, the more so the fewer
    images differ; the mid-p value counts half of it, and keeps to its level in practice (Fagerland, Lydersen
    and Laake, 2013, BMC Medical Research Methodology 13:91). Where no image differs it is 1.
    """
    fewer, images = min(gained, lost), gained + lost
    if images == 0:
        return 1.0
    observed = _tosses(fewer, images)
    if gained == lost:
        return 1 - observed / 2
    return min(2 * math.fsum(_tosses(each, images) for each in range(fewer)) + observed, 1.0)


def _tosses(heads: int, tosses: int) -> float:
    """The probability of so many heads; by logarithms, because the factors leave the range of floats."""
    ways = math.lgamma(tosses + 1) - math.lgamma(heads + 1) - math.lgamma(tosses - heads + 1)
    return math.exp(ways - tosses * math.log(2))
