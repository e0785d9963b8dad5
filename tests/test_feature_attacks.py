"""AA, ATA and AoA: their losses against closed forms and finite differences, what they raise, what a target does."""

import pytest
import torch
import torch.nn.functional as F
from conftest import grid_images, tiny_model
from torch import nn

import advlib as al
from advlib import attacks
from advlib.core.draws import Draw
from advlib.feature_attacks import activation, attention, relevance
from advlib.gradients import gradient, neighbours
from advlib.layers import features

EPS = 8 / 255
DRAW = Draw(0, torch.arange(4))


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Convolved(nn.Module):
    """A = K * x, logits = W A: everything behind the layer is linear; with `bent` it is not."""

    def __init__(self, bent=False):
        super().__init__()
        self.layer, self.bent = nn.Conv2d(3, 5, 3, padding=1, bias=False), bent
        self.layer.weight = nn.Parameter(random(5, 3, 3, 3))
        self.register_buffer("w", random(4, 5 * 64, seed=1) / 8)

    def forward(self, x):
        a = self.layer(x).flatten(1)
        return (F.softplus(a) if self.bent else a) @ self.w.T


@pytest.fixture
def points():
    """Images, others nearby, and labels, in float64."""
    x = grid_images().double()
    return x, (x + 0.1 * random(4, 3, 8, 8, seed=2)).clamp(0, 1), torch.tensor([0, 1, 2, 3])


def along(loss, z, d, h=1e-6):
    """The derivative of loss(z), (N,), along d."""
    return (loss(z + h * d) - loss(z - h * d)) / (2 * h)


# --- AA --------------------------------------------------------------------------------------------------------------


def test_activation_is_the_gradient_of_the_distance(points):
    x, z, y = points
    net = Convolved()
    difference = net.layer(z - x)
    unit = difference / difference.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    wanted = F.conv_transpose2d(unit, net.layer.weight, padding=1)
    assert torch.allclose(activation(net, "layer", x)(z, y, DRAW), wanted, atol=1e-10)


def distance(model, a, b):
    shown = features(model, "net.2")
    return (shown(a) - shown(b)).norm(dim=1)


def test_aa_goes_away_from_the_own_features_or_toward_others(model, x, y):
    away = attacks.aa(model, x, y, EPS, layer="net.2")
    started = attacks.aa(model, x, y, EPS, layer="net.2", steps=1, alpha=1e-6)
    assert (distance(model, away, x) > 1.5 * distance(model, started, x)).all() and not torch.equal(started, x)
    others = x.flip(0)
    adv = attacks.aa(model, x, y, EPS, layer="net.2", toward=others, target=y.flip(0))
    assert (distance(model, adv, others) < 0.95 * distance(model, x, others)).all()
    assert (adv - x).abs().max() <= EPS + 1e-6


def test_aa_alone_goes_the_same_way(model, x, y):
    options = {"layer": "net.2", "steps": 3}
    whole = attacks.aa(model, x, y, EPS, **options)
    assert torch.equal(whole[2:], attacks.aa(model, x[2:], y[2:], EPS, index=torch.tensor([2, 3]), **options))


# --- ATA -------------------------------------------------------------------------------------------------------------


def test_attention_of_a_linear_head_is_a_closed_form(points):
    x, z, y = points
    net = Convolved()
    a = net.w[y].view(4, 5, 64).mean(2)[:, :, None, None]
    before, here = ((a * net.layer(image)).sum(1, keepdim=True).relu() for image in (x, z))
    change = 2 * (here - before) * (here > 0) * a
    surprise = (net(z).softmax(1) - F.one_hot(y, 4)) @ net.w
    wanted = F.conv_transpose2d(surprise.view(4, 5, 8, 8) + 3.0 * change, net.layer.weight, padding=1)
    assert torch.allclose(attention(net, "layer", x, y, weight=3.0)(z, y, DRAW), wanted, atol=1e-10)


def maps(net, z, y):
    """The attention map with the derivative of softplus written out."""
    a = net.layer(z)
    weight = (torch.sigmoid(a) * net.w[y].view(4, 5, 8, 8)).mean((2, 3), keepdim=True)
    return (weight * a).sum(1).relu()


@pytest.mark.parametrize("sign", [1, -1])
def test_attention_is_differentiated_through_its_weights(points, sign):
    x, z, y = points
    net, d = Convolved(bent=True), random(4, 3, 8, 8, seed=5)

    def loss(image):
        change = (maps(net, image, y) - maps(net, x, y)).square().sum((1, 2))
        return F.cross_entropy(net(image), y, reduction="none") + sign * 2.0 * change

    found = attention(net, "layer", x, y, weight=2.0)(z, y, DRAW.at(sign=sign))
    assert torch.allclose((found * d).sum((1, 2, 3)), along(loss, z, d), rtol=1e-5, atol=1e-6)


def test_several_layers_are_added(model, x, y):
    z = x.flip(0)
    single = [attention(model, layer, x, y)(z, y, DRAW) for layer in ("net.0", "net.2")]
    both = attention(model, "net.[02]", x, y)(z, y, DRAW)
    assert torch.allclose(both, sum(single) - gradient(model)(z, y, DRAW), atol=1e-4)


def test_ata_without_weight_is_i_fgsm_and_with_it_moves_the_attention(model, x, y):
    plain = attacks.i_fgsm(model, x, y, EPS)
    same = attacks.ata(model, x, y, EPS, layers="net.2", weight=0.0)
    assert ((plain - same).abs() > 1e-6).float().mean() < 0.01  # signs of gradients that are 0 but for rounding
    for target in (None, y.flip(0)):
        wanted = y if target is None else target
        adv, less = (attacks.ata(model, x, y, EPS, layers="net.2", weight=w, target=target) for w in (1e3, 0.0))
        far, near = (change(model, image, x, wanted) for image in (adv, less))
        assert far.sum() > near.sum()
        by_hand = al.attack(x, y, attention(model, "net.2", x, wanted, weight=1e3), eps=EPS, target=target)
        assert torch.equal(adv, by_hand)


def change(model, a, b, y):
    """||H(a) - H(b)||^2 of the layer net.2 of the tiny model, whose pooling and linear layer follow."""

    def attended(image):
        z = model.net[:3]((image - model.mean) / model.std)
        weight = model.net[5].weight[y].view(-1, 8, 16).sum(2) / 64  # pooled by fours, 64 places
        return (weight[:, :, None, None] * z).sum(1).relu()

    return (attended(a) - attended(b)).square().sum((1, 2))


# --- AoA -------------------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.register_buffer("w", random(classes, 192) / 4)

    def forward(self, x):
        return x.flatten(1) @ self.w.T


def test_relevance_of_a_linear_network_is_a_closed_form(points):
    net, y = Linear(5), torch.tensor([4, 0, 1, 2])
    z = points[1].clamp(min=0.01)
    second = net(z).scatter(1, y[:, None], float("-inf")).argmax(1)

    def of_heat(c):
        w = net.w[c].clamp(min=0)
        return w / (w * z.flatten(1)).sum(1, keepdim=True)

    surprise = (net(z).softmax(1) - F.one_hot(y, 5)) @ net.w
    wanted = 0.5 * surprise + of_heat(second) - of_heat(y)
    assert torch.allclose(relevance(net, weight=0.5)(z, y, DRAW).flatten(1), wanted, atol=1e-10)


def heat(net, z, y):
    """The positive part of z * the slope of logit y, with the derivative of softplus written out."""
    behind = torch.sigmoid(net.layer(z)) * net.w[y].view(4, 5, 8, 8)
    return (z * F.conv_transpose2d(behind, net.layer.weight, padding=1)).relu().sum((1, 2, 3))


def test_relevance_is_differentiated_through_its_slope(points):
    net, d, y = Convolved(bent=True), random(4, 3, 8, 8, seed=5), points[2]
    z = points[1].clamp(min=0.01)
    second = net(z).scatter(1, y[:, None], float("-inf")).argmax(1)
    found = relevance(net, weight=0.0)(z, y, DRAW)
    wanted = along(lambda image: heat(net, image, second).log() - heat(net, image, y).log(), z, d, 1e-7)
    assert torch.allclose((found * d).sum((1, 2, 3)), wanted, rtol=1e-4, atol=1e-5)


def test_aoa_takes_attention_from_the_class_and_gives_it_to_the_one_wanted():
    net, x = tiny_model(classes=4), grid_images()
    with torch.no_grad():
        y = net(x).argmax(1)
    wanted = (y + 1) % 4
    adv, aimed = (attacks.aoa(net, x, y, EPS, weight=0.0, target=target) for target in (None, wanted))
    for image, way, of in ((adv, -1, y), (aimed, 1, wanted)):
        assert (way * (balance(net, image, of) - balance(net, x, of)) > 0).all()


def balance(net, image, y):
    """log of the heat of y over that of the second class, each by a gradient of its own."""

    def log_heat(classes):
        leaf = image.clone().requires_grad_()
        (slope,) = torch.autograd.grad(net(leaf)[torch.arange(4), classes].sum(), leaf)
        return (slope * leaf).relu().sum((1, 2, 3)).log()

    second = net(image).scatter(1, y[:, None], float("-inf")).argmax(1)
    return (log_heat(y) - log_heat(second)).detach()


# --- all -------------------------------------------------------------------------------------------------------------

MAKERS = {
    "activation": lambda f, x, y, **options: activation(f, "net.2", x, **options),
    "attention": lambda f, x, y, **options: attention(f, "net.2", x, y, **options),
    "relevance": lambda f, x, y, **options: relevance(f, **options),
}


@pytest.mark.parametrize("name", MAKERS)
def test_copies_and_points_have_the_reference_of_their_image(model, x, y, name):
    """In any chunk, in any batch, behind transforms and between neighbours."""
    make, z = MAKERS[name], x.flip(2)
    chain = {"transform": [al.InputDiversity(), al.ScaleCopies(3)]}
    whole = neighbours(make(model, x, y, **chain), 0.05, points=3)(z, y, DRAW)
    for chunk in (2, 3):
        g = neighbours(make(model, x, y, chunk=chunk, **chain), 0.05, points=3, chunk=chunk)
        assert torch.allclose(g(z, y, DRAW), whole, rtol=1e-4, atol=1e-4 * whole.abs().max())
    alone = neighbours(make(model, x[1:2], y[1:2], **chain), 0.05, points=3)
    found = alone(z[1:2], y[1:2], Draw(0, torch.tensor([1])))
    assert torch.allclose(found, whole[1:2], rtol=1e-4, atol=1e-4 * whole.abs().max())


PRESETS = {"aa": (attacks.aa, {"layer": "net.2"}), "ata": (attacks.ata, {"layers": "net.2"}), "aoa": (attacks.aoa, {})}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_takes_what_any_attack_takes(model, x, y, name):
    attack, own = PRESETS[name]
    adv = attack(model, x, y, EPS, steps=2, kernel=3, transform=al.RandomErasure(2), momentum=al.Elastic(), **own)
    assert (adv - x).abs().max() <= EPS + 1e-6 and adv.min() >= 0 and adv.max() <= 1 and not adv.requires_grad
    assert "loss" not in attack.__signature__.parameters and model.net[0].weight.requires_grad


@pytest.mark.parametrize("name", MAKERS)
def test_a_ghost_network_gets_its_draw(model, x, y, name):
    z = x.flip(2)
    plain, same, other = (
        MAKERS[name](f, x, y)(z, y, DRAW)
        for f in (model, al.dropout_erosion(model, "net.0", 0.0), al.dropout_erosion(model, "net.0", 0.5))
    )
    assert torch.equal(plain, same) and not torch.allclose(plain, other, rtol=0.1)


def test_bad_input(model, x, y):
    for call, error, named in (
        (lambda: activation(model, "nowhere", x), ValueError, "layer"),
        (lambda: activation(lambda z: model(z), "net.2", x), TypeError, "model"),
        (lambda: activation(model, "net.2", x[:3])(x, y, DRAW), ValueError, "images: 3"),
        (lambda: attention(model, "net.5", x, y), ValueError, "layers"),
        (lambda: attention(model, "net.2", x, y, weight=-1.0), ValueError, "weight"),
        (lambda: attention(model, "net.2", x, y + 10), ValueError, "y"),
        (lambda: relevance(model, weight=-1.0), ValueError, "weight"),
        (lambda: relevance(lambda z: model(z)[:, :1])(x, 0 * y, DRAW), ValueError, "model.*two classes"),
        (lambda: attacks.aa(model, x, y, layer="net.2", toward=x), ValueError, "toward"),
        (lambda: attacks.aa(model, x, y, layer="net.2", target=y), ValueError, "toward"),
        (lambda: attacks.aa(model, x, y, layer="net.2", target=y, toward=x[:1]), ValueError, "toward"),
        (lambda: attacks.ata(model, x, y, layers="net.2", target=y + 10), ValueError, "target"),
    ):
        with pytest.raises(error, match=named):
            call()
