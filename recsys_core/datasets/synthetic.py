"""A shop's click log with planted structure, made on the spot: nothing is read.

Every user has a taste: part of it follows from age, gender and city, the rest is the user's own; some of it drifts.
Every item has a style, one of a few in its category. A user clicks item i with probability

    softmax over items of (taste · style(i) + log popularity(i))

in sessions that mostly stay in one category. Popularity follows a power law, favours new items and moves with style.
User fields reveal the taste and item fields the style, with noise and gaps, so that a new user or a new item can
be placed. Interests and prices change now and then, and then their row appears again.

Users are made in blocks and each (day, block) has its own random stream: any block of any day can be made alone, a
longer log begins with the shorter one, and memory holds a block and a few numbers per item.

Shapes: U users of a block, A those active on a day, C categories, P styles per category, S = C * P styles, I items,
N clicks.
"""

import datetime
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys_core.datasets import _shop, base
from recsys_core.datasets._shop import BLOCK_ROWS, Config, Purpose, Shop
from recsys_core.progress import Event, Sink

__all__ = ["Config", "Shop", "interactions", "item_rows", "probabilities", "user_rows", "write"]

_SLICE_ROWS = 1_000_000
_CLICKS_PER_SESSION = 3.0
_STAY_IN_CATEGORY = 0.8
_CHANGE_SHARE = 0.01


def write(config: Config, root: Path, sink: Sink) -> base.Counts:
    """Make the log below `root`, day by day."""
    log = base.LogWriter(root, slices_per_day=-(-config.interactions_per_day // _SLICE_ROWS))
    shop = Shop(config)
    for index in range(config.num_days):
        day = config.first_day + datetime.timedelta(days=index)
        log.write_rows("items", day, (item_rows(shop, index, block) for block in _shop.blocks(shop.num_items(index))))
        log.write_rows("users", day, _users_and_clicks(shop, index, log))
        log.close_day(day)
        sink(Event(stage=base.STAGE, done=index + 1, total=config.num_days, unit="days", message=f"made {day}"))
    return log.close()


def _users_and_clicks(shop: Shop, index: int, log: base.LogWriter) -> Iterator[pa.Table]:
    # A block's users are made once for both tables: at scale no cache holds them until a second pass.
    for block in _shop.blocks(shop.num_users(index)):
        log.add_interactions(interactions(shop, index, block))
        yield user_rows(shop, index, block)


def interactions(shop: Shop, index: int, block: int) -> pa.Table:
    """Return the clicks of one block of users on day `index`: user_id, item_id, timestamp; no pair twice."""
    rng = shop.stream(Purpose.CLICKS, index, block)
    users, items = shop.users(block), shop.stock(index)
    weekend = (shop.config.first_day + datetime.timedelta(days=index)).weekday() >= 5
    sessions_U = rng.poisson(users.activity * (1.2 if weekend else 0.94) / _CLICKS_PER_SESSION)
    number = block * BLOCK_ROWS + np.arange(BLOCK_ROWS)
    sessions_U += _shop.born(number, shop.config.num_users, shop.config.new_users_per_day) == index if index else 0
    sessions_U[number >= shop.num_users(index)] = 0
    active_A = np.flatnonzero(sessions_U)
    shape = (len(active_A), shop.config.num_categories, shop.config.styles_per_category)
    weights_ACP = (shop.preference(block, index, active_A) * items.mass).reshape(shape)
    cumulative_AC = (weights_ACP @ np.ones(shop.config.styles_per_category, np.float32)).cumsum(1)

    session = np.repeat(np.arange(len(active_A)), sessions_U[active_A])
    session_category = _draw(rng, cumulative_AC[session])
    clicks = 1 + rng.poisson(_CLICKS_PER_SESSION - 1, len(session))
    start = np.clip(rng.normal(19.5 * 3600, 4 * 3600, len(session)), 0, base.DAY_SECONDS - 1)
    seconds_N = np.repeat(start, clicks) + _running(1 + rng.exponential(40, clicks.sum()), clicks)

    user_N = np.repeat(session, clicks)
    category_N = np.repeat(session_category, clicks)
    leaves = np.flatnonzero(rng.random(len(user_N)) >= _STAY_IN_CATEGORY)
    category_N[leaves] = _draw(rng, cumulative_AC[user_N[leaves]])
    style_N = category_N * shop.config.styles_per_category + _draw(rng, weights_ACP[user_N, category_N].cumsum(1))
    item_N = items.draw(style_N, rng.random(len(style_N)))

    user_id = number[active_A[user_N]] + 1
    once = np.unique(user_id * (shop.num_items(index) + 1) + item_N, return_index=True)[1]
    midnight = (base.day_number(shop.config.first_day) + index) * base.DAY_SECONDS
    timestamp = midnight + np.minimum(seconds_N, base.DAY_SECONDS - 1).astype(np.int64)
    return pa.table({"user_id": user_id[once], "item_id": item_N[once] + 1, "timestamp": timestamp[once]})


def probabilities(shop: Shop, index: int, user_id: np.ndarray) -> np.ndarray:
    """Return what no model can know, [users, I]: the probability that each user's next click is on each item."""
    items = shop.stock(index)
    rows = np.empty((len(user_id), shop.num_items(index)), np.float32)
    for block in np.unique((user_id - 1) // BLOCK_ROWS):
        mine = np.flatnonzero((user_id - 1) // BLOCK_ROWS == block)
        local = (user_id[mine] - 1) % BLOCK_ROWS
        rows[mine] = shop.preference(int(block), index, local)[:, items.style] * items.popularity
    return rows / rows.sum(1, keepdims=True)


def user_rows(shop: Shop, index: int, block: int) -> pa.Table:
    """Return the rows of one block's users who are new on day `index` or have changed their interests."""
    rng = shop.stream(Purpose.PROFILES, index, block)
    users = shop.users(block)
    number = block * BLOCK_ROWS + np.arange(BLOCK_ROWS)
    born = _shop.born(number, shop.config.num_users, shop.config.new_users_per_day)
    changed = (born < index) & (rng.random(BLOCK_ROWS) < _CHANGE_SHARE) & ~users.missing[:, 2]
    keep = np.flatnonzero(((born == index) | changed) & (number < shop.num_users(index)))
    # The two that suit best, each with a chance of being something else.
    shape = (len(keep), shop.config.num_categories, shop.config.styles_per_category)
    affinity = shop.affinity(block, index, keep).reshape(shape).mean(2)
    interests = np.argsort(-affinity, axis=1)[:, :2]
    strays = rng.random(interests.shape) < 0.15
    interests = np.where(strays, rng.integers(shop.config.num_categories, size=interests.shape), interests)
    missing = users.missing[keep]
    return pa.table(
        {
            "user_id": pa.array(number[keep] + 1),
            "age": pa.array(users.age[keep], mask=missing[:, 0]),
            "gender": _names(["F", "M"], users.gender[keep], missing[:, 1]),
            "city": _names([f"city_{city:02d}" for city in range(_shop.NUM_CITIES)], users.city[keep]),
            "device": _names(list(_shop.DEVICES), users.device[keep]),
            "interests": _lists(_category_names(shop), interests, np.full(len(keep), 2), missing[:, 2]),
        }
    )


def item_rows(shop: Shop, index: int, block: int) -> pa.Table:
    """Return the rows of one block's items that are new on day `index` or have another price."""
    rng = shop.stream(Purpose.PRICES, index, block)
    items = shop.items(block)
    number = block * BLOCK_ROWS + np.arange(BLOCK_ROWS)
    born = _shop.born(number, shop.config.num_items, shop.config.new_items_per_day)
    changed = (born < index) & (rng.random(BLOCK_ROWS) < _CHANGE_SHARE) & ~items.missing[:, 1]
    discount = np.where(changed, rng.uniform(0.6, 1.0, BLOCK_ROWS), 1.0)
    keep = np.flatnonzero(((born == index) | changed) & (number < shop.num_items(index)))
    missing = items.missing[keep]
    brands = [f"brand_{brand:04d}" for brand in range(shop.config.num_styles * _shop.BRANDS_PER_STYLE)]
    tags = [f"tag_{tag:03d}" for tag in range(_shop.NUM_TAGS)]
    return pa.table(
        {
            "item_id": pa.array(number[keep] + 1),
            "category": _names(_category_names(shop), items.style[keep] // shop.config.styles_per_category),
            "brand": _names(brands, items.brand[keep], missing[:, 0]),
            "price": pa.array((items.price * discount).round(2).astype(np.float32)[keep], mask=missing[:, 1]),
            "tags": _lists(tags, items.tags[keep], items.num_tags[keep], missing[:, 2]),
        }
    )


def _category_names(shop: Shop) -> list[str]:
    return [f"category_{category:02d}" for category in range(shop.config.num_categories)]


def _names(names: list[str], index: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    return pa.array(names).take(pa.array(index, mask=missing))


def _lists(names: list[str], index: np.ndarray, lengths: np.ndarray, missing: np.ndarray) -> pa.Array:
    """Return lists of the first `lengths` names of each row of `index`, null where `missing`."""
    lengths = np.where(missing, 0, lengths)
    values = index[np.arange(index.shape[1]) < lengths[:, None]]
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), _names(names, values), mask=pa.array(missing))


def _draw(rng: np.random.Generator, cumulative: np.ndarray) -> np.ndarray:
    """Draw one column per row by its cumulative weights, [N, columns] -> [N]."""
    threshold = rng.random((len(cumulative), 1), dtype=np.float32) * cumulative[:, -1:]
    return (cumulative > threshold).argmax(1)


def _running(gaps: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the running sum within each of the runs that `lengths` cut `gaps` into."""
    total = gaps.cumsum()
    return total - np.repeat((total - gaps)[lengths.cumsum() - lengths], lengths)
