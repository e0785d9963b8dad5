"""GNP against closed forms and exact Hessian-vector products; its sign, its draws, its limits."""

from functools import partial

import pytest
import torch
from conftest import grid_images, tiny_model
from torch import nn

from advlib import GNP, RandomErasure, attack, attacks, gradient, norm_penalty
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


DIFFERENCES = ("forward", "backward", "central")


def known_quadratic():
    """A gradient function in float64 with its loss' matrix and slope."""
    generator = torch.Generator().manual_seed(0)
    n = grid_images()[0].numel()
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((n, n), (n,)))
    return quadratic(a + a.T, b), a + a.T, b


@pytest.mark.parametrize("difference", DIFFERENCES)
@pytest.mark.parametrize("unit", ["l2", "mean"])
@pytest.mark.parametrize(("r", "beta", "sign"), [(0.01, 0.8, 1), (0.1, 0.8, -1), (0.5, -0.3, 1)])
def test_quadratic_loss_gives_the_closed_form(difference, unit, r, beta, sign, draw):
    """Every difference of a quadratic is exact: g1 - beta r A d, d the direction of ascent."""
    x, (g, a, b) = grid_images().double(), known_quadratic()
    g1 = (x.flatten(1) @ a + b).view_as(x)
    direction = sign * g1 / NORMS[unit](g1)
    wanted = g1 - beta * r * (direction.flatten(1) @ a).view_as(x)
    penalised = norm_penalty(g, r, beta, unit, difference=difference)
    found = penalised(x, torch.zeros(len(x), dtype=torch.int64), draw.at(sign=sign))
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("difference", "order"), [("forward", 1), ("backward", 1), ("central", 2)])
def test_order_of_the_error_in_r(difference, order, y, draw):
    x = grid_images().double()
    model = smooth_model(x)
    exact, g1 = exact_penalty_gradient(model, x, y)

    def error(r, beta=0.8):
        penalised = norm_penalty(gradient(model), r, beta, difference=difference)
        return (((g1 - penalised(x, y, draw)) / (r * beta) - exact).norm() / exact.norm()).item()

    errors = [error(r) for r in (4e-3, 2e-3, 1e-3)]
    assert errors[-1] < 0.01
    ratios = [a / b for a, b in zip(errors, errors[1:], strict=False)]
    assert ratios == pytest.approx([2**order] * 2, rel=0.05)


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_backward_for_beta_up_to_one_is_a_mean_of_two_gradients_and_never_points_against_both(beta, draw):
    """A loss as in the test of rescaling below, and random gradients: with a positive product with one of the two, or
    with both, as a mean has."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        g1, g0 = (torch.randn(1, 1, 2, 2, generator=generator) * 10 ** (4 * torch.rand(1).item()) for _ in "ab")
        both = iter([g1, g0])
        g = norm_penalty(Gradient(lambda x, y, draw, both=both: next(both), (), 1), 0.1, beta, difference="backward")
        found = g(torch.zeros(1, 1, 2, 2), torch.zeros(1), draw)
        assert torch.allclose(found, torch.lerp(g1, g0, beta), rtol=1e-5, atol=1e-4)
        assert (found * g1).sum() > 0 or (found * g0).sum() > 0


def test_backward_is_the_penalty_of_pgn(model, x, y):
    """Its published update, written out: (1 - gamma) g1 + gamma g(x - alpha g1 / mean |g1|), momentum, sign."""
    eps, steps, gamma = 8 / 255, 3, 0.5
    adv, m = x, torch.zeros_like(x)
    at = lambda z: gradient(model)(z, y, Draw(0, torch.arange(len(x))))  # noqa: E731
    for _ in range(steps):
        g1 = at(adv)
        g0 = at(adv - eps / steps * g1 / g1.abs().mean((1, 2, 3), keepdim=True))
        mean = (1 - gamma) * g1 + gamma * g0
        m = m + mean / mean.abs().mean((1, 2, 3), keepdim=True)
        adv = torch.clamp(adv + eps / steps * m.sign(), (x - eps).clamp(min=0), (x + eps).clamp(max=1))
    ours = attacks.pgn(model, x, y, eps, steps=steps, points=1, radius=0.0)
    assert ((ours - adv).abs() < 1e-5).float().mean() > 0.99


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


def test_passes(model):
    g = gradient(model, RandomErasure(copies=3))
    assert [norm_penalty(g, difference=d).passes for d in DIFFERENCES] == [6, 6, 9]
    assert norm_penalty(g, beta=0.0).passes == 3


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_descending_is_ascending_the_negated_loss(difference, model, x, y, draw):
    negated = gradient(model, loss=lambda logits, y: -cross_entropy(logits, y))
    up, down = (norm_penalty(g, 0.1, difference=difference) for g in (negated, gradient(model)))
    assert torch.allclose(up(x, y, draw), -down(x, y, draw.at(sign=-1)), atol=1e-6)


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_targeted_is_untargeted_in_a_two_class_world(difference, model, x, y):
    """With two classes, to lower the loss of one is to raise that of the other; a penalty of the wrong sign is not."""
    two = lambda z: model(z)[:, :2]  # noqa: E731
    y = y % 2
    run = partial(
        attacks.mi_fgsm, two, x, y, 8 / 255, steps=3, wrap=partial(norm_penalty, r=0.3, difference=difference)
    )
    # The gradients of the two losses have different lengths; a difference along them is a difference all the same.
    margin = {"loss": "margin"}
    assert torch.equal(run(target=1 - y, **margin), run(**margin))


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
    [
        ({"unit": "l1"}, "unit"),
        ({"r": 0.0}, "r="),
        ({"r": -0.1}, "r="),
        ({"difference": "sideways"}, "difference"),
        ({"r": float("nan")}, "r="),
        ({"beta": float("inf")}, "beta="),
    ],
)
def test_bad_options_are_refused_by_name(model, options, named):
    with pytest.raises(ValueError, match=named):
        norm_penalty(gradient(model), **options)


def test_an_image_does_not_depend_on_its_neighbours(x, y, draw):
    g = norm_penalty(gradient(tiny_model(2)), r=0.1, unit="mean")
    alone = torch.cat([g(x[i : i + 1], y[i : i + 1], Draw(0, draw.index[i : i + 1])) for i in range(len(x))])
    assert torch.allclose(g(x, y, draw), alone, atol=1e-5)
