"""Defences against independent implementations and closed forms; an answer that depends on the image alone."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import grid_images, tiny_model
from scipy import fft, stats
from torch import nn
from torchvision.io import decode_jpeg, encode_jpeg

from advlib import attacks
from advlib.bench import evaluation
from advlib.core.draws import Draw, Stream, content
from advlib.core.surrogate import Normalized
from advlib.defenses import ModelEnsemble, RandomSelfEnsemble, adaptive_diversity, transformations
from advlib.defenses.reconstruction import RandomizedDiscretization, TotalVariance
from advlib.defenses.transformations import (
    ABSTAIN,
    JPEG,
    BitReduction,
    FeatureDistillation,
    NIPSr3,
    RandomizedSmoothing,
    RandomResizePad,
)
from advlib.zoo.datasets import Images

DRAWN = [
    RandomResizePad(draws=3),
    RandomizedSmoothing(n=20),
    TotalVariance(iterations=5),
    RandomizedDiscretization(draws=2, colours=4),
]
SINGLE = [BitReduction(), JPEG(), FeatureDistillation(), *DRAWN]
"""In front of any model, be it a network or a function."""
RANDOM = [*DRAWN, RandomSelfEnsemble(n=3)]
ALL = [*SINGLE, RandomSelfEnsemble(n=3)]


def name(defence):
    return type(defence).__name__


@pytest.fixture
def x():
    return grid_images(6, 32, 32)


@pytest.fixture
def draw(x):
    return Draw(0, content(x))


# --- the interface ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("defence", ALL, ids=name)
def test_a_defended_model_is_a_model_that_can_be_attacked(defence, x):
    defended = defence(tiny_model())
    y = defended.predict(x).clamp(min=0)
    adv = attacks.i_fgsm(defended, x, y, eps=8 / 255, steps=2)
    assert defended(x).shape == (6, 10) and 0 < (adv - x).abs().max() <= 8 / 255 + 1e-6
    assert defence.kind in ("faithful", "retrained", "proxy")
    assert defence.gradients in ("exact", "straight-through", "none")


@pytest.mark.parametrize("defence", ALL, ids=name)
def test_an_answer_does_not_depend_on_batch_or_order(defence, x):
    defended = defence(tiny_model())
    with torch.no_grad():
        whole, alone = defended(x), torch.cat([defended(image[None]) for image in x])
        assert torch.allclose(whole, alone, atol=1e-5)
        assert torch.allclose(defended(x.flip(0)), whole.flip(0), atol=1e-5)


@pytest.mark.parametrize("defence", RANDOM, ids=name)
def test_a_seed_gives_the_same_answer_and_another_seed_another(defence, x):
    with torch.no_grad():
        one, again, other = (defence(tiny_model(), seed)(x) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("defence", [BitReduction(3), JPEG(30), FeatureDistillation()], ids=name)
def test_straight_through_gradient_is_the_models_at_the_purified_image(defence, x, draw):
    model, point = tiny_model(), x.clone().requires_grad_()
    inside = defence.purified(x, draw).requires_grad_()
    (through,) = torch.autograd.grad(defence(model)(point)[:, 0].sum(), point)
    (wanted,) = torch.autograd.grad(model(inside)[:, 0].sum(), inside)
    assert torch.allclose(through, wanted, atol=1e-6) and not torch.equal(inside, x)


def test_content_knows_every_pixel_and_its_place_but_not_the_rounding(x):
    index = content(x)
    assert index.dtype == torch.int32 and len(set(index.tolist())) == 6
    assert torch.equal(content(x + 0.4 / 255), index)
    moved = x.clone()
    moved[:, :, 3, 4], moved[:, :, 4, 3] = x[:, :, 4, 3], x[:, :, 3, 4]
    assert not (content(moved) == index).any()
    level = x.clone()
    level[:, 1, 7, 7] += torch.where(x[:, 1, 7, 7] > 0.5, -1, 1) / 255
    assert not (content(level) == index).any()


# --- points that an attack looks ahead to, and what is no image -------------------------------------------------------

QUANTISERS = [BitReduction(), BitReduction(8), JPEG(), JPEG(95, "full"), FeatureDistillation()]


@pytest.mark.parametrize("defence", QUANTISERS, ids=str)
@pytest.mark.parametrize(("value", "nearest"), [(1.02, 1.0), (1.9, 1.0), (-0.02, 0.0), (-0.9, 0.0)])
def test_a_point_beyond_black_or_white_is_black_or_white_and_keeps_its_gradient(defence, value, nearest, draw):
    point = torch.full((2, 3, 16, 16), value, requires_grad=True)
    out = defence.purified(point, draw)
    assert torch.allclose(out, torch.full_like(out, nearest), atol=1 / 255)
    (gradient,) = torch.autograd.grad(out.sum(), point)
    assert torch.equal(gradient, torch.ones_like(point))


@pytest.mark.parametrize("defence", ALL, ids=name)
def test_a_nan_never_becomes_an_image(defence, x):
    x[0, 0, 3, 3] = float("nan")
    with torch.no_grad():
        logits = defence(tiny_model())(x)
    assert logits[0].isnan().all() and logits[1:].isfinite().all()
    with pytest.raises(ValueError, match="x: contains NaN"):
        defence(tiny_model()).predict(x)


NO_IMAGES = {
    "nothing": None,
    "list": [1.0],
    "levels": torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
    "classes": torch.zeros(2, 3, 8, 8, dtype=torch.int64),
    "bools": torch.zeros(2, 3, 8, 8, dtype=torch.bool),
    "complex": torch.zeros(2, 3, 8, 8, dtype=torch.complex64),
    "one image": torch.zeros(3, 8, 8),
    "video": torch.zeros(2, 3, 2, 8, 8),
    "scalar": torch.tensor(0.5),
    "empty batch": torch.zeros(0, 3, 8, 8),
    "no channel": torch.zeros(2, 0, 8, 8),
    "no row": torch.zeros(2, 3, 0, 8),
    "sparse": torch.zeros(2, 3, 8, 8).to_sparse(),
}


@pytest.mark.parametrize("wrong", NO_IMAGES.values(), ids=NO_IMAGES)
@pytest.mark.parametrize("defence", ALL, ids=name)
def test_what_is_no_batch_of_images_is_refused(defence, wrong):
    defended = defence(tiny_model())
    for called in (defended, defended.predict):
        with pytest.raises((TypeError, ValueError), match=r"\bx:"):
            called(wrong)


@pytest.mark.parametrize("wrong", [-0.01, 1.01, 255.0, float("inf")])
@pytest.mark.parametrize("defence", SINGLE, ids=name)
def test_classes_are_predicted_for_images_alone(defence, wrong, x):
    x[0, 0, 0, 0] = wrong
    with pytest.raises(ValueError, match=r"x: expected values in \[0, 1\]"):
        defence(tiny_model()).predict(x)
    with pytest.raises(ValueError, match=r"x: expected values in \[0, 1\]"):
        RandomizedSmoothing(n=2).certify(tiny_model(), x, n=2)


@pytest.mark.parametrize("defence", ALL, ids=name)
def test_predicting_moves_no_statistics_and_answers_in_eval_mode(defence, x):
    model = tiny_model()
    wanted = defence(model).predict(x)
    defended = defence(model.train())
    before = {key: value.clone() for key, value in defended.state_dict().items()}
    assert torch.equal(defended.predict(x), wanted)
    assert all(torch.equal(value, before[key]) for key, value in defended.state_dict().items())
    assert defended.training and model.net[1].training and model.net[0].weight.requires_grad


# --- quantisation and compression -------------------------------------------------------------------------------------


def test_bit_reduction_leaves_so_many_levels_and_eight_bits_change_nothing(x, draw):
    assert len(BitReduction(3).purified(x, draw).mul(7).round().unique()) == 8
    assert torch.allclose(BitReduction(8).purified(x, draw), x, atol=1e-6)
    once = BitReduction(3).purified(x, draw)
    assert torch.allclose(BitReduction(3).purified(once, draw), once, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("quality", [10, 75, 95])
def test_jpeg_is_that_of_another_codec(quality, x, draw):
    levels = (x * 255).round().to(torch.uint8)
    theirs = torch.stack([decode_jpeg(encode_jpeg(image, quality=quality)) for image in levels])
    ours = (JPEG(quality).purified(x, draw) * 255).round()
    assert (ours - theirs).abs().max() <= 1


def test_jpeg_with_full_colour_keeps_colour_that_the_half_loses(draw):
    columns = torch.zeros(1, 3, 32, 32)
    columns[:, 0, :, ::2], columns[:, 1, :, 1::2] = 0.6, 0.3  # red and green columns of about one brightness
    loss = {c: (JPEG(95, c).purified(columns, draw) - columns).abs().mean().item() for c in ("half", "full")}
    assert loss["full"] < 0.2 * loss["half"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_jpeg_of_grey_images_is_that_of_another_codec(draw):
    x = grid_images(4, 24, 20)[:, :1]
    levels = (x * 255).round().to(torch.uint8)
    theirs = torch.stack([decode_jpeg(encode_jpeg(image, quality=60)) for image in levels])
    ours = (JPEG(60).purified(x, draw) * 255).round()
    assert ours.shape == (4, 1, 24, 20) and (ours - theirs).abs().max() <= 1


def test_jpeg_of_other_channels_is_refused(draw):
    with pytest.raises(ValueError, match="x: 4 channels; JPEG takes 1 or 3"):
        JPEG().purified(torch.zeros(2, 4, 8, 8), draw)


@pytest.mark.parametrize("side", [32, 27])
def test_feature_distillation_is_the_quantised_dct_of_scipy(side, draw):
    x = grid_images(6, side, side)
    table = np.full((8, 8), 30.0)
    table[:4, :4] = 25
    padded = np.pad(255 * x.double().numpy(), ((0, 0), (0, 0), (0, -side % 8), (0, -side % 8)), mode="edge")
    for top in range(0, side, 8):
        for left in range(0, side, 8):
            block = padded[:, :, top : top + 8, left : left + 8]
            kept = np.round(fft.dctn(block, axes=(2, 3), norm="ortho") / table) * table
            padded[:, :, top : top + 8, left : left + 8] = fft.idctn(kept, axes=(2, 3), norm="ortho")
    theirs = np.clip(padded[:, :, :side, :side] / 255, 0, 1)
    ours = FeatureDistillation().purified(x.double(), draw).numpy()
    assert np.abs(ours - theirs).max() < 1e-9


def test_feature_distillation_with_fine_steps_changes_nothing(x, draw):
    assert torch.allclose(FeatureDistillation(1e-3, 1e-3).purified(x, draw), x, atol=1e-4)


# --- randomisation ----------------------------------------------------------------------------------------------------


def test_resize_pad_is_nearest_neighbour_in_a_grey_canvas():
    defence, x = RandomResizePad(), grid_images(40, 32, 32)
    draw = Draw(0, torch.arange(40))
    out, u = defence.purified(x, draw), draw.uniform(4)
    assert out.shape == (40, 3, 36, 36)
    sizes = set()
    for image, canvas, (flip, size, top, left) in zip(x, out, u.tolist(), strict=True):
        side = 33 + int(3 * size)
        top, left = int(top * (37 - side)), int(left * (37 - side))
        wanted = torch.full((3, 36, 36), 0.5)
        shown = F.interpolate((image.flip(2) if flip < 0.5 else image)[None], (side, side), mode="nearest")[0]
        wanted[:, top : top + side, left : left + side] = shown
        assert torch.allclose(canvas, wanted, atol=1e-6)
        sizes.add((side, flip < 0.5, top, left))
    assert len(sizes) > 15


def test_resize_pad_has_the_published_sizes_on_inception_images():
    rows = RandomResizePad()._selection(299, torch.tensor([0.0, 0.999999]), torch.tensor([0.0, 0.999999]))
    assert rows.shape == (2, 331, 299)
    assert rows.sum((1, 2)).tolist() == [310, 330] and rows[1, -1].any() and not rows[1, 0].any()


class OneSize(nn.Module):
    """Takes images of 32 pixels and no others, as a ViT does."""

    def __init__(self):
        super().__init__()
        self.model = tiny_model()

    def forward(self, x):
        assert x.shape[2:] == (32, 32), "Input height doesn't match model"
        return self.model(x)


def test_a_network_of_one_size_needs_a_resize_behind_resize_and_pad(x):
    with pytest.raises(ValueError, match=r"(?s)model: AssertionError on the canvas of 36x36 pixels .*Normalized\(net"):
        RandomResizePad(2)(OneSize())(x)
    fitted = Normalized(OneSize(), (0, 0, 0), (1, 1, 1), size=32)
    assert RandomResizePad(2)(fitted)(x).shape == (6, 10)


def test_many_draws_are_run_in_batches_and_averaged_as_probabilities(x):
    calls, model = [], tiny_model()

    def counted(images):
        calls.append(len(images))
        return model(images)

    defence = RandomizedSmoothing(sigma=0.2, n=400)
    soft = defence(counted)(x)
    assert len(calls) == math.ceil(400 / (1000 // 6)) and sum(calls) == 2400
    assert torch.allclose(soft.exp().sum(1), torch.ones(6), atol=1e-4)


def test_majority_vote_abstains_where_the_binomial_test_does(monkeypatch):
    votes = torch.tensor([[60, 40, 0], [70, 30, 0], [40, 30, 30], [100, 0, 0], [5, 0, 95], [50, 50, 0]])
    monkeypatch.setattr(RandomizedSmoothing, "votes", lambda self, model, x, draw, n: votes)
    found = RandomizedSmoothing(alpha=0.001)(tiny_model()).predict(grid_images(6)).tolist()
    for row, answer in zip(votes, found, strict=True):
        (a, b), (first, _) = (part.tolist() for part in row.topk(2))
        test = stats.binomtest(a, a + b)
        low, high = test.proportion_ci(0.999, method="exact")
        assert (answer == ABSTAIN) == (test.pvalue > 0.001) == (low < 0.5 < high)
        assert answer in (ABSTAIN, first)
    assert ABSTAIN in found and 0 in found and 2 in found


def test_certified_radius_of_a_linear_model_is_its_margin():
    """Cohen et al.: for a linear classifier the radius is the distance to the boundary; the bound stays below it."""
    w = torch.randn(3 * 8 * 8, generator=torch.Generator().manual_seed(0))
    w = w / w.norm()
    x = grid_images(8)
    score = x.flatten(1) @ w
    bias = score.median() + 0.01

    def linear(images):
        s = images.flatten(1) @ w - bias
        return torch.stack([s, -s], 1)

    classes, radii = RandomizedSmoothing(sigma=0.5, n=200).certify(linear, x, n=5000)
    distance = (score - bias).abs()
    decided = classes != ABSTAIN
    assert decided.any() and (classes[decided] == linear(x).argmax(1)[decided]).all()
    assert (radii[decided] <= distance[decided]).all() and (radii[~decided] == 0).all()
    near = decided & (distance < 0.8)  # further away every vote is for the class, and the bound of 5,000 votes binds
    assert near.any() and torch.allclose(radii[near], distance[near], atol=0.12)


# --- reconstruction ---------------------------------------------------------------------------------------------------


def variation(z):
    """(N,) the sum of the L2 norms of the differences of rows, and of columns."""
    return z.diff(dim=2).norm(dim=3).sum((1, 2)) + z.diff(dim=3).norm(dim=2).sum((1, 2))


def test_total_variance_leaves_a_constant_image_and_lowers_the_variation_of_others(x, draw):
    grey = torch.full((2, 3, 9, 7), 0.3)
    assert torch.allclose(TotalVariance().purified(grey, Draw(0, content(grey))), grey, atol=1e-6)
    once, more = (TotalVariance(weight=w).purified(x, draw) for w in (0.03, 0.3))
    assert (variation(more) < variation(once)).all() and (variation(once) < variation(x)).all()
    assert once.min() >= x.min() - 1e-6 and once.max() <= x.max() + 1e-6  # means of what there is


def test_total_variance_that_drops_nothing_and_weighs_nothing_is_the_identity(x, draw):
    assert torch.allclose(TotalVariance(drop=0.0, weight=1e-9).purified(x, draw), x, atol=1e-5)


def test_total_variance_is_the_minimum_of_its_sum(x, draw):
    """Its derivative vanishes there, taken by autograd of the sum as it is written."""
    x, defence = x[:1, :1, :12, :10].double(), TotalVariance(iterations=400)
    kept = (draw.at(index=draw.index[:1], stream=Stream.DROPPED_PIXELS).uniform(1, 12, 10) >= 0.5).double()
    z = defence.purified(x, draw.at(index=draw.index[:1])).requires_grad_()

    def energy(z):
        return 0.5 * (kept * (z - x).square()).sum() + 0.03 * variation(z).sum()

    (slope,) = torch.autograd.grad(energy(z), z)
    assert slope.abs().max() < 1e-3
    assert all(energy(z) <= energy(z + 0.01 * torch.randn_like(z)) for _ in range(20))


def test_dropped_values_have_no_effect_and_the_gradient_is_exact(draw):
    x, one = torch.rand(1, 2, 5, 4, dtype=torch.float64), draw.at(index=draw.index[:1])
    kept = one.at(stream=Stream.DROPPED_PIXELS).uniform(2, 5, 4) >= 0.5
    defence = TotalVariance(iterations=4)
    assert torch.allclose(defence.purified(torch.where(kept, x, 0.9), one), defence.purified(x, one))
    assert torch.autograd.gradcheck(lambda z: defence.purified(z, one), x.requires_grad_())


@pytest.mark.parametrize("colours", [1, 2, 5])
def test_discretization_leaves_so_many_colours_each_the_nearest(colours, x, draw):
    out = RandomizedDiscretization(sigma=0.0, colours=colours).purified(x, draw).flatten(2)
    for image, shown in zip(x.flatten(2), out, strict=True):
        palette = shown.unique(dim=1)
        assert palette.shape[1] == colours
        assert all((colour == image.T).all(1).any() for colour in palette.T)  # pixels of the image
        nearest = torch.cdist(image.T, palette.T).argmin(1)
        assert torch.equal(palette[:, nearest], shown)


def test_discretization_with_a_colour_for_each_pixel_is_the_noisy_image(draw):
    x = torch.rand(6, 3, 3, 3) * 0.6 + 0.2
    noise = draw.at(stream=Stream.PALETTE).normal(3, 3, 3)
    out = RandomizedDiscretization(sigma=0.02, colours=9).purified(x, draw)
    assert torch.allclose(out, x + 0.02 * noise, atol=1e-6)


def test_discretization_finds_the_second_of_two_colours(draw):
    """k-means++ never draws a colour that there is already."""
    x = torch.zeros(6, 3, 8, 8)
    x[:, 0, 3, 3] = 1.0
    assert torch.equal(RandomizedDiscretization(sigma=0.0, colours=2).purified(x, draw), x)


# --- ensembles --------------------------------------------------------------------------------------------------------


def test_self_ensemble_without_noise_is_the_network_and_leaves_no_hook(x):
    model = tiny_model()
    assert torch.allclose(RandomSelfEnsemble(0.0, 0.0)(model)(x), model(x).log_softmax(1), atol=1e-5)
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def test_self_ensemble_is_the_mean_over_its_draws_of_networks_with_noise(x, draw):
    model, wanted = (
        nn.Sequential(tiny_model().net[0], nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.LazyLinear(5)),
        0.0,
    )
    model(x)
    for copy in range(4):
        at = draw.at(copy=copy)
        z = x + 0.3 * at.at(stream=Stream.SELF_ENSEMBLE).normal(3, 32, 32)
        z = model[1](model[0](z))
        z = z + 0.7 * at.at(stream=Stream.SELF_ENSEMBLE + 1).normal(8, 32, 32)
        wanted = wanted + model[2:](z).softmax(1) / 4
    assert torch.allclose(RandomSelfEnsemble(0.3, 0.7, n=4)(model)(x).exp(), wanted, atol=1e-5)


def test_model_ensemble_is_the_mean_of_the_probabilities(x):
    nets = [tiny_model(seed) for seed in range(3)]
    together = ModelEnsemble()(nets)
    assert torch.allclose(together(x).exp(), torch.stack([net(x).softmax(1) for net in nets]).mean(0), atol=1e-6)
    assert torch.equal(together.predict(x), together(x).argmax(1))
    adv = attacks.i_fgsm(together, x, together.predict(x), eps=8 / 255, steps=2)
    assert 0 < (adv - x).abs().max() <= 8 / 255 + 1e-6


def test_diversity_of_networks_that_agree_and_of_those_that_do_not():
    y = torch.tensor([0, 3])
    agree = torch.full((3, 2, 5), 0.2)
    assert torch.allclose(adaptive_diversity(agree, y, 1.0, 0.0), torch.tensor(5.0).log().expand(2))
    assert torch.allclose(adaptive_diversity(agree, y, 0.0, 1.0), torch.tensor(1e-6).log().expand(2), atol=0.5)
    apart = torch.stack([F.one_hot(torch.tensor([k, k]), 5) for k in (1, 2, 4)]) * 0.4
    apart = apart + 0.6 * F.one_hot(y, 5)
    assert torch.allclose(adaptive_diversity(apart, y, 0.0, 1.0), torch.zeros(2), atol=1e-5)
    for angle in (0.3, 1.0):  # of two columns: det is the square of the sine between them
        two = torch.tensor([[0.2, 1.0, 0.0], [0.2, math.cos(angle), math.sin(angle)]])[:, None]
        found = adaptive_diversity(two, torch.tensor([0]), 0.0, 2.0)
        assert found.item() == pytest.approx(2 * math.log(math.sin(angle) ** 2 + 1e-6), rel=1e-4)


# --- NIPS-r3 ----------------------------------------------------------------------------------------------------------


def test_nips_r3_weighs_its_four_networks(x):
    class Constant(nn.Module):
        def __init__(self, k):
            super().__init__()
            self.k = k

        def forward(self, images):
            return F.one_hot(torch.full((len(images),), self.k), 4).float()

    out = NIPSr3()([Constant(k) for k in range(4)])(x)
    assert torch.allclose(out, torch.tensor([0.8, 0.3, 0.1, 0.05]).expand(6, 4))


def test_nips_r3_shows_its_networks_images_that_are_little_changed():
    ramp = torch.linspace(0.2, 0.8, 32)
    smooth = torch.stack([ramp[:, None].expand(32, 32), ramp.expand(32, 32), torch.full((32, 32), 0.5)])[None]
    draw, defence = Draw(0, content(smooth)), NIPSr3()
    for view in (defence.purified(smooth, draw), defence._turned(smooth, draw, (1.05, 1.1))):
        inside = (view - smooth)[:, :, 4:-4, 4:-4].abs()
        assert 1e-3 < inside.max() < 0.08


def test_warp_by_a_quarter_turn_is_rot90():
    x = grid_images(2, 8, 8)
    quarter = transformations._rotation(torch.full((2,), torch.pi / 2))
    out = transformations._warped(x, quarter, torch.zeros(2, 2, 1), "bilinear")
    assert torch.allclose(out, x.rot90(1, (2, 3)), atol=1e-5) or torch.allclose(out, x.rot90(-1, (2, 3)), atol=1e-5)
    one = torch.eye(2).expand(2, 2, 2)
    down = transformations._warped(
        x, one, torch.tensor([[[0.25], [0.0]]]).expand(2, 2, 1), "nearest"
    )  # one pixel of eight
    assert torch.allclose(down[:, :, :-1], x[:, :, 1:], atol=1e-6) and (down[:, :, -1] == 0.5).all()


# --- arguments, and how abstention is counted -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda v: BitReduction(v), "bits"),
        (lambda v: JPEG(v), "quality"),
        (lambda v: JPEG(colour=v), "colour"),
        (lambda v: FeatureDistillation(low=v), "low"),
        (lambda v: FeatureDistillation(high=v), "high"),
        (lambda v: RandomResizePad(draws=v), "draws"),
        (lambda v: RandomizedSmoothing(sigma=v), "sigma"),
        (lambda v: RandomizedSmoothing(n=v), "n="),
        (lambda v: RandomizedSmoothing(alpha=v), "alpha"),
        (lambda v: RandomizedSmoothing(n=2).certify(tiny_model(), grid_images(), n=v), "n="),
        (lambda v: TotalVariance(weight=v), "weight"),
        (lambda v: TotalVariance(iterations=v), "iterations"),
        (lambda v: RandomizedDiscretization(colours=v), "colours"),
        (lambda v: RandomizedDiscretization(draws=v), "draws"),
        (lambda v: RandomSelfEnsemble(n=v), "n="),
    ],
)
@pytest.mark.parametrize("value", [None, "a", True, 0, -1, float("nan"), float("inf"), 1j])
def test_bad_options_are_refused_by_name(make, named, value):
    with pytest.raises((TypeError, ValueError), match=named):
        make(value)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: BitReduction(9), "bits"),
        (lambda: BitReduction(2.5), "bits"),
        (lambda: JPEG(101), "quality"),
        (lambda: JPEG(75.5), "quality"),
        (lambda: RandomResizePad(2.5), "draws"),
        (lambda: RandomizedSmoothing(n=2.5), "n="),
        (lambda: RandomizedSmoothing(n=2).certify(tiny_model(), grid_images(), n=2.5), "n="),
        (lambda: RandomizedSmoothing(alpha=1.0), "alpha"),
        (lambda: RandomizedSmoothing(n=2).certify(tiny_model(), grid_images(), seed=1.5), "seed"),
        (lambda: NIPSr3()([tiny_model()] * 3), "model: 3 networks"),
        (lambda: NIPSr3()([tiny_model()] * 3 + [None]), r"model\[3\]"),
        (lambda: NIPSr3()(tiny_model()), "model"),
        (lambda: NIPSr3()(None), "model"),
        (lambda: TotalVariance(drop=1.0), "drop"),
        (lambda: RandomizedDiscretization(sigma=-0.1), "sigma"),
        (lambda: RandomSelfEnsemble(first=-0.1), "first"),
        (lambda: RandomSelfEnsemble(inner="a"), "inner"),
        (lambda: RandomSelfEnsemble()(nn.Flatten()), "model: no convolution"),
        (lambda: RandomSelfEnsemble()(lambda z: z.mean((2, 3))), "model"),
        (lambda: ModelEnsemble()([]), "model"),
        (lambda: ModelEnsemble()([tiny_model(), None]), r"model\[1\]"),
        (lambda: adaptive_diversity(torch.rand(3, 4), torch.zeros(4).long()), "probabilities"),
        (lambda: adaptive_diversity(torch.rand(3, 4, 3), torch.zeros(4).long()), "probabilities: 3 members"),
        (lambda: adaptive_diversity(torch.rand(2, 4, 3), torch.full((4,), 3)), "y"),
        (lambda: JPEG()(tiny_model(), 1.5), "seed"),
        (lambda: JPEG()(None), "model"),
        (lambda: JPEG()(nn.ReLU), "model"),
        (lambda: transformations.Defended(None, tiny_model()), "defence"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(make, named):
    with pytest.raises((TypeError, ValueError), match=named):
        make()


NO_LOGITS = {
    "tuple": lambda x: (x.mean((2, 3)),),
    "dict": lambda x: {"logits": x.mean((2, 3))},
    "one an image": lambda x: x.mean((1, 2, 3)),
    "classes": lambda x: x.mean((2, 3)).long(),
    "another number": lambda x: x.mean((2, 3))[:1],
}


@pytest.mark.parametrize("model", NO_LOGITS.values(), ids=NO_LOGITS)
@pytest.mark.parametrize("defence", SINGLE, ids=name)
def test_a_model_that_gives_no_logits_is_refused(defence, model, x):
    for called in (defence(model), defence(model).predict):
        with pytest.raises((TypeError, ValueError), match="model: expected (floating-point )?logits"):
            called(x)


def test_abstention_is_counted_apart_and_is_no_success():
    pixels = (grid_images(8) * 255).round().to(torch.uint8)
    model = tiny_model()
    defended = RandomizedSmoothing(sigma=0.05, n=10, alpha=0.01)(model)
    images = Images(pixels, model(pixels / 255).argmax(1), torch.arange(8), tuple("0123456789"), "shapes", "test")
    rows = evaluation.success_rates(
        {"MI-FGSM": attacks.mi_fgsm}, {"f": model}, {"f": model, "RS": defended}, images, [16.0]
    )
    adv = attacks.mi_fgsm(model, images.x, images.y, eps=16 / 255)
    answers, kept = defended.predict(adv), defended.predict(images.x) == images.y
    of_rs = rows[rows.target == "RS"].set_index("metric")
    assert set(rows[rows.target == "f"].metric) == {"asr", "asr_all"} and (answers == ABSTAIN).any()
    assert of_rs.n["abstained"] == of_rs.n["asr"] == int(kept.sum())
    share = (kept & (answers == ABSTAIN)).sum() / kept.sum()
    assert of_rs.value["abstained"] == pytest.approx(100 * share.item())
    fooled = (answers != images.y) & (answers != ABSTAIN)
    assert of_rs.value["asr_all"] == pytest.approx(100 * fooled.float().mean().item())
