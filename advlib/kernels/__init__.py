"""GPU kernels, in Triton: each takes the place of PyTorch code that stays, as what a CPU runs and as the tests' oracle.

There are random numbers (`draws`), random erasure (`erasure`), input diversity (`resizing`), and what a step makes of
its gradient (`update`). Nothing has to be switched on: where a tensor is on a GPU and Triton is installed, the kernels
run. They know tensors and numbers, and nothing else of the package. Tests without a GPU run them in Triton's
interpreter, and compile them for an H100 (sm_90); `make gpu` compares them with the PyTorch code on a GPU.

On an NVIDIA H200 (torch 2.11, Triton 3.6; batches of 128 and 1024 at 32 pixels and 64 at 224, float32;
data/results/gpu/nvidia_h200.csv) draws and L-inf steps were the bits of the PyTorch code, and so were all values of an
erasure but 0.0002 %, probably pixels next to an edge; at least 99.92 % of those of an L2 step were, and the others at
most 6e-8 off; a resize was up to 5e-5 off, by rounding. In a CUDA graph, where a host launches nothing, draws were 24
to 37 times as fast as the PyTorch code, erasure 20 to 44, resize 10 to 32 and with its way back 5 to 15, an L-inf step
2.3 to 3.7, and an L2 step 4.7 to 7.4. Launched one by one, an L-inf step was 0.96 to 1.6 times as fast.

What CR-SAM makes of its three gradients has no kernel: on that GPU one, in one launch, was 1.08 times as fast as
torch's foreach functions for all weights of a ResNet-18, and by the bytes that it need not move (8 x 45 MB at 4.2 TB/s)
it could save 0.08 ms of a step of 29 ms (batch 512, bfloat16), 0.3 %.
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
