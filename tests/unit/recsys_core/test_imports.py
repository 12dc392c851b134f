import gc

import pytest

from recsys_core.imports import importing


@pytest.fixture(autouse=True)
def _collected():
    yield
    gc.enable()


def test_what_is_imported_is_not_collected_then_or_later():
    before = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
        kept = [[]]
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    assert not any(one is kept for one in gc.get_objects())


def test_the_collector_is_on_again_after_an_import_that_fails():
    with pytest.raises(ModuleNotFoundError), importing():
        import recsys_core.nothing  # noqa: F401 # pyright: ignore[reportMissingImports]
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off():
    gc.disable()
    with importing():
        assert not gc.isenabled()
        kept = [[]]
    assert not gc.isenabled()
    assert any(one is kept for one in gc.get_objects())
