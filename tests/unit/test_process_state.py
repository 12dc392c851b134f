"""What a test leaves changed in its process is put back for the next."""

import os
import random
import signal
import sys
from pathlib import Path

import mlflow
import numpy as np
import torch
from process_state import as_it_was


def test_what_was_changed_is_put_back_and_draws_begin_alike(tmp_path: Path) -> None:
    names = ("PATH", "HOME", "LEFT_BEHIND", "MLFLOW_TRACKING_URI")
    variables = {name: os.environ.get(name) for name in names}
    before = Path.cwd(), [*sys.path], [*sys.argv], signal.getsignal(signal.SIGTERM)
    threads, precision, uri = (
        torch.get_num_threads(),
        torch.backends.mkldnn.matmul.fp32_precision,
        mlflow.get_tracking_uri(),
    )
    drawn = []
    for _ in range(2):
        with as_it_was():
            drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))  # noqa: NPY002
            os.chdir(tmp_path)
            os.environ["PATH"], os.environ["LEFT_BEHIND"] = "nowhere", "1"
            del os.environ["HOME"]
            sys.path.insert(0, "nowhere")
            sys.argv[:] = ["nothing"]
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            torch.set_num_threads(threads + 1)
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"
            mlflow.set_tracking_uri("http://127.0.0.1:9")
    assert {name: os.environ.get(name) for name in names} == variables
    assert (Path.cwd(), [*sys.path], [*sys.argv], signal.getsignal(signal.SIGTERM)) == before
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == (
        threads,
        torch.float32,
        True,
    )
    assert (torch.backends.mkldnn.matmul.fp32_precision, mlflow.get_tracking_uri()) == (precision, uri)
    assert drawn[0] == drawn[1]
