"""The penalties of chapter 4 on losses whose gradient and Hessian are known, and against double backward."""

import pytest
import torch
from conftest import grid_images, tiny_model
from torch import nn

from advlib import lipschitz
from advlib.core.norms import l2_norm
from advlib.gradients import cross_entropy
from advlib.lipschitz import local_lipschitz, lrs1, lrs2, lrs_f, point, unit_direction

N = 3 * 8 * 8


@pytest.fixture
def x():
    return grid_images().double()


@pytest.fixture
def y(x):
    return torch.zeros(len(x), dtype=torch.int64)


@pytest.fixture
def made_of(monkeypatch):
    """Puts (logits, y) -> (N,) in the place of the cross-entropy; the "model" is the flattened image."""

    def use(loss):
        monkeypatch.setattr(lipschitz, "cross_entropy", lambda logits, y: loss(logits.double()))
        return nn.Flatten()

    return use


def randn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("h", [0.01, 0.5])
def test_lrs1_of_a_linear_loss(made_of, x, y, h):
    """The squared L2 norm of w, and with sign(w) the squared L1 norm, for every h: a lost 1/h^2 shows."""
    w = randn(N)
    model = made_of(lambda z: z @ w)
    options = {"h": h, "form": "text"}
    square = w.square().sum().expand(len(x))
    assert torch.allclose(lrs1(model, x, y, direction="l2", **options), square)
    assert torch.allclose(lrs1(model, x, y, direction="sign", **options), w.abs().sum().square().expand(len(x)))
    assert torch.allclose(lrs1(model, x, y, direction="unit_sign", **options), w.abs().sum().square() / N + 0 * square)


def quadratic(made_of):
    """1/2 z'Az + b'z; returns the model, A (symmetric) and b."""
    a, b = randn(N + 1, N).split([N, 1])
    a = a + a.T
    return made_of(lambda z: 0.5 * ((z @ a) * z).sum(1) + z @ b[0]), a, b[0]


@pytest.mark.parametrize("h", [0.01, 1.5])
@pytest.mark.parametrize("direction", lipschitz.DIRECTIONS)
def test_lrs2_of_a_quadratic_is_the_length_of_the_hessian_times_d(made_of, x, y, h, direction):
    model, a, b = quadratic(made_of)
    d = unit_direction((x.flatten(1) @ a + b).view_as(x), direction).flatten(1)
    length = (d @ a).norm(dim=1)
    assert torch.allclose(lrs2(model, x, y, h, direction, form="text"), length.square())
    assert torch.allclose(lrs2(model, x, y, h, direction), h * length / len(x))


def test_lrs2_over_random_directions_is_the_frobenius_norm(made_of):
    """Images at which the gradient is along a random unit vector; the Hessian has eigenvalues from 0.5 to 2."""
    n, count = 12, 4000
    basis = torch.linalg.qr(randn(n, n))[0]
    a = basis @ torch.diag(torch.linspace(0.5, 2, n, dtype=torch.float64)) @ basis.T
    units = torch.nn.functional.normalize(randn(count, n), dim=1)
    model = made_of(lambda z: 0.5 * (((z - 0.5) @ a) * (z - 0.5)).sum(1))
    images = (0.5 + 0.2 * units @ torch.linalg.inv(a)).reshape(count, 3, 2, 2)
    values = lrs2(model, images, torch.zeros(count, dtype=torch.int64), direction="l2", form="text")
    error = values.std().item() / count**0.5
    assert abs(values.mean().item() - a.square().sum().item() / n) < 4 * error < 0.1


def test_the_reference_form_of_lrs1_is_the_square_of_the_mean_slope(made_of, x, y):
    a, b = randn(2, N)
    model = made_of(lambda z: (z @ a).square() + z @ b)
    here = point(model, x, y)
    ahead = model(x + 0.1 * unit_direction(here.gradient, "l2"))
    slopes = ((ahead @ a).square() + ahead @ b - here.loss) / 0.1
    assert torch.allclose(lrs1(model, x, y, h=0.1, form="text"), slopes.square())
    assert torch.allclose(lrs1(model, x, y, h=0.1).mean(), 0.5 * 0.2**2 * slopes.mean().square())


# --- the weights -----------------------------------------------------------------------------------------------------


@pytest.fixture
def smooth():
    """Twice differentiable, unlike a network of ReLUs; in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(N, 16), nn.Tanh(), nn.Linear(16, 10)).double()


def weight_gradient(loss, model):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def exactly(model, x, y):
    """||g||^2 and ||H d||^2 with d = sign(g) / ||sign(g)|| fixed, by double backward."""
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(cross_entropy(model(leaf), y).sum(), leaf, create_graph=True)
    d = unit_direction(g, "unit_sign")
    (turn,) = torch.autograd.grad((g * d).sum(), leaf, create_graph=True)
    return g.square().sum(), turn.square().sum()


@pytest.mark.parametrize("which", [0, 1])
def test_derivative_by_the_weights_tends_to_that_of_double_backward(smooth, x, y, which):
    wanted = weight_gradient(exactly(smooth, x, y)[which], smooth)

    def error(h):
        found = (lrs1, lrs2)[which](smooth, x, y, h, form="text").sum()
        return ((weight_gradient(found, smooth) - wanted).norm() / wanted.norm()).item()

    errors = [error(h) for h in (4e-3, 2e-3, 1e-3)]
    assert errors[-1] < 0.01
    assert [a / b for a, b in zip(errors, errors[1:], strict=False)] == pytest.approx([2, 2], rel=0.1)


def convolutional(kind):
    """With BatchNorm in train mode, where an image's gradient depends on its batch, and a depthwise convolution."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), kind())
        second = nn.Sequential(nn.Conv2d(6, 6, 3, stride=2, groups=6), kind(), nn.Flatten(), nn.Linear(24, 10))
        return nn.Sequential(first, second).double()


def along_the_turn(model, x, y, h, direction, form):
    """The gradient of the mean of LRS-2 by the weights without a second derivative: that of ||difference|| is, with u =
    difference / ||difference|| held fixed, the derivative along u of the gradient of the loss by the weights, at the
    far point minus that here. The derivative is a central difference."""

    def gradient(at):
        at = at.detach().requires_grad_()
        return torch.autograd.grad(cross_entropy(model(at), y).sum(), at)[0]

    far = x + h * unit_direction(gradient(x), direction)
    difference = gradient(far) - gradient(x)
    length = l2_norm(difference)
    u = difference / length if form == "reference" else 2 * difference / h**2
    share, t = (1 / len(x) ** 2 if form == "reference" else 1 / len(x)), 1e-5 / l2_norm(u).mean()
    ends = [sign * cross_entropy(model(at + sign * t * u), y).sum() for at in (far, x) for sign in (1, -1)]
    return share * weight_gradient((ends[0] + ends[1] - ends[2] - ends[3]) / (2 * t), model)


@pytest.mark.parametrize("kind", [nn.GELU, nn.ReLU])
@pytest.mark.parametrize("form", lipschitz.FORMS)
@pytest.mark.parametrize("direction", lipschitz.DIRECTIONS)
def test_lrs2_by_the_weights_is_how_their_gradient_changes_along_the_turn(x, y, kind, form, direction):
    model = convolutional(kind)
    found = weight_gradient(lrs2(model, x, y, 0.3, direction, form).mean(), model)
    wanted = along_the_turn(model, x, y, 0.3, direction, form)
    assert (found - wanted).norm() < 1e-5 * wanted.norm()


def test_lrs2_of_a_quadratic_by_its_hessian(made_of, x, y):
    """||h A d|| by A is h e d', where e is A d over its length: the direction does not move with A."""
    a = randn(N, N).requires_grad_()
    model = made_of(lambda z: 0.5 * ((z @ (a + a.T) / 2) * z).sum(1))
    d = unit_direction((x.flatten(1) @ (a + a.T) / 2).view_as(x), "unit_sign").flatten(1)
    e = torch.nn.functional.normalize(d @ (a + a.T) / 2, dim=1)
    (found,) = torch.autograd.grad(lrs2(model, x, y, 0.5).sum(), a)
    outer = e.T @ d
    assert torch.allclose(found, 0.5 * (outer + outer.T).detach() / 2 / len(x))


def test_lrs2_of_a_linear_loss_is_zero_for_all_weights(made_of, x, y):
    w = randn(N).requires_grad_()
    penalty = lrs2(made_of(lambda z: z @ w + 0 * (z * w).square().sum(1)), x, y)
    assert torch.equal(penalty, 0 * penalty)
    assert torch.equal(torch.autograd.grad(penalty.sum(), w)[0], 0 * w)


@pytest.mark.parametrize("form", lipschitz.FORMS)
def test_where_the_gradient_is_zero_there_is_no_penalty_and_no_nan(x, y, form):
    model = nn.Sequential(nn.Flatten(), nn.Linear(N, 10)).double()
    nn.init.zeros_(model[1].weight)
    total = lrs_f(model, x, y, form=form).sum()
    assert total.item() == 0 and torch.isfinite(weight_gradient(total, model)).all()


@pytest.mark.parametrize("form", lipschitz.FORMS)
def test_lrs_f_is_the_weighted_sum_and_shares_the_passes(smooth, x, y, form):
    calls = []
    smooth.register_forward_hook(lambda *_: calls.append(1))
    both = lrs_f(smooth, x, y, 0.3, 0.7, 0.02, 0.5, form)
    assert len(calls) == 3
    alone = 0.3 * lrs1(smooth, x, y, 0.02, form=form) + 0.7 * lrs2(smooth, x, y, 0.5, form=form)
    assert len(calls) == 3 + 4
    assert torch.allclose(both, alone)
    assert torch.allclose(weight_gradient(both.sum(), smooth), weight_gradient(alone.sum(), smooth))


def test_the_literal_second_order_step_leaves_no_image(smooth, x, y):
    """h = 1.5 along sign(g): nothing of the image is left in [0, 1]; along the unit sign every pixel moves by 1.5 /
    sqrt(3 H W)."""
    g = point(smooth, x, y).gradient
    assert ((x + 1.5 * unit_direction(g, "sign")).clamp(0, 1) * 255).round().unique().numel() == 2
    step = 1.5 * unit_direction(g, "unit_sign")
    assert torch.allclose(step.abs(), torch.full_like(step, 1.5 / N**0.5))
    assert torch.allclose(l2_norm(step), torch.full((len(x), 1, 1, 1), 1.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "named"), [({"h": 0.0}, "h="), ({"direction": "l1"}, "direction="), ({"form": "thesis"}, "form=")]
)
@pytest.mark.parametrize("penalty", [lrs1, lrs2])
def test_bad_arguments(smooth, x, y, penalty, options, named):
    with pytest.raises(ValueError, match=named):
        penalty(smooth, x, y, **options)


def test_lrs2_needs_a_point_with_curvature(smooth, x, y):
    with pytest.raises(ValueError, match="here"):
        lrs2(smooth, x, y, here=point(smooth, x, y))


@pytest.mark.parametrize("penalty", [lrs1, lrs2, lrs_f])
def test_a_point_belongs_to_a_model_images_and_labels(smooth, x, y, penalty):
    here = point(smooth, x, y, curvature=True)
    wanted = penalty(smooth, x, y)
    assert torch.equal(penalty(smooth, x, y, here=here), wanted)
    assert torch.equal(penalty(smooth, x.clone(), y.clone(), here=here), wanted)
    others = {
        "another model": (nn.Sequential(*smooth), x, y),
        "other images": (smooth, x.flip(0), y),
        "other labels": (smooth, x, y + 1),
    }
    for what, (model, images, labels) in others.items():
        with pytest.raises(ValueError, match=f"here: made with {what}"):
            penalty(model, images, labels, here=here)
    with pytest.raises(TypeError, match="here: expected point"):
        penalty(smooth, x, y, here=here.gradient)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("penalty", [point, lrs1, lrs2, lrs_f])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": None}, TypeError, "x: expected a float tensor"),
        ({"x": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}, TypeError, "x: expected a float tensor"),
        ({"x": torch.zeros(4, 8, 8)}, ValueError, "x: expected shape"),
        ({"x": torch.zeros(4, 3, 0, 8)}, ValueError, "x: expected at least one"),
        ({"x": torch.full((4, 3, 8, 8), NAN)}, ValueError, "x: contains NaN"),
        ({"x": torch.full((4, 3, 8, 8), 1.1)}, ValueError, r"x: expected values in \[0, 1\]"),
        ({"y": torch.zeros(4)}, TypeError, "y: expected an int64"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, ValueError, "y: expected shape"),
        ({"y": torch.full((4,), -100)}, ValueError, "y: class -100 is out of range"),
        ({"model": None}, TypeError, "model: expected a function from images"),
        ({"model": nn.Linear}, TypeError, "model: expected a function from images"),
        ({"model": lambda x: (x.flatten(1),)}, TypeError, "model: expected logits"),
        ({"model": lambda x: x.detach().flatten(1)}, ValueError, "model: no gradient flows"),
        ({"model": lambda x: torch.ones(4, 5, requires_grad=True) * 1}, ValueError, "model: no gradient flows"),
    ],
)
def test_bad_input_is_refused_by_name(smooth, x, y, penalty, change, error, message):
    with pytest.raises(error, match=message):
        penalty(**{"model": smooth, "x": x, "y": y} | change)


@pytest.mark.parametrize(
    ("penalty", "name"),
    [(lrs1, "h"), (lrs2, "h"), (lrs_f, "h1"), (lrs_f, "h2"), (lrs_f, "lambda1"), (lrs_f, "lambda2")],
)
def test_numbers_are_checked(smooth, x, y, penalty, name):
    for value in (NAN, INF, -1.0, *([0.0, 1e-30] if name.startswith("h") else [])):
        with pytest.raises(ValueError, match=f"{name}="):
            penalty(smooth, x, y, **{name: value})
    for value in (None, "a", torch.ones(2)):
        with pytest.raises(TypeError, match=f"{name}="):
            penalty(smooth, x, y, **{name: value})


class InPlace(nn.Module):
    """Normalises the images where they lie, as torchvision's `normalize(inplace=True)` does."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.sub_(0.5).div_(0.25))


def test_a_model_that_normalises_in_place_changes_no_image(smooth, x, y):
    before, apart = x.clone(), lambda z: smooth((z - 0.5) / 0.25)
    for measure in (lrs1, lrs2, lrs_f):
        assert torch.allclose(measure(InPlace(smooth), x, y), measure(apart, x, y))
    for layout in (torch.contiguous_format, torch.channels_last):
        images = x.contiguous(memory_format=layout)
        found = local_lipschitz(InPlace(smooth), images, steps=2)
        assert torch.allclose(found, local_lipschitz(apart, images, steps=2)) and torch.equal(images, before)
    assert torch.equal(x, before)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_where_they_are_switched_off(smooth, x, y, off):
    wanted = point(smooth, x, y).gradient
    with off():
        assert torch.equal(point(smooth, x, y).gradient, wanted)
        assert torch.equal(point(smooth, x.clone(), y).gradient, wanted)  # in inference_mode a tensor of its kind
        local_lipschitz(smooth, x, steps=2)


def test_a_vision_transformer_has_the_penalty_of_attention_written_by_hand():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "num_classes": 10, "depth": 2}
    net = timm.create_model("vit_tiny_patch16_224", **size).eval().double()
    x, y = grid_images(2, 32, 32).double(), torch.arange(2)
    found = []
    for fused in (True, False):  # timm's own words for it
        for block in net.blocks:
            block.attn.fused_attn = fused
        value = lrs2(net, x, y).mean()
        found.append((value, weight_gradient(value, net)))
    assert torch.allclose(found[0][0], found[1][0]) and torch.allclose(found[0][1], found[1][1])


# --- the local Lipschitz constant ------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_local_lipschitz_of_a_linear_model_is_its_operator_norm(norm):
    w = randn(N, 10).float()
    middle = torch.full((3, 3, 8, 8), 0.5)
    found = local_lipschitz(nn.Sequential(nn.Flatten(), Matrix(w)), middle, 8 / 255, norm=norm)
    assert torch.allclose(found, torch.linalg.matrix_norm(w, 2).expand(3), rtol=0.01)


class Matrix(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w = w

    def forward(self, z):
        return z @ self.w


def test_local_lipschitz_is_per_image_and_hands_the_model_back():
    model, x = tiny_model().train(), grid_images(6)
    index = torch.arange(6)
    whole = local_lipschitz(model, x, steps=3, index=index)
    parts = [local_lipschitz(model, x[i], steps=3, index=i) for i in index.split(2)]
    assert torch.allclose(whole, torch.cat(parts), rtol=1e-4)
    assert model.training and all(p.requires_grad for p in model.parameters())


def test_an_ascent_finds_more_than_its_first_step(x):
    model = tiny_model()
    few, more = (local_lipschitz(model, x.float(), steps=s) for s in (1, 20))
    assert (more > few).all()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"norm": "l1"}, ValueError),
        ({"norm": ["l2"]}, TypeError),
        ({"eps": 0.0}, ValueError),
        ({"steps": 0}, ValueError),
        ({"seed": 1.5}, TypeError),
    ],
)
def test_local_lipschitz_refuses_by_name(options, error):
    with pytest.raises(error, match=f"{next(iter(options))}="):
        local_lipschitz(tiny_model(), grid_images(), **options)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_ball_below_the_rounding_of_the_images_is_refused_and_one_above_it_is_right(norm):
    w = randn(N, 10).float()
    model, middle = nn.Sequential(nn.Flatten(), Matrix(w)), torch.full((3, 3, 8, 8), 0.5)
    for eps in (1e-12, 1e-8, 5e-7):
        with pytest.raises(ValueError, match=f"eps={eps}: so small that torch.float32 rounds it away"):
            local_lipschitz(model, middle, eps, norm=norm)
    found = local_lipschitz(model, middle, 1e-5 * (N**0.5 if norm == "l2" else 1), norm=norm)
    assert torch.allclose(found, torch.linalg.matrix_norm(w, 2).expand(3), rtol=0.1)


@pytest.mark.parametrize(
    "spoil", [lambda z: z / 0, lambda z: z + 0 * (z - z.detach()).sqrt()], ids=["value", "gradient"]
)
def test_a_model_that_is_not_finite_near_the_images_is_refused(spoil):
    model, middle = tiny_model(), torch.full((2, 3, 8, 8), 0.5)

    def near(x):
        logits = model(x)
        return logits if torch.equal(x, middle) else spoil(logits)

    with pytest.raises(ValueError, match="model: its logits near the images, or their gradient, are not finite"):
        local_lipschitz(near, middle, steps=3)


def test_a_model_that_lets_no_gradient_through_has_no_constant():
    net = tiny_model()
    for model in (lambda x: net(x).detach(), lambda x: net(x.detach())):
        with pytest.raises(ValueError, match="model: no gradient flows"):
            local_lipschitz(model, grid_images())
