"""Measures of sharpness against quadratics, an explicit Hessian and Fisher matrix, and other closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import grid_images
from test_curvature import exact_hessian, flat, quadratic
from torch import nn

from advlib import curvature
from advlib.curvature import mean_loss, quadrature
from advlib.sharpness import (
    effective_dimension,
    epsilon_sharpness,
    fisher_rao_norm,
    frobenius_norm,
    local_entropy,
    output_entropy,
    pac_bayes,
)
from advlib.zoo import datasets


@pytest.fixture
def net():
    """conv, BatchNorm, softplus, linear, in double precision, in train mode: 3 classes, fewer than 200 weights."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    net[1].running_var.uniform_(0.5, 2)
    return Doubled(net)


class Doubled(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.double())


@pytest.fixture
def data():
    images = (grid_images(12) * 255).round().to(torch.uint8)
    return datasets.Images(images, torch.arange(12) % 3, torch.arange(12), ("a", "b", "c"), "shapes", "test")


DIAGONAL = [[3.0, 0, 0], [0, 5, 0], [0, 0, 1]]


# --- in a box, and around --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_sharpness_of_a_plane_and_at_the_bottom_of_a_bowl_is_that_of_the_furthest_corner(seed):
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    slope, r = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), 0.01 * (w.detach().abs() + 1)
    found = epsilon_sharpness(lambda: [w @ slope + 1], [w], eps=0.01, seed=seed)
    assert found == pytest.approx((r @ slope.abs() / (1 + 1 + 5.25)).item())
    loss, w = quadratic(DIAGONAL, [0.0, 0, 0])
    assert epsilon_sharpness(loss, w, eps=0.1, seed=seed) == pytest.approx(0.5 * 9 * 0.1**2)


def test_sharpness_finds_the_best_corner_of_a_valley():
    loss, (w,) = quadratic([[4.0, 1.5], [1.5, 2]], [0.3, -1.0])
    start, before, r = loss()[0].item(), w.detach().clone(), 0.05 * (w.detach().abs() + 1)
    corners = torch.cartesian_prod(*(torch.tensor([-1.0, 1.0], dtype=torch.float64) for _ in range(2)))
    with torch.no_grad():
        highest = max(loss()[0].item() for c in corners if w.copy_(before + c * r) is not None)
        w.copy_(before)
    assert epsilon_sharpness(loss, [w], eps=0.05) == pytest.approx((highest - start) / (1 + start))


@pytest.mark.parametrize("relative", [False, True])
def test_pac_bayes_of_a_round_bowl_is_the_closed_form(relative):
    w = torch.full((4000,), 2.0, dtype=torch.float64, requires_grad=True)
    sigma = pac_bayes(lambda: [1.5 * w.square().sum()], [w], tolerance=0.3, relative=relative, precision=1e-4)
    # The rise is 1.5 n sigma^2, since opposite draws take the slope out.
    assert sigma == pytest.approx((0.3 / (1.5 * 4000)) ** 0.5 / (2 if relative else 1), rel=0.02)


def test_pac_bayes_of_errors_and_of_what_never_rises():
    w = torch.ones(2000, dtype=torch.float64, requires_grad=True)
    # The share of weights below 0: a tenth of a normal distribution of mean 1 is, at sigma 1 / 1.2816.
    sigma = pac_bayes(lambda: [(w < 0).double().mean()], [w], tolerance=0.1, draws=4, precision=1e-3)
    assert sigma == pytest.approx(1 / 1.2816, rel=0.02)
    assert pac_bayes(lambda: [0 * w.sum()], [w]) == math.inf
    assert pac_bayes(lambda: [(w != 1).double().mean()], [w]) == 0


def test_local_entropy_of_a_bowl_is_the_closed_form_and_of_a_floor_0():
    loss, w = quadratic(DIAGONAL, [0.0, 0, 0])
    wanted = -0.5 * sum(math.log(1 + h / 20) for h in (3, 5, 1))
    assert local_entropy(loss, w, gamma=20.0, draws=1000) == pytest.approx(wanted, abs=0.01)
    assert local_entropy(lambda: [0 * w[0].sum() + 3], w, gamma=1.0) == pytest.approx(0)


# --- of networks -----------------------------------------------------------------------------------------------------


def fisher_matrix(net, data, labels):
    """The mean over images of the sum over classes of p g g', g being the gradient of log p."""
    weights, total = curvature.weights(net), 0
    for k in range(len(data)):
        log_p = net(data[k : k + 1].x).log_softmax(1)[0]
        for c, lp in enumerate(log_p):
            g = flat(torch.autograd.grad(lp, weights, retain_graph=True))
            share = float(c == data.labels[k]) if labels else lp.exp().detach()
            total = total + share * torch.outer(g, g) / len(data)
    return total


@pytest.mark.parametrize("labels", [False, True])
def test_fisher_rao_norm_is_that_of_the_explicit_fisher_matrix(net, data, labels):
    net.eval()
    w = flat(curvature.weights(net))
    wanted = (w @ fisher_matrix(net, data, labels) @ w).sqrt().item()
    assert fisher_rao_norm(net, data, labels=labels) == pytest.approx(wanted)
    assert fisher_rao_norm(net, data, batch_size=5, labels=labels) == pytest.approx(wanted)


def test_fisher_rao_norm_of_a_rectifier_network_is_its_depth_times_the_spread_of_its_logits(data):
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(192, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.ReLU()]
    net = Doubled(nn.Sequential(*layers, nn.Linear(8, 3, bias=False)).double())
    z = net(data.x).detach()
    p = z.softmax(1)
    variance = (p * z**2).sum(1) - (p * z).sum(1) ** 2
    assert fisher_rao_norm(net, data) == pytest.approx(3 * variance.mean().sqrt().item())


def test_fisher_rao_norm_is_of_the_weights_that_are_trained(net, data):
    net.eval()
    whole = fisher_rao_norm(net, data)
    net.net[0].requires_grad_(False)
    w = flat(curvature.weights(net))
    wanted = (w @ fisher_matrix(net, data, False) @ w).sqrt().item()
    assert fisher_rao_norm(net, data) == pytest.approx(wanted) != whole


def test_entropy_of_outputs(net, data):
    uniform = lambda x: torch.zeros(len(x), 3)  # noqa: E731
    assert output_entropy(uniform, data) == pytest.approx(math.log(3))
    assert output_entropy(lambda x: 1e4 * F.one_hot(torch.ones(len(x), dtype=torch.int64), 3).float(), data) == 0
    p = net.eval()(data.x).softmax(1)
    assert output_entropy(net, data, batch_size=5) == pytest.approx(-(p * p.log()).sum(1).mean().item())


# --- of the Hessian --------------------------------------------------------------------------------------------------


def test_frobenius_norm_of_a_diagonal_hessian_is_exact_with_one_probe():
    loss, w = quadratic(DIAGONAL, [1.0, 2, 3])
    found = frobenius_norm(loss, w, probes=1)
    assert found.value == pytest.approx(35**0.5) and found.standard_error == math.inf and found.probes == 1
    assert frobenius_norm(loss, w, probes=3).standard_error == pytest.approx(0, abs=1e-12)
    assert frobenius_norm(lambda: [w[0].sum()], w, probes=2).value == 0


def test_frobenius_norm_of_a_network_is_within_its_error_and_no_matter_how_many_at_once(net, data):
    net.eval()
    loss, weights = mean_loss(net, data), curvature.weights(net)
    h = exact_hessian(loss, weights)
    square, exact = h @ h, h.norm().item()
    found = frobenius_norm(loss, weights, probes=300, per_graph=100)
    assert abs(found.value - exact) < 4 * found.standard_error < 0.3 * exact
    variance = 2 * (square.square().sum() - square.diagonal().square().sum()).item() / 300
    assert found.standard_error == pytest.approx(variance**0.5 / (2 * exact), rel=0.25)
    few, again = frobenius_norm(loss, weights, 10, per_graph=10), frobenius_norm(loss, weights, 10, per_graph=3)
    assert few.value == pytest.approx(again.value) != frobenius_norm(loss, weights, 10, seed=1).value


def test_quadrature_is_exact_for_polynomials_of_twice_its_steps(net, data):
    net.eval()
    loss, weights = mean_loss(net, data), curvature.weights(net)
    h = exact_hessian(loss, weights)
    generator = torch.Generator().manual_seed(3)
    for nodes, mass in quadrature(loss, weights, probes=2, steps=3, seed=3):
        q = flat([torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights])
        q = q / q.norm()
        assert mass.sum().item() == pytest.approx(1)
        for k in (1, 2, 5):
            assert (mass @ nodes**k).item() == pytest.approx((q @ torch.linalg.matrix_power(h, k) @ q).item())


def test_effective_dimension_of_a_round_bowl_is_exact():
    w = torch.ones(50, dtype=torch.float64, requires_grad=True)
    found = effective_dimension(lambda: [1.5 * w.square().sum()], [w], z=2.0, probes=2)
    assert found.value == pytest.approx(50 * 3 / 5) and found.standard_error == pytest.approx(0, abs=1e-9)


def test_effective_dimension_of_a_network_is_within_its_error_and_grows_as_the_prior_fades(net, data):
    net.eval()
    loss, weights = mean_loss(net, data), curvature.weights(net)
    h = exact_hessian(loss, weights)
    eigenvalues, vectors = torch.linalg.eigh(h)
    before = 0.0
    for z in (1.0, 0.1):
        share = eigenvalues.clamp(min=0) / (eigenvalues.clamp(min=0) + z)
        found, exact = effective_dimension(loss, weights, z=z, probes=10), share.sum().item()
        assert abs(found.value - exact) < 4 * found.standard_error < exact
        assert found.value > before
        before = found.value
    whole = effective_dimension(loss, weights, z=0.1, probes=1, steps=len(h), seed=5)
    generator = torch.Generator().manual_seed(5)
    q = flat([torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights])
    assert whole.value == pytest.approx((len(h) * share @ (vectors.T @ q / q.norm()).square()).item(), rel=1e-6)


def test_eigenvalues_below_0_count_nothing():
    loss, w = quadratic([[-0.5, 0], [0, -0.5]], [1.0, 2])
    assert effective_dimension(loss, w, z=0.5, probes=2).value == 0


# --- what is handed back, and what is refused ------------------------------------------------------------------------


def test_the_network_is_handed_back_as_it_was(net, data):
    loss, weights = mean_loss(net, data), curvature.weights(net)
    before = [t.clone() for t in net.state_dict().values()]
    with torch.no_grad():
        epsilon_sharpness(loss, weights, steps=2)
        pac_bayes(loss, weights, draws=1, precision=1.0)
        local_entropy(loss, weights, gamma=100.0, draws=1)
        frobenius_norm(loss, weights, probes=1)
        effective_dimension(loss, weights, probes=1, steps=2)
        fisher_rao_norm(net, data)
        output_entropy(net, data)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before, strict=True))
    assert net.training and all(p.grad is None for p in weights)


MEASURES = {
    "epsilon_sharpness": lambda loss, w: epsilon_sharpness(loss, w, eps=0.1, steps=2),
    "pac_bayes": pac_bayes,
    "local_entropy": lambda loss, w: local_entropy(loss, w, gamma=1.0),
    "frobenius_norm": lambda loss, w: frobenius_norm(loss, w, probes=2),
    "effective_dimension": lambda loss, w: effective_dimension(loss, w, probes=2),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_loss_that_changes_or_is_not_finite_is_refused_and_weights_come_back(name):
    w = torch.ones(3, requires_grad=True)
    calls = []

    def changing():
        calls.append(0)
        return [(w.square().sum() * len(calls)) ** 2]

    for loss in (changing, lambda: [w.square().sum() * float("nan")]):
        with pytest.raises(ValueError, match="loss: "):
            MEASURES[name](loss, [w])
        assert torch.equal(w, torch.ones(3))


def test_a_negative_loss_has_no_relative_sharpness():
    w = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="loss: expected finite values of at least 0"):
        epsilon_sharpness(lambda: [-w.sum()], [w])


def test_a_network_without_trained_weights_has_no_fisher_rao_norm(net, data):
    with pytest.raises(ValueError, match="model: has no weights that are trained"):
        fisher_rao_norm(net.requires_grad_(False), data)
