"""Summaries of a stream of values in bounded memory, each with the error that it can promise.

Legend: N values that are added together, U of them distinct.
"""

import math

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MANY = 1_024
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mixed(keys: np.ndarray) -> np.ndarray:
    """Scatter uint64 `keys` [N] over all 64-bit numbers, one to one (the finalizer of SplitMix64, Steele et al. 2014).

    Equal keys are equal in every process and on every machine.
    """
    mix = keys + np.uint64(_GOLDEN)
    mix = (mix ^ (mix >> np.uint64(30))) * _FIRST
    mix = (mix ^ (mix >> np.uint64(27))) * _SECOND
    return mix ^ (mix >> np.uint64(31))


class Distinct:
    """How many distinct hashes there were: HyperLogLog (Flajolet et al. 2007) of 2^14 registers.

    The estimator is the corrected raw one of Ertl (New cardinality estimation algorithms for HyperLogLog sketches,
    2017), which needs no tables and is unbiased from one value on.
    """

    _BITS = 14
    _RANKS = 64 - _BITS
    RELATIVE_ERROR = 1.04 / math.sqrt(1 << _BITS)
    """One standard deviation of the estimate over the truth, 0.8 %."""

    def __init__(self) -> None:
        """Start without values."""
        self._registers = np.zeros(1 << self._BITS, dtype=np.uint8)

    def add(self, hashes: np.ndarray) -> None:
        """Take note of uint64 hashes [N]; one that was there before changes nothing."""
        index = (hashes >> np.uint64(self._RANKS)).astype(np.int64)
        rest = hashes & np.uint64((1 << self._RANKS) - 1)
        # 50 bits are exact as a float64, whose exponent counts the leading zeros; zero has the exponent 0.
        _, exponent = np.frexp(rest.astype(np.float64))
        np.maximum.at(self._registers, index, (self._RANKS + 1 - exponent).astype(np.uint8))

    def estimate(self) -> int:
        """Return about how many there were."""
        size = len(self._registers)
        counts = np.bincount(self._registers, minlength=self._RANKS + 2)
        if counts[0] == size:
            return 0
        total = size * _tau(1 - counts[self._RANKS + 1] / size)
        for rank in range(self._RANKS, 0, -1):
            total = 0.5 * (total + counts[rank])
        total += size * _sigma(counts[0] / size)
        return round(size**2 / (2 * math.log(2) * total))


class Quantiles:
    """Quantiles of numbers: a hierarchy of sorted buffers, each value of level h standing for 2^h (Manku et al. 1998).

    A full buffer is sorted and every other value moves up a level. That changes the rank of no value by more than 2^h,
    and the sum of these is kept, so the error is known and not only probable. Memory is one buffer per level.
    """

    def __init__(self, buffer_values: int = 1 << 15) -> None:
        """`buffer_values` is how many values a level may hold before it is halved."""
        self._limit = buffer_values
        self._levels: list[list[np.ndarray]] = []
        self._sizes: list[int] = []
        self._takes_second: list[bool] = []
        self.count = 0
        self.rank_error = 0

    def add(self, values: np.ndarray) -> None:
        """Add numbers [N], rising, of one dtype for all calls, without NaN."""
        self.count += len(values)
        self._push(0, values)

    def add_counted(self, values: np.ndarray, counts: np.ndarray) -> None:
        """Add numbers [U], rising, each `counts` [U] times."""
        self.count += int(counts.sum())
        for level in range(int(counts.max(initial=0)).bit_length()):
            self._push(level, values[(counts >> level) & 1 == 1])

    def weighted(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what is kept: values, rising, and how many each stands for; these sum to `count`."""
        kept = [(values, level) for level, buffers in enumerate(self._levels) for values in buffers]
        values = np.concatenate([values for values, _ in kept])
        weights = np.concatenate([np.full(len(values), 1 << level, dtype=np.int64) for values, level in kept])
        order = np.argsort(values, kind="stable")
        return values[order], weights[order]

    def _push(self, level: int, values: np.ndarray) -> None:
        while level >= len(self._levels):
            self._levels.append([])
            self._sizes.append(0)
            self._takes_second.append(False)
        self._levels[level].append(values)
        self._sizes[level] += len(values)
        if self._sizes[level] < self._limit:
            return
        # Each buffer is in order: many values at once fill one alone, and a stable sort merges what it finds in order.
        buffers = [values for values in self._levels[level] if len(values)]
        ordered = buffers[0] if len(buffers) == 1 else np.sort(np.concatenate(buffers), kind="stable")
        # An odd one stays; which of each two moves up alternates, so that errors cancel.
        odd = len(ordered) % 2
        self._levels[level], self._sizes[level] = [ordered[len(ordered) - odd :]], odd
        moved = ordered[: len(ordered) - odd][int(self._takes_second[level]) :: 2]
        self._takes_second[level] = not self._takes_second[level]
        self.rank_error += 1 << level
        self._push(level + 1, moved.copy())


class Frequent:
    """The most frequent keys: the summary of Misra and Gries (1982), merged as Agarwal et al. (2013) do.

    A count is never too high, and too low by at most `error`, which never exceeds all values ÷ `num_keys`. So each key
    that takes a larger share than that is here.
    """

    def __init__(self, num_keys: int = 4_096) -> None:
        """Keep up to `num_keys` keys."""
        self._limit = num_keys
        self.keys: np.ndarray | None = None
        self.counts = np.zeros(0, dtype=np.int64)
        self.error = 0

    def add(self, keys: np.ndarray, counts: np.ndarray) -> None:
        """Add distinct keys [U] of one dtype for all calls, each `counts` [U] times."""
        keys, counts = self._cut(keys, counts)
        if self.keys is not None:
            keys, place = np.unique(np.concatenate([self.keys, keys]), return_inverse=True)
            both = np.concatenate([self.counts, counts])
            counts = np.bincount(place, weights=both, minlength=len(keys)).astype(np.int64)
        self.keys, self.counts = self._cut(keys, counts)

    def _cut(self, keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(keys) <= self._limit:
            return keys, counts
        least = _largest(counts, self._limit + 1)
        self.error += least
        kept = counts > least
        return keys[kept], counts[kept] - least


def _largest(counts: np.ndarray, number: int) -> int:
    """Return the `number`-th largest of counts ≥ 0; most are small, so that they are counted rather than ordered."""
    above = np.cumsum(np.bincount(np.minimum(counts, _MANY), minlength=_MANY + 1)[::-1])
    value = _MANY - int(np.searchsorted(above, number))
    if value < _MANY:
        return value
    place = len(counts) - number
    return int(np.partition(counts, place)[place])


class Moments:
    """Count, mean, spread and ends of numbers, in float64; parts are joined as Chan, Golub and LeVeque (1979) do."""

    def __init__(self) -> None:
        """Start without values."""
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0
        self.minimum: int | float | None = None
        self.maximum: int | float | None = None
        self.zeros = 0

    def add(self, values: np.ndarray) -> None:
        """Add finite numbers [N]."""
        if not len(values):
            return
        as_float = values.astype(np.float64, copy=False)
        # Numbers near the largest float64 overflow their squares; the standard deviation is then infinite.
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(as_float.mean())
            deviations = as_float - mean
            squares = float(np.dot(deviations, deviations))
            total = self.count + len(values)
            apart = mean - self.mean
            self.mean += apart * len(values) / total
            self._squares += squares + apart**2 * self.count * len(values) / total
        self.count = total
        least, most = values.min().item(), values.max().item()
        self.minimum = least if self.minimum is None else min(self.minimum, least)
        self.maximum = most if self.maximum is None else max(self.maximum, most)
        self.zeros += len(values) - int(np.count_nonzero(values))

    @property
    def std(self) -> float:
        """Standard deviation of all values (of the population, not an estimate from a sample)."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0


def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    step, total, before = 1.0, x, -1.0
    while total != before:
        before = total
        x *= x
        total += x * step
        step += step
    return total


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    step, total, before = 1.0, 1 - x, -1.0
    while total != before:
        before = total
        x = math.sqrt(x)
        step *= 0.5
        total -= (1 - x) ** 2 * step
    return total / 3
