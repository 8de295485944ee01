"""95% confidence intervals of shares, of differences of paired shares, and of medians, by formula: the same at every call."""

import math
from typing import NamedTuple

Z = 1.959964  # of the normal distribution, two-sided 95%


class Estimate(NamedTuple):
    """A value and the ends of its 95% interval."""

    value: float
    low: float
    high: float


def share(count: int, total: int) -> Estimate:
    """``count`` of ``total``, with Wilson's score interval (JASA 22, 1927)."""
    p, z2 = count / total, Z * Z / total
    centre = (p + z2 / 2) / (1 + z2)
    half = Z / (1 + z2) * math.sqrt(p * (1 - p) / total + z2 / (4 * total))
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half))


def paired_difference(first: list[bool], second: list[bool]) -> Estimate:
    """Share of the second less that of the first, on the same items: Newcombe's interval for pairs (method 10, Stat Med 17, 1998)."""
    total = len(first)
    both = sum(a and b for a, b in zip(first, second))
    neither = sum(not a and not b for a, b in zip(first, second))
    ones, twos = sum(first), sum(second)
    one, two = share(ones, total), share(twos, total)
    # The correlation of the pairs, corrected for continuity where it is positive: it narrows the interval.
    cross = both * neither - (ones - both) * (twos - both)
    margins = ones * (total - ones) * twos * (total - twos)
    correlation = (max(cross - total / 2, 0.0) if cross > 0 else cross) / math.sqrt(margins) if margins else 0.0

    def combined(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))

    difference = two.value - one.value
    low = difference - combined(two.value - two.low, one.high - one.value)
    return Estimate(difference, low, difference + combined(two.high - two.value, one.value - one.low))


def median(values: list[float]) -> Estimate:
    """The middle value, with an interval from the order of the values alone; the extremes of fewer than six cover less than 95%."""
    ordered, n = sorted(values), len(values)
    below, chance = 0, 0.5**n  # chance that at most ``below`` values lie under the median
    while chance + math.comb(n, below + 1) * 0.5**n <= 0.025:
        below += 1
        chance += math.comb(n, below) * 0.5**n
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return Estimate(middle, ordered[below], ordered[n - 1 - below])
