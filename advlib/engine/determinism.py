"""The same bits in every run on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic() -> Iterator[None]:
    """Meanwhile the same call on the same GPU gives the same bits in every run: operations take algorithms whose order
    of adding is fixed, and convolutions are not chosen by timing them. Slower; on a CPU runs repeat themselves anyway.
    Handed back as it was at the end.

    An operation that has no such algorithm, such as the gradient of a bilinear resize, raises RuntimeError. What cuBLAS
    needs is set unless the environment has it; it counts from the first product on the GPU on, so begin with this. The
    10 bits of TF32, with which torch's convolutions multiply float32 on a GPU unless torch.backends.cudnn.allow_tf32 is
    False, repeat themselves too, and stay as they are."""
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    of_cudnn, workspace = (cudnn.deterministic, cudnn.benchmark), os.environ.get(_WORKSPACE)
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warn)
        cudnn.deterministic, cudnn.benchmark = of_cudnn
        if workspace is None:
            del os.environ[_WORKSPACE]
