"""The compiled pairs against products of whole matrices, and what happens where nothing can be compiled."""

import sys

import pytest
import torch

from recsys_core.ops import native, pairs


@pytest.fixture
def compiled():
    if native.library("pairs") is None:
        pytest.skip("no C++ compiler here")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A cache folder of the test's own, and a memory of no library."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    yield tmp_path / "dayline" / "kernels"
    native.library.cache_clear()


def _whole(parts, num_vectors, kept):
    numbers = torch.cat(parts, dim=1)
    vectors = numbers.unflatten(1, (num_vectors, -1))
    rows, columns = torch.tril_indices(num_vectors, num_vectors, -1)
    return torch.cat([numbers[:, :kept], (vectors @ vectors.mT)[:, rows, columns]], dim=1)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
# Vectors and widths below, at and above what is computed together (4 vectors, 16 numbers).
@pytest.mark.parametrize(("num_vectors", "width"), [(2, 1), (4, 16), (5, 24), (18, 3), (27, 16), (37, 40)])
def test_pairs_and_their_gradient_equal_those_of_whole_matrices(num_vectors, width, kind):
    torch.manual_seed(0)
    for kept in {0, width, num_vectors * width}:
        parts = [torch.randn(7, width), torch.randn(7, (num_vectors - 1) * width)]
        asked = [part.requires_grad_() for part in parts]
        whole = _whole(asked, num_vectors, kept)
        filled = whole.shape[1]
        outputs = torch.full((7, filled + 3), torch.nan, dtype=kind)
        pairs.multiply([part.detach() for part in parts], num_vectors, kept, into_BS=outputs)
        assert outputs[:, filled:].eq(0).all()
        exact = whole.detach()
        tolerance = {"rtol": 1e-5, "atol": 1e-4} if kind == torch.float32 else {"rtol": 2**-8, "atol": 1e-2}
        torch.testing.assert_close(outputs[:, :filled].float(), exact, **tolerance)
        given = torch.randn(7, filled + 3).to(kind)
        expected = torch.autograd.grad(whole, asked, given[:, :filled].float())
        into = [torch.full_like(part, torch.nan) for part in parts]
        pairs.differentiate([part.detach() for part in parts], num_vectors, kept, given, into=into)
        for found, own in zip(into, expected, strict=True):
            torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("compiled")
def test_bfloat16_is_rounded_as_torch_rounds_it():
    numbers = torch.tensor([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1e-40, 3.4e38, torch.inf, -torch.inf, torch.nan]])
    outputs = torch.empty(1, 9, dtype=torch.bfloat16)
    pairs.multiply([numbers], 2, 8, into_BS=outputs)
    torch.testing.assert_close(outputs[:, :8], numbers.bfloat16(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("compiled")
def test_a_kernel_is_compiled_once(fresh, monkeypatch):
    assert native.library("pairs") is not None
    (made,) = fresh.iterdir()
    written = made.stat().st_mtime_ns
    native.library.cache_clear()
    assert native.library("pairs") is not None
    assert [made.stat().st_mtime_ns] == [path.stat().st_mtime_ns for path in fresh.iterdir()] == [written]


def test_without_a_compiler_or_with_one_that_fails_torch_does_the_work(fresh, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not pairs.are_offered(torch.float32)
    assert not pairs.are_offered(torch.float32)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pairs: the kernel is not compiled (no C++ compiler no-such-compiler; install g++")
    native.library.cache_clear()
    with monkeypatch.context() as nowhere:
        nowhere.delenv("CXX")
        nowhere.delenv("XDG_CACHE_HOME")
        nowhere.delenv("HOME", raising=False)
        nowhere.setattr(native.shutil, "which", lambda name: name)
        assert not pairs.are_offered(torch.float32)
    assert "neither HOME nor XDG_CACHE_HOME" in capsys.readouterr().err
    native.library.cache_clear()
    monkeypatch.setenv("CXX", f"{sys.executable} -c \"import sys; sys.exit('cannot do this')\"")
    assert not pairs.are_offered(torch.float32)
    assert "cannot do this" in capsys.readouterr().err
    assert not [*fresh.iterdir()]
