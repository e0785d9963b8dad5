"""Operations that are quick to differentiate twice: the same numbers as torch's own."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from conftest import Counted, grid_images, tiny_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from advlib.core import batchnorm, second_order


def normal(*shape, layout=torch.contiguous_format):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)
    return drawn.contiguous(memory_format=layout).requires_grad_()


CONVOLUTIONS = {
    "plain": {"padding": 1},
    "without bias": {"bias": False, "padding": 1},
    "grouped, with a stride": {"groups": 2, "stride": 2, "padding": (1, 0)},
    "depthwise, dilated": {"groups": 6, "dilation": (1, 2), "padding": 2, "bias": False},
    "named padding": {"padding": "same", "groups": 3},
    "padded in turn": {"padding": 1, "padding_mode": "circular"},
}


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("first_by", ["image", "weights", "both"])
def test_a_convolution_has_the_same_derivatives_of_both_orders(options, layout, first_by):
    x = normal(3, 6, 9, 8, layout=layout)

    def derivatives():
        torch.manual_seed(0)
        layer = nn.Conv2d(6, 12, 3, **options).double()
        of_weights, everything = list(layer.parameters()), [x, *layer.parameters()]
        by = {"image": [x], "weights": of_weights, "both": everything}[first_by]
        out = layer(x)
        first = torch.autograd.grad(out.pow(3).sum(), by, create_graph=True)
        return out, *first, *torch.autograd.grad(sum(g.pow(2).sum() for g in first), everything)

    own = derivatives()
    with second_order.SecondOrder():
        ours = derivatives()
    assert all(torch.allclose(a, b) for a, b in zip(own, ours, strict=True))


def test_a_convolution_of_one_image_without_a_batch():
    layer, x = nn.Conv2d(3, 4, 3).double(), grid_images(1).double()[0]
    with second_order.SecondOrder():
        assert torch.equal(layer(x), layer(x[None])[0])


def test_the_second_derivative_of_a_convolution_costs_the_same_for_any_number_of_groups():
    def operations(groups):
        x, layer = normal(2, 12, 8, 8), nn.Conv2d(12, 12, 3, groups=groups).double()
        with Counted() as counted:
            with second_order.SecondOrder():
                (first,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
            first.pow(2).sum().backward()
        return counted.calls

    assert operations(1) == operations(3) == operations(12)


def test_a_pass_to_the_images_does_not_pay_for_the_weights():
    """One product for each convolution, where with that of the weights it would be two."""
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 5, 3)), grid_images().requires_grad_()
    backward = torch.ops.aten.convolution_backward.default
    for wanted, products in (([x], 2), ([x, *model.parameters()], 4), (list(model.parameters()), 3)):
        with second_order.SecondOrder(), Counted() as counted:
            torch.autograd.grad(model(x).sum(), wanted, create_graph=True)
        assert counted.calls[backward] == products


def test_a_convolution_on_a_device_without_autocast():
    x = torch.zeros(2, 3, 8, 8, device="meta", requires_grad=True)
    with second_order.SecondOrder():
        assert nn.Conv2d(3, 4, 3, device="meta")(x).shape == (2, 4, 6, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_convolution_has_the_precision_of_autocast(dtype):
    """float64 is left as it is."""
    x, layer = grid_images().to(dtype).requires_grad_(), nn.Conv2d(3, 8, 3).to(dtype)
    found = []
    for mode in (nullcontext, second_order.SecondOrder):
        with torch.autocast("cpu", torch.bfloat16):
            with mode():
                out = layer(x)
                (first,) = torch.autograd.grad(out.pow(3).float().sum(), x, create_graph=True)
            second = torch.autograd.grad(first.pow(2).sum(), layer.weight)
        found.append([out, first, *second])
    own, ours = found
    assert [t.dtype for t in ours] == [t.dtype for t in own]
    assert own[0].dtype == (torch.bfloat16 if dtype == torch.float32 else torch.float64)
    near = 0.05 if dtype == torch.float32 else 1e-12
    assert all((a - b).float().norm() <= near * a.float().norm() for a, b in zip(own, ours, strict=True))


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
