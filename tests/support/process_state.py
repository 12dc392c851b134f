"""What a process has one of, so that all tests of a worker share it: each starts alike, whatever ran before it."""

import contextlib
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator

import numpy as np

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# pytest sets them for each test, and libraries when they are first used.
_FOREIGN = ("PYTEST_", "COV", "KMP_", "TORCH")


@contextlib.contextmanager
def as_it_was() -> Iterator[None]:
    """Afterwards, put back what was changed inside; what is drawn without a seed begins alike too."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - whose state is meant
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)
    put_back = [*_of_python(), *_of_mlflow(), *_of_torch()]
    try:
        yield
    finally:
        for one in put_back:
            one()


def _of_python() -> Iterator[Callable[[], object]]:
    variables, folder, path, arguments = dict(os.environ), os.getcwd(), [*sys.path], [*sys.argv]  # noqa: PTH109
    umask = os.umask(0o77)
    os.umask(umask)

    def put_back() -> None:
        os.chdir(folder)
        os.umask(umask)
        sys.path[:], sys.argv[:] = path, arguments
        for name in os.environ.keys() | variables.keys():
            if name.startswith(_FOREIGN) or os.environ.get(name) == variables.get(name):
                continue
            if name in variables:
                os.environ[name] = variables[name]
            else:
                del os.environ[name]

    yield put_back
    for number in _SIGNALS:
        if (handler := signal.getsignal(number)) is not None:
            yield lambda number=number, handler=handler: signal.signal(number, handler)


def _of_mlflow() -> Iterator[Callable[[], object]]:
    name = "mlflow.tracking._tracking_service.utils"
    uri = getattr(sys.modules.get(name), "_tracking_uri", None)

    def put_back() -> None:
        if (stores := sys.modules.get(name)) is not None:
            stores._tracking_uri = uri

    yield put_back


def _of_torch() -> Iterator[Callable[[], object]]:
    if (torch := sys.modules.get("torch")) is None:
        return
    threads, dtype, graded = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    products, exact = torch.backends.mkldnn.matmul.fp32_precision, torch.are_deterministic_algorithms_enabled()

    def put_back() -> None:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(graded)
        if torch.backends.mkldnn.matmul.fp32_precision != products:
            torch.backends.mkldnn.matmul.fp32_precision = products
        torch.use_deterministic_algorithms(exact)

    yield put_back
