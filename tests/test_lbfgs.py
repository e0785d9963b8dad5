"""L-BFGS on a logistic model, where the minimiser for each c is known; the box; images independent of one another."""

import pytest
import torch
from conftest import grid_images, tiny_model

from advlib import lbfgs, minimum_norm


class Logistic:
    """Two classes with logits (0, w.x + b), |w| = 1."""

    def __init__(self):
        w = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
        self.w = w / w.norm()
        self.b = -0.5 * self.w.sum()

    def score(self, x):
        return (x * self.w).sum((1, 2, 3)) + self.b

    def __call__(self, x):
        return torch.stack([torch.zeros(len(x)), self.score(x)], 1)


@pytest.fixture
def near():
    """Images around grey at signed distances from the plane."""
    f, distance = Logistic(), torch.tensor([0.1, -0.3, 0.5, -0.8])
    return f, 0.5 + distance.view(-1, 1, 1, 1) * f.w, distance


def norms(adv, x):
    return (adv - x).flatten(1).norm(dim=1)


@pytest.mark.parametrize("targeted", [True, False])
def test_distance_found_is_that_to_the_hyperplane_and_its_c_four_times_that(targeted, near):
    """min t^2 + c log(1 + e^(m - t)): at the boundary t = m, where the derivative 2 t - c / 2 vanishes for c = 4 m."""
    f, x, distance = near
    y = f(x).argmax(1)
    adv = lbfgs(f, x, y, target=1 - y if targeted else None, searches=14)
    assert (f(adv).argmax(1) != y).all()
    assert ((norms(adv, x) / distance.abs() - 1).abs() < 0.01).all()
    for factor, succeeds in ((3.9, False), (4.1, True)):
        of_c = [lbfgs(f, x[i : i + 1], y[i : i + 1], searches=1, c=factor * distance[i].abs().item()) for i in range(4)]
        assert [bool((found != x[i : i + 1]).any()) for i, found in enumerate(of_c)] == [succeeds] * 4


def test_minimiser_for_one_c_is_where_the_derivative_vanishes(near):
    f, x, distance = near
    y, m, c = f(x).argmax(1), distance.abs().double(), 6.0
    low, high = torch.zeros_like(m), torch.full_like(m, 5.0)
    for _ in range(60):  # 2 t = c sigmoid(m - t)
        t = (low + high) / 2
        below = 2 * t < c * torch.sigmoid(m - t)
        low, high = torch.where(below, t, low), torch.where(below, high, t)
    adv, reached = minimum_norm._quasi_newton(f, x, y, 1.0, torch.full((4,), c), 30, 5)
    assert torch.allclose(norms(adv, x).double(), t, atol=1e-3) and torch.allclose(reached.double(), t, atol=1e-3)
    along = ((adv - x) * f.w).sum((1, 2, 3)).abs()
    assert torch.allclose(along, norms(adv, x), rtol=1e-4)


@pytest.mark.parametrize("memory", [1, 10])
def test_a_quadratic_is_minimised_in_the_box(memory):
    """Its values are correlated, so that the minimum in the box is not that outside cut to it; the reference is found
    by many small steps."""
    root = torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    goal = torch.linspace(-1, 2, 36, dtype=torch.float64).view(3, 12)[:, torch.randperm(12)]
    x = torch.full((3, 3, 2, 2), 0.5, dtype=torch.float64)

    def f(z):  # the log-odds against class 1: minus log of its probability is then the quadratic
        quadratic = ((z.flatten(1) - goal) @ root).square().sum(1) + 50
        return torch.stack([quadratic, torch.zeros_like(quadratic)], 1)

    wanted, hessian = x.flatten(1), 2 * (root @ root.T + torch.eye(12, dtype=torch.float64))
    for _ in range(1000):
        slope = 2 * (wanted - 0.5) + 2 * (wanted - goal) @ root @ root.T
        wanted = (wanted - slope / torch.linalg.matrix_norm(hessian, 2)).clamp(0, 1)
    assert ((wanted == 0) | (wanted == 1)).sum() > 8
    one = torch.ones(3, dtype=torch.float64)
    adv, _ = minimum_norm._quasi_newton(f, x, one.long(), -1.0, one, 150, memory)
    assert torch.allclose(adv.flatten(1), wanted, atol=1e-3)


def test_a_sum_that_bends_downwards_is_followed_to_the_edge_of_the_box():
    """Its curvature is negative everywhere, and no pair of a step and a change of the gradient is of use."""
    x, one = torch.full((1, 1, 2, 2), 0.5), torch.ones(1)
    goal = torch.tensor([[0.4, 0.45, 0.55, 0.6]])

    def f(z):
        bent = 50 - 8 * (z.flatten(1) - goal).square().sum(1)
        return torch.stack([bent, torch.zeros_like(bent)], 1)

    adv, _ = minimum_norm._quasi_newton(f, x, one.long(), -1.0, one, 30, 5)
    assert torch.equal(adv.flatten(1), torch.tensor([[1.0, 1.0, 0.0, 0.0]]))


def test_two_loops_are_the_matrix_that_bfgs_builds():
    """H becomes (1 - r s d^T) H (1 - r d s^T) + r s s^T with each pair, r = 1 / s^T d, from the scale of the newest."""
    torch.manual_seed(0)
    n, root = 12, torch.randn(12, 12, dtype=torch.float64)
    s = torch.randn(3, n, dtype=torch.float64)
    d, g = s @ (root @ root.T + torch.eye(n)).to(s), torch.randn(n, dtype=torch.float64)
    one = torch.eye(n, dtype=torch.float64)
    h = (s[-1] @ d[-1]) / (d[-1] @ d[-1]) * one
    for step, rise in zip(s, d, strict=True):
        r = 1 / (step @ rise)
        h = (one - r * torch.outer(step, rise)) @ h @ (one - r * torch.outer(rise, step)) + r * torch.outer(step, step)
    images = [z.view(-1, 1, 3, 2, 2) for z in (s, d)]
    assert torch.allclose(minimum_norm._two_loops(g.view(1, 3, 2, 2), *images).flatten(), h @ g)
    empty = torch.zeros(4, 1, 3, 2, 2, dtype=torch.float64)
    assert torch.equal(minimum_norm._two_loops(g.view(1, 3, 2, 2), empty, empty).flatten(), g / 2)


def test_a_network_is_fooled_nearer_than_by_its_start_and_in_the_box(model, x, y):
    adv = lbfgs(model, x, y, searches=8, steps=30)
    assert (model(adv).argmax(1) != y).all() and adv.min() >= 0 and adv.max() <= 1
    target = (y + 1 + torch.arange(4)) % 10
    assert torch.equal(model(lbfgs(model, x, y, target=target, searches=8, steps=30)).argmax(1), target)


def test_image_alone_gives_the_same_as_in_a_batch(near):
    f, x, _ = near
    y = f(x).argmax(1)
    whole = lbfgs(f, x, y, steps=10, searches=3)
    alone = torch.cat([lbfgs(f, x[i : i + 1], y[i : i + 1], steps=10, searches=3) for i in range(4)])
    assert torch.allclose(whole, alone, atol=1e-5)


def test_hopeless_image_comes_back_unchanged(x):
    constant = lambda z: 0 * z.flatten(1)[:, :3] + torch.tensor([1.0, 0.0, 0.0])  # noqa: E731
    y = torch.zeros(4, dtype=torch.int64)
    assert torch.equal(lbfgs(constant, x, y, steps=5, searches=2), x)
    assert torch.equal(lbfgs(constant, x, y, steps=5, searches=2, target=y + 2), x)


def test_model_is_handed_back_as_it_was_and_half_precision_too():
    model, x = tiny_model().train(), grid_images()
    y = torch.zeros(4, dtype=torch.int64)
    lbfgs(model, x, y, steps=2, searches=1)
    assert all(m.training for m in model.modules()) and all(
        p.requires_grad and p.grad is None for p in model.parameters()
    )
    adv = lbfgs(lambda z: model(z.float()).to(z.dtype), x.half(), y, steps=2, searches=1)
    assert adv.dtype == torch.float16


@pytest.mark.parametrize("options", [{"searches": 0}, {"c": 0.0}, {"memory": 0}, {"steps": 0}])
def test_bad_argument_is_refused_by_name(options, model, x, y):
    with pytest.raises(ValueError, match=rf"\b{next(iter(options))}\b"):
        lbfgs(model, x, y, **options)
