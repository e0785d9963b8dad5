"""ILA++ against a reference image by image; the batched ridge regression against the normal equations."""

import pytest
import torch
from conftest import grid_images
from torch import nn

from advlib import attacks
from advlib.layers import features, guide, ila_plus_plus

LAYER, EPS = "net.2", 8 / 255


@pytest.fixture
def few():
    return grid_images(3), torch.tensor([1, 2, 3])


def shown(model, z):
    """The output of the third layer, by running the first three."""
    return model.net[:3]((z - model.mean) / model.std).flatten(1)


def climbed(x, value, steps):
    """I-FGSM on a function of one image."""
    points = [x]
    for _ in range(steps):
        z = points[-1].clone().requires_grad_()
        (g,) = torch.autograd.grad(value(z), z)
        points.append((z + EPS / steps * g.sign()).clamp(x - EPS, x + EPS).clamp(0, 1).detach())
    return points


def reference(model, x, y, steps, refine, ridge):
    """One image: two plain loops, and between them the D x D normal equations in double precision."""
    points = climbed(x, lambda z: nn.functional.cross_entropy(model(z), y), steps)
    with torch.no_grad():
        h = torch.cat([shown(model, p) - shown(model, x) for p in points[1:]]).double()
        r = torch.stack([nn.functional.cross_entropy(model(p), y) for p in points[1:]]).double()
    w = torch.linalg.solve(h.T @ h + ridge * torch.eye(h.shape[1], dtype=torch.float64), h.T @ r).float()
    w = nn.functional.normalize(w, dim=0)
    return climbed(x, lambda z: (shown(model, z)[0] * w).sum(), refine)[-1]


@pytest.mark.parametrize("ridge", [0.1, 1e10])
def test_against_a_reference_image_by_image(model, few, ridge):
    x, y = few
    found = ila_plus_plus(model, x, y, EPS, layer=LAYER, steps=4, refine=3, ridge=ridge)
    wanted = torch.cat([reference(model, x[i : i + 1], y[i : i + 1], 4, 3, ridge) for i in range(len(x))])
    assert ((found - wanted).abs() > 1e-6).float().mean() < 0.005  # signs of gradients that are 0 but for rounding


def test_guide_solves_the_normal_equations():
    generator = torch.Generator().manual_seed(0)
    h, r = (torch.randn(shape, generator=generator) for shape in ((4, 5, 30), (4, 5)))
    wanted = torch.linalg.solve(h.transpose(1, 2) @ h + 0.5 * torch.eye(30), (r[:, None] @ h)[:, 0])
    assert torch.allclose(guide(h, r, 0.5), nn.functional.normalize(wanted, dim=1), atol=1e-5)
    assert torch.allclose(guide(h, r, 1e10), nn.functional.normalize((r[:, None] @ h)[:, 0], dim=1), atol=1e-5)
    assert guide(torch.zeros_like(h), r, 0.5).abs().max() == 0


def test_features_stop_at_their_layer_and_leave_no_hook(model, few):
    calls = []
    model.net[5].register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(features(model, LAYER)(few[0]), shown(model, few[0]))
    assert not calls and not model.net[2]._forward_hooks


def test_it_stays_in_the_ball_and_pushes_the_features_further(model, few):
    x, y = few
    adv = ila_plus_plus(model, x, y, EPS, layer=LAYER)
    assert (adv - x).abs().max() <= EPS + 1e-6 and adv.min() >= 0 and adv.max() <= 1
    plain, far = (
        features(model, LAYER)(z) - features(model, LAYER)(x) for z in (attacks.i_fgsm(model, x, y, EPS), adv)
    )
    assert (far.norm(dim=1) > plain.norm(dim=1)).all()


def test_every_image_for_itself(model, few):
    x, y = few
    whole = ila_plus_plus(model, x, y, EPS, layer=LAYER)
    assert torch.equal(whole[1:], ila_plus_plus(model, x[1:], y[1:], EPS, layer=LAYER))


def test_bad_input(model, few):
    for options, named in (({"layer": "nowhere"}, "layer"), ({"layer": LAYER, "ridge": 0.0}, "ridge")):
        with pytest.raises(ValueError, match=named):
            ila_plus_plus(model, *few, EPS, **options)
    with pytest.raises(ValueError, match="eps"):
        ila_plus_plus(model, *few, eps=8, layer=LAYER)
