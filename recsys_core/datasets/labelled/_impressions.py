"""Made-up impressions of a shop, day by day, with planted click probabilities; nothing is read.

An impression of item i to user u on day t at position p is clicked with probability

    sigmoid(b + signal * (taste(u, t) · style(i) + quality(brand)) + moment(hour, category) - position_effect * p
            + id_effects * (own(u) + own(i)))

Taste is a sum of what age band, gender and city add, style of what category and brand add: all of them are columns, so
that a model that multiplies embeddings of pairs of columns can express the probability, for a new user or a new item
too. Tastes turn: after half of `drift_days` each is the opposite of what it was. own(u) and own(i) belong to the ids
alone. New users and new items come every day, and new items are shown more than others.

Positions are drawn at random. With `position_by_item` they follow from the item: each has a favour of the system that
shows it, of which its appeal is independent, and what is favoured stands above. What clicks then say of an item is in
part where it stood; what a ranker is after is the click probability of all rows at one position, and it is written too,
where no reader of the rows looks.

With `like_agreement` there is a second label of all rows, `like`, by tastes that agree with those of clicks so far: at
1 what is clicked is liked, at 0 the one says nothing of the other, at -1 what is clicked is disliked.

A clicked row converts with a probability that falls with the price, the more so for the young.

Each cohort of ids and each part of a day has its own random stream: a longer log begins with the shorter one, and
memory holds a part of a day and a few numbers per id. Shapes: B rows of a part, K latent dimensions.
"""

import datetime
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator
from scipy.stats import norm, rankdata

from recsys_core.artifacts import Frozen, write_text
from recsys_core.datasets import base
from recsys_core.progress import Event, Sink

_PART_ROWS = 1 << 18
_DIMENSIONS = 3
_AGES = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
_DEVICES = ("android", "ios", "web")
_NUM_CITIES, _NUM_CATEGORIES, _BRANDS_PER_CATEGORY = 10, 12, 4
_NUM_POSITIONS = 10
_HOURS_PER_MOMENT, _MOMENT_EFFECT = 6, 0.3
_BIAS = -1.2
_NOVELTY_BOOST, _NOVELTY_DAYS = 3.0, 2.0
_WORLD, _USERS, _ITEMS, _ROWS, _FAVOURS, _POSITIONS, _LIKES = range(7)
TRUTH = "_truth"


class Config(Frozen):
    """How large the shop is, and how strong its structure; `num_users` and `num_items` are there on the first day."""

    seed: int = Field(default=0, ge=0)
    first_day: datetime.date = datetime.date(2024, 1, 1)
    num_days: int = Field(default=12, ge=1)
    rows_per_day: int = Field(default=40_000, ge=1)
    num_users: int = Field(default=3_000, ge=1)
    new_users_per_day: int = Field(default=60, ge=0)
    num_items: int = Field(default=800, ge=1)
    new_items_per_day: int = Field(default=20, ge=0)
    signal: float = Field(default=0.6, ge=0, le=8)
    id_effects: float = Field(default=0.1, ge=0, le=8)
    drift_days: float = Field(default=120.0, gt=0)
    position_effect: float = Field(
        default=0.12, ge=0, le=8, description="how much less likely a click is from one position to the next, in logits"
    )
    position_by_item: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="how far an item's position follows from the item: 0 not at all, 1 it alone decides",
    )
    like_agreement: float | None = Field(
        default=None,
        ge=-1,
        le=1,
        description="how far likes go along with clicks, from -1 (against) over 0 (apart) to 1; null: there are none",
    )
    shuffled_days: frozenset[datetime.date] = Field(
        default=frozenset(), description="their labels are shuffled: what a broken join upstream looks like"
    )

    @model_validator(mode="after")
    def _days_are_there(self) -> Self:
        left = (datetime.date.max - self.first_day).days + 1
        if self.num_days > left:
            raise ValueError(f"num_days: {left} days are left from {self.first_day}; ask for fewer")
        days = [self.first_day + datetime.timedelta(days=index) for index in range(self.num_days)]
        if strays := sorted(self.shuffled_days.difference(days)):
            raise ValueError(f"shuffled_days: {strays[0]} is none of {days[0]} to {days[-1]}; name days among them")
        return self


class Attainable(Frozen):
    """One day's rows, and the AUC of their true probabilities: no model can expect a better one; None: not defined.

    `conversion_auc` is over the clicked rows, `like_auc` None without likes. Shuffled labels follow from nothing, so
    that theirs is .5.
    """

    day: datetime.date
    num_rows: int
    num_clicks: int
    num_conversions: int
    auc: float | None
    conversion_auc: float | None
    like_auc: float | None = None


def write(config: Config, root: Path, sink: Sink) -> list[Attainable]:
    """Write `root/ds=YYYY-MM-DD/part-00000.parquet` for each day; what can be attained is in `_attainable.json` too.

    Columns: user_id, age, gender, city, device, item_id, category, brand, price, position, hour, timestamp (Unix
    seconds, ascending), click and conversion (0 or 1), and `like` if there are likes. With `position_by_item`,
    `root/_truth/ds=YYYY-MM-DD/` has `propensity`, the click probability that each row would have at the first position.
    """
    shop, found = _Shop(config), list[Attainable]()
    for index in range(config.num_days):
        day = config.first_day + datetime.timedelta(days=index)
        truths: list[_Truth] = []
        base.write_parquet(root / base.partition(day) / "part-00000.parquet", shop.parts(index, truths))
        truth = _Truth(*map(np.concatenate, zip(*truths, strict=True)))
        if config.position_by_item:
            table = pa.table({"propensity": truth.propensity})
            base.write_parquet(root / TRUTH / base.partition(day) / "part-00000.parquet", [table])
        found.append(_attainable(day, truth))
        sink(Event(stage=base.STAGE, done=index + 1, total=config.num_days, unit="days", message=f"made {day}"))
    write_text(root / "_attainable.json", json.dumps([day.model_dump(mode="json") for day in found], indent=2))
    return found


class _Truth(NamedTuple):
    """Rows with their true probabilities, float64 [B], and what was drawn by them, bool [B].

    `propensity` is the probability of a click if the item stood first. Without likes none is liked.
    """

    click: np.ndarray
    clicked: np.ndarray
    conversion: np.ndarray
    converted: np.ndarray
    propensity: np.ndarray
    like: np.ndarray
    liked: np.ndarray


class _Users(NamedTuple):
    """By user, [rows] each; `own` and `activity` float64."""

    age: np.ndarray
    gender: np.ndarray
    city: np.ndarray
    device: np.ndarray
    activity: np.ndarray
    own: np.ndarray


class _Items(NamedTuple):
    """By item, [rows] each; `born` is the index of the first day on which it is shown."""

    category: np.ndarray
    brand: np.ndarray
    price: np.ndarray
    weight: np.ndarray
    own: np.ndarray
    born: np.ndarray
    favour: np.ndarray


class _Shop:
    """Who is shown what; cohorts of users and items are drawn once, when their first day comes."""

    def __init__(self, config: Config) -> None:
        """Nothing is drawn yet but the space of tastes and styles."""
        self.config = config
        rng = self._stream(_WORLD)
        # Tastes now and after a quarter of the drift, by age band, gender and city; styles by category and brand.
        self._ages, self._genders, self._cities = (
            rng.normal(size=(2, rows, _DIMENSIONS)) * scale
            for rows, scale in ((len(_AGES), 0.7), (2, 0.4), (_NUM_CITIES, 0.6))
        )
        self._categories = rng.normal(size=(_NUM_CATEGORIES, _DIMENSIONS))
        self._brands = rng.normal(size=(_NUM_CATEGORIES * _BRANDS_PER_CATEGORY, _DIMENSIONS)) * 0.5
        self._qualities = rng.normal(size=len(self._brands))
        self._moments = rng.normal(size=(24 // _HOURS_PER_MOMENT, _NUM_CATEGORIES)) * _MOMENT_EFFECT
        likes = self._stream(_LIKES)
        self._liked = tuple(
            likes.normal(size=styles.shape) * s for styles, s in ((self._categories, 1), (self._brands, 0.5))
        )
        self._users = [self._new_users(0, config.num_users)]
        self._items = [self._new_items(0, config.num_items)]

    def parts(self, index: int, truths: list[_Truth]) -> Iterator[pa.Table]:
        """Yield the impressions of day `index`, in the order of time, and append their truth to `truths`."""
        for cohort in range(len(self._users), index + 1):
            self._users.append(self._new_users(cohort, self.config.new_users_per_day))
            self._items.append(self._new_items(cohort, self.config.new_items_per_day))
        users = _Users(*map(np.concatenate, zip(*self._users[: index + 1], strict=True)))
        items = _Items(*map(np.concatenate, zip(*self._items[: index + 1], strict=True)))
        shown = items.weight * (1 + (items.born > 0) * _NOVELTY_BOOST * np.exp((items.born - index) / _NOVELTY_DAYS))
        for start in range(0, self.config.rows_per_day, _PART_ROWS):
            rng = self._stream(_ROWS, index, start)
            stop = min(start + _PART_ROWS, self.config.rows_per_day)
            user_B, item_B = (_draw(rng, weights, stop - start) for weights in (users.activity, shown))
            share_B = (start + np.sort(rng.random(stop - start)) * (stop - start)) / self.config.rows_per_day
            second_B = np.minimum((share_B * base.DAY_SECONDS).astype(np.int64), base.DAY_SECONDS - 1)
            table, truth = self._impressions(rng, index, second_B, user_B, item_B, users, items)
            truths.append(truth)
            yield table

    def _impressions(
        self,
        rng: np.random.Generator,
        index: int,
        second_B: np.ndarray,
        user_B: np.ndarray,
        item_B: np.ndarray,
        users: _Users,
        items: _Items,
    ) -> tuple[pa.Table, _Truth]:
        age_B, category_B, price_B = users.age[user_B], items.category[item_B], items.price[item_B]
        brand_B, hour_B = items.brand[item_B], second_B // 3_600
        position_B = rng.integers(_NUM_POSITIONS, size=len(user_B))
        if self.config.position_by_item:
            position_B = self._positions(index, second_B, items.favour[item_B])
        angle = 2 * np.pi * index / self.config.drift_days
        turn = np.array([np.cos(angle), np.sin(angle)])
        traits = (self._ages, users.age), (self._genders, users.gender), (self._cities, users.city)
        taste_BK = np.sum([np.tensordot(turn, tastes, 1)[trait[user_B]] for tastes, trait in traits], axis=0)
        style_BK = self._categories[category_B] + self._brands[brand_B]
        logit_B = (
            _BIAS
            + self.config.signal * ((taste_BK * style_BK).sum(1) + self._qualities[brand_B])
            + self._moments[hour_B // _HOURS_PER_MOMENT, category_B]
            - self.config.position_effect * position_B
            + self.config.id_effects * (users.own[user_B] + items.own[item_B])
        )
        conversion_logit_B = 0.5 - (0.9 - 0.1 * age_B) * np.log(price_B / 10)
        first_B = logit_B + self.config.position_effect * position_B
        click_B, conversion_B, propensity_B = (
            1 / (1 + np.exp(-logits)) for logits in (logit_B, conversion_logit_B, first_B)
        )
        clicked_B = rng.random(len(user_B)) < click_B
        day = self.config.first_day + datetime.timedelta(days=index)
        if day in self.config.shuffled_days:
            rng.shuffle(clicked_B)
        converted_B = clicked_B & (rng.random(len(user_B)) < conversion_B)
        like_B = self._likes(taste_BK, style_BK, category_B, brand_B)
        liked_B = self._stream(_LIKES, index, int(second_B[0])).random(len(user_B)) < like_B
        likes = {} if self.config.like_agreement is None else {"like": liked_B.astype(np.int8)}
        table = pa.table(
            {
                "user_id": user_B + 1,
                "age": _names(_AGES, age_B),
                "gender": _names(("F", "M"), users.gender[user_B]),
                "city": _names([f"city_{city:02d}" for city in range(_NUM_CITIES)], users.city[user_B]),
                "device": _names(_DEVICES, users.device[user_B]),
                "item_id": item_B + 1,
                "category": _names([f"category_{number:02d}" for number in range(_NUM_CATEGORIES)], category_B),
                "brand": _names([f"brand_{number:02d}" for number in range(len(self._brands))], brand_B),
                "price": price_B,
                "position": position_B + 1,
                "hour": hour_B,
                "timestamp": base.day_number(day) * base.DAY_SECONDS + second_B,
                "click": clicked_B.astype(np.int8),
                "conversion": converted_B.astype(np.int8),
            }
            | likes
        )
        return table, _Truth(click_B, clicked_B, conversion_B, converted_B, propensity_B, like_B, liked_B)

    def _likes(
        self, taste_BK: np.ndarray, style_BK: np.ndarray, category_B: np.ndarray, brand_B: np.ndarray
    ) -> np.ndarray:
        """Return the probabilities of likes [B]; 0 without likes."""
        agreement = self.config.like_agreement
        if agreement is None:
            return np.zeros(len(category_B))
        categories, brands = self._liked
        liked_BK = agreement * style_BK + np.sqrt(1 - agreement**2) * (categories[category_B] + brands[brand_B])
        return 1 / (1 + np.exp(-(_BIAS + self.config.signal * (taste_BK * liked_BK).sum(1))))

    def _new_users(self, cohort: int, rows: int) -> _Users:
        rng = self._stream(_USERS, cohort)
        traits = (rng.integers(number, size=rows) for number in (len(_AGES), 2, _NUM_CITIES, len(_DEVICES)))
        return _Users(*traits, activity=rng.lognormal(sigma=0.8, size=rows), own=rng.normal(size=rows))

    def _new_items(self, cohort: int, rows: int) -> _Items:
        rng = self._stream(_ITEMS, cohort)
        category = rng.integers(_NUM_CATEGORIES, size=rows)
        return _Items(
            category=category,
            brand=category * _BRANDS_PER_CATEGORY + rng.integers(_BRANDS_PER_CATEGORY, size=rows),
            price=np.round(rng.lognormal(np.log(20), 0.7, rows), 2) + 1,
            weight=rng.lognormal(sigma=0.8, size=rows),
            own=rng.normal(size=rows),
            born=np.full(rows, cohort),
            favour=self._stream(_FAVOURS, cohort).normal(size=rows),
        )

    def _positions(self, index: int, second_B: np.ndarray, favour_B: np.ndarray) -> np.ndarray:
        """Return positions from 0 on, all of them about equally frequent: what is favoured stands first."""
        share = self.config.position_by_item
        noise_B = self._stream(_POSITIONS, index, int(second_B[0])).normal(size=len(favour_B))
        place_B = norm.sf(share * favour_B + np.sqrt(1 - share**2) * noise_B)
        return np.minimum((place_B * _NUM_POSITIONS).astype(np.int64), _NUM_POSITIONS - 1)

    def _stream(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, *purpose))


def _draw(rng: np.random.Generator, weights: np.ndarray, rows: int) -> np.ndarray:
    """Return `rows` indices of `weights`, each as often as its share says."""
    ladder = weights.cumsum()
    return np.searchsorted(ladder, rng.random(rows) * ladder[-1], side="right").clip(max=len(weights) - 1)


def _names(names: Sequence[str], numbers: np.ndarray) -> pa.Array:
    return pa.array(names).take(pa.array(numbers))


def _attainable(day: datetime.date, truth: _Truth) -> Attainable:
    clicked = truth.clicked
    return Attainable(
        day=day,
        num_rows=len(clicked),
        num_clicks=int(clicked.sum()),
        num_conversions=int(truth.converted.sum()),
        auc=_auc(truth.click, clicked),
        conversion_auc=_auc(truth.conversion[clicked], truth.converted[clicked]),
        like_auc=_auc(truth.like, truth.liked),
    )


def _auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the AUC from the positives' ranks (Mann-Whitney), ties half."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    return float((rankdata(scores)[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))
