"""Operations that are quick to differentiate twice: the same numbers as torch's own."""

import pytest
import torch
from conftest import grid_images, tiny_model
from torch import nn

from advlib import batchnorm, second_order


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batchnorm_has_the_same_derivatives_of_both_orders_and_statistics(affine, training, layout):
    x = grid_images().double().contiguous(memory_format=layout).requires_grad_()

    def derivatives():
        torch.manual_seed(0)
        layer = nn.BatchNorm2d(3, affine=affine).double().train(training)
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
        inputs = [x, *layer.parameters()]
        out = (torch.cat([layer(x), x], 1) ** 3).sum()  # as in a DenseNet: the gradient is a slice
        first = torch.autograd.grad(out, inputs, create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), inputs)
        return out, *first, *second, layer.running_mean, layer.running_var

    fused = derivatives()
    with second_order.SecondOrder():
        ours = derivatives()
    assert all(torch.allclose(a, b) for a, b in zip(fused, ours, strict=True))


def test_batchnorm_keeps_to_half_precision(x):
    model = tiny_model().train()
    with torch.autocast("cpu", torch.bfloat16):
        fused = model(x).float()
        with second_order.SecondOrder(), batchnorm.unrecorded(model):
            assert torch.allclose(model(x).float(), fused, atol=0.1 * fused.std().item())


@pytest.mark.parametrize("dim", [1, -1])
def test_concatenation_has_the_same_derivatives_of_both_orders(dim):
    x = grid_images().double().requires_grad_()

    def derivatives():
        whole = torch.cat([x, x.detach(), x.sin()], dim)  # of the second part nobody wants a gradient
        weights = torch.arange(whole.numel(), dtype=whole.dtype).view(whole.shape)
        (first,) = torch.autograd.grad((weights * whole**3).sum(), x, create_graph=True)
        return whole, first, *torch.autograd.grad(first.square().sum(), x)

    own = derivatives()
    with second_order.SecondOrder():
        ours = derivatives()
    assert all(torch.allclose(a, b) for a, b in zip(own, ours, strict=True))
