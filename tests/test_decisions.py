"""Decision-based attacks against the distance to a hyperplane; distances that never grow; queries counted."""

import pytest
import torch
from conftest import grid_images

from advlib import decisions, queries
from advlib.decisions import boundary, sign_flip


class HalfSpace:
    """Class 1 where w.x > b, with a flat score on both sides: nothing but the class is to be learned from it."""

    def __init__(self, b=0.0):
        w = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
        self.w, self.b, self.calls = w / w.norm(), b, []

    def score(self, x):
        return (x.float() * self.w).sum((1, 2, 3)) - self.b

    def __call__(self, x):
        assert not torch.is_grad_enabled()
        self.calls.append(x.clone())
        side = (self.score(x) > 0).to(x.dtype)
        return torch.stack([1 - side, side], 1)

    @property
    def shown(self):
        return sum(map(len, self.calls))


@pytest.fixture
def near():
    """Grey images at distances of 0.1 to 0.4 from the plane, of both classes; the other side of the plane."""
    f, grey = HalfSpace(), torch.full((1, 3, 4, 4), 0.5)
    f.b = f.score(grey).item()
    distance = torch.tensor([0.1, -0.2, 0.3, -0.4])
    x = grey + distance.view(-1, 1, 1, 1) * f.w
    return f, x, (distance > 0).long(), grey - distance.sign().view(-1, 1, 1, 1) * f.w


def apart(found, x, p):
    return torch.linalg.vector_norm((found.images - x).flatten(1), ord=p, dim=1)


# --- Boundary ---------------------------------------------------------------------------------------------------------


def test_boundary_comes_to_the_nearest_point_of_a_half_space(near):
    f, x, y, _ = near
    found = boundary(f, x, y, steps=1500, sphere=0.1, toward=0.1)
    distance = f.score(x).abs()
    assert found.success.all() and (apart(found, x, 2) >= distance - 1e-5).all()
    assert (apart(found, x, 2) < 1.03 * distance).all()


def test_distance_of_the_walk_never_grows(near):
    f, x, y, start = near
    lengths = [apart(boundary(f, x, y, steps=steps, start=start), x, 2) for steps in (1, 5, 20, 60)]
    assert (lengths[0] <= (start - x).flatten(1).norm(dim=1)).all()
    assert all((later <= earlier).all() for earlier, later in zip(lengths, lengths[1:], strict=False))
    assert (lengths[-1] < lengths[0]).all()


def test_one_step_goes_around_the_sphere_and_then_towards_the_image(near):
    f, x, y, start = near
    boundary(f, x[:1], y[:1], steps=1, start=start[:1], sphere=0.3, toward=0.2)
    around, closer = f.calls[-2], f.calls[-1]
    d = (start[:1] - x[:1]).norm()
    assert (around - x[:1]).norm() == pytest.approx(d.item(), rel=1e-5)
    cosine = torch.cosine_similarity((around - x[:1]).flatten(), (start[:1] - x[:1]).flatten(), dim=0)
    assert cosine.item() == pytest.approx((1 + 0.3**2) ** -0.5, rel=1e-4)
    assert torch.allclose(closer - x[:1], 0.8 * (around - x[:1]), atol=1e-6)


def test_step_sizes_are_tuned_per_image_to_the_rates():
    size, rate = torch.ones(4, 1, 1, 1), torch.tensor([0.0, 0.3, 0.9, float("nan")]).view(4, 1, 1, 1)
    assert decisions._tuned(size, rate, 0.2, 0.5).flatten().tolist() == pytest.approx([1 / 1.5, 1, 1.5, 1])


# --- Sign Flip --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "reached"), [(1.15, True), (0.98, False)])
def test_sign_flip_reaches_balls_little_larger_than_the_nearest_and_none_smaller(share, reached, near):
    """The L-inf distance to the plane w.x = b is |w.x - b| / |w|_1."""
    f, x, y, _ = near
    eps = share * f.score(x[3:]).abs().item() / f.w.abs().sum().item()
    found = sign_flip(f, x[3:], y[3:], eps=eps, steps=1500 if reached else 300, flip=0.01)
    assert found.success.all() == reached
    assert apart(found, x[3:], float("inf")) <= eps + 1e-6 and torch.equal(found.images, x[3:]) != reached


def test_bisection_brings_the_start_to_the_boundary(near):
    f, x, y, start = near
    ask = queries.Oracle(f, x, y, 1.0)
    with torch.no_grad():
        r = decisions._bisected(ask, x, start - x, torch.ones(4, 1, 1, 1, dtype=torch.bool))
        inside, beyond = f(x + decisions._cut(r, 0.97 * decisions._radius(r))).argmax(1), f(x + r).argmax(1)
    assert torch.equal(inside, y) and torch.equal(beyond, 1 - y) and (ask.queries == 10).all()


def test_radius_of_a_sign_flip_never_grows_and_it_asks_twice_a_step(near):
    f, x, y, _ = near
    found = sign_flip(f, x[3:], y[3:], eps=0.0, steps=50)
    walk = f.calls[-100:]
    radii = [(z - x[3:]).abs().max() for z in walk if f.score(z) > 0]  # of those that were adversarial
    assert found.queries >= 1 + 1 + 10 + 100 and len(radii) > 20 and radii[-1] < 0.95 * radii[0]
    assert all(later <= earlier + 1e-6 for earlier, later in zip(radii, radii[1:], strict=False))


# --- both -------------------------------------------------------------------------------------------------------------

ATTACKS = pytest.mark.parametrize(
    ("attack", "options"), [(boundary, {"steps": 40}), (sign_flip, {"steps": 40, "eps": 0.3})], ids=["boundary", "flip"]
)


@ATTACKS
def test_every_question_is_counted_and_success_is_what_the_model_says(attack, options, near):
    f, x, y, _ = near
    found = attack(f, x, y, **options)
    assert f.shown - 2 == found.queries.sum() and len(found.queries.unique()) > 1  # two are the look at the model
    with torch.no_grad():
        assert torch.equal(f(found.images).argmax(1) != y, found.success) and found.success.any()
    assert found.images.min() >= 0 and found.images.max() <= 1


@ATTACKS
def test_image_alone_is_attacked_as_in_a_batch(attack, options, near):
    f, x, y, _ = near
    index = torch.tensor([4, 1, 8, 3])
    whole = attack(f, x, y, **options, seed=2, index=index)
    for i in range(4):
        alone = attack(f, x[i : i + 1], y[i : i + 1], **options, seed=2, index=index[i : i + 1])
        assert torch.allclose(alone.images, whole.images[i : i + 1], atol=1e-5)
        assert alone.queries == whole.queries[i] and alone.success == whole.success[i]
    assert not torch.allclose(attack(f, x, y, **options, seed=3, index=index).images, whole.images, atol=1e-3)


@ATTACKS
def test_targets_are_hit_from_images_of_them(attack, options, model, x, y):
    target = y.roll(1)
    options = {**options, "eps": 1.0} if attack is sign_flip else options
    found = attack(model, x, y, target=target, start=x.roll(1, 0), **options)
    assert torch.equal(model(found.images).argmax(1), target) and found.success.all()


@ATTACKS
def test_without_a_start_there_is_no_success_and_no_walk(attack, options, near):
    f, x, y, start = near
    start[2] = x[2]
    found = attack(f, x, y, start=start, **options)
    assert found.success.tolist()[2] is False and torch.equal(found.images[2], x[2]) and found.queries[2] == 2
    constant = lambda z: torch.tensor([[1.0, 0.0]]).expand(len(z), 2)  # noqa: E731
    found = attack(constant, x, torch.zeros_like(y), tries=7, **options)
    assert not found.success.any() and torch.equal(found.images, x) and (found.queries == 8).all()


@ATTACKS
def test_image_that_is_adversarial_already_costs_one_query(attack, options, near):
    f, x, y, _ = near
    found = attack(f, x, 1 - y, **options)
    assert torch.equal(found.images, x) and found.success.all() and (found.queries == 1).all()


@ATTACKS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_are_those_that_were_asked_about(attack, options, dtype, near):
    f, x, y, _ = near
    x = x.to(dtype)
    found = attack(f, x, y, **options)
    with torch.no_grad():
        assert torch.equal(f(found.images).argmax(1) != y, found.success) and found.success.any()
    assert found.images.dtype == dtype
    if attack is sign_flip:
        assert (found.images.double() - x.double()).abs().max() <= 0.3


@ATTACKS
def test_nan_is_no_success(attack, options, near):
    _, x, y, _ = near
    broken = lambda z: torch.tensor([[0.0, float("nan")]]).expand(len(z), 2) if len(z) > 2 else 1 - 2 * z[:, 0, 0, :2]  # noqa: E731
    found = attack(broken, x, torch.zeros_like(y), **options)
    assert not found.success.any() and torch.equal(found.images, x)


@ATTACKS
@pytest.mark.parametrize("wrong", [{"steps": 0}, {"tries": 0}, {"seed": 1.5}, {"start": grid_images(4)}])
def test_bad_argument_is_refused_by_name(attack, options, wrong, near):
    f, x, y, _ = near
    with pytest.raises((TypeError, ValueError), match=rf"\b{next(iter(wrong))}\b"):
        attack(f, x, y, **{**options, **wrong})
