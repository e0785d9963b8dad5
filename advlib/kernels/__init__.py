"""GPU kernels, in Triton: each takes the place of PyTorch code that stays, as what a CPU runs and as the tests' oracle.

There are random numbers (`draws`), random erasure (`erasure`), input diversity (`resizing`), what a step makes of its
gradient (`update`), and what CR-SAM makes of its three (`weights`). Nothing has to be switched on: where a tensor is on
a GPU and Triton is installed, the kernels run. They know tensors and numbers, and nothing else of the package. So far
they have run in Triton's interpreter, and have been compiled for an H100 (sm_90), but no GPU has run them: `make gpu`
compares them with the PyTorch code on one.
"""

from importlib.util import find_spec

import torch

INSTALLED = find_spec("triton") is not None
"""Whether there is a Triton. It is loaded when the first kernel runs, and not before."""


def run_on(x: torch.Tensor) -> bool:
    """Whether kernels make what is made of x. Compilers are given the PyTorch code, which they fuse themselves, and so
    are the transformations of torch.func, which take no operator with a gradient of its own."""
    if torch.compiler.is_compiling() or not x.is_cuda:
        return False
    return INSTALLED and not torch._C._functorch.is_functorch_wrapped_tensor(x)


def dense(x: torch.Tensor) -> tuple[torch.Tensor, torch.memory_format]:
    """x in the layout that it has, contiguous or channels_last; contiguous if it has neither."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return (x, torch.channels_last) if last else (x.contiguous(), torch.contiguous_format)
