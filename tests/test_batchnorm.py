"""BatchNorm held still, and BatchNorm that does not remember."""

import pytest
import torch
from conftest import grid_images, tiny_model
from torch import nn

from advlib import batchnorm


@pytest.fixture
def model():
    return tiny_model().train()


def statistics(model):
    return {name: value.clone() for name, value in model.named_buffers() if "running" in name or "tracked" in name}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_fixed_is_eval_mode_and_hands_the_mode_back(model, x):
    before = statistics(model)
    with batchnorm.fixed(model):
        assert torch.allclose(model(x), tiny_model()(x), atol=1e-5)
    assert same(statistics(model), before) and model.net[1].training


def test_unrecorded_normalises_by_the_batch_and_leaves_no_trace(model, x):
    before, momentum = statistics(model), model.net[1].momentum
    with batchnorm.unrecorded(model):
        found = model(x)
    assert same(statistics(model), before) and model.net[1].momentum == momentum
    assert torch.equal(found, model(x)) and not same(statistics(model), before)


@pytest.mark.parametrize("context", [batchnorm.fixed, batchnorm.unrecorded])
def test_everything_is_put_back_after_an_error(model, context):
    with pytest.raises(RuntimeError), context(model):
        model(torch.zeros(1, 5, 8, 8))
    assert model.net[1].training and model.net[1].momentum == 0.1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_differentiable_form_has_the_same_derivatives_of_both_orders_and_statistics(affine, training, layout):
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
    with batchnorm.Differentiable():
        ours = derivatives()
    assert all(torch.allclose(a, b) for a, b in zip(fused, ours, strict=True))


def test_the_differentiable_form_keeps_to_half_precision(model, x):
    with torch.autocast("cpu", torch.bfloat16):
        fused = model(x).float()
        with batchnorm.Differentiable(), batchnorm.unrecorded(model):
            assert torch.allclose(model(x).float(), fused, atol=0.1 * fused.std().item())
