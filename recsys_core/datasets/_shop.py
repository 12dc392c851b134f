"""The shop behind the synthetic log: who likes what, what is on the shelves, and how often it is bought.

Everything here is a function of the configuration, a day's index and a block's number, so nothing needs to be kept.

Shapes: U users of a block, A some of them, K latent dimensions, C categories, P styles per category, S = C * P styles,
I items, N clicks.
"""

import datetime
import enum
import functools
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from recsys_core.datasets import base

BLOCK_ROWS = 8192
NUM_CITIES = 40
DEVICES = ("android", "ios", "web")
NUM_TAGS = 120
BRANDS_PER_STYLE = 3
_DIMENSIONS = 8
_AGE_BANDS = ((18, 24), (25, 34), (35, 44), (45, 54), (55, 64), (65, 80))
_AGE_SHARES = (0.2, 0.3, 0.2, 0.14, 0.1, 0.06)
_TAGS_PER_STYLE = 4
_SHARED_TASTE = 0.5
_NOVELTY_BOOST = 3.0
_NOVELTY_DAYS = 3.0
_TREND = 0.3
_TREND_DAYS = 21.0


class Purpose(enum.IntEnum):
    """What numbers are drawn for: each has streams of its own, so that one never shifts another."""

    SPACE = 0
    ITEM_BLOCK = 1
    USER_BLOCK = 2
    CLICKS = 3
    PROFILES = 4
    PRICES = 5


class Config(base.Config):
    """How large the shop is and how strong its structure; `num_users` and `num_items` are there on the first day.

    `taste_strength` is the standard deviation of taste · style over styles: 0 leaves popularity alone. Weights of
    items fall with `popularity_exponent` of their rank. `drift` is the share of a taste that wanders, and after
    half of `drift_days` is the opposite of what it was; `missing_share` of users and items lack a given field.
    """

    kind: Literal["synthetic"] = "synthetic"
    source: None = None
    seed: int = Field(default=0, ge=0)
    first_day: datetime.date = datetime.date(2024, 1, 1)
    num_days: int = Field(default=20, ge=2)
    num_users: int = Field(default=20_000, ge=1)
    new_users_per_day: int = Field(default=300, ge=0)
    num_items: int = Field(default=5_000, ge=1)
    new_items_per_day: int = Field(default=40, ge=0)
    interactions_per_day: int = Field(default=30_000, ge=1)
    num_categories: int = Field(default=24, ge=2)
    styles_per_category: int = Field(default=8, ge=1)
    taste_strength: float = Field(default=4.0, ge=0, le=8)
    popularity_exponent: float = Field(default=0.5, ge=0, lt=1)
    drift: float = Field(default=0.4, ge=0, le=1 - _SHARED_TASTE)
    drift_days: float = Field(default=24.0, gt=0)
    missing_share: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _ends(self) -> Self:
        left = (datetime.date.max - self.first_day).days + 1
        if self.num_days > left:
            raise ValueError(
                f"num_days: {left} days are left from {self.first_day} to {datetime.date.max}; ask for fewer"
            )
        return self

    @property
    def num_styles(self) -> int:
        """Styles of all categories together."""
        return self.num_categories * self.styles_per_category


class Space(NamedTuple):
    """Where tastes and styles live: styles [S, K] of length 1, and what each trait of a user adds [trait, K]."""

    styles: np.ndarray
    ages: np.ndarray
    genders: np.ndarray
    cities: np.ndarray
    signature_tags: np.ndarray
    phase: np.ndarray


class Users(NamedTuple):
    """One block of users, [U] each; taste and where it drifts [U, K]; missing [U, 3 fields]."""

    age: np.ndarray
    gender: np.ndarray
    city: np.ndarray
    device: np.ndarray
    activity: np.ndarray
    taste: np.ndarray
    drift: np.ndarray
    missing: np.ndarray


class Items(NamedTuple):
    """One block of items, [rows] each; tags [rows, 4], of which the first num_tags count; missing [rows, 3 fields]."""

    style: np.ndarray
    weight: np.ndarray
    brand: np.ndarray
    price: np.ndarray
    tags: np.ndarray
    num_tags: np.ndarray
    missing: np.ndarray


class Stock(NamedTuple):
    """What is on the shelves on one day: style and popularity [I], mass [S], and a ladder to draw items of a style."""

    style: np.ndarray
    popularity: np.ndarray
    mass: np.ndarray
    order: np.ndarray
    ladder: np.ndarray
    bounds: np.ndarray

    def draw(self, style_N: np.ndarray, uniform_N: np.ndarray) -> np.ndarray:
        """Return an item (counted from 0) of each style, by popularity."""
        first, last = self.bounds[style_N], self.bounds[style_N + 1]
        rung = self.ladder[first] + uniform_N * (self.ladder[last] - self.ladder[first])
        return self.order[np.clip(np.searchsorted(self.ladder, rung, side="right") - 1, first, last - 1)]


def blocks(rows: int) -> range:
    """Return the numbers of the blocks that hold `rows` rows."""
    return range(-(-rows // BLOCK_ROWS))


def born(number: np.ndarray, at_first: int, per_day: int) -> np.ndarray:
    """Return the day index on which each number, counted from 0, first appears."""
    return np.where(number < at_first, 0, 1 + (number - at_first) // max(per_day, 1))


class Shop:
    """Draws whatever part of the shop is asked for; what was drawn last is kept."""

    def __init__(self, config: Config) -> None:
        """Lay out the space of tastes; nothing else is drawn yet."""
        self.config = config
        self.space = self._space()
        self.users = functools.lru_cache(maxsize=32)(self._users)
        self.items = functools.lru_cache(maxsize=32)(self._items)
        self.stock = functools.lru_cache(maxsize=1)(self._stock)

    def stream(self, purpose: Purpose, *place: int) -> np.random.Generator:
        """Return the random stream of one purpose at one place, such as (day, block); no two share a number."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self.config.seed, purpose, *place))))

    def num_users(self, index: int) -> int:
        """Return how many users are known on day `index`, counted from 0; user_id runs from 1 to that number."""
        return self.config.num_users + self.config.new_users_per_day * index

    def num_items(self, index: int) -> int:
        """Return how many items are known on day `index`; item_id runs from 1 to that number."""
        return self.config.num_items + self.config.new_items_per_day * index

    def affinity(self, block: int, index: int, rows: np.ndarray) -> np.ndarray:
        """Return taste · style of the users in `rows` of a block on day `index`, [A, S]; standard normal over users."""
        angle = 2 * np.pi * index / self.config.drift_days
        towards = self.users(block).drift[rows]
        drift = np.cos(angle) * towards + np.sin(angle) * np.roll(towards, 1, axis=1)
        taste = self.users(block).taste[rows] + np.sqrt(self.config.drift) * drift
        return taste.astype(np.float32) @ self.space.styles.T

    def preference(self, block: int, index: int, rows: np.ndarray) -> np.ndarray:
        """Return e to the power of taste · style, [A, S]; times popularity, a click's probability is proportional."""
        logits = np.float32(self.config.taste_strength) * self.affinity(block, index, rows)
        return np.exp(logits, out=logits)

    def _space(self) -> Space:
        """Draw the space of tastes and styles."""
        rng = self.stream(Purpose.SPACE)
        centres = np.repeat(
            rng.standard_normal((self.config.num_categories, _DIMENSIONS)), self.config.styles_per_category, axis=0
        )
        styles = centres + 0.8 * rng.standard_normal(centres.shape)
        return Space(
            styles=(styles / np.linalg.norm(styles, axis=1, keepdims=True)).astype(np.float32),
            ages=rng.standard_normal((len(_AGE_BANDS), _DIMENSIONS)),
            genders=rng.standard_normal((2, _DIMENSIONS)),
            cities=rng.standard_normal((NUM_CITIES, _DIMENSIONS)),
            signature_tags=rng.integers(NUM_TAGS, size=(self.config.num_styles, _TAGS_PER_STYLE)),
            phase=rng.random(self.config.num_styles),
        )

    def _users(self, block: int) -> Users:
        """Draw one block of users, whole even if its last ones never register."""
        rng, space = self.stream(Purpose.USER_BLOCK, block), self.space
        band = rng.choice(len(_AGE_BANDS), BLOCK_ROWS, p=_AGE_SHARES)
        low, high = np.array(_AGE_BANDS).T
        gender = rng.integers(2, size=BLOCK_ROWS)
        # Large cities are drawn more often than small ones.
        city = (NUM_CITIES * rng.random(BLOCK_ROWS) ** 2).astype(np.int64)
        own, drift = rng.standard_normal((2, BLOCK_ROWS, _DIMENSIONS), dtype=np.float32)
        shared = (space.ages[band] + space.genders[gender] + space.cities[city]) / np.sqrt(3)
        return Users(
            age=rng.integers(low[band], high[band] + 1, dtype=np.int64),
            gender=gender,
            city=city,
            device=rng.integers(len(DEVICES), size=BLOCK_ROWS),
            # Log-normal with mean 1 click, so that a few are busy and many are not.
            activity=rng.lognormal(-0.5, 1.0, BLOCK_ROWS) * self.config.interactions_per_day / self.config.num_users,
            taste=(np.sqrt(_SHARED_TASTE) * shared + np.sqrt(1 - _SHARED_TASTE - self.config.drift) * own).astype(
                np.float32
            ),
            drift=drift,
            missing=rng.random((BLOCK_ROWS, 3)) < self.config.missing_share,
        )

    def _items(self, block: int) -> Items:
        """Draw one block of items, whole even if its last ones are never sold."""
        rng, space = self.stream(Purpose.ITEM_BLOCK, block), self.space
        style = rng.integers(self.config.num_styles, size=BLOCK_ROWS)
        brand = style * BRANDS_PER_STYLE + rng.integers(BRANDS_PER_STYLE, size=BLOCK_ROWS)
        any_brand = rng.integers(self.config.num_styles * BRANDS_PER_STYLE, size=BLOCK_ROWS)
        tags = np.where(
            rng.random((BLOCK_ROWS, _TAGS_PER_STYLE)) < 0.8,
            rng.permuted(space.signature_tags[style], axis=1),
            rng.integers(NUM_TAGS, size=(BLOCK_ROWS, _TAGS_PER_STYLE)),
        )
        return Items(
            style=style,
            # Of I uniform draws the r-th smallest is about r / I: the weights fall with that power of the rank.
            weight=rng.random(BLOCK_ROWS) ** -self.config.popularity_exponent,
            brand=np.where(rng.random(BLOCK_ROWS) < 0.8, brand, any_brand),
            price=np.exp(3 + 0.5 * rng.standard_normal(BLOCK_ROWS) + style % 5 / 2),
            tags=tags,
            num_tags=rng.integers(1, _TAGS_PER_STYLE + 1, size=BLOCK_ROWS),
            missing=rng.random((BLOCK_ROWS, 3)) < self.config.missing_share,
        )

    def _stock(self, index: int) -> Stock:
        """Return the items known on day `index` and how popular each is that day."""
        rows = self.num_items(index)
        drawn = [self.items(block) for block in blocks(rows)]
        style = np.concatenate([block.style for block in drawn])[:rows]
        weight = np.concatenate([block.weight for block in drawn])[:rows]
        first = born(np.arange(rows), self.config.num_items, self.config.new_items_per_day)
        novelty = np.where(first > 0, _NOVELTY_BOOST * np.exp((first - index) / _NOVELTY_DAYS), 0)
        trend = np.exp(_TREND * np.sin(2 * np.pi * (index / _TREND_DAYS + self.space.phase)))
        popularity = weight * (1 + novelty) * trend[style]
        order = np.argsort(style, kind="stable")
        return Stock(
            style=style,
            popularity=popularity.astype(np.float32),
            mass=np.bincount(style, popularity, self.config.num_styles).astype(np.float32),
            order=order,
            ladder=np.concatenate([[0.0], popularity[order].cumsum()]),
            bounds=np.searchsorted(style[order], np.arange(self.config.num_styles + 1)),
        )
