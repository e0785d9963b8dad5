"""Step rules against their identities, and against their papers' updates written out in plain torch."""

from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from conftest import grid_images, tiny_model

from advlib import (
    Elastic,
    EnhancedMomentum,
    InputDiversity,
    VarianceReduced,
    VarianceTuned,
    attack,
    attacks,
    averaged,
    ensemble,
    gradient,
    neighbours,
    rules,
    smoothed,
)
from advlib.core.balls import LinfBall, moved
from advlib.core.draws import Draw, Stream
from advlib.gradients import Gradient

EPS, STEPS = 8 / 255, 4
ALPHA = EPS / STEPS


def mean_abs(g):
    return g.abs().mean((1, 2, 3), keepdim=True)


def slope(model, z, y):
    z = z.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)[0]


def clipped(z, x):
    return torch.min(torch.max(z, (x - EPS).clamp(min=0)), (x + EPS).clamp(max=1))


def alike(a, b):
    """But for pixels where the gradient is about 0 and its sign a matter of rounding."""
    return ((a - b).abs() < 1e-5).float().mean() > 0.99


# --- identities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("project", ["none", "ball"])
def test_elastic_is_mi_at_sigma_zero_and_ni_at_sigma_mu(project, model, x, y):
    run = partial(attacks.em_fgsm, model, x, y, EPS, steps=STEPS, project=project)
    assert torch.equal(run(sigma=0.0), attacks.mi_fgsm(model, x, y, EPS, steps=STEPS))
    nesterov = attack(x, y, model, momentum=Elastic(1.0, 1.0, project=project), eps=EPS, steps=STEPS)
    assert torch.equal(run(sigma=1.0), nesterov)


def test_projected_look_ahead_stays_where_iterates_can_be(model, x, y):
    seen = {"none": [], "ball": []}
    for project, points in seen.items():
        g = gradient(lambda z, points=points: points.append(z.detach()) or model(z))
        attack(x, y, g, momentum=Elastic(1.0, 4.0, project=project), eps=EPS, steps=STEPS)
    far = {project: max((p - x).abs().max() for p in points if len(p) == len(x)) for project, points in seen.items()}
    assert far["ball"] <= EPS + 1e-6 < far["none"]
    assert all(p.min() >= 0 and p.max() <= 1 for p in seen["ball"])


def test_trivial_rules_are_the_momentum_alone(model, x, y):
    mi = attacks.mi_fgsm(model, x, y, EPS, steps=STEPS)
    ni = attacks.ni_fgsm(model, x, y, EPS, steps=STEPS)
    run = partial(attack, x, y, model, eps=EPS, steps=STEPS)
    assert torch.equal(run(momentum=VarianceTuned(points=0)), mi)
    assert torch.equal(run(momentum=VarianceTuned(Elastic(1.0, 1.0), points=0)), ni)
    assert torch.equal(run(momentum=EnhancedMomentum(points=1)), mi)
    assert alike(run(momentum=EnhancedMomentum(interval=0.0, points=3)), mi)  # the mean of equals, rounded
    # One small step of one network, from x_t: its gradient there, twice accumulated.
    alone = attack(x, y, gradient(ensemble([model])), momentum=VarianceReduced(rounds=1), eps=EPS, steps=STEPS)
    assert alike(alone, mi)


def test_linear_loss_leaves_nothing_to_tune(x, y):
    """Its gradient is the same everywhere: no variance, and no difference along the line."""
    g = gradient(lambda z: z.flatten(1)[:, :10], loss="logit")
    run = partial(attack, x, y, g, eps=EPS, steps=STEPS)
    plain = run(momentum=Elastic())
    for rule in (VarianceTuned(points=2), EnhancedMomentum(points=3)):
        assert torch.allclose(run(momentum=rule), plain, atol=1e-6)


# --- the papers' updates, written out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 1.0], ids=["VMI", "VNI"])
def test_variance_tuning_is_its_published_update(sigma, model, x, y):
    points, adv, m, v = 3, x, torch.zeros_like(x), torch.zeros_like(x)
    for t in range(STEPS):
        grad = slope(model, adv + sigma * ALPHA * m, y)
        around = 0
        for k in range(points):
            draw = Draw(0, torch.arange(len(x)), step=t, copy=k, stream=Stream.NEIGHBOUR)
            around = around + slope(model, adv + 1.5 * EPS * (2 * draw.uniform(*x.shape[1:]) - 1), y) / points
        m = m + (grad + v) / mean_abs(grad + v)
        v = around - grad
        adv = clipped(adv + ALPHA * m.sign(), x)
    rule = VarianceTuned(Elastic(1.0, sigma), points=points)
    assert alike(attack(x, y, model, momentum=rule, eps=EPS, steps=STEPS), adv)


def test_enhanced_momentum_is_its_published_update(model, x, y):
    adv, m, last = x, torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(STEPS):
        factors = torch.linspace(-7, 7, 11).tolist()
        grad = sum(slope(model, adv + c * ALPHA * last, y) for c in factors) / 11
        last = grad / mean_abs(grad)
        m = m + grad / mean_abs(grad)
        adv = clipped(adv + ALPHA * m.sign(), x)
    assert alike(attacks.emi_fgsm(model, x, y, EPS, steps=STEPS), adv)


@pytest.mark.parametrize("by", ["logits", "losses"])
def test_variance_reduction_is_its_published_update(by, x, y):
    models = [tiny_model(k) for k in range(3)]
    rule, outer, adv = VarianceReduced(rounds=2), torch.zeros_like(x), x

    def of_all(z):
        if by == "losses":
            return sum(slope(f, z, y) for f in models) / 3
        return slope(lambda z: sum(f(z) for f in models) / 3, z, y)

    for t in range(STEPS):
        whole, z, inner = of_all(adv), adv, torch.zeros_like(x)
        for k in rule._order(3, Draw(0, torch.arange(4), step=t)):
            corrected = slope(models[k], z, y) - (slope(models[k], adv, y) - whole)
            inner = inner + corrected / mean_abs(corrected)
            z = clipped(z + ALPHA * inner.sign(), x)
        outer = outer + inner / mean_abs(inner)
        adv = clipped(adv + ALPHA * outer.sign(), x)
    g = gradient(ensemble(models)) if by == "logits" else averaged([gradient(f) for f in models])
    assert alike(attack(x, y, g, momentum=rule, eps=EPS, steps=STEPS), adv)


def test_the_walk_meets_every_network(x, y):
    order = [k for t in range(20) for k in VarianceReduced()._order(3, Draw(1, torch.arange(4), step=t))]
    assert len(order) == 20 * 4 * 3 and min(order.count(k) for k in range(3)) > 50


def test_variance_reduction_needs_an_ensemble(model, x, y):
    with pytest.raises(TypeError, match="model: expected an ensemble"):
        attacks.svre(model, x, y, EPS)
    with pytest.raises(ValueError, match="momentum: VarianceReduced needs the gradient of an ensemble"):
        attack(x, y, model, momentum=VarianceReduced(), eps=EPS)
    wrapped = neighbours(smoothed(gradient(ensemble([model, tiny_model(1)])), 3), 0.01, 2)
    adv = attack(x, y, wrapped, momentum=VarianceReduced(rounds=1), eps=EPS, steps=2)
    assert (adv != x).any()


# --- what every rule keeps ------------------------------------------------------------------------------------------

RULES = {
    "elastic": Elastic(1.0, 2.0),
    "ball": Elastic(1.0, 2.0, project="ball"),
    "VMI": VarianceTuned(points=3),
    "VNI": VarianceTuned(Elastic(1.0, 1.0), points=3),
    "EMI": EnhancedMomentum(points=3),
    "SVRE": VarianceReduced(rounds=1),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("options", [{}, {"start": "every"}, {"norm": "l2", "eps": 0.5}, {"targeted": True}], ids=str)
def test_images_do_not_depend_on_their_batch_nor_on_the_last_call(name, options):
    x, index = grid_images(5), torch.tensor([3, 141, 59, 26, 5])
    surrogate = ensemble([tiny_model(0), tiny_model(1)])
    y = surrogate(x).argmax(1)
    g = gradient(surrogate, [InputDiversity(p=1.0)])

    def run(rows):
        wanted = {"target": (y[rows] + 1) % 10} if options.get("targeted") else {}
        more = {"eps": EPS, "steps": 3, **{k: v for k, v in options.items() if k != "targeted"}}
        return attack(x[rows], y[rows], g, momentum=RULES[name], seed=2, index=index[rows], **more, **wanted)

    whole = run(torch.arange(5))
    parts = torch.cat([run(rows) for rows in torch.arange(5).split([2, 3])])
    assert ((whole - parts).abs() < 1e-4).float().mean() > 0.99
    assert torch.equal(run(torch.arange(5)), whole) and (whole != x).flatten(1).any(1).all()


@pytest.mark.parametrize("name", RULES)
def test_targeted_is_untargeted_in_a_two_class_world(name, x):
    nets = [tiny_model(0), tiny_model(1)]
    surrogate = ensemble([torch.nn.Sequential(net, _Two()) for net in nets])
    y = surrogate(x).argmax(1)
    run = partial(attack, x, y, gradient(surrogate, loss="margin"), momentum=RULES[name], eps=EPS, steps=3)
    assert torch.equal(run(target=1 - y), run())


class _Two(torch.nn.Module):
    def forward(self, z):
        return z[:, :2]


@pytest.mark.parametrize("name", RULES)
def test_number_of_gradients_of_a_step(name, x, y):
    calls = []
    g = gradient(ensemble([tiny_model(0), tiny_model(1)]))
    counted = Gradient(_counting(g, calls), g.models, 2, tuple(Gradient(_counting(p, calls), (), 1) for p in g.parts))
    attack(x, y, counted, momentum=RULES[name], eps=EPS, steps=2)
    per_step = {"elastic": 1, "ball": 1, "VMI": 4, "VNI": 4, "EMI": 3, "SVRE": 1 + 2 * 2}
    assert len(calls) == 2 * per_step[name]


def _counting(g, calls):
    return lambda x, y, draw: calls.append(len(x)) or g(x, y, draw)


@pytest.mark.parametrize("name", ["VMI", "EMI"])
def test_transforms_draw_anew_at_every_point(name, model, x, y):
    drawn = []

    def watching(images, draw, copy):
        drawn.append(draw.uniform(2))
        return images

    attack(x, y, gradient(model, watching), momentum=RULES[name], eps=EPS, steps=1)
    assert len({tuple(d.flatten().tolist()) for d in drawn}) == 3
    assert torch.equal(drawn[0], Draw(0, torch.arange(4), stream=Stream.TRANSFORM, copy=torch.zeros(4)).uniform(2))


def test_a_rule_of_the_reader_works(model, x, y):
    """The interface of the docstring: its own state, from call to call anew."""

    @dataclass(frozen=True)
    class Mean:
        starts: list = field(default_factory=list)

        def init(self, x):
            self.starts.append(0)
            return torch.zeros_like(x), 0

        def update(self, state, g, x_t, y, draw, ball):
            total, steps = state
            assert isinstance(ball, LinfBall) and ball.eps == EPS and steps == draw.step
            total = total + g(x_t, y, draw)
            return total / (steps + 1), (total, steps + 1)

    rule = Mean()
    first, again = (attack(x, y, model, momentum=rule, eps=EPS, steps=STEPS) for _ in "ab")
    assert torch.equal(first, again) and len(rule.starts) == 2
    without_norm = attack(x, y, model, momentum=Elastic(mu=0.0), eps=EPS, steps=1)
    assert torch.equal(attack(x, y, model, momentum=rule, eps=EPS, steps=1), without_norm)


def test_a_step_of_the_ball_is_as_long_as_alpha(x):
    ball = LinfBall.around(x, EPS, ALPHA)
    assert torch.allclose(moved(ball, x, torch.ones_like(x)), (x + ALPHA).clamp(max=1))
    assert LinfBall.around(x, EPS).alpha == EPS
    assert torch.equal(moved(LinfBall.around(x, EPS, 9.0), x, torch.ones_like(x)), (x + EPS).clamp(max=1))


def test_half_precision_reaches_the_members_too(x, y):
    seen = []

    class Half(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, z):
            seen.append(z.dtype)
            return self.net(z.float()).to(z.dtype)

    surrogate = ensemble([Half(tiny_model(0)), Half(tiny_model(1))])
    adv = attacks.svre(surrogate, x.to(torch.bfloat16), y, EPS, steps=2, rounds=1)
    assert set(seen) == {torch.bfloat16} and adv.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: VarianceTuned(momentum=1.0), "momentum"),
        (lambda: VarianceTuned(points=-1), "points"),
        (lambda: VarianceTuned(radius=-1.0), "radius"),
        (lambda: EnhancedMomentum(Elastic(sigma=1.0)), "momentum"),
        (lambda: EnhancedMomentum(points=0), "points"),
        (lambda: VarianceReduced(rounds=0), "rounds"),
    ],
)
def test_bad_options_are_refused_by_name(make, named):
    with pytest.raises((TypeError, ValueError), match=named):
        make()


@pytest.mark.parametrize("rule", [None, "mi", Elastic, object()])
def test_what_is_no_rule_is_refused(rule, model, x, y):
    with pytest.raises(TypeError, match="momentum: expected a rule"):
        attack(x, y, model, momentum=rule, eps=EPS)
    assert Elastic(mu=0.0) == rules.PLAIN and Elastic() == rules.MI
