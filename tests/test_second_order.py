"""Operations that are quick to differentiate twice: the same numbers as torch's own."""

import pytest
import torch
import torch.nn.functional as F
from conftest import grid_images, tiny_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from advlib.core import batchnorm, second_order


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


def twice(loss, inputs):
    """Gradients of the squared gradient, all inputs together."""
    first = torch.autograd.grad(loss, inputs, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)


def test_attention_has_the_second_derivative_of_the_one_written_by_hand():
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    q, k, v = inputs
    by_hand = torch.softmax(q @ k.transpose(-1, -2) / 4**0.5, -1) @ v
    with second_order.SecondOrder():
        ours = F.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(ours, by_hand)
    wanted = twice(by_hand.pow(3).sum(), inputs)
    assert all(torch.allclose(a, b) for a, b in zip(twice(ours.pow(3).sum(), inputs), wanted, strict=True))


def checkpointed(model, x):
    """`tiny_model`, its first half computed again in the backward pass."""
    return model.net[3:](checkpoint(model.net[:3], (x - model.mean) / model.std, use_reentrant=False))


@pytest.mark.parametrize("training", [True, False])
def test_a_checkpointed_network_has_the_same_derivatives_also_after_the_mode_has_ended(x, training):
    found = []
    for call in (lambda model: model(x), lambda model: checkpointed(model, x)):
        model = tiny_model().train(training)
        with second_order.SecondOrder():
            loss = call(model).pow(3).mean()
        found.append([loss, *twice(loss, list(model.parameters())), *model.buffers()])
    assert all(torch.allclose(a, b) for a, b in zip(*found, strict=True))


def test_a_compiled_network_has_the_derivatives_of_the_uncompiled_one(x):
    torch._dynamo.reset()
    model = tiny_model()
    run = torch.compile(model, backend="aot_eager")
    run(x).sum().backward()  # compiled before
    found = []
    for call in (model, run):
        with second_order.SecondOrder():
            found.append(twice(call(x).pow(3).mean(), list(model.parameters())))
    assert all(torch.allclose(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_graphs_are_recorded_where_they_are_switched_off(off):
    w = torch.ones(3, requires_grad=True)
    with off():
        with second_order.graphs():
            (g,) = torch.autograd.grad(w.pow(2).sum(), w)
        assert not w.pow(2).requires_grad
    assert g.tolist() == [2, 2, 2]
