"""GNP against closed forms and exact Hessian-vector products; its sign, its draws, its limits."""

from functools import partial

import pytest
import torch
from conftest import grid_images, tiny_model
from torch import nn

from advlib import GNP, RandomErasure, attack, attacks, gradient, norm_penalty, smoothed
from advlib.core.draws import Draw
from advlib.core.norms import NORMS, l2_norm
from advlib.gradients import Gradient, cross_entropy


@pytest.fixture
def draw(x):
    return Draw(0, torch.arange(len(x)))


def quadratic(curvature, slope):
    """A gradient function whose loss is 1/2 z'Az + b'z, z: the flattened image."""

    def loss(z, y):
        return 0.5 * ((z @ curvature) * z).sum(1) + z @ slope

    return gradient(nn.Flatten(), loss=loss)


def smooth_model(x, seed=0):
    """tanh and a linear map in float64: three times differentiable, unlike a ReLU network."""
    generator = torch.Generator().manual_seed(seed)
    n = x[0].numel()
    first, last = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((n, 16), (16, 10)))
    return lambda images: torch.tanh(images.flatten(1) @ first / n**0.5) @ last


def exact_penalty_gradient(model, x, y):
    """H g / ||g|| of the cross-entropy per image, by double backward: the derivative of ||g|| (thesis eq. 3.3)."""
    point = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(cross_entropy(model(point), y).sum(), point, create_graph=True)
    return torch.autograd.grad(g.flatten(1).norm(dim=1).sum(), point)[0], g.detach()


@pytest.mark.parametrize("unit", ["l2", "mean"])
@pytest.mark.parametrize(("r", "beta"), [(0.01, 0.8), (-0.1, 0.8), (0.5, -0.3)])
def test_quadratic_loss_gives_the_closed_form(unit, r, beta, draw):
    x = grid_images().double()
    generator = torch.Generator().manual_seed(0)
    n = x[0].numel()
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((n, n), (n,)))
    a = a + a.T
    g1 = (x.flatten(1) @ a + b).view_as(x)
    direction = g1 / NORMS[unit](g1)
    wanted = g1 - beta * r * (direction.flatten(1) @ a).view_as(x)
    found = norm_penalty(quadratic(a, b), r, beta, unit)(x, torch.zeros(len(x), dtype=torch.int64), draw)
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9)


def test_error_of_the_finite_difference_is_of_first_order_in_r(y, draw):
    x = grid_images().double()
    model = smooth_model(x)
    exact, g1 = exact_penalty_gradient(model, x, y)

    def error(r, beta=0.8):
        found = (g1 - norm_penalty(gradient(model), r, beta)(x, y, draw)) / (r * beta)
        return ((found - exact).norm() / exact.norm()).item()

    errors = [error(r) for r in (4e-3, 2e-3, 1e-3)]
    assert errors[-1] < 0.01
    assert [a / b for a, b in zip(errors, errors[1:], strict=False)] == pytest.approx([2, 2], rel=0.05)


def test_beta_zero_is_the_attack_without_it(model, x, y):
    plain = attacks.dim(model, x, y, eps=8 / 255, steps=3)
    assert torch.equal(attacks.dim(model, x, y, eps=8 / 255, steps=3, wrap=partial(norm_penalty, beta=0.0)), plain)
    assert not torch.equal(attacks.dim(model, x, y, eps=8 / 255, steps=3, **GNP), plain)


def test_beta_minus_one_is_the_gradient_ahead(model, x, y, draw):
    g = gradient(model)
    ahead = x + 0.1 * g(x, y, draw) / l2_norm(g(x, y, draw))
    assert torch.allclose(norm_penalty(g, 0.1, -1.0)(x, y, draw), g(ahead, y, draw), atol=1e-7)


@pytest.mark.parametrize("unit", ["l2", "mean"])
@pytest.mark.parametrize("rescale", [False, True])
def test_zero_gradient_gives_a_zero_step(unit, rescale, x, y):
    blind = lambda images: images.flatten(1)[:, :10] * 0  # noqa: E731
    adv = attack(x, y, norm_penalty(gradient(blind), unit=unit, rescale=rescale), eps=8 / 255, steps=2)
    assert torch.equal(adv, x)


def test_both_gradients_see_the_same_draw_and_each_step_its_own(model, x, y):
    drawn = []

    def watching(images, draw, copy):
        drawn.append(draw.uniform(4))
        return images

    attack(x, y, norm_penalty(gradient(model, watching)), eps=8 / 255, steps=2)
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[2], drawn[3])
    assert not torch.equal(drawn[0], drawn[2])


def test_two_passes_for_one(model):
    g = gradient(model, RandomErasure(copies=3))
    assert norm_penalty(g).passes == 6 and norm_penalty(g, beta=0.0).passes == 3


def test_descending_with_negative_r_is_ascending_the_negated_loss(model, x, y, draw):
    negated = gradient(model, loss=lambda logits, y: -cross_entropy(logits, y))
    up, down = norm_penalty(negated, 0.1), norm_penalty(gradient(model), -0.1)
    assert torch.allclose(up(x, y, draw), -down(x, y, draw), atol=1e-6)


@pytest.mark.parametrize(("r", "targeted"), [(0.01, True), (-0.01, False)])
@pytest.mark.parametrize("outer", [lambda g: g, partial(smoothed, kernel=3)], ids=["bare", "smoothed"])
def test_penalty_of_the_wrong_sign_is_refused(r, targeted, outer, model, x, y):
    g = outer(norm_penalty(gradient(model), r))
    with pytest.raises(ValueError, match="norm_penalty"):
        attack(x, y, g, eps=8 / 255, target=(y + 1) % 10 if targeted else None)


def test_rescaled_gradient_never_points_downhill_where_the_plain_one_does(draw):
    """A loss that is flat at x and steep ahead, as cross-entropy is for an image of which the network is certain."""
    x, y = torch.full((4, 3, 8, 8), 0.5), torch.zeros(4, dtype=torch.int64)
    g = gradient(nn.Flatten(), loss=lambda z, y: torch.exp(40 * z.mean(1)))

    def uphill(**options):
        found = norm_penalty(g, r=0.5, unit="mean", **options)(x, y, draw)
        return ((found * g(x, y, draw)).sum((1, 2, 3)) > 0).tolist()

    assert uphill() == [False] * 4 and uphill(rescale=True) == [True] * 4


def test_rescaling_brings_the_second_gradient_to_the_length_of_the_first(x, y, draw):
    g1, g2 = torch.randn(x.shape), 100 * torch.randn(x.shape)
    both = iter([g1, g2])
    g = norm_penalty(Gradient(lambda x, y, draw: next(both), (), 1), beta=-1.0, rescale=True)
    assert torch.allclose(g(x, y, draw), g2 / l2_norm(g2) * l2_norm(g1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"unit": "l1"}, "unit"), ({"r": 0.0}, "r="), ({"r": float("nan")}, "r="), ({"beta": float("inf")}, "beta=")],
)
def test_bad_options_are_refused_by_name(model, options, named):
    with pytest.raises(ValueError, match=named):
        norm_penalty(gradient(model), **options)


def test_an_image_does_not_depend_on_its_neighbours(x, y, draw):
    g = norm_penalty(gradient(tiny_model(2)), r=0.1, unit="mean")
    alone = torch.cat([g(x[i : i + 1], y[i : i + 1], Draw(0, draw.index[i : i + 1])) for i in range(len(x))])
    assert torch.allclose(g(x, y, draw), alone, atol=1e-5)
