"""Networks collected along a training, and drawn around one, against the steps of the training and their moments."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from conftest import tiny_model
from torch import nn

from advlib import attacks
from advlib.training.fitting import fit
from advlib.training.recipes import Recipe
from advlib.training.substitutes import BAYESIAN, LGV, FlatMinimum, Posterior, collect, posterior
from advlib.zoo import datasets

SHORT = {"epochs": 2, "batch_size": 8, "bf16": False}


@pytest.fixture(scope="module")
def data():
    return datasets.load("shapes", "train", n=52, size=8), datasets.load("shapes", "val", n=8, size=8)


def weights_along(data, recipe):
    """The state of the network after each step."""
    model, found = tiny_model(scale=1.0), []
    fit(model, *data, recipe, after_step=lambda done: found.append((done, deepcopy(model.state_dict()))))
    assert [done for done, _ in found] == list(range(1, 13))  # 2 epochs of 6 steps
    return [state for _, state in found]


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_recipes_are_the_papers():
    assert (LGV.lr, LGV.epochs, LGV.batch_size, LGV.weight_decay, LGV.schedule) == (0.05, 10, 256, 1e-4, "constant")
    assert BAYESIAN.facts()["wrapper"] == {"name": "FlatMinimum"} and BAYESIAN.batch_size == 1024


# --- LGV -------------------------------------------------------------------------------------------------------------


def test_collected_networks_are_those_after_every_part_of_an_epoch(data):
    model, rows = tiny_model(scale=1.0), []
    before = deepcopy(model.state_dict())
    networks = collect(model, *data, per_epoch=4, report=rows.append, **SHORT)
    along = weights_along(data, replace(LGV, **SHORT))
    wanted = [along[step - 1] for step in (2, 3, 5, 6, 8, 9, 11, 12)]  # of 1.5, 3, 4.5, 6 the steps that reach them
    assert len(networks) == 8 and all(same(n.state_dict(), state) for n, state in zip(networks, wanted, strict=True))
    assert same(model.state_dict(), before) and len(rows) == 2
    assert not any(m.training for n in networks for m in n.modules())


def test_the_seed_decides(data):
    first, again, other = (
        collect(tiny_model(scale=1.0), *data, 1, seed=seed, **SHORT)[-1].state_dict() for seed in (0, 0, 1)
    )
    assert same(first, again) and not same(first, other)


def test_without_a_step_only_the_statistics_move(data):
    model = tiny_model(scale=1.0)
    (network,) = collect(model, *data, 1, lr=0.0, **{**SHORT, "epochs": 1})
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), network.parameters(), strict=True))
    assert not torch.equal(model.net[1].running_mean, network.net[1].running_mean)


# --- the objective ---------------------------------------------------------------------------------------------------


def test_on_a_quadratic_the_step_is_the_gradient_of_loss_and_norm():
    a = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    w = nn.Parameter(torch.tensor([0.7, -0.4], dtype=torch.float64))
    start = w.detach().clone().requires_grad_()
    slope = start @ a
    loss = 0.5 * start @ slope + 0.3 * slope.norm()
    (wanted,) = torch.autograd.grad(loss, start)
    step_of(FlatMinimum([w], rho=0.1, weight=0.3, lr=1.0), w, a)
    assert torch.allclose(start - w, wanted, atol=1e-10)


def step_of(optimizer, w, a):
    def closure():
        optimizer.zero_grad()
        loss = 0.5 * w @ a @ w
        loss.backward()
        return loss

    optimizer.step(closure)


# --- the posterior ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn_from(data):
    return posterior(tiny_model(scale=1.0), *data, moments=4, **SHORT)


def test_moments_are_those_of_the_steps(data, drawn_from):
    along = weights_along(data, replace(BAYESIAN, **SHORT))[::3]  # 4 of 12 steps
    for (name, mean), variance in zip(drawn_from.mean.named_parameters(), drawn_from.variances, strict=True):
        each = torch.stack([state[name] for state in along])
        assert torch.allclose(mean, each.mean(0), atol=1e-6)
        assert torch.allclose(variance, each.var(0, correction=0), rtol=1e-3, atol=1e-8)


def test_statistics_are_measured_at_the_mean(data, drawn_from):
    """One batch of 8 here, a tenth of the images being fewer."""
    model = drawn_from.mean
    with torch.no_grad():
        z = model.net[0]((data[0][:8].x - model.mean) / model.std)
    assert torch.allclose(model.net[1].running_mean, z.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model.net[1].running_var, z.var((0, 2, 3)), rtol=1e-4)


def test_samples_have_the_moments_asked_for(drawn_from):
    weight = torch.stack([n.net[5].weight for n in drawn_from.samples(100, seed=1, scale=0.5, isotropic=0.04)])
    mean, variance = drawn_from.mean.net[5].weight, drawn_from.variances[4]
    unit = (weight - mean) / (0.5 * (variance + 0.04).sqrt())
    assert unit.mean().abs() < 0.02 and (unit.var() - 1).abs() < 0.02
    assert (unit.mean((1, 2)).std() * unit[0].numel() ** 0.5 - 1).abs() < 0.2  # networks by themselves


def test_samples_without_scale_are_the_mean_and_others_are_seeded(drawn_from):
    assert same(drawn_from.samples(2, scale=0)[1].state_dict(), drawn_from.mean.state_dict())
    first, again, other = (drawn_from.samples(2, seed)[1].state_dict() for seed in (0, 0, 1))
    assert same(first, again) and not same(first, other)
    assert torch.equal(first["net.1.running_var"], drawn_from.mean.net[1].running_var)
    assert not same(first, drawn_from.samples(2)[0].state_dict())


def test_attacks_cycle_over_the_samples(drawn_from, x, y):
    networks = drawn_from.samples(3, scale=0)
    mean = attacks.i_fgsm(drawn_from.mean, x, y, 8 / 255, steps=3)
    assert torch.equal(attacks.lgv(networks, x, y, 8 / 255, steps=3), mean)
    assert not torch.equal(attacks.lgv(drawn_from.samples(3, scale=9), x, y, 8 / 255, steps=3), mean)


def test_bad_input(data, drawn_from):
    model = tiny_model()
    for call, error, named in (
        (lambda: collect(model, *data, per_epoch=0), ValueError, "per_epoch"),
        (lambda: collect(model, *data, per_epoch=7, **SHORT), ValueError, "per_epoch=7"),
        (lambda: collect(model, None, data[1], **SHORT), TypeError, "train"),
        (lambda: collect(model, *data), ValueError, "per_epoch=4: an epoch has 0"),
        (lambda: collect(model, *data, lr=-1), ValueError, "lr"),
        (lambda: posterior(model, *data, moments=0), ValueError, "moments"),
        (lambda: posterior(model, *data), ValueError, "batch_size=1024"),
        (lambda: posterior(lambda x: model(x), *data, **SHORT), TypeError, "model"),
        (lambda: drawn_from.samples(0), ValueError, "n=0"),
        (lambda: drawn_from.samples(1, scale=-1), ValueError, "scale"),
        (lambda: drawn_from.samples(1, isotropic=-1), ValueError, "isotropic"),
        (lambda: FlatMinimum(model.parameters(), rho=0), ValueError, "rho"),
        (lambda: FlatMinimum(model.parameters(), weight=-1), ValueError, "weight"),
        (lambda: fit(model, *data, Recipe(**SHORT), after_step=3), TypeError, "after_step"),
    ):
        with pytest.raises(error, match=named):
            call()
    assert isinstance(drawn_from, Posterior)
