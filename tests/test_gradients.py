"""Gradient functions against autograd, loops and convolutions; any composition stays per image and in the ball."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import grid_images, tiny_model
from scipy import ndimage, stats
from torch import nn

from advlib import (
    Elastic,
    InputDiversity,
    RandomErasure,
    ScaleCopies,
    attack,
    averaged,
    ensemble,
    gradient,
    neighbours,
    norm_penalty,
    smoothed,
)
from advlib.core.draws import Draw
from advlib.core.surrogate import members
from advlib.gradients import Gradient, cycled, integrated, margin, reverse_perturbed

ERASE, DIVERSE, SCALE = RandomErasure(copies=3), InputDiversity(), ScaleCopies(3)


@pytest.fixture
def draw(x):
    return Draw(0, torch.arange(len(x)))


def autograd(model, x, y, transform=lambda x: x):
    point = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(transform(point)), y, reduction="sum"), point)
    return grad


def test_gradient_is_that_of_the_summed_loss(model, x, y, draw):
    assert torch.allclose(gradient(model)(x, y, draw), autograd(model, x, y), atol=1e-6)


def test_gradient_of_an_image_does_not_depend_on_its_neighbours(model, x, y, draw):
    alone = torch.cat(
        [gradient(model)(x[i : i + 1], y[i : i + 1], Draw(0, draw.index[i : i + 1])) for i in range(len(x))]
    )
    assert torch.allclose(gradient(model)(x, y, draw), alone, atol=1e-6)


def test_gradient_of_copies_is_their_mean(model, x, y, draw):
    by_hand = torch.stack([autograd(model, x, y, lambda z, i=i: z / 2**i) for i in range(3)]).mean(0)
    assert torch.allclose(gradient(model, SCALE)(x, y, draw), by_hand, atol=1e-6)


def test_copies_of_a_chain_multiply_and_every_pair_occurs_once(model, x, y, draw):
    seen = []

    def first(z, draw, copy):
        seen.append(copy)
        return z

    first.copies = 2  # not coprime: a wrong stride would repeat pairs
    last = lambda z, draw, copy: seen.append(copy) or z  # noqa: E731
    last.copies = 4
    gradient(model, [first, last], chunk=8)(x, y, draw)
    assert len(set(zip(seen[0][:: len(x)].tolist(), seen[1][:: len(x)].tolist(), strict=True))) == 8


def test_transforms_of_a_chain_draw_different_numbers(model, x, y, draw):
    drawn = []

    def noisy(z, draw, copy):
        drawn.append(draw.uniform(8))
        return z

    gradient(model, [noisy, noisy])(x, y, draw)
    assert not torch.isclose(drawn[0], drawn[1]).any()


@pytest.mark.parametrize("transform", [SCALE, ERASE, [ERASE, SCALE, DIVERSE]], ids=["scale", "erase", "chain"])
@pytest.mark.parametrize("chunk", [2, 4, 100])
def test_chunk_does_not_change_the_result(model, x, y, draw, transform, chunk):
    one, many = (gradient(model, transform, chunk=c)(x, y, draw) for c in (1, chunk))
    assert torch.allclose(one, many, atol=1e-6)


@pytest.mark.parametrize(("chunk", "largest"), [(1, 4), (2, 8), (100, 36)])
def test_chunk_bounds_the_batch_that_the_model_sees(model, x, y, draw, chunk, largest):
    batches = []
    gradient(lambda z: batches.append(len(z)) or model(z), [RandomErasure(copies=3), SCALE], chunk=chunk)(x, y, draw)
    assert max(batches) == largest and sum(batches) == 9 * len(x)


@pytest.mark.parametrize(("transform", "passes"), [(None, 1), (DIVERSE, 1), (SCALE, 3), ([ERASE, SCALE, DIVERSE], 9)])
def test_passes_are_copies_times_networks(model, transform, passes):
    assert gradient(model, transform).passes == passes
    both = ensemble([model, tiny_model(1)])
    assert smoothed(gradient(both, transform)).passes == 2 * passes and members(both) == 2


def test_ensemble_gradient_is_that_of_the_mean_logits(x, y, draw):
    f, h = tiny_model(0), tiny_model(1)
    by_hand = autograd(lambda z: (f(z) + h(z)) / 2, x, y)
    assert torch.allclose(gradient(ensemble([f, h]))(x, y, draw), by_hand, atol=1e-6)


@pytest.mark.parametrize("weights", [None, [1, 3]])
def test_ensemble_by_probabilities_has_the_loss_of_the_mixture(weights, x, y, draw):
    f, h = tiny_model(0), tiny_model(1)
    w = [0.5, 0.5] if weights is None else [0.25, 0.75]
    both = ensemble([f, h], by="probabilities", weights=weights)
    assert torch.allclose(both(x).exp(), w[0] * f(x).softmax(1) + w[1] * h(x).softmax(1), atol=1e-6)
    by_hand = autograd(lambda z: (w[0] * f(z).softmax(1) + w[1] * h(z).softmax(1)).log(), x, y)
    assert torch.allclose(gradient(both)(x, y, draw), by_hand, atol=1e-6)


def test_ensemble_by_losses_is_the_mean_of_the_gradients(x, y, draw):
    parts = [gradient(tiny_model(k)) for k in range(3)]
    g = averaged(parts, [1, 2, 1])
    assert torch.allclose(g(x, y, draw), sum(w * p(x, y, draw) for w, p in zip((0.25, 0.5, 0.25), parts, strict=True)))
    assert g.passes == 3 and len(g.models) == 3 and g.parts == tuple(parts)


def test_weights_choose_between_members(x, y, draw):
    f, h = tiny_model(0), tiny_model(1)
    for by in ("logits", "probabilities"):
        assert torch.allclose(ensemble([f, h], by, [0, 1])(x).softmax(1), h(x).softmax(1), atol=1e-6)
    assert torch.allclose(ensemble([f, h], weights=[2, 6])(x), 0.25 * f(x) + 0.75 * h(x), atol=1e-6)
    assert torch.allclose(averaged([gradient(f), gradient(h)], [1, 0])(x, y, draw), gradient(f)(x, y, draw))


def test_one_member_is_itself_however_it_is_averaged(x, y, draw):
    f = tiny_model(0)
    plain = gradient(f)(x, y, draw)
    assert torch.equal(gradient(ensemble([f]))(x, y, draw), plain)
    assert torch.allclose(gradient(ensemble([f], by="probabilities"))(x, y, draw), plain, atol=1e-6)
    assert torch.equal(averaged([gradient(f)])(x, y, draw), plain)


def test_certain_networks_leave_no_nan_in_a_mixture(x, y, draw):
    """Probabilities of 1e-80 are 0 in float32; their logarithms are not taken of them."""
    sure = ensemble([nn.Sequential(tiny_model(k), Times(1e4)) for k in (0, 1)], by="probabilities")
    assert sure(x).isfinite().all() and gradient(sure)(x, y, draw).isfinite().all()


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, z):
        return self.factor * z


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [0, 0], [-1, 2], [float("nan"), 1], "12"])
def test_weights_that_do_not_fit_are_refused(weights, model):
    for call in (lambda: ensemble([model, model], weights=weights), lambda: averaged([gradient(model)] * 2, weights)):
        with pytest.raises((TypeError, ValueError), match="weights"):
            call()


# --- smoothing ------------------------------------------------------------------------------------------------------


def constant(grad):
    return Gradient(lambda x, y, draw: grad, (), 1)


def test_smoothing_with_one_pixel_changes_nothing(x, y, draw):
    g = torch.randn(x.shape)
    assert torch.equal(smoothed(constant(g), 1)(x, y, draw), g)


@pytest.mark.parametrize("kernel", [3, 7, 15])
def test_smoothing_keeps_a_constant_away_from_the_border(kernel, y, draw):
    x = torch.zeros(4, 3, 32, 32)
    out = smoothed(constant(torch.full_like(x, 2.5)), kernel)(x, y, draw)
    r = kernel // 2
    assert torch.allclose(out[..., r:-r, r:-r], torch.tensor(2.5), atol=1e-5) and (out[..., 0, 0] < 2.5).all()


@pytest.mark.parametrize("kernel", [3, 7, 15])
def test_smoothing_is_the_convolution_of_tim(kernel, y, draw):
    """The kernel as the code of Dong et al. builds it: a normal density on [-3, 3], outer product, normalised."""
    line = stats.norm.pdf(np.linspace(-3, 3, kernel))
    table = np.outer(line, line) / np.outer(line, line).sum()
    g = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ours = smoothed(constant(g), kernel)(g, y, draw)
    theirs = np.stack([[ndimage.convolve(c, table, mode="constant") for c in image] for image in g.double().numpy()])
    assert np.abs(ours.numpy() - theirs).max() < 1e-6


@pytest.mark.parametrize(("kernel", "std"), [(3, 0.5), (5, 1.0), (7, 2.5)])
def test_standard_deviation_is_in_pixels(kernel, std, y, draw):
    """The response to one pixel is the sampled normal density, normalised."""
    dot = torch.zeros(1, 1, 15, 15)
    dot[0, 0, 7, 7] = 1
    out, r = smoothed(constant(dot), kernel, std)(dot, y, draw)[0, 0], kernel // 2
    line = torch.from_numpy(stats.norm.pdf(np.arange(-r, r + 1) / std)).float()
    assert torch.allclose(out[7 - r : 8 + r, 7 - r : 8 + r], torch.outer(line, line) / line.sum() ** 2, atol=1e-6)
    assert out.sum() == pytest.approx(1, abs=1e-5) and out[0, 0] == 0


def test_narrow_gaussian_smooths_nothing_and_three_deviations_are_the_default(x, y, draw):
    g = constant(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(smoothed(g, 5, 0.01)(x, y, draw), g(x, y, draw), atol=1e-6)
    assert torch.equal(smoothed(g, 7, 1.0)(x, y, draw), smoothed(g, 7)(x, y, draw))


@pytest.mark.parametrize("kernel", [0, -1, 4])
def test_even_kernel_is_refused(model, kernel):
    with pytest.raises(ValueError, match="kernel"):
        smoothed(gradient(model), kernel)


# --- neighbours -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["uniform", "normal"])
def test_neighbours_of_a_quadratic_average_to_the_gradient_at_x(noise, draw):
    """Loss 1/2 ||z||^2: the gradient is the point, and the points' mean is x up to its standard error."""
    x, y = torch.full((4, 3, 8, 8), 0.5), torch.zeros(4, dtype=torch.int64)
    g = gradient(nn.Flatten(), loss=lambda z, y: 0.5 * z.square().sum(1))
    delta = neighbours(g, 0.3, 400, noise, chunk=100)(x, y, draw) - x
    std = 0.3 / 3**0.5 if noise == "uniform" else 0.3
    assert delta.std().item() == pytest.approx(std / 400**0.5, rel=0.1) and delta.mean().abs() < 4 * std / 768**0.5 / 20


def test_no_neighbours_but_x_is_the_gradient_itself(model, x, y, draw):
    g = gradient(model, DIVERSE)
    assert torch.equal(neighbours(g, 0.0, 1)(x, y, draw), g(x, y, draw))
    assert neighbours(g, 0.1, 7).passes == 7 * g.passes


def test_points_stay_in_the_cube_and_draw_anew_per_image_and_step(x, y, draw):
    seen = []
    g = Gradient(lambda z, y, draw: seen.append(z) or z, (), 1)
    neighbours(g, 0.1, 3)(x, y, draw)
    neighbours(g, 0.1, 3)(x, y, draw.at(step=1))
    deltas = torch.stack(seen) - x
    assert 0.09 < deltas.abs().max() <= 0.1 and torch.pdist(deltas.flatten(0, 1).flatten(1)).min() > 0.1


@pytest.mark.parametrize("noise", ["uniform", "normal"])
def test_neighbours_do_not_depend_on_chunks_or_batch(noise, model, x, y, draw):
    whole, parts = (neighbours(gradient(model, DIVERSE), 0.1, 7, noise, c)(x, y, draw) for c in (7, 3))
    assert torch.allclose(whole, parts, atol=1e-6)
    alone = neighbours(gradient(model, DIVERSE), 0.1, 7, noise)(x[2:3], y[2:3], Draw(0, draw.index[2:3]))
    assert torch.allclose(alone, whole[2:3], atol=1e-6)


def test_smoothing_reaches_the_parts_of_an_ensemble(x, y, draw):
    nets = [tiny_model(0), tiny_model(1)]
    wrapped = neighbours(smoothed(gradient(ensemble(nets)), 3), 0.1, 2)
    for part, net in zip(wrapped.parts, nets, strict=True):
        assert torch.equal(part(x, y, draw), neighbours(smoothed(gradient(net), 3), 0.1, 2)(x, y, draw))


# --- losses and arguments -------------------------------------------------------------------------------------------


def test_margin_is_the_best_other_logit_minus_that_of_y():
    logits, y = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 5
    by_hand = [
        max(v for k, v in enumerate(row) if k != c) - row[c] for row, c in zip(logits.tolist(), y.tolist(), strict=True)
    ]
    assert torch.allclose(margin(logits, y), torch.tensor(by_hand))
    assert torch.equal(margin(logits, y) > 0, logits.argmax(1) != y)


def test_loss_may_be_a_function(model, x, y, draw):
    by_name, by_function = gradient(model, loss="margin"), gradient(model, loss=margin)
    assert torch.equal(by_name(x, y, draw), by_function(x, y, draw))


@pytest.mark.parametrize(("option", "value"), [("loss", "hinge"), ("chunk", 0)])
def test_bad_option_of_gradient_is_refused_by_name(model, option, value):
    with pytest.raises(ValueError, match=option):
        gradient(model, **{option: value})


# --- any composition ------------------------------------------------------------------------------------------------

_DICE = np.random.default_rng(0)


def _combination():
    pool = [
        RandomErasure(copies=2),
        ScaleCopies(2),
        InputDiversity(),
        ScaleCopies(2, origin=0.5),
        RandomErasure(copies=2, p=1.0, fill=0.5, aspect=0.3),
    ]
    chosen = [pool[i] for i in _DICE.permutation(len(pool))[: _DICE.integers(0, 4)]]
    return {
        "transform": chosen,
        "kernel": int(_DICE.choice([1, 3, 7])),
        "networks": int(_DICE.choice([1, 2])),
        "chunk": int(_DICE.choice([1, 3])),
        "penalty": float(_DICE.choice([0.0, 0.8, -0.8])),
        "difference": str(_DICE.choice(["forward", "backward", "central"])),
        "loss": str(_DICE.choice(["cross_entropy", "margin"])),
        "momentum": Elastic(
            *map(float, _DICE.choice([0.0, 0.5, 1.0, 2.0], 2)), normalize=str(_DICE.choice(["mean", "l1", "l2"]))
        ),
        "norm": str(_DICE.choice(["linf", "l2"])),
        "start": str(_DICE.choice(["none", "once", "every"])),
        "targeted": bool(_DICE.choice([True, False])),
    }


@pytest.mark.parametrize("combo", [_combination() for _ in range(16)], ids=range(16))
def test_any_composition_is_valid_and_does_not_depend_on_the_batch(combo):
    x, index = grid_images(6), torch.tensor([3, 141, 59, 26, 5, 35])
    surrogate = ensemble([tiny_model(k) for k in range(combo["networks"])])
    y = surrogate(x).argmax(1)
    target = (y + 1) % 10 if combo["targeted"] else None
    eps = 8 / 255 if combo["norm"] == "linf" else 0.5
    g = smoothed(gradient(surrogate, combo["transform"], combo["loss"], combo["chunk"]), combo["kernel"])
    g = norm_penalty(g, 0.1, combo["penalty"], difference=combo["difference"])

    def run(rows):
        return attack(
            x[rows],
            y[rows],
            g,
            eps=eps,
            steps=3,
            momentum=combo["momentum"],
            norm=combo["norm"],
            seed=1,
            start=combo["start"],
            target=None if target is None else target[rows],
            index=index[rows],
        )

    adv = run(torch.arange(6))
    delta = (adv - x).flatten(1)
    assert adv.shape == x.shape and torch.isfinite(adv).all() and adv.min() >= 0 and adv.max() <= 1
    assert (delta.norm(dim=1) if combo["norm"] == "l2" else delta.abs().amax(1)).max() <= eps * (1 + 1e-5) + 1e-7
    assert delta.abs().amax(1).min() > 0
    # Kernels for another batch size round differently, and sign() turns that into a step where the gradient is about 0.
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    shuffled = torch.empty_like(adv)
    shuffled[order] = run(order)
    for other in (shuffled, torch.cat([run(rows) for rows in torch.arange(6).split([1, 2, 3])])):
        assert ((other - adv).abs() < 1e-4).float().mean() >= 0.99


# --- integrated gradients, reverse perturbations, cycles -------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_integrated_gradient_of_a_linear_model_is_its_weight_times_the_way(x, y, draw, noise):
    w = torch.randn(x[0].numel(), 10, generator=torch.Generator().manual_seed(0))
    g = integrated(gradient(lambda z: z.flatten(1) @ w, loss="logit"), points=7, reference=0.25, noise=noise)
    assert torch.allclose(g(x, y, draw), -(x - 0.25) * w.T[y].view_as(x), atol=1e-5)


def test_integrated_gradient_adds_up_to_the_difference_of_the_loss(model, x, y, draw):
    """Completeness: the sum over the pixels tends to loss(x) - loss(x0)."""
    loss = -model(x).gather(1, y[:, None])[:, 0] + model(torch.zeros_like(x)).gather(1, y[:, None])[:, 0]
    g = gradient(model, loss="logit")
    errors = [(integrated(g, points)(x, y, draw).sum((1, 2, 3)) - loss).abs().max() for points in (5, 500)]
    assert errors[1] < 0.02 * loss.abs().max() and errors[1] < errors[0]


def test_integrated_gradient_does_not_depend_on_its_chunks(model, x, y, draw):
    whole, parts = (integrated(gradient(model, DIVERSE), 7, noise=0.1, chunk=c)(x, y, draw) for c in (7, 3))
    assert torch.allclose(whole, parts, atol=1e-6)
    assert torch.allclose(integrated(gradient(model), 1)(x, y, draw), x * gradient(model)(x, y, draw))


def test_reverse_perturbation_of_a_quadratic_is_the_gradient_behind(x, y, draw):
    """Loss 1/2 ||z||^2: the gradient is the point itself, and the point goes down by the signs."""
    g = gradient(torch.nn.Flatten(), loss=lambda z, y: 0.5 * z.square().sum(1))
    x = x + 1.0
    assert torch.allclose(reverse_perturbed(g, eps=0.5, steps=4, start=0)(x, y, draw), x - 0.5)
    assert torch.allclose(reverse_perturbed(g, eps=0.5, steps=4, start=0)(x, y, draw.at(sign=-1)), x + 0.5)
    assert torch.equal(reverse_perturbed(g, start=1)(x, y, draw), x)


def test_cycle_takes_each_in_turn_and_one_alone_is_plain(model, x, y, draw):
    several = [gradient(tiny_model(seed)) for seed in range(3)]
    cycle = cycled(several)
    seen = [cycle(x, y, draw.at(step=t)) for t in range(6)]
    wanted = [g(x, y, draw) for g in several]
    order = [next(k for k, w in enumerate(wanted) if torch.equal(w, found)) for found in seen]
    assert sorted(order[:3]) == [0, 1, 2] and order[:3] == order[3:]
    assert torch.equal(cycled(several[:1])(x, y, draw.at(step=5)), wanted[0]) and len(cycle.models) == 3


@pytest.mark.parametrize(
    "wrap",
    [
        lambda g: integrated(g, points=0),
        lambda g: integrated(g, noise=-1.0),
        lambda g: reverse_perturbed(g, steps=0),
        lambda g: cycled([]),
    ],
)
def test_bad_wrappers_are_refused(model, wrap):
    with pytest.raises(ValueError):
        wrap(gradient(model))
