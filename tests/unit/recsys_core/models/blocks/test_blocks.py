"""The fast blocks against slow ones that a person can read: values and gradients."""

import functools

import pytest
import torch
from torch import nn

from recsys_core.models.blocks import interaction, target_attention
from recsys_core.models.blocks.embeddings import pool
from recsys_core.models.blocks.interaction import DotInteraction
from recsys_core.models.blocks.jagged import segment_max, segment_sum, spread, tiled
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.target_attention import TargetAttention
from recsys_core.ops import pairs
from recsys_core.ops.linear import linear, outer

LENGTHS = torch.tensor([2, 0, 1], dtype=torch.int32)


def _same_with_gradients(fast, slow, *inputs):
    """Compare outputs, and the gradients of every input under a gradient that differs everywhere."""
    found = []
    for way in (fast, slow):
        copies = [x.clone().requires_grad_() for x in inputs]
        output = way(*copies)
        output.backward(torch.linspace(-1, 1, output.numel()).view_as(output))
        found.append([output.detach(), *(copy.grad for copy in copies)])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right)


def test_interaction_by_hand():
    # Vectors (1, 2), (3, 4), (5, 6): pairs 2·1 = 11, 3·1 = 17, 3·2 = 39.
    parts = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0, 5.0, 6.0]])]
    assert DotInteraction(3, 0)(parts).tolist() == [[11.0, 17.0, 39.0]]
    assert DotInteraction(3, 2)(parts).tolist() == [[1.0, 2.0, 11.0, 17.0, 39.0]]


def _indexed(*parts, kept):
    """Four vectors of width 3."""
    numbers = torch.cat(parts, dim=1)
    vectors = numbers.view(-1, 4, 3)
    rows, columns = torch.tril_indices(4, 4, -1)
    products = torch.bmm(vectors, vectors.transpose(1, 2))[:, rows, columns]
    return torch.cat([numbers[:, :kept], products], dim=1)


@pytest.mark.parametrize("kept", [0, 3, 12])
def test_interaction_and_its_gradient_equal_those_of_indexing(kept):
    block, slow = DotInteraction(4, kept), functools.partial(_indexed, kept=kept)
    _same_with_gradients(lambda *parts: block([*parts]), slow, torch.randn(5, 3), torch.randn(5, 9))
    _same_with_gradients(lambda part: block([part]), slow, torch.randn(5, 12))
    scripted = torch.jit.script(block)
    parts = [torch.randn(2, 3), torch.randn(2, 9)]
    torch.testing.assert_close(scripted(parts), block(parts))
    assert block([part[:0] for part in parts]).shape == (0, kept + 6)


@pytest.fixture(params=["kernel", "torch"])
def by_kernel_or_torch(request, monkeypatch):
    """Run a test with the kernels of the interaction, and as where there is no compiler."""
    if request.param == "torch":
        monkeypatch.setattr(pairs, "are_offered", lambda kind: False)
    elif not pairs.are_offered(torch.float32):
        pytest.skip("no C++ compiler here")


@pytest.mark.usefixtures("by_kernel_or_torch")
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("kept", [0, 3, 12])
def test_interaction_into_a_layer_is_one_after_the_other(kept, relu, monkeypatch):
    # In blocks of which the last one is not full, whatever the number of threads.
    monkeypatch.setattr(interaction, "_BLOCK_ROWS", 2)
    block, layer, num_rows = DotInteraction(4, kept), nn.Linear(kept + 6, 5), 4 * torch.get_num_threads() + 1
    parts = [torch.randn(num_rows, 3), torch.randn(num_rows, 9)]
    of_layer = []

    def fast(*parts):
        return block.into(layer, [*parts], relu=relu)

    def slow(*parts):
        of_layer.extend(parameter.grad.clone() for parameter in layer.parameters())
        layer.zero_grad()
        output = layer(_indexed(*parts, kept=kept))
        return output.relu() if relu else output

    _same_with_gradients(fast, slow, *parts)
    for found, parameter in zip(of_layer, layer.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)
    with torch.no_grad():
        torch.testing.assert_close(fast(*parts), slow(*parts))
    assert fast(*(part[:0] for part in parts)).shape == (0, 5)


@pytest.mark.parametrize("place", ["as it is", "with gaps", "transposed", "transposed with gaps"])
@pytest.mark.parametrize("shape", [(0, 3, 2), (4, 0, 2), (1, 1, 1), (7, 5, 1), (33, 17, 16)])
def test_linear_and_outer_take_views_of_every_kind(place, shape):
    num_rows, num_inputs, num_outputs = shape

    def matrix(height, width):
        gap = int("gaps" in place)
        if "transposed" in place:
            return torch.randn(width, height + gap)[:, :height].T
        return torch.randn(height, width + gap)[:, :width]

    rows, weight, bias = matrix(num_rows, num_inputs), matrix(num_outputs, num_inputs), torch.randn(num_outputs)
    product = (rows[:, None, :] * weight[None]).sum(dim=2)
    torch.testing.assert_close(linear(rows, weight), product)
    torch.testing.assert_close(linear(rows, weight, bias, relu=True), (product + bias).relu())
    torch.testing.assert_close(linear(rows, weight, plus_XZ=product), 2 * product)
    other = matrix(num_rows, num_outputs)
    torch.testing.assert_close(outer(rows, other), (rows[:, :, None] * other[:, None]).sum(dim=0))
    torch.testing.assert_close(outer(other, rows), (other[:, :, None] * rows[:, None]).sum(dim=0))


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_linear_and_outer_are_exact_in_every_type_that_holds_the_numbers(kind):
    left, right, plus = (torch.randint(-3, 4, shape, dtype=kind) for shape in ((7, 5), (4, 5), (7, 4)))
    product = torch.einsum("xy,zy->xz", left.double(), right.double())
    for found, exact in (
        (linear(left, right), product),
        (linear(left, right, plus_XZ=plus), product + plus),
        (linear(left, right, plus[0], relu=True), (product + plus[0]).relu()),
        (outer(left, plus), torch.einsum("xy,xz->yz", left.double(), plus.double())),
    ):
        assert found.dtype == kind
        torch.testing.assert_close(found.double(), exact.double(), rtol=0, atol=0)


@pytest.mark.usefixtures("by_kernel_or_torch")
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kept", [0, 3, 12])
def test_under_autocast_interaction_and_mlp_are_exact_where_its_type_holds_the_numbers(kind, kept, monkeypatch):
    # Whole numbers so small that no product or sum of them is rounded: a wrong place or a wrong factor shows.
    monkeypatch.setattr(interaction, "_BLOCK_ROWS", 2)
    block, layers = DotInteraction(4, kept), mlp(kept + 6, (5,), 2)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape))
    first, *_ = layers.layers
    shapes = ((4 * torch.get_num_threads() + 1, width) for width in (3, 9))
    numbers = [torch.randint(-1, 2, shape).float() for shape in shapes]
    found = []
    for narrow in (True, False):
        layers.zero_grad()
        parts = [part.clone().requires_grad_() for part in numbers]
        with torch.autocast("cpu", kind, enabled=narrow):
            if narrow:
                output = layers.rest(block.into(first, parts, relu=True), first=1)
            else:
                output = nn.Sequential(*layers)(_indexed(*parts, kept=kept))
        assert output.dtype == (kind if narrow else torch.float32)
        output.float().sum().backward()
        grads = [tensor.grad for tensor in (*parts, *layers.parameters())]
        assert {grad.dtype for grad in grads} == {torch.float32}
        found.append([output.detach().float(), *grads])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_segment_sum_by_hand():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert segment_sum(values, LENGTHS).tolist() == [[4.0, 6.0], [0.0, 0.0], [5.0, 6.0]]
    assert segment_sum(values[:0], torch.zeros(2, dtype=torch.int32)).tolist() == [[0.0, 0.0]] * 2


def test_segment_max_by_hand():
    values = torch.tensor([[1.0, -2.0], [3.0, -4.0], [-5.0, 6.0]])
    # Of each column by itself; zeros for the row without values, and only for it.
    assert segment_max(values, LENGTHS).tolist() == [[3.0, -2.0], [0.0, 0.0], [-5.0, 6.0]]
    assert segment_max(values[:0], torch.zeros(2, dtype=torch.int32)).tolist() == [[0.0, 0.0]] * 2


def test_tiled_by_hand():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert tiled(values, LENGTHS, 3).tolist() == [[1, 2, 3, 4, 0, 0], [0] * 6, [5, 6, 0, 0, 0, 0]]
    # What a row has more stays out of the next one.
    assert tiled(values, LENGTHS, 1).tolist() == [[1, 2], [0, 0], [5, 6]]
    assert tiled(values[:0], torch.zeros(2, dtype=torch.int32), 2).tolist() == [[0.0] * 4] * 2


@pytest.mark.parametrize("pooling", ["sum", "mean", "max", "tile"])
@pytest.mark.parametrize("weighted", [False, True])
def test_pooling_and_its_gradient_equal_those_of_a_loop(pooling, weighted):
    lengths = torch.tensor([3, 0, 1, 2])
    weights = torch.tensor([0.5, 2.0, -1.0, 4.0, 0.25, 1.0]) if weighted else None

    def slow(values):
        rows = []
        each = torch.ones(6) if weights is None else weights
        for part, w in zip(values.split(lengths.tolist()), each.split(lengths.tolist()), strict=True):
            if pooling == "tile":
                rows.append(torch.cat([part[:2].flatten(), torch.zeros(6 - part[:2].numel())]))
            elif not len(part):
                rows.append(torch.zeros(3))
            elif pooling == "max":
                rows.append(torch.stack([max(column) for column in part.T]))
            else:
                rows.append(sum(part) / (w.sum() if pooling == "mean" else 1))
        return torch.stack(rows)

    _same_with_gradients(lambda values: pool(values, lengths, pooling, 2, weights), slow, torch.randn(6, 3))


def test_a_mean_over_weights_that_cancel_out_is_the_sum():
    values = torch.tensor([[2.0], [-6.0]])
    assert pool(values, torch.tensor([2]), "mean", 0, torch.tensor([1.0, -1.0])).tolist() == [[-4.0]]


def test_spread_by_hand():
    rows = torch.tensor([[1.0], [2.0], [3.0]])
    assert spread(rows, LENGTHS, 3).tolist() == [[1.0], [1.0], [3.0]]


def test_jagged_gradients_equal_those_of_indexing():
    owners = torch.tensor([0, 0, 2])

    def slow_sum(values):
        return torch.zeros(3, values.shape[1]).index_add(0, owners, values)

    _same_with_gradients(lambda values: segment_sum(values, LENGTHS), slow_sum, torch.randn(3, 4))
    _same_with_gradients(lambda rows: spread(rows, LENGTHS, 3), lambda rows: rows[owners], torch.randn(3, 4))


def test_target_attention_equals_the_paper_row_by_row():
    attention = TargetAttention(3, (5, 4))

    def slow(targets, elements):
        mlp = nn.Sequential(attention.first, attention.rest)
        rows, start = [], 0
        for target, length in zip(targets, LENGTHS.tolist(), strict=True):
            interest = torch.zeros(3)
            for k in elements[start : start + length]:
                interest = interest + mlp(torch.cat([target, k, target - k, target * k])) * k
            rows.append(interest)
            start += length
        return torch.stack(rows)

    targets, elements = torch.randn(3, 3), torch.randn(3, 3)
    _same_with_gradients(lambda t, e: attention(t, e, LENGTHS), slow, targets, elements)
    torch.testing.assert_close(
        torch.jit.script(attention)(targets, elements, LENGTHS), attention(targets, elements, LENGTHS)
    )


@pytest.mark.parametrize("hidden", [(), (5,), (6, 4)])
def test_the_mlp_and_its_gradients_equal_those_of_its_layers(hidden):
    block = mlp(7, hidden, 3)
    found = []
    for way in (block, nn.Sequential(*block)):
        rows = torch.linspace(-2, 2, 35).view(5, 7).requires_grad_()
        block.zero_grad()
        way(rows).square().sum().backward()
        found.append([rows.grad, *(parameter.grad.clone() for parameter in block.parameters())])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right)
    rows = torch.randn(2, 7)
    torch.testing.assert_close(torch.jit.script(block)(rows), block(rows))


def test_the_mlp_drops_in_training_only():
    block = mlp(4, (32,), 1, dropout=0.5)
    rows = torch.ones(1, 4)
    assert len({float(block(rows).detach()) for _ in range(5)}) > 1
    block.eval()
    assert len({float(block(rows).detach()) for _ in range(5)}) == 1


def test_the_gradients_of_mlp_and_interaction_are_those_of_small_differences():
    block, numbers = DotInteraction(4, 3), torch.randn(2, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda part: block([part]), (numbers,))
    layers, rows = mlp(3, (4,), 2).double(), torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layers(x), (rows, *layers.parameters()))


@pytest.mark.parametrize("hidden", [(5,), (5, 4)])
def test_attention_in_blocks_and_its_gradients_equal_those_of_the_whole(hidden, monkeypatch):
    # Blocks of at most three elements: one row of four, two rows of which one is empty, and what is left.
    monkeypatch.setattr(target_attention, "_BLOCK_ELEMENTS", 3)
    lengths = torch.tensor([4, 0, 2, 1, 1, 3, 0])
    attention = TargetAttention(3, hidden)
    found = []
    for way in (attention, attention._plain):
        targets, elements = (torch.linspace(-1, 2, 3 * n).view(n, 3).requires_grad_() for n in (7, 11))
        attention.zero_grad()
        output = way(targets, elements, lengths)
        output.square().sum().backward()
        found.append([output.detach(), targets.grad, elements.grad, *(p.grad.clone() for p in attention.parameters())])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right)


def test_attention_without_any_element_is_zero():
    nothing = torch.empty(0, 3, requires_grad=True)
    output = TargetAttention(3, (5,))(torch.randn(2, 3), nothing, torch.zeros(2, dtype=torch.int64))
    output.sum().backward()
    assert output.tolist() == [[0.0] * 3] * 2
    assert nothing.grad.shape == (0, 3)
