"""Models that read sequences in their order, against references that know one row and one token at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec import KeyedJaggedTensor

from recsys_core import lookup
from recsys_core.features import SparseFeature, TableSpec
from recsys_core.models.base import TowerInputs
from recsys_core.models.blocks import packing

DIM = 4
TABLES = (
    TableSpec(name="item", num_embeddings=9, embedding_dim=DIM, features=(("clicked", "query"), ("item", "item"))),
    TableSpec(name="city", num_embeddings=3, embedding_dim=2, features=(("city", "query"),)),
)
CLICKED, CITY = SparseFeature("clicked", "item", "none"), SparseFeature("city", "city", "sum")
ITEM = SparseFeature("item", "item", "mean")
ROWS = [[3, 1, 2], [], [4, 4], [5, 6, 7], [8]]
CITIES = [0, 1, 2, 1, 0]


SECTIONS = {
    "fuxi": {"num_blocks": 2, "num_heads": 2, "forward_dim": 5},
    "gru4rec": {"num_layers": 2},
    "hstu": {"num_blocks": 2, "num_heads": 2},
    "sasrec": {"num_blocks": 2, "num_heads": 2, "forward_dim": 5},
}
KINDS = tuple(SECTIONS)


def _model(kind="sasrec", query=(CLICKED,), item=(ITEM,), num_dense=0, **changes):
    torch.manual_seed(0)
    section = {"kind": kind, "output_dim": DIM, "max_length": 3, **SECTIONS[kind], **changes}
    config = lookup.component("recsys_core.models", kind).Config.model_validate(section)
    tables = tuple(table for table in TABLES if any(one.table == table.name for one in (*query, *item)))
    model = lookup.content("recsys_core.models", kind)(
        config,
        tables,
        query=TowerInputs(query, num_dense),
        item=TowerInputs(item, 0),
        tables_device=torch.device("cpu"),
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def _batch(rows, cities=None):
    lengths = torch.tensor([*map(len, rows), *([1] * len(rows))])
    values = [id_ for row in rows for id_ in row]
    items = [number % 9 for number in range(len(rows))]
    if cities is None:
        return KeyedJaggedTensor(["query.clicked", "item.item"], torch.tensor(values + items), lengths=lengths)
    keys = ["query.clicked", "query.city", "item.item"]
    lengths = torch.cat([lengths, torch.ones(len(rows), dtype=lengths.dtype)])
    return KeyedJaggedTensor(keys, torch.tensor(values + cities + items), lengths=lengths)


def _norm(layer, vector):
    mean = sum(vector.tolist()) / len(vector)
    variance = sum((number - mean) ** 2 for number in vector.tolist()) / len(vector)
    return (vector - mean) / math.sqrt(variance + 1e-5) * layer.weight + layer.bias


def _affine(layer, vector):
    return layer.weight @ vector + layer.bias


def _attended(queries, keys, values, place):
    """Softmax attention of one token with two heads, of half the width each, to those up to it."""
    made = []
    for head in (slice(0, 2), slice(2, 4)):
        scores = [float(queries[place][head] @ keys[at][head]) / math.sqrt(2) for at in range(place + 1)]
        total = sum(map(math.exp, scores))
        made.append(sum(math.exp(s) / total * values[at][head] for at, s in enumerate(scores)))
    return torch.cat(made)


def sasrec(encoder, tokens):
    """Return the state behind each token of one row."""
    tokens = [2 * vector + encoder.positions[place] for place, vector in enumerate(tokens)]
    for block in encoder.blocks:
        read = [_affine(block.read[0], _norm(block.attention_norm, token)) for token in tokens]
        queries, keys, values = ([one[at : at + 4] for one in read] for at in (0, 4, 8))
        found = [_attended(queries, keys, values, place) for place in range(len(tokens))]
        tokens = [token + _affine(block.write[0], one) for token, one in zip(tokens, found, strict=True)]
        wide, narrow = block.feed_forward[0], block.feed_forward[2]
        normal = [_norm(block.forward_norm, token) for token in tokens]
        tokens = [t + _affine(narrow, _affine(wide, n).clamp(min=0)) for t, n in zip(tokens, normal, strict=True)]
    return [_norm(encoder.norm, token) for token in tokens]


def _silu(numbers):
    return numbers / (1 + torch.exp(-numbers))


def hstu(encoder, tokens):
    """Likewise. Rows have four tokens at most."""
    tokens = [2 * vector for vector in tokens]
    for block in encoder.blocks:
        read = [_silu(_affine(block.read[0], _norm(block.norm, token))) for token in tokens]
        gates, values, queries, keys = ([one[at : at + 4] for one in read] for at in (0, 4, 8, 12))
        made = []
        for place, token in enumerate(tokens):
            parts = []
            for head in (slice(0, 2), slice(2, 4)):
                scores = [queries[place][head] @ keys[at][head] + block.bias[place - at] for at in range(place + 1)]
                parts.append(sum(_silu(score) / 4 * values[at][head] for at, score in enumerate(scores)))
            made.append(token + _affine(block.write[0], _norm(block.found_norm, torch.cat(parts)) * gates[place]))
        tokens = made
    return [_norm(encoder.norm, token) for token in tokens]


def fuxi(encoder, tokens):
    """Likewise. Rows have four tokens at most."""
    tokens = [2 * vector for vector in tokens]
    for block in encoder.blocks:
        read = [_silu(_affine(block.read[0], _norm(block.norm, token))) for token in tokens]
        queries, keys, values, gates = (
            [one[at:end] for one in read] for at, end in ((0, 4), (4, 8), (8, 12), (12, 20))
        )
        made = []
        for place, token in enumerate(tokens):
            content, distance = [], []
            for head in (slice(0, 2), slice(2, 4)):
                known = [(at, values[at][head]) for at in range(place + 1)]
                content.append(sum(_silu(queries[place][head] @ keys[at][head]) / 4 * value for at, value in known))
                distance.append(sum(block.bias[place - at] * value for at, value in known))
            found = _norm(block.found_norm, torch.cat([*content, *distance])) * gates[place]
            attended = token + _affine(block.write[0], found)
            wide = _affine(block.widen[0], _norm(block.forward_norm, attended))
            made.append(attended + _affine(block.narrow[0], _silu(wide[:5]) * wide[5:]))
        tokens = made
    return [_norm(encoder.norm, token) for token in tokens]


def gru4rec(encoder, tokens):
    """Likewise."""
    tokens = [2 * vector for vector in tokens]
    for layer in range(2):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        of_input, of_state, input_bias, state_bias = (getattr(encoder.layers, f"{name}_l{layer}") for name in names)
        state, states = torch.zeros(DIM), []
        for token in tokens:
            reset_x, update_x, new_x = (of_input @ token + input_bias).chunk(3)
            reset_h, update_h, new_h = (of_state @ state + state_bias).chunk(3)
            reset, update = torch.sigmoid(reset_x + reset_h), torch.sigmoid(update_x + update_h)
            state = (1 - update) * torch.tanh(new_x + reset * new_h) + update * state
            states.append(state)
        tokens = states
    return [_affine(encoder.write, token) for token in tokens]


REFERENCES = {"fuxi": fuxi, "gru4rec": gru4rec, "hstu": hstu, "sasrec": sasrec}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_that_of_one_row_and_one_token_at_a_time(kind):
    model = _model(kind, query=(CLICKED, CITY), num_dense=1)
    dense = torch.tensor([[1.0], [2.0], [0.5], [0.0], [3.0]])
    with torch.no_grad():
        found, items = model(_batch(ROWS, CITIES), dense, torch.zeros(5, 0))
        cities = model.tables.state_dict()["bags.embedding_bags.city.weight"]
        table = model.tables.state_dict()["rows.0.embeddings.item.weight"]
        for number, row in enumerate(ROWS):
            fields = torch.cat([cities[CITIES[number]], dense[number]])
            first = model.query.start + model.query.fields.weight @ fields
            states = REFERENCES[kind](model.query.encoder, [first, *(table[one] for one in row)])
            torch.testing.assert_close(found[number], states[-1], rtol=1e-4, atol=1e-5)
    # An item is the row that the sequence reads too.
    torch.testing.assert_close(items, table[:5])


@pytest.mark.parametrize("kind", KINDS)
def test_each_state_of_a_whole_sequence_is_that_of_its_beginning_alone(kind):
    model = _model(kind, similarity="cosine")
    wanted = [(row, known) for row, ids in enumerate(ROWS) for known in range(len(ids) + 1)]
    rows_T, known_T = (torch.tensor(own) for own in zip(*wanted, strict=True))
    none = torch.zeros(len(ROWS), 0)
    with torch.no_grad():
        states, _ = model(_batch(ROWS), none, none, rows_T, known_T)
        beginnings = [ROWS[row][:known] for row, known in wanted]
        empty = torch.zeros(len(wanted), 0)
        expected, _ = model(_batch(beginnings), empty, empty)
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states.norm(dim=1), torch.ones(len(wanted)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_packed_rows_attend_as_each_alone(lengths):
    starts, rows, widths = packing.pack(torch.tensor(lengths), 6)
    assert widths == sorted(set(lengths), reverse=True)
    assert packing.total(packing.sizes(rows, widths)) == sum(lengths)
    torch.manual_seed(0)
    query, key, value = (torch.randn(sum(lengths), 4) for _ in range(3))
    found = packing.causal_attention(query, key, value, 2, rows, widths)
    places = packing.places(rows, widths, query.device)
    taken = []
    for start, length in zip(starts.tolist(), lengths, strict=True):
        own = slice(start, start + length)
        taken += range(own.start, own.stop)
        assert places[own].tolist() == list(range(length))
        for place in range(length):
            expected = _attended(query[own], key[own], value[own], place)
            torch.testing.assert_close(found[start + place], expected)
    assert sorted(taken) == list(range(sum(lengths)))


def test_what_knows_no_lengths_has_one_block_as_wide_as_rows_may_be():
    def starts(lengths):
        starts, rows, widths = packing.pack(lengths, 4)
        return starts, torch.tensor([rows[0], *widths])

    compiled = torch.compile(starts, backend="eager")
    found, block = compiled(torch.tensor([2, 4, 1]))
    assert found.tolist() == [0, 4, 8]
    assert block.tolist() == [3, 4]


def test_features_that_stand_beside_others_go_through_one_layer():
    both = (CLICKED, SparseFeature("again", "item", "none"))
    assert _model(query=both).query.entries.weight.shape == (DIM, 2 * DIM)
    city = (ITEM, SparseFeature("home", "city", "sum"))
    assert _model(item=city).item.fields.weight.shape == (DIM, DIM + 2)


@pytest.mark.parametrize(
    ("query", "item", "message"),
    [
        ((CITY,), (ITEM,), r"features\.query: no sequence that is not pooled, and model\.kind sasrec reads one in its"),
        ((CLICKED,), (ITEM, CLICKED), "feature 'clicked': pooling none, and sasrec reads sequences of queries, not of"),
        ((CLICKED,), (), r"features\.item: none of ids that is pooled, and a model needs one"),
    ],
)
def test_a_model_without_its_sequence_is_refused(query, item, message):
    with pytest.raises(ValueError, match=message):
        _model(query=query, item=item)


@pytest.mark.parametrize("kind", ["fuxi", "hstu", "sasrec"])
def test_heads_divide_a_state(kind):
    with pytest.raises(ValueError, match=r"model\.num_heads: 3 heads, and model\.output_dim is 4, of which each has"):
        _model(kind, num_heads=3)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_states_are_the_same(kind):
    """They are of one block as wide as rows may be, where the others are of one for each length."""
    model = _model(kind)
    rows_T, known_T = torch.tensor([0, 0, 3, 2, 1]), torch.tensor([0, 3, 2, 1, 0])
    none = torch.zeros(len(ROWS), 0)
    with torch.no_grad():
        expected, _ = model(_batch(ROWS), none, none, rows_T, known_T)
        model.query.compile(dynamic=True, backend="aot_eager")
        found, _ = model(_batch(ROWS), none, none, rows_T, known_T)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
