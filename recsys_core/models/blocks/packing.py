"""Rows of tokens in their order, packed without padding: rows of one length stand side by side.

    rows      c a0 a1 | c b0 | c | c d0 d1      a token of the query itself, then one of each entry, the oldest first
    packed    c a0 a1   c d0 d1 | c b0 | c      longest rows first
    blocks    2 rows of 3       | 1 of 2 | 1 of 1

A block is a view of the packed tokens, so that attention in it needs neither a mask nor a copy. A compiled or exported
program knows no lengths when it is made: it has one block, whose rows are as long as they may be, zeros at their ends.
What is causal reads nothing behind a token, and so none of them. Legend: B rows, X packed tokens, D width, H heads.
"""

import torch
from torch import Tensor
from torch.nn import functional


def pack(lengths_B: Tensor, most: int) -> tuple[Tensor, list[int], list[int]]:
    """Return where each row of `lengths_B` tokens, one to `most`, starts, and the blocks: their rows, their widths."""
    if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
        return _by_length(lengths_B)
    else:  # noqa: RET505 - TorchScript compiles a branch that is not taken unless it is an `else`
        if torch.compiler.is_compiling():
            num_rows = lengths_B.shape[0]
            return torch.arange(num_rows, device=lengths_B.device) * most, [num_rows], [most]
        return _by_length(lengths_B)


def _by_length(lengths_B: Tensor) -> tuple[Tensor, list[int], list[int]]:
    order_B = torch.argsort(lengths_B, descending=True, stable=True)
    falling_B = lengths_B.index_select(0, order_B)
    starts_B = torch.zeros_like(lengths_B).index_copy(0, order_B, torch.cumsum(falling_B, 0) - falling_B)
    rows: list[int] = []
    widths: list[int] = []
    falling: list[int] = falling_B.tolist()
    for width in falling:
        if len(widths) > 0 and widths[-1] == width:
            rows[-1] += 1
        else:
            rows.append(1)
            widths.append(width)
    return starts_B, rows, widths


def sizes(rows: list[int], widths: list[int]) -> list[int]:
    """Return how many tokens each block has."""
    found: list[int] = []
    for i in range(len(rows)):
        found.append(rows[i] * widths[i])  # noqa: PERF401 - TorchScript's comprehensions read one list
    return found


def total(counts: list[int]) -> int:
    """Return the sum of `counts`."""
    found = 0
    for count in counts:
        found += count
    return found


def causal_attention(
    query_XD: Tensor, key_XD: Tensor, value_XD: Tensor, num_heads: int, rows: list[int], widths: list[int]
) -> Tensor:
    """Return softmax attention [X, D] of each token to itself and to those before it in its row."""
    counts = sizes(rows, widths)
    queries, keys = torch.split(query_XD, counts), torch.split(key_XD, counts)
    values = torch.split(value_XD, counts)
    made: list[Tensor] = []
    for i in range(len(rows)):
        query_BHTD, key_BHTD = heads(queries[i], rows[i], num_heads), heads(keys[i], rows[i], num_heads)
        value_BHTD = heads(values[i], rows[i], num_heads)
        found = functional.scaled_dot_product_attention(query_BHTD, key_BHTD, value_BHTD, is_causal=True)
        made.append(found.transpose(1, 2).reshape(counts[i], query_XD.shape[1]))
    return torch.cat(made)


def heads(tokens: Tensor, num_rows: int, num_heads: int) -> Tensor:
    """Return a block's tokens [rows * T, D] as [rows, H, T, D / H]."""
    return tokens.view(num_rows, -1, num_heads, tokens.shape[1] // num_heads).transpose(1, 2)


def places(rows: list[int], widths: list[int], device: torch.device) -> Tensor:
    """Return each packed token's place in its row, from 0 on, int64 [X]."""
    found: list[Tensor] = []
    for i in range(len(rows)):
        found.append(torch.arange(widths[i], device=device).repeat(rows[i]))  # noqa: PERF401 - see above
    return torch.cat(found)
