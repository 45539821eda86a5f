"""Intervals of source shares on plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SampleSources", "burst_sizes", "share_intervals"]

# Producers that may be there beside those that were seen: Jeffreys' prior of a count.
UNSEEN = 0.5


@dataclass(frozen=True)
class SampleSources:
    """One cytokine in one sample, by population; every array has shape `(n_populations,)`.

    Attributes
    ----------
    umi, ambient
        UMI, and those that ambient RNA is expected to add.
    made
        Whether the population makes more than ambient RNA explains, over the samples of the arm.
    burst
        UMI of a producer, see :func:`burst_sizes`.
    weight
        Cells of the specimen for each sequenced cell.
    ambient_error
        Relative standard error of the contamination.
    n_samples
        Samples of the arm.
    """

    umi: NDArray[np.float64]
    ambient: NDArray[np.float64]
    made: NDArray[np.bool_]
    burst: NDArray[np.float64]
    weight: NDArray[np.float64]
    ambient_error: float
    n_samples: int


def burst_sizes(
    umi: NDArray[np.float64],
    umi_squared: NDArray[np.float64],
    ambient: NDArray[np.float64],
    n_cells: NDArray[np.float64],
    made: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Variance over mean of what the cells of each population made, over the samples of an arm.

    If few cells are producers this is the UMI of a producer, counted by UMI; the more of them
    are, the less chance there is in their number, and the smaller it gets. Every population is
    drawn towards the mean of all with the weight of one producer.

    Parameters
    ----------
    umi, umi_squared, ambient, n_cells
        Sums over the cells of UMI, of their squares, of the expected ambient RNA, and of ones,
        shape `(n_populations, n_samples)`.
    made
        Whether the population makes more than ambient RNA explains, shape `(n_populations,)`.

    Returns
    -------
    At least 1, shape `(n_populations,)`.
    """
    soup = np.minimum(ambient, umi)
    excess = (umi - soup).sum(axis=1) * made
    centred = umi_squared - umi**2 / np.maximum(n_cells, 1) - soup
    spread = np.maximum(0.0, centred).sum(axis=1) * made
    overall = max(1.0, spread.sum() / excess.sum()) if excess.sum() > 0 else 1.0
    return np.maximum(1.0, (spread + overall**2) / (excess + overall))


def share_intervals(
    sources: SampleSources, *, n_draws: int, level: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval of the source shares of one sample: which cells and UMI were drawn, and ambient RNA.

    Each population is held against all other sources together. What either made is a sum over
    producers that came in by chance (a compound Poisson sum): drawn from a gamma distribution
    with its mean and variance and half a producer more, which may have gone unseen; where the
    samples of the arm show no production, half a producer in all of them. Ambient RNA is drawn too
    large or too small for all together. An interval begins at 0 where ambient RNA could be all of
    the population's UMI, and ends at 1 where it could be all of the others'.

    Parameters
    ----------
    sources
        The sample.
    n_draws
        Draws.
    level
        Confidence level.
    rng
        Source of chance.

    Returns
    -------
    Lower and upper end, missing where the sample has no corrected UMI.
    """
    excess = np.maximum(0.0, sources.umi - sources.ambient) * sources.made
    if not excess.any():
        missing = np.full(len(excess), np.nan)
        return missing, missing
    own, others = _moments(sources)
    soup = np.maximum(0.0, 1 + sources.ambient_error * rng.standard_normal((n_draws, 1)))
    mine, rest = (_draw(moments, soup, rng) for moments in (own, others))
    with np.errstate(invalid="ignore"):
        shares = mine / (mine + rest)
    tail = (1 - level) / 2
    # Without missing values they agree, and nanquantile takes ten times as long.
    quantile = np.nanquantile if np.isnan(shares).any() else np.quantile
    low, high = quantile(shares, [tail, 1 - tail], axis=0)
    largest = 1 + sources.ambient_error * stats.norm.ppf(1 - tail)

    def may_be_ambient(umi: NDArray[np.float64], ambient: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray(stats.poisson.sf(umi - 1, ambient * largest) > tail)

    low[~sources.made | may_be_ambient(sources.umi, sources.ambient)] = 0.0
    others_made = _others(sources.made.astype(np.float64)) > 0
    umi, ambient = (_others(v * sources.made) for v in (sources.umi, sources.ambient))
    high[~others_made | may_be_ambient(umi, ambient)] = 1.0
    return low, high


class _Moments(NamedTuple):
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    ambient: NDArray[np.float64]


def _moments(sources: SampleSources) -> tuple[_Moments, _Moments]:
    """Mean, variance and ambient RNA of each population and of all other sources; weighted."""
    w, burst = sources.weight, sources.burst
    soup = np.minimum(sources.umi, sources.ambient)
    unseen = np.where(sources.made, UNSEEN, UNSEEN / sources.n_samples)
    mean = w * sources.umi
    variance = w**2 * (burst * (sources.umi - soup) + soup)
    ambient = w * sources.ambient
    own = _Moments(mean + unseen * w * burst, variance + unseen * (w * burst) ** 2, ambient)
    rest_mean, rest_variance, rest_ambient = (
        _others(v * sources.made) for v in (mean, variance, ambient)
    )
    made = w * (sources.umi - soup) * sources.made
    size = np.divide(
        _others(made * w * burst), _others(made), out=w * burst, where=_others(made) > 0
    )
    missed = np.where(_others(sources.made.astype(np.float64)) > 0, UNSEEN, unseen.min())
    return own, _Moments(rest_mean + missed * size, rest_variance + missed * size**2, rest_ambient)


def _others(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over all entries but one's own."""
    return np.maximum(0.0, values.sum() - values)


def _draw(
    moments: _Moments, soup: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw totals and take ambient RNA off, shape `(n_draws, n_populations)`."""
    mean, variance, ambient = moments
    drawn = rng.gamma(mean**2 / variance, variance / mean, size=(len(soup), len(mean)))
    return np.maximum(0.0, drawn - ambient * soup)
