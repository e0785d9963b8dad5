"""C&W against the distance to a hyperplane; images independent of one another; black, white and hopeless images."""

import pytest
import torch
from conftest import grid_images
from torch import nn

from advlib import carlini_wagner


class Hyperplane(nn.Module):
    """Two classes with logits (0, w.x + b), |w| = 1: the distance to the boundary is |w.x + b|."""

    def __init__(self, b):
        super().__init__()
        w = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
        self.w, self.b = w / w.norm(), b

    def score(self, x):
        return (x * self.w).sum((1, 2, 3)) + self.b

    def forward(self, x):
        return torch.stack([torch.zeros(len(x)), self.score(x)], 1)


@pytest.fixture
def near():
    """Images around grey at distances of 0.1 to 0.8 from the plane, too near for [0, 1] to be in the way."""
    f = Hyperplane(0.0)
    f.b = -f.score(torch.full((1, 3, 4, 4), 0.5)).item()
    distance = torch.tensor([0.1, -0.3, 0.5, -0.8])
    return f, 0.5 + distance.view(-1, 1, 1, 1) * f.w, distance.abs()


def norms(adv, x):
    return (adv - x).flatten(1).norm(dim=1)


def test_distance_found_is_that_to_the_hyperplane(near):
    f, x, distance = near
    y = f(x).argmax(1)
    adv = carlini_wagner(f, x, y, kappa=0.0, steps=150, searches=6)
    assert (f(adv).argmax(1) != y).all()
    assert ((norms(adv, x) / distance - 1).abs() < 0.03).all()


def test_image_alone_gives_the_same_as_in_a_batch(near):
    f, x, _ = near
    y = f(x).argmax(1)
    whole = carlini_wagner(f, x, y, steps=40, searches=3)
    alone = torch.cat([carlini_wagner(f, x[i : i + 1], y[i : i + 1], steps=40, searches=3) for i in range(4)])
    assert torch.allclose(whole, alone, atol=1e-5)


def test_larger_margin_goes_further_and_reaches_it(near):
    f, x, distance = near
    y = f(x).argmax(1)
    adv = carlini_wagner(f, x, y, kappa=0.2, steps=150, searches=6)
    assert (f.score(adv).abs() > 0.2).all() and ((norms(adv, x) / (distance + 0.2) - 1).abs() < 0.03).all()


def test_black_and_white_pixels_give_no_nan(model):
    x = grid_images(3)
    x[:, :, :4] = (x[:, :, :4] > 0.5).float()
    y = model(x).argmax(1)
    adv = carlini_wagner(model, x, y, steps=60, searches=3)
    assert torch.isfinite(adv).all() and adv.min() >= 0 and adv.max() <= 1
    assert (model(adv).argmax(1) != y).all()


def test_black_and_white_pixels_can_move(model):
    """tanh is flat where they start; an image of nothing else must not be out of reach at the default settings."""
    x = (grid_images(2) > 0.5).float()
    y = model(x).argmax(1)
    assert (model(carlini_wagner(model, x, y)).argmax(1) != y).all()


def test_hopeless_image_comes_back_unchanged(x):
    constant = lambda z: 0 * z.flatten(1)[:, :3] + torch.tensor([1.0, 0.0, 0.0])  # noqa: E731
    y = torch.zeros(4, dtype=torch.int64)
    assert torch.equal(carlini_wagner(constant, x, y, steps=5, searches=2), x)
    assert torch.equal(carlini_wagner(constant, x, y, steps=5, searches=2, target=y + 2), x)


def test_targeted_attack_hits_its_targets(model, x, y):
    target = (y + 1 + torch.arange(4)) % 10
    adv = carlini_wagner(model, x, y, target=target, steps=80, searches=4)
    assert torch.equal(model(adv).argmax(1), target)


def test_model_is_handed_back_as_it_was(model, x, y):
    model.train()
    statistics = model.net[1].running_mean.clone()
    carlini_wagner(model, x, y, steps=2, searches=1)
    assert all(m.training for m in model.modules()) and torch.equal(model.net[1].running_mean, statistics)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("options", [{"searches": 0}, {"c": 0.0}, {"lr": -1.0}, {"steps": 0}])
def test_bad_argument_is_refused_by_name(options, model, x, y):
    with pytest.raises(ValueError, match=rf"\b{next(iter(options))}\b"):
        carlini_wagner(model, x, y, **options)


def test_bad_images_and_labels_are_refused(model, x, y):
    with pytest.raises(ValueError, match="x: expected values"):
        carlini_wagner(model, x * 255, y)
    with pytest.raises(TypeError, match="y"):
        carlini_wagner(model, x, y.float())
    with pytest.raises(ValueError, match="target"):
        carlini_wagner(model, x, y, target=y[:2])
