"""What several seeds and the same test images can show: intervals and p-values over both, and Holm's correction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bnadapt.evaluation.results import Difference, Scores
from bnadapt.evaluation.significance import CONFIDENCE, Z_95, difference, wilson_of

NO_SEEDS = 1e-15  # variance of seeds below which rounding made it
NORMAL_FROM = 2_000  # degrees of freedom from which Student's distribution is the normal one


@dataclass(frozen=True)
class Spread:
    """How uncertain a mean over seeds and images is, and where from.

    Attributes:
        estimate: The mean.
        images: Its variance because these images were drawn and not others.
        seeds: Its variance because of the seeds, beyond what the images alone make of them.
        freedom: Degrees of freedom of the sum of both, for Student's distribution; infinite where seeds do not
            scatter.
    """

    estimate: float
    images: float
    seeds: float
    freedom: float

    @property
    def error(self) -> float:
        """Standard error of the estimate."""
        return math.sqrt(self.images + self.seeds)


def spread(values: np.ndarray) -> Spread:
    """Variance of the mean of values of so many seeds on the same images, both of them a sample.

    Values are taken as mean + effect of the seed + effect of the image + the rest, which is the design of studies
    where few readers judge many cases. The variances of the means of seeds and of images hold the rest each; it
    is counted once, and what is left for the seeds is not below zero. Few seeds know their scatter badly, hence
    the degrees of freedom (Hillis, 2007, Statistics in Medicine 26:596-619), at least one less than seeds.

    Args:
        values: Numbers of shape ``(seeds, images)``, such as 1 for a right prediction and 0 for a wrong one.
    """
    seeds, images = values.shape
    mean, of_seeds, of_images = float(values.mean()), values.mean(axis=1), values.mean(axis=0)
    by_images = float(of_images.var(ddof=1)) / images if images > 1 else 0.0
    if seeds == 1 or images == 1:
        return Spread(mean, by_images, 0.0, math.inf)
    by_seeds = float(of_seeds.var(ddof=1)) / seeds
    if by_seeds < NO_SEEDS:
        return Spread(mean, by_images, 0.0, math.inf)
    rest = values - of_seeds[:, None] - of_images + mean
    both = float(np.square(rest).sum()) / ((seeds - 1) * (images - 1)) / values.size
    excess = max(by_seeds - both, 0.0)
    freedom = (seeds - 1) * max((by_images + excess) / by_seeds, 1.0) ** 2
    return Spread(mean, by_images, excess, freedom)


def mean_difference(
    first: Sequence[Scores], second: Sequence[Scores], *, resamples: int, seed: int = 0
) -> Difference:
    """Mean accuracy of the first minus that of the second over seeds, with an interval over seeds and images.

    One seed is :func:`~bnadapt.evaluation.significance.difference`. With several, each resample adds two parts to
    the estimate. Images are drawn with replacement, the same for all seeds and both arms (paired bootstrap); an
    image's sum over seeds is one of few whole numbers, so that a draw of all images is one of a multinomial
    distribution. Of n seeds n - 1 are drawn with replacement, because n of n would scatter too little by the
    factor (n - 1) / n (Rao and Wu, 1988, JASA 83:231-241); their part is scaled to the variance of
    :func:`spread`. The sum is divided by the root of a chi-squared number over its degrees of freedom, as in
    Student's distribution, without which the percentile interval of three seeds holds the truth in some 80 %
    instead of 95 % of cases.

    The p-value is two-sided, never zero, and has the same parts where nothing differs: each image's sum gets a
    coin's sign, as in McNemar's test, and what is exactly as far from zero as the estimate counts half.

    Args:
        first: Scores of one arm, one for each seed.
        second: Of the other arm, of the same images in the same order, the seeds in the same order.
        resamples: Their number.
        seed: Of the resampling.

    Returns:
        The difference; images gained and lost are summed over seeds.

    Raises:
        ValueError: the numbers of seeds or of images differ, or there are none.
    """
    values = paired(first, second)
    if len(first) == 1:
        return difference(first[0], second[0], resamples=resamples, seed=seed)
    gained, lost = int((values == 1).sum()), int((values == -1).sum())
    found = spread(values)
    if gained == lost == 0:
        return Difference(0.0, 0.0, 0.0, 1.0, 0, 0)
    generator = np.random.default_rng(seed)
    of_seeds = _seeds_part(values, found, resamples, generator)
    scale = _student_scale(found.freedom, resamples, generator)
    sums, counts = np.unique(values.sum(axis=0), return_counts=True)
    drawn = generator.multinomial(counts.sum(), counts / counts.sum(), size=resamples) @ sums / values.size
    tail = (1 - CONFIDENCE) / 2
    resampled = found.estimate + (drawn - found.estimate + of_seeds) * scale
    low, high = np.clip(np.quantile(resampled, [tail, 1 - tail]), -1, 1)
    signed = (2 * generator.binomial(counts, 0.5, size=(resamples, len(counts))) - counts) @ sums
    distance = np.abs((signed / values.size + of_seeds) * scale) - abs(found.estimate)
    farther, as_far = (distance > 1e-12).sum(), (np.abs(distance) <= 1e-12).sum()
    p_value = min((1 + farther + as_far / 2) / (resamples + 1), 1.0)
    return Difference(found.estimate, float(low), float(high), float(p_value), gained, lost)


def mean_interval(scores: Sequence[Scores]) -> tuple[float, float]:
    """The 95 % interval of a mean accuracy over seeds and images, within 0 to 1.

    Wilson's interval of as many images as would give the accuracy the standard error that :func:`spread` finds,
    with Student's quantile for the normal one (Korn and Graubard, 1998, Survey Methodology 24:193-201). So one
    seed has Wilson's own, and a network that is right on every image no interval of width zero.
    """
    values = rights(scores)
    found = spread(values.astype(np.float64))
    images = float(values.shape[1])
    if len(scores) > 1 and found.error > 0:
        images = found.estimate * (1 - found.estimate) / found.error**2
    return wilson_of(found.estimate, images, quantile(found.freedom))


def quantile(freedom: float) -> float:
    """What Student's distribution with so many degrees of freedom stays below in absolute value 95 times in 100.

    With t = sqrt(freedom) tan(angle) its density becomes cos(angle) ** (freedom - 1), summed here in small steps.
    """
    if freedom > NORMAL_FROM:
        return Z_95
    angles = np.linspace(0, math.pi / 2, 20_001)
    density = np.cos(angles) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(CONFIDENCE, below / below[-1], angles)))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values corrected for their number by Holm's step-down method, in the order given.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none becomes smaller than the one before it,
    nor larger than 1 (Holm, 1979, Scandinavian Journal of Statistics 6:65-70). Rejecting what lies below 0.05 errs
    once or more often in at most 5 % of comparisons, whatever the tests have to do with each other.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        so_far = max(so_far, min((len(p_values) - rank) * p_values[place], 1.0))
        adjusted[place] = so_far
    return tuple(adjusted)


def paired(first: Sequence[Scores], second: Sequence[Scores]) -> np.ndarray:
    """Per seed and image 1 where only the first is right, -1 where only the second is, else 0; int64.

    Raises:
        ValueError: the numbers of seeds or of images differ, or there are none.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"scores of {len(first)} and of {len(second)} seeds cannot be paired")
    both = rights([*first, *second]).astype(np.int64)
    return both[: len(first)] - both[len(first) :]


def rights(scores: Sequence[Scores]) -> np.ndarray:
    """Whether each image was predicted rightly, of each seed, shape ``(seeds, images)``.

    Raises:
        ValueError: the scores are of different numbers of images.
    """
    images = sorted({each.correct.size for each in scores})
    if len(images) != 1:
        raise ValueError(f"scores of {' and of '.join(map(str, images))} images cannot be paired")
    return np.stack([each.correct for each in scores]).astype(bool)


def _seeds_part(
    values: np.ndarray, found: Spread, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """What the seeds add to each resample: of n seeds n - 1 are drawn, and scaled to the variance that is theirs."""
    seeds = len(values)
    if found.seeds == 0:
        return np.zeros(resamples)
    means = values.mean(axis=1)
    scale = math.sqrt(found.seeds / (means.var(ddof=1) / seeds))
    times = generator.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=resamples)
    return (times @ means / (seeds - 1) - found.estimate) * scale


def _student_scale(freedom: float, resamples: int, generator: np.random.Generator) -> np.ndarray:
    if math.isinf(freedom):
        return np.ones(resamples)
    return np.sqrt(freedom / generator.chisquare(freedom, size=resamples))
