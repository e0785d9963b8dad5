"""BatchNorm held still, and BatchNorm that does not remember."""

import pytest
import torch
from conftest import tiny_model
from torch import nn

from advlib.core import batchnorm


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
        model.net(torch.zeros(1, 5, 8, 8))
    assert model.net[1].training and model.net[1].momentum == 0.1


def test_unrecorded_anywhere_is_unrecorded_for_every_model(model, x):
    other, before = tiny_model(1).train(), statistics(model)
    with batchnorm.unrecorded_anywhere():
        found = model(x)
        other(x)
    assert same(statistics(model), before) and same(statistics(other), statistics(tiny_model(1)))
    assert torch.equal(found, model(x)) and not same(statistics(model), before)


@pytest.mark.parametrize("context", [batchnorm.unrecorded, lambda model: batchnorm.unrecorded_anywhere()])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_code_leaves_no_trace_either(model, x, context, backend):
    torch._dynamo.reset()
    run = torch.compile(model, backend=backend)
    wanted, before = run(x), statistics(model)
    assert model.net[1].num_batches_tracked == 1
    with context(model):
        assert torch.allclose(run(x), wanted, atol=1e-6)
    assert same(statistics(model), before)
    run(x)
    assert model.net[1].num_batches_tracked == 2


@pytest.mark.parametrize("context", [batchnorm.unrecorded, lambda model: batchnorm.unrecorded_anywhere()])
def test_statistics_survive_a_batch_that_overflows(model, x, context):
    before = statistics(model)
    with context(model):
        model(x * torch.inf)
    assert same(statistics(model), before)


def test_a_graph_made_before_can_be_differentiated_after(model, x):
    first = model(x).sum()
    with batchnorm.unrecorded(model):
        model(x)
    first.backward()
    assert model.net[0].weight.grad is not None


@pytest.mark.parametrize("context", [batchnorm.fixed, batchnorm.unrecorded])
def test_what_is_no_module_is_refused_by_name(context):
    with pytest.raises(TypeError, match="model: expected an nn.Module"), context(lambda x: x):
        pass


def test_unrecorded_anywhere_puts_back_after_an_error(model):
    with pytest.raises(RuntimeError), batchnorm.unrecorded_anywhere():
        nn.Sequential(model.net[1])(torch.zeros(1, 5, 8, 8))
    assert model.net[1].track_running_stats
