"""The loop against plain reference loops and closed forms; its ball, randomness, manners with models and input."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import grid_images, tiny_model
from torch import nn

from advlib import (
    EM_RE,
    Elastic,
    InputDiversity,
    RandomErasure,
    ScaleCopies,
    accelerate,
    attack,
    attacks,
    carlini_wagner,
    ensemble,
    gradient,
    loop,
    norm_penalty,
    smoothed,
)
from advlib.core.balls import L2Ball, LinfBall
from advlib.core.draws import Draw
from advlib.core.norms import l2_norm
from advlib.gradients import Gradient, integrated

EPS, STEPS = 8 / 255, 5
PRESETS = {
    "fgsm": attacks.fgsm,
    "i_fgsm": attacks.i_fgsm,
    "pgd": attacks.pgd,
    "mi": attacks.mi_fgsm,
    "ni": attacks.ni_fgsm,
    "em": attacks.em_fgsm,
    "dim": attacks.dim,
    "tim": attacks.tim,
    "sim": attacks.sim,
    "re": attacks.re_fgsm,
    "composite": attacks.composite,
    "em_re_dim": partial(attacks.dim, **EM_RE),
    "em_re_tim": partial(attacks.tim, **EM_RE),
    "em_re_sim": partial(attacks.sim, **EM_RE, chunk=25),
    "em_re_composite": partial(attacks.composite, **EM_RE, chunk=25),
    "em_re": partial(attacks.re_fgsm, momentum=Elastic(sigma=2.0)),
    "admix": partial(attacks.admix, pool=grid_images(6, seed=5), chunk=15),
    "taig_s": partial(attacks.taig, points=5, chunk=5),
    "taig_r": partial(attacks.taig, points=5, noise=EPS, chunk=5),
    "rap": partial(attacks.rap, steps=8, late=3),
    "em_ball": partial(attacks.em_fgsm, project="ball"),
    "vmi": partial(attacks.vmi_fgsm, points=3),
    "vni": partial(attacks.vni_fgsm, points=3),
    "emi": partial(attacks.emi_fgsm, points=3),
    "smoothed": partial(attacks.smoothed_gradient, points=3),
    "pgn": partial(attacks.pgn, points=3),
    "rdim": attacks.rdim,
    "svre": lambda model, x, y, eps: attacks.svre(ensemble([model, tiny_model(1)]), x, y, eps, rounds=2),
    "lgv": lambda model, x, y, eps: attacks.lgv([model, tiny_model(1)], x, y, eps),
}


class Linear2(nn.Module):
    """Two classes, logits (0, w.x + b)."""

    def __init__(self, shape=(3, 4, 4), b=0.0, seed=0):
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
        self.b = b

    def score(self, x):
        return (x * self.w).sum((1, 2, 3)) + self.b

    def forward(self, x):
        return torch.stack([torch.zeros(len(x)), self.score(x)], 1)


# --- identities -----------------------------------------------------------------------------------------------------


def reference(model, x, y, mu, sigma, eps=EPS, steps=STEPS):
    """MI-FGSM (sigma = 0) and NI-FGSM (sigma = mu) as published, in plain PyTorch."""
    model, x = (
        copy.deepcopy(model).eval().to(memory_format=torch.channels_last),
        x.to(memory_format=torch.channels_last),
    )
    alpha, adv, m = eps / steps, x, torch.zeros_like(x)
    for _ in range(steps):
        ahead = torch.add(adv, m, alpha=alpha * sigma).requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(ahead), y, reduction="none").sum(), ahead)
        m = mu * m + grad / grad.abs().mean((1, 2, 3), keepdim=True)
        adv = adv + alpha * m.sign()
        adv = torch.min(torch.max(adv, (x - eps).clamp(min=0)), (x + eps).clamp(max=1)).detach()
    return adv


def test_sigma_zero_is_mi_bit_for_bit(model, x, y):
    ours = attacks.em_fgsm(model, x, y, EPS, sigma=0, steps=STEPS)
    assert torch.equal(ours, attacks.mi_fgsm(model, x, y, EPS, steps=STEPS))
    assert torch.equal(ours, reference(model, x, y, mu=1.0, sigma=0.0))


def test_sigma_mu_is_ni_bit_for_bit(model, x, y):
    ours = attacks.em_fgsm(model, x, y, EPS, mu=1.0, sigma=1.0, steps=STEPS)
    assert torch.equal(ours, attacks.ni_fgsm(model, x, y, EPS, steps=STEPS))
    assert torch.equal(ours, reference(model, x, y, mu=1.0, sigma=1.0))


def test_look_ahead_changes_the_attack(model, x, y):
    runs = [attacks.em_fgsm(model, x, y, EPS, sigma=s, steps=STEPS) for s in (0, 1, 2)]
    assert not torch.equal(runs[0], runs[1]) and not torch.equal(runs[1], runs[2])


def test_mu_zero_is_i_fgsm(model, x, y):
    ours = attacks.mi_fgsm(model, x, y, EPS, mu=0.0, steps=STEPS)
    assert torch.equal(ours, attacks.i_fgsm(model, x, y, EPS, steps=STEPS))


def test_i_fgsm_of_one_step_is_fgsm(model, x, y):
    assert torch.equal(attacks.i_fgsm(model, x, y, EPS, steps=1), attacks.fgsm(model, x, y, EPS))


def test_pgd_without_start_at_the_same_step_is_i_fgsm(model, x, y):
    ours = attacks.pgd(model, x, y, EPS, steps=STEPS, alpha=EPS / STEPS, start="none")
    assert torch.equal(ours, attacks.i_fgsm(model, x, y, EPS, steps=STEPS))


def test_trivial_options_of_the_composites_give_the_plain_attack(model, x, y):
    plain = attacks.mi_fgsm(model, x, y, EPS, steps=STEPS)
    assert torch.equal(attacks.tim(model, x, y, EPS, kernel=1, steps=STEPS), plain)
    assert torch.equal(attacks.sim(model, x, y, EPS, copies=1, steps=STEPS), plain)
    off = [InputDiversity(p=0.0), RandomErasure(copies=1)]
    assert torch.equal(attacks.mi_fgsm(model, x, y, EPS, transform=off, steps=STEPS), plain)


def test_admix_without_weight_is_sim(model, x, y):
    sim = attacks.sim(model, x, y, EPS, steps=STEPS)
    assert torch.equal(attacks.admix(model, x, y, EPS, pool=grid_images(6), eta=0.0, mixed=1, steps=STEPS), sim)
    three = attacks.admix(model, x, y, EPS, pool=grid_images(6), eta=0.0, steps=STEPS)
    assert ((three - sim).abs() > 1e-6).float().mean() < 0.01  # the mean of three equal gradients, rounded


def test_lgv_of_one_network_and_rap_before_it_starts_are_i_fgsm(model, x, y):
    plain = attacks.i_fgsm(model, x, y, EPS, steps=STEPS)
    assert torch.equal(attacks.lgv([model], x, y, EPS, steps=STEPS), plain)
    assert torch.equal(attacks.rap(model, x, y, EPS, steps=STEPS, late=STEPS), plain)


def test_taig_takes_a_wrapped_gradient_at_each_point(model, x, y):
    penalised = attacks.taig(model, x, y, EPS, points=3, steps=2, wrap=norm_penalty)
    g = integrated(norm_penalty(gradient(model, loss="logit")), points=3)
    assert torch.equal(penalised, attack(x, y, g, eps=EPS, steps=2))


def test_targeted_rap_descends(model, x, y):
    target = (y + 1) % 10
    adv = attacks.rap(model, x, y, EPS, steps=STEPS, late=1, target=target)
    assert F.cross_entropy(model(adv), target) < F.cross_entropy(model(x), target)


def test_callable_that_is_no_module_is_a_model(model, x, y):
    assert torch.equal(attacks.mi_fgsm(lambda z: model(z), x, y, EPS), attacks.mi_fgsm(model, x, y, EPS))


def test_no_grad_around_the_attack_changes_nothing(model, x, y):
    with torch.no_grad():
        ours = attacks.mi_fgsm(model, x, y, EPS)
    assert torch.equal(ours, attacks.mi_fgsm(model, x, y, EPS))


def test_double_precision_images_stay_double(model, x, y):
    adv = attacks.composite(copy.deepcopy(model).double(), x.double(), y, EPS, steps=2)
    assert adv.dtype == torch.float64 and (adv - x).abs().max() <= EPS + 1e-9


# --- ball -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_preset_stays_in_the_ball_and_in_the_range_and_raises_the_loss(name, model, x, y):
    adv = PRESETS[name](model, x, y, eps=EPS)
    assert adv.shape == x.shape and adv.dtype == x.dtype and not adv.requires_grad
    assert (adv - x).abs().max() <= EPS + 1e-7 and adv.min() >= 0 and adv.max() <= 1
    assert F.cross_entropy(model(adv), y) > F.cross_entropy(model(x), y) + 0.1


@pytest.mark.parametrize("name", PRESETS)
def test_eps_zero_gives_the_images_back(name, model, x, y):
    assert torch.equal(PRESETS[name](model, x, y, eps=0), x)


@pytest.mark.parametrize("start", ["none", "once", "every"])
def test_l2_attack_stays_in_the_ball_of_every_image(start, model, x, y):
    eps = torch.tensor(0.7).item()
    adv = attacks.pgd(model, x, y, eps, norm="l2", start=start)
    norms = l2_norm(adv - x).flatten()
    assert norms.max() <= eps * (1 + 1e-5) and norms.min() > 0.5 * eps
    assert adv.min() >= 0 and adv.max() <= 1


def test_fgsm_on_a_linear_model_is_closed_form():
    f, x = Linear2(), 0.2 + 0.6 * torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 0, 1])
    toward_other = torch.where(y == 0, 1.0, -1.0).view(-1, 1, 1, 1)
    closed = x + EPS * toward_other * f.w.detach().sign()
    assert torch.allclose(attacks.fgsm(f, x, y, EPS), closed, atol=1e-6)


def test_l2_pgd_on_a_linear_model_moves_by_eps_along_the_normal():
    f, x = Linear2(), torch.full((2, 3, 4, 4), 0.5)
    y = torch.tensor([0, 1])
    adv = attacks.pgd(f, x, y, 0.3, norm="l2", start="none")
    unit = f.w.detach() / f.w.detach().norm()
    assert torch.allclose(adv - x, 0.3 * torch.stack([unit, -unit]), atol=1e-5)


def test_projection_is_idempotent_and_leaves_the_inside_alone(x):
    z = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for ball in (LinfBall.around(x, EPS), L2Ball.around(x, 0.5)):
        once = ball.project(z)
        assert torch.allclose(ball.project(once), once, atol=1e-6) and torch.allclose(ball.project(x), x)


def test_noise_fills_the_balls_uniformly():
    x, d = torch.full((4000, 1, 2, 1), 0.5), 2
    draw = Draw(0, torch.arange(4000))
    noise = LinfBall.around(x, 0.1).noise(x, draw)
    assert noise.abs().max() <= 0.1 and abs(noise.var() - 0.01 / 3) < 3e-4
    radius = l2_norm(L2Ball.around(x, 0.1).noise(x, draw)).flatten() / 0.1
    assert radius.max() <= 1 + 1e-5 and abs((radius**d).mean() - 0.5) < 0.03  # (r / eps)^d is uniform


# --- start and target -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_start_is_inside_the_ball_and_of_each_image_its_own(norm, y):
    x = torch.full((4, 3, 8, 8), 0.5)
    flat = Gradient(lambda x, y, draw: torch.zeros_like(x), (), 1)
    start = attack(x, y, flat, eps=0.1, steps=1, norm=norm, start="once") - x
    size = l2_norm(start).flatten() if norm == "l2" else start.abs().amax((1, 2, 3))
    assert size.max() <= 0.1 * (1 + 1e-5) and size.min() > 0.05
    assert torch.pdist(start.flatten(1)).min() > 0.01
    again = attack(x[2:3], y[2:3], flat, eps=0.1, steps=1, norm=norm, start="once", index=torch.tensor([2])) - x[:1]
    assert torch.allclose(again, start[2:3], atol=1e-7)
    assert not torch.equal(attack(x, y, flat, eps=0.1, steps=1, norm=norm, start="once", seed=1) - x, start)


def test_fresh_noise_is_new_in_every_step_and_does_not_move_the_image(x, y):
    points = []
    flat = Gradient(lambda x, y, draw: points.append(x) or torch.zeros_like(x), (), 1)
    adv = attack(x, y, flat, eps=EPS, steps=3, start="every")
    assert torch.equal(adv, x) and len(points) == 3
    assert not torch.equal(points[0], points[1]) and not torch.equal(points[1], points[2])
    assert all((p - x).abs().max() <= EPS + 1e-7 and (p != x).any() for p in points)


@pytest.mark.parametrize("start", ["none", "once", "every"])
def test_seed_decides(start, model, x, y):
    run = partial(attacks.dim, model, x, y, EPS, start=start, steps=3)
    assert torch.equal(run(seed=3), run(seed=3)) and not torch.equal(run(seed=3), run(seed=4))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_targeted_attack_raises_the_probability_of_the_target(norm, model, x, y):
    target = (y + 3) % 10
    adv = attacks.pgd(model, x, y, EPS if norm == "linf" else 0.5, norm=norm, target=target)
    before, after = (F.cross_entropy(model(z), target, reduction="none") for z in (x, adv))
    assert (after < before).all()


def test_targeted_is_untargeted_in_a_two_class_world():
    f, x = Linear2(), 0.2 + 0.6 * torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 0, 1])
    assert torch.equal(attacks.mi_fgsm(f, x, y, EPS, target=1 - y), attacks.mi_fgsm(f, x, y, EPS))


# --- momentum -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["mean", "l1", "l2"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_zero_gradient_gives_a_zero_step(normalize, norm, x, y):
    constant = lambda z: (0 * z.sum((1, 2, 3)))[:, None].expand(-1, 10)  # noqa: E731
    adv = attacks.em_fgsm(constant, x, y, EPS, normalize=normalize, norm=norm)
    assert torch.allclose(adv, x, atol=1e-7)


def test_zero_gradient_of_one_image_leaves_the_others_alone(model, x, y):
    gate = torch.tensor([1.0, 0.0, 1.0, 1.0])[:, None]
    half_dead = Gradient(lambda z, y, draw: gradient(model)(z, y, draw) * gate[..., None, None], (model,), 1)
    adv, plain = attack(x, y, half_dead, eps=EPS, momentum=Elastic()), attacks.mi_fgsm(model, x, y, EPS)
    assert torch.equal(adv[1], x[1]) and torch.equal(adv[[0, 2, 3]], plain[[0, 2, 3]])


SIZES = [1e-3, 1e-10, 1e-25, 1e-36]  # a confident network has gradients far below the square root of the smallest float


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("normalize", ["mean", "l1", "l2"])
def test_normalised_gradient_does_not_depend_on_its_size(size, normalize, x):
    g, zero = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), torch.zeros_like(x)
    rule = Elastic(normalize=normalize)
    assert torch.allclose(rule.accumulate(zero, g * size), rule.accumulate(zero, g), rtol=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_l2_direction_has_length_one_at_any_size_of_the_gradient(size, x):
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    length = l2_norm(L2Ball.around(x, EPS).direction(g * size))
    assert torch.allclose(length, torch.ones_like(length), rtol=1e-3)


def test_momentum_is_eq_2_2_of_each_image(x):
    m, g = (torch.randn(x.shape, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    new = Elastic(mu=0.7, normalize="mean").accumulate(m, g)
    assert torch.allclose(new, torch.stack([0.7 * m[i] + g[i] / g[i].abs().mean() for i in range(len(x))]), atol=1e-5)
    literal = Elastic(mu=0.7, normalize="l1").accumulate(m, g)
    assert torch.allclose(
        literal, torch.stack([0.7 * m[i] + g[i] / g[i].abs().sum() for i in range(len(x))]), atol=1e-5
    )


def test_literal_normaliser_changes_nothing_without_look_ahead(model, x, y):
    runs = [attacks.em_fgsm(model, x, y, EPS, sigma=0, normalize=n) for n in ("l1", "mean")]
    assert (runs[0] == runs[1]).float().mean() > 0.99  # the sum and the mean round differently


def test_literal_look_ahead_is_shorter_by_the_number_of_values(model, x, y):
    g = gradient(model)(x, y, Draw(0, torch.arange(4)))
    far, near = (Elastic(sigma=2.0, normalize=n) for n in ("mean", "l1"))
    steps = [r.look_ahead(torch.zeros_like(x), r.accumulate(torch.zeros_like(x), g), EPS) for r in (far, near)]
    assert torch.allclose(steps[0] / x[0].numel(), steps[1], rtol=1e-4)
    assert torch.allclose(steps[0].abs().mean((1, 2, 3)), torch.tensor(2 * EPS), rtol=1e-4)


@pytest.mark.parametrize("options", [{"normalize": "max"}, {"mu": -1.0}, {"sigma": -1.0}, {"project": "box"}])
def test_bad_momentum_is_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Elastic(**options)


# --- models are handed back as they were ----------------------------------------------------------------------------


def state_of(model):
    return (
        [m.training for m in model.modules()],
        [(p.requires_grad, p.data_ptr(), p.stride(), p.grad is None) for p in model.parameters()],
        [(b.data_ptr(), b.clone()) for b in model.buffers()],
        [p.detach().clone() for p in model.parameters()],
    )


def same(a, b):
    tensors = [*zip(a[3], b[3], strict=True), *((c[1], d[1]) for c, d in zip(a[2], b[2], strict=True))]
    return (
        a[:2] == b[:2] and [c[0] for c in a[2]] == [d[0] for d in b[2]] and all(torch.equal(*pair) for pair in tensors)
    )


@pytest.fixture
def used():
    """An ensemble in the middle of something else: partly in training mode, partly frozen."""
    model = ensemble([tiny_model(0), tiny_model(1)]).train()
    model.members[0].net[1].eval()
    model.members[1].net[0].weight.requires_grad_(False)
    return model


def test_model_is_handed_back_as_it_was(used, x, y):
    before = state_of(used)
    attacks.composite(used, x, y, EPS, steps=2)
    assert same(state_of(used), before)


def test_model_is_handed_back_as_it_was_after_an_error(used, x, y):
    before, calls = state_of(used), []

    def fail(module, inputs):
        calls.append(torch.is_grad_enabled())
        if len(calls) == 3:
            raise RuntimeError("out of paper")

    with used.register_forward_pre_hook(fail), pytest.raises(RuntimeError, match="out of paper"):
        attacks.mi_fgsm(used, x, y, EPS)
    assert same(state_of(used), before)
    assert torch.equal(torch.func.grad(lambda z: (z**2).sum())(x), 2 * x)  # no transform is left open


def test_model_in_training_mode_is_attacked_in_eval_mode(model, x, y):
    expected = attacks.mi_fgsm(model, x, y, EPS)
    assert torch.equal(attacks.mi_fgsm(model.train(), x, y, EPS), expected)


def test_weights_are_frozen_and_channels_last_inside(model, x, y):
    seen = []

    def look(module, inputs):
        weight = module.net[0].weight
        seen.append((module.training, weight.requires_grad, weight.is_contiguous(memory_format=torch.channels_last)))

    with model.train().register_forward_pre_hook(look):
        attacks.i_fgsm(model, x, y, EPS, steps=2)
    assert set(seen) == {(False, False, True)} and len(seen) == 3


def test_images_are_not_changed(model, x, y):
    before = x.clone()
    attacks.composite(model, x, y, EPS, steps=2)
    assert torch.equal(x, before) and x.grad is None


@pytest.mark.parametrize(("dtype", "most"), [(None, 0.01), (torch.bfloat16, 0.2)])
def test_attack_on_an_accelerated_surrogate_is_close_to_the_plain_one(dtype, most, model, x, y):
    plain, fast = (attacks.mi_fgsm(f, x, y, EPS) for f in (model, accelerate(model, dtype=dtype)))
    assert (plain != fast).float().mean() < most


# --- the step waits for nobody --------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("rule", [Elastic(sigma=2.0), Elastic(sigma=2.0, project="ball")], ids=["text", "ball"])
def test_step_compiles_without_a_graph_break_and_equals_the_plain_step(rule, norm, model, x, y):
    everything = [RandomErasure(copies=2), ScaleCopies(2), InputDiversity()]
    g = gradient(model.requires_grad_(False), everything if norm == "linf" else None, chunk=4)
    g = norm_penalty(smoothed(g, 3)) if norm == "linf" else g
    ball = LinfBall.around(x, EPS, EPS / 2) if norm == "linf" else L2Ball.around(x, 0.5, EPS / 2)
    one_step = partial(loop.step, y=y, g=g, rule=rule, ball=ball)
    torch._dynamo.reset()
    compiled = torch.compile(lambda adv, m, draw: one_step(adv, m, draw=draw), fullgraph=True, backend="eager")
    m = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    draw = Draw(0, torch.arange(len(x)), step=1)
    for ours, plain in zip(compiled(x, m, draw=draw), one_step(x, m, draw=draw), strict=True):
        assert torch.allclose(ours, plain, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: host waits cannot be observed")
def test_step_never_waits_for_the_gpu(model, x, y):
    model, x, y = model.cuda().requires_grad_(False), x.cuda(), y.cuda()
    g = smoothed(gradient(model, [RandomErasure(copies=2), ScaleCopies(2), InputDiversity()]), 3)
    args = torch.zeros_like(x), y, g, Draw(0, torch.arange(4, device="cuda")), Elastic(sigma=2.0)
    ball = LinfBall.around(x, EPS, EPS / 2)
    loop.step(x, *args, ball)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop.step(x, *args, ball)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# --- input ----------------------------------------------------------------------------------------------------------

X, Y = grid_images(), torch.tensor([0, 1, 2, 3])


def with_value(value):
    bad = X.clone()
    bad[2, 1, 3, 3] = value
    return bad


BAD = {
    "uint8 images": ({"x": (X * 255).to(torch.uint8)}, TypeError, "x"),
    "bool images": ({"x": X > 0.5}, TypeError, "x"),
    "numpy images": ({"x": X.numpy()}, TypeError, "x"),
    "above one": ({"x": with_value(1.01)}, ValueError, "x"),
    "in 0..255": ({"x": X * 255}, ValueError, "x"),
    "below zero": ({"x": with_value(-0.01)}, ValueError, "x"),
    "NaN": ({"x": with_value(float("nan"))}, ValueError, "x"),
    "infinite": ({"x": with_value(float("inf"))}, ValueError, "x"),
    "one image without batch": ({"x": X[0]}, ValueError, "x"),
    "empty batch": ({"x": X[:0], "y": Y[:0]}, ValueError, "x"),
    "labels too few": ({"y": Y[:3]}, ValueError, "y"),
    "labels one-hot": ({"y": F.one_hot(Y, 10)}, ValueError, "y"),
    "labels float": ({"y": Y.float()}, TypeError, "y"),
    "labels bool": ({"y": Y > 1}, TypeError, "y"),
    "labels int32": ({"y": Y.int()}, TypeError, "y"),
    "labels numpy": ({"y": Y.numpy()}, TypeError, "y"),
    "labels list": ({"y": Y.tolist()}, TypeError, "y"),
    "label negative": ({"y": Y - 1}, ValueError, "y"),
    "label too large": ({"y": Y + 7}, ValueError, "y"),
    "target too few": ({"target": Y[:3]}, ValueError, "target"),
    "target float": ({"target": Y.float()}, TypeError, "target"),
    "target too large": ({"target": Y + 7}, ValueError, "target"),
    "eps negative": ({"eps": -1 / 255}, ValueError, "eps"),
    "eps in 255": ({"eps": 8}, ValueError, "eps"),
    "eps NaN": ({"eps": float("nan")}, ValueError, "eps"),
    "no steps": ({"steps": 0}, ValueError, "steps"),
    "half a step": ({"steps": 2.5}, TypeError, "steps"),
    "alpha zero": ({"alpha": 0.0}, ValueError, "alpha"),
    "alpha negative": ({"alpha": -0.1}, ValueError, "alpha"),
    "norm unknown": ({"norm": "l1"}, ValueError, "norm"),
    "start unknown": ({"start": "twice"}, ValueError, "start"),
    "index too short": ({"index": torch.arange(3)}, ValueError, "index"),
    "index float": ({"index": torch.arange(4.0)}, TypeError, "index"),
    "index 2-D": ({"index": torch.arange(4)[:, None]}, ValueError, "index"),
    "loss unknown": ({"loss": "hinge"}, ValueError, "loss"),
    "chunk zero": ({"chunk": 0}, ValueError, "chunk"),
    "option unknown": ({"decay": 0.9}, TypeError, "decay"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name_before_any_step(case, model):
    change, error, name = BAD[case]
    options = {"x": X, "y": Y, "eps": EPS, **change}
    with_grad = []

    def watched(z):
        with_grad.append(torch.is_grad_enabled())
        return model(z)

    with pytest.raises(error, match=rf"\b{name}\b"):
        attacks.i_fgsm(watched, **options)
    assert not any(with_grad)


@pytest.mark.parametrize("preset", [attacks.pgd, attacks.mi_fgsm])
def test_zero_steps_are_refused_by_every_preset(preset, model):
    with pytest.raises(ValueError, match="steps"):
        preset(model, X, Y, EPS, steps=0)


WRONG = {
    "features": lambda z: z,
    "one number": lambda z: z.sum((1, 2, 3)),
    "a tuple": lambda z: (z.flatten(1), z),
    "NaN": lambda z: z.flatten(1) * float("nan"),
    "infinite": lambda z: z.flatten(1) / 0,
    "a sum over the batch": lambda z: z.flatten(1).sum(0, keepdim=True),
}


@pytest.mark.parametrize("case", WRONG)
def test_model_with_wrong_output_is_refused_by_name(case):
    with pytest.raises((TypeError, ValueError), match="model"):
        attacks.mi_fgsm(WRONG[case], X, Y, EPS)


def test_numbers_of_numpy_are_numbers(model):
    plain = attacks.mi_fgsm(model, X, Y, EPS, steps=3)
    assert torch.equal(attacks.mi_fgsm(model, X, Y, np.float64(EPS), steps=3), plain)
    assert torch.equal(attacks.mi_fgsm(model, X, Y, EPS, steps=np.int64(3)), plain)


# --- gradients that are none ----------------------------------------------------------------------------------------


class Gamma(nn.Module):
    """Gamma correction before a network: its slope is infinite at black pixels."""

    def __init__(self, model, gamma=0.5):
        super().__init__()
        self.model, self.gamma = model, gamma

    def forward(self, z):
        return self.model(z**self.gamma)


@pytest.mark.parametrize("name", ["mi", "i_fgsm", "tim", "dim", "sim", "taig_s"])
def test_gradient_that_is_not_finite_is_an_error_that_names_the_image(name, model, x, y):
    """One black pixel is enough; a NaN must not leave the image clean, as if the network were robust."""
    x = x.clamp(min=1 / 255)
    x[2, 1, 3, 3] = 0
    clean = x[[0, 1, 3]], y[[0, 1, 3]]
    assert (PRESETS[name](Gamma(model), *clean, eps=0.5 / 255) != clean[0]).any()
    with pytest.raises(ValueError, match=r"model: its gradient .* 1 of 4 images \(rows 2\)"):
        PRESETS[name](Gamma(model), x, y, eps=0.5 / 255)


def test_nan_of_one_step_is_found_after_the_others(model, x, y):
    """Without momentum nothing of it would be left at the end."""
    once = Gradient(lambda z, y, draw: gradient(model)(z, y, draw) * (float("nan") if draw.step == 1 else 1), (), 1)
    with pytest.raises(ValueError, match="4 of 4 images"):
        attack(x, y, once, eps=EPS, steps=5)


def test_carlini_wagner_names_a_gradient_that_is_not_finite(model, x, y):
    corner = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
    spoiled = lambda z: corner(z) + (0 * (z - z.detach())).abs().sqrt().sum((1, 2, 3))[:, None]  # noqa: E731
    with pytest.raises(ValueError, match="model: its gradient"):
        carlini_wagner(spoiled, x, torch.tensor([0, 1, 0, 1]), steps=2, searches=1)


def test_gradient_of_exactly_zero_warns(model, x, y):
    rounded = lambda z: model((z * 15).round() / 15 + 0 * z)  # noqa: E731
    with pytest.warns(RuntimeWarning, match="exactly 0"):
        assert torch.equal(attacks.mi_fgsm(rounded, x, y, EPS), x)


def test_gradient_that_is_not_zero_does_not_warn(model, x, y, recwarn):
    attacks.mi_fgsm(model, x, y, EPS)
    assert not recwarn.list


@pytest.mark.parametrize("attacked", [attacks.mi_fgsm, attacks.sim, carlini_wagner])
def test_model_that_detaches_is_refused(attacked, model, x, y):
    with pytest.raises(ValueError, match="no gradient reaches the images"):
        attacked(lambda z: model(z.detach()), x, y)


# --- models that write into their input -----------------------------------------------------------------------------


class InPlace(nn.Module):
    """Normalises as `Normalize(..., inplace=True)` does; `copied` does the same and keeps its input."""

    def __init__(self, copied):
        super().__init__()
        torch.manual_seed(0)
        self.last, self.copied = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), copied

    def forward(self, z):
        z = z.clone() if self.copied else z
        return self.last(z.sub_(0.5).div_(0.25))


@pytest.mark.parametrize("name", [*PRESETS, "carlini_wagner"])
def test_model_that_writes_into_its_input_gets_a_copy(name, x):
    run = partial(PRESETS[name], eps=EPS) if name in PRESETS else partial(carlini_wagner, steps=5, searches=2)
    x = x.contiguous(memory_format=torch.channels_last)
    before, y = x.clone(), InPlace(True)(x).argmax(1)
    adv, expected = (run(InPlace(copied).eval(), x, y) for copied in (False, True))
    assert torch.equal(adv, expected) and torch.equal(x, before) and (adv != x).any()


# --- half precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_half_precision_stays_in_the_ball_to_the_last_bit(norm, dtype, model, x, y):
    eps = EPS if norm == "linf" else 0.5
    seen = []

    def half(z):
        seen.append(z.dtype)
        return model(z.float()).to(dtype)

    x = x.to(dtype)
    adv = attacks.pgd(half, x, y, eps, norm=norm)
    delta = adv.double() - x.double()
    size = delta.abs().max() if norm == "linf" else delta.flatten(1).norm(dim=1).max()
    assert adv.dtype == dtype and set(seen) == {dtype}
    assert size <= eps * (1 + 1e-6) and adv.min() >= 0 and adv.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_small_steps(dtype, x, y):
    """100 steps of 0.08/255 reach the surface of the ball, though each is lost in bfloat16."""
    uphill = Gradient(lambda z, y, draw: torch.ones_like(z), (), 1)
    x = x.clamp(0.3, 0.6).to(dtype)
    adv = attack(x, y, uphill, eps=EPS, steps=100)
    ulp = 2.0**-11 if dtype == torch.float16 else 2.0**-8
    assert ((adv.double() - x.double()) > EPS - ulp).all() and ((adv.double() - x.double()) <= EPS).all()


# --- arguments ------------------------------------------------------------------------------------------------------


def test_rap_without_a_target_is_untargeted(model, x, y):
    run = partial(attacks.rap, model, x, y, EPS, steps=3, late=1)
    assert torch.equal(run(target=None), run())


def test_seed_is_a_whole_number(model, x, y):
    with pytest.raises(TypeError, match="seed"):
        attacks.dim(model, x, y, EPS, seed=1.5)
