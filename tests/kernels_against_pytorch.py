"""Every kernel against the PyTorch code that it takes the place of. `test_kernels.py` runs this file in a process of
its own: on the CPU in Triton's interpreter, which has to be asked for before Triton is loaded, and on a GPU where there
is one."""

import math
import os
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import triton
import triton.language as tl
from conftest import grid_images, tiny_model

import advlib as al
from advlib import kernels
from advlib.core.balls import BALLS
from advlib.core.draws import Draw
from advlib.core.norms import NORMS
from advlib.kernels import draws
from advlib.kernels.erasure import erase, rectangle
from advlib.kernels.resizing import resize
from advlib.kernels.update import ascend

DEVICE = os.environ["KERNELS_DEVICE"]
INTERPRETED = triton.knobs.runtime.interpret
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
assert INTERPRETED is (DEVICE == "cpu")

if INTERPRETED:
    try:
        torch.library.wrap_triton(draws.mix)
    except RuntimeError:
        pytest.skip(f"torch {torch.__version__} takes no kernels of Triton's interpreter", allow_module_level=True)


def both(function):
    """What `function` returns with the PyTorch code, and with the kernels."""
    # The interpreter knows no functions of CUDA's library. Where 1 - u is exact, so is this stand-in's argument.
    library = SimpleNamespace(log1p=lambda v: tl.log(1.0 + v)) if INTERPRETED else draws.libdevice
    with patch.object(kernels, "run_on", lambda x: False):
        plain = function()
    with patch.object(kernels, "run_on", lambda x: True), patch.object(draws, "libdevice", library):
        return plain, function()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(shape, layout="contiguous", dtype=torch.float32):
    return torch.rand(shape, generator=generator()).to(DEVICE, dtype).contiguous(memory_format=LAYOUTS[layout])


# --- draws -----------------------------------------------------------------------------------------------------------

INDEX = torch.tensor([0, 10**6, 2**31 + 7, -3], device=DEVICE)
DRAWS = {
    "zeros": Draw(0, INDEX),
    "ones": Draw(1, INDEX, 1, 1, 1),
    "copies": Draw(7, INDEX, 3, torch.arange(4, device=DEVICE), 16),
    "large": Draw(2**33 + 5, INDEX, -1, 2**31 + 1, 2**32 - 1),
    "int32": Draw(5, INDEX.int(), 2, torch.arange(4, device=DEVICE).int(), 4096),
    "every second row": Draw(5, INDEX[::2], 2, torch.arange(4, device=DEVICE)[::2], 4096),
    "one row": Draw(-4, INDEX[:1], 16, 0, 98),
    "one copy for all": Draw(3, INDEX, 2, torch.tensor([4], device=DEVICE)),
}
SHAPES = [(), (1,), (5,), (3, 7, 5), (3, 32, 33)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", DRAWS)
def test_uniform_numbers_are_the_same_bits(name, shape):
    plain, fused = both(lambda: DRAWS[name].uniform(*shape))
    assert fused.dtype == torch.float32 and torch.equal(fused, plain)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", DRAWS)
def test_normal_numbers_differ_in_the_last_places_at_most(name, shape):
    """Logarithm, root and cosine are each right to about one unit in the last place, in one library as in another."""
    plain, fused = both(lambda: DRAWS[name].normal(*shape))
    assert fused.dtype == torch.float32 and fused.shape == plain.shape
    assert (fused.view(torch.int32) - plain.view(torch.int32)).abs().max() <= 4


# --- random erasure --------------------------------------------------------------------------------------------------

MODES = {
    "noise": al.RandomErasure(),
    "grey": al.RandomErasure(fill=0.3),
    "fixed aspect": al.RandomErasure(aspect=0.3, s_h=0.4),
    "always, large": al.RandomErasure(p=1.0, s_h=0.9, aspect=4, fill=0),
    "always, any aspect": al.RandomErasure(p=1.0, s_h=0.9),
    "never": al.RandomErasure(p=0.0),
}


def placed(n, copies, seed=0, step=2):
    """The draw of all copies of n images, and which copy of the erasure each row is. They differ: the erasure is the
    first of a chain, with two copies that another transform makes of each of its own."""
    chain = torch.arange(2 * copies, device=DEVICE).repeat_interleave(n)
    return Draw(seed, torch.arange(n, device=DEVICE).repeat(2 * copies), step, chain, 16), chain % copies


def erased(mode, x, copies=3, **place):
    """The erased copies, and the gradient of a sum over them, weighted at random."""
    image = x.detach().requires_grad_()
    out = mode(image, *placed(len(x), copies, **place))
    weights = torch.randn(out.shape, generator=generator(1)).to(out)
    return out.detach(), torch.autograd.grad(out, image, weights)[0]


def compare(mode, x, **options):
    plain, fused = both(lambda: erased(mode, x, **options))
    # The interpreter cuts numbers to bfloat16 where a GPU rounds them.
    last_place = 2**-8 if INTERPRETED and x.dtype == torch.bfloat16 else 0
    assert fused[0].dtype == x.dtype and torch.allclose(fused[0], plain[0], atol=last_place, rtol=0)
    # A sum in another order, and for half precision rounded once.
    close = {torch.float32: 1e-5, torch.float16: 0.02, torch.bfloat16: 0.15}[x.dtype]
    assert fused[1].shape == x.shape and torch.allclose(fused[1], plain[1], atol=close, rtol=0)
    return fused


@pytest.mark.parametrize("mode", MODES)
def test_erasure_is_the_same_in_every_mode(mode):
    x = images((2, 3, 20, 16), "channels_last")
    out, _ = compare(MODES[mode], x)
    assert (out != x.repeat(6, 1, 1, 1)).any() == (mode != "never")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 3, 24, 17), (2, 1, 5, 9), (1, 4, 8, 64), (1, 3, 40, 9)])
def test_erasure_is_the_same_at_every_size(shape, layout):
    """Also where an image takes more than one program, and does not fill the last."""
    out, _ = compare(al.RandomErasure(p=1.0, s_h=0.6), images(shape, layout), copies=2)
    assert out.is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("place", [{"seed": 0, "step": 0}, {"seed": 1, "step": 1}, {"seed": -5, "step": 999}])
def test_erasure_is_the_same_at_every_place(place):
    compare(al.RandomErasure(p=0.8), images((3, 3, 12, 12)), copies=2, **place)


@pytest.mark.parametrize("mode", ["noise", "grey"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_erasure_is_the_same_in_half_precision(dtype, mode):
    compare(replace(MODES[mode], p=1.0), images((2, 3, 16, 16), "channels_last", dtype))


def test_images_in_no_layout_of_their_own_are_erased_too():
    x = images((2, 3, 16, 24)).transpose(2, 3)[:, :, ::2]
    for no_layout in (x, x[:1].expand(2, -1, -1, -1)):
        compare(MODES["always, any aspect"], no_layout, copies=2)


@triton.jit
def rectangle_kernel(u, out, most, aspect, lean, RANDOM: tl.constexpr, H: tl.constexpr, W: tl.constexpr):
    k = tl.arange(0, 4096)
    tall, wide = rectangle(tl.load(u + k), tl.load(u + 4096 + k), most, aspect, lean, RANDOM, H, W)
    tl.store(out + k, tall)
    tl.store(out + 4096 + k, wide)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("h", "w"), [(32, 32), (8, 64), (64, 8), (224, 224)])
def test_rectangles_are_the_same(mode, h, w):
    """Thousands of them, to rounding: an edge on the very centre of a pixel may fall to either side of it."""
    u = torch.rand(2, 4096, generator=generator()).to(DEVICE)
    u[:, :4] = torch.tensor([[0, 0, 1 - 2**-24, 1 - 2**-24], [0, 1 - 2**-24, 0, 1 - 2**-24]])
    erasure, out = MODES[mode], torch.empty(2, 4096, device=DEVICE)
    drawn = erasure.aspect == "random"
    numbers = (erasure._most(h, w), 1.0 if drawn else float(erasure.aspect), 2 * math.log(h / w))
    rectangle_kernel[(1,)](u, out, *map(float, numbers), RANDOM=drawn, H=h, W=w)
    assert torch.allclose(out, torch.stack(erasure.rectangle(h, w, *u)), rtol=2e-6)


def test_a_gradient_of_the_gradient_passes_through():
    """Of a norm of the input gradient, to images and to weights, as penalties take it."""
    x, mode = images((2, 3, 8, 8)), al.RandomErasure(p=1.0, s_h=0.8)

    def second():
        image, weight = x.detach().requires_grad_(), torch.ones(8, 3, 8, 8, device=DEVICE, requires_grad=True)
        out = mode(image, *placed(2, 2))
        (slope,) = torch.autograd.grad((weight * out**3).sum(), image, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), (image, weight))

    for plain, fused in zip(*both(second), strict=True):
        assert plain.abs().max() > 1 and torch.allclose(plain, fused, rtol=1e-5)


def test_float64_stays_with_the_pytorch_code():
    x = images((2, 3, 10, 12), dtype=torch.float64)
    with patch("advlib.kernels.erasure.erase", side_effect=AssertionError):
        plain, fused = both(lambda: al.RandomErasure(p=1.0, fill=1 / 3)(x.repeat(6, 1, 1, 1), *placed(2, 3)))
    assert torch.equal(plain, fused) and fused.dtype == torch.float64


@pytest.mark.parametrize("rows", [{"own": 5}, {"chain": 5}, {"own": 7, "index": 7, "chain": 7}])
def test_rows_that_do_not_fit_are_refused(rows):
    lengths = {"own": 6, "index": 6, "chain": 6} | rows
    place = [torch.zeros(n, dtype=torch.int64, device=DEVICE) for n in lengths.values()]
    with pytest.raises(ValueError, match="2 images, but"):
        erase(images((2, 3, 4, 4)), *place, 0, 0, 0, 0.5, 0.4, None, None)


# --- resize and pad --------------------------------------------------------------------------------------------------

RESIZES = {
    "as published": al.InputDiversity(),
    "always": al.InputDiversity(p=1.0),
    "never": al.InputDiversity(p=0.0),
    "of one size": al.InputDiversity(p=1.0, scale=1.0),
    "large": al.InputDiversity(p=1.0, scale=3.3),
}


def resized(mode, x):
    """The images, and the gradient of a sum over them, weighted at random."""
    image = x.detach().requires_grad_()
    draw = Draw(4, torch.arange(len(x), device=DEVICE), 2, torch.arange(len(x), device=DEVICE) % 2, 32)
    out = mode(image, draw, torch.zeros_like(draw.index))
    weights = torch.randn(out.shape, generator=generator(1)).to(out)
    return out.detach(), torch.autograd.grad(out, image, weights)[0]


def compare_sizes(mode, x, close):
    """Where a pixel looks is rounded several times, to the last place of the canvas: 1.5e-5 for one of 211 pixels."""
    plain, fused = both(partial(resized, mode, x))
    for there, here in zip(plain, fused, strict=True):
        assert here.dtype == x.dtype and torch.allclose(here, there, rtol=0, atol=close)
    return fused


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", RESIZES)
@pytest.mark.parametrize("shape", [(2, 3, 20, 16), (5, 1, 5, 9), (1, 3, 1, 1), (1, 4, 8, 64)])
def test_resizes_are_the_same_in_every_mode_at_every_size(shape, mode, layout):
    x = images(shape, layout)
    out, _ = compare_sizes(RESIZES[mode], x, 1e-4)
    assert out.is_contiguous(memory_format=LAYOUTS[layout])
    assert torch.equal(out, x) or mode not in ("never", "of one size")


def test_images_in_no_layout_of_their_own_are_resized_too():
    x = images((2, 3, 16, 24)).transpose(2, 3)[:, :, ::2]
    for no_layout in (x, x[:1].expand(2, -1, -1, -1)):
        compare_sizes(RESIZES["always"], no_layout, 1e-4)


@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)], ids=str)
def test_resizes_are_the_same_in_half_precision(dtype, close):
    """Where the PyTorch code rounds weights too, and what is halfway."""
    compare_sizes(RESIZES["always"], images((4, 3, 16, 16), "channels_last", dtype), close)


def test_the_way_back_is_the_transpose():
    """As matrices, of the images that have one pixel each."""
    for scale in (1.1, 1.9):
        one = torch.eye(5 * 6, device=DEVICE).view(-1, 1, 5, 6)
        zero = torch.zeros(len(one), dtype=torch.int64, device=DEVICE)
        there, back = (resize(one, zero, zero, 1, 0, 16, 1.0, scale, way).flatten(1) for way in (False, True))
        assert torch.allclose(there, back.T, rtol=0, atol=1e-6) and (there > 0).sum() > len(one)


def test_a_gradient_of_the_gradient_passes_through_resizes():
    x, draw = images((2, 3, 8, 8)), Draw(1, torch.arange(2, device=DEVICE))

    def second():
        image = x.detach().requires_grad_()
        out = RESIZES["always"](image, draw, draw.index)
        (slope,) = torch.autograd.grad((out**3).sum(), image, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), image)[0]

    plain, fused = both(second)
    assert plain.abs().max() > 1 and torch.allclose(plain, fused, rtol=1e-4)


def test_resizes_in_float64_stay_with_the_pytorch_code_and_rows_that_do_not_fit_are_refused():
    x = images((2, 3, 6, 5), dtype=torch.float64)
    with patch("advlib.kernels.resizing.resize", side_effect=AssertionError):
        assert all(map(torch.equal, *both(partial(resized, RESIZES["as published"], x))))
    rows = torch.zeros(3, dtype=torch.int64, device=DEVICE)
    with pytest.raises(ValueError, match="2 images, but 3"):
        resize(x.float(), rows, rows, 0, 0, 0, 0.5, 1.1, False)


# --- the update ------------------------------------------------------------------------------------------------------

EPS, ALPHA = 8 / 255, 3 / 255


def scene(shape, norm, layout="contiguous", dtype=torch.float32, eps=EPS):
    """A ball, iterates in it, their momentum and a gradient, which is 0 for the last of several images."""
    x = images(shape, layout, dtype)
    ball = BALLS[norm].around(x, eps, ALPHA)
    noise, m, g = (torch.randn(shape, generator=generator(k)).to(x) for k in (1, 2, 3))
    g[1:][-1:] = 0
    like = dict(memory_format=LAYOUTS[layout])
    return ball, ball.project(x + eps * noise), m.contiguous(**like), (1e-3 * g).contiguous(**like)


def stepped(ball, x_t, m, g, **options):
    """(x_{t+1}, g_{t+1}) of `Elastic` with these options."""
    y = torch.zeros(len(x_t), dtype=torch.int64, device=DEVICE)
    return al.loop.step(x_t, m, y, lambda x, y, draw: g, Draw(0, y), al.Elastic(**options), ball)


def compare_steps(ball, x_t, m, g, **options):
    """What the kernels make of it, once it is what the PyTorch code makes. Sums are taken in other orders, and products
    may be added unrounded: momenta may differ by 1e-6 of what is added up in them, and pixels in the last two places of
    numbers next to 1. An L-inf step goes the same way wherever the momentum is not 0 to within its rounding."""
    (there, plain), (here, fused) = both(partial(stepped, ball, x_t, m, g, **options))
    unit = al.Elastic(**options | {"mu": 0}).accumulate(m, g)
    close = 1e-6 * (unit.abs() + options.get("mu", 1.0) * m.abs())
    assert (fused - plain).abs().le(close).all()
    if isinstance(ball, BALLS["linf"]):
        assert (here == there)[plain.abs() >= close].all()
    else:
        assert torch.allclose(here, there, rtol=0, atol=2**-23)
    return here, fused


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("normalize", NORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 3, 7, 5), (2, 3, 24, 32), (5, 1, 3, 3), (1, 1, 1, 1), (1, 4, 32, 33)])
def test_steps_are_the_same_at_every_size(shape, layout, normalize, norm):
    """Also where an image takes several programs, and does not fill the last, and where the gradient of one is 0."""
    here, m = compare_steps(*scene(shape, norm, layout), mu=0.9, normalize=normalize)
    assert here.is_contiguous(memory_format=LAYOUTS[layout]) and m.stride() == here.stride()


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("mu", [0.0, 1.0, 2.5])
def test_steps_are_the_same_with_every_decay(mu, norm):
    ball, x_t, m, g = scene((2, 3, 24, 32), norm)
    here, _ = compare_steps(ball, x_t, m, g, mu=mu)
    if mu == 0:  # the momentum is not even looked at
        assert torch.equal(both(partial(stepped, ball, x_t, math.nan * m, g, mu=0.0))[1][0], here)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("eps", [0.0, 1e-3, 2.0])
def test_steps_end_in_balls_of_every_radius(eps, norm):
    """Of a point, of less than a step, and of more than all images, so that nothing is cut but to [0, 1]."""
    ball, x_t, m, g = scene((3, 3, 9, 8), norm, eps=eps)
    for mu in (0.0, 1.0):
        here, _ = compare_steps(ball, x_t, m, g, mu=mu)
        assert (here == x_t).all() == (eps == 0) and here.min() >= 0 and here.max() <= 1


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("size", [1e-25, 1e-35, 1e20])
def test_steps_do_not_depend_on_the_size_of_the_gradient(size, norm):
    """Whose squares are 0 in float32, or infinite, and which is 0 in the whole of the first block."""
    for normalize in NORMS:
        ball, x_t, m, g = scene((2, 3, 20, 24), norm)
        g.view(2, -1)[:, :1024] = 0
        compare_steps(ball, x_t, m, size * g, mu=0.5, normalize=normalize)


@pytest.mark.parametrize("norm", BALLS)
def test_a_momentum_that_cancels_is_exactly_0_and_moves_nothing(norm):
    ball, x_t, m, g = scene((2, 3, 20, 24), norm)
    _, first = both(lambda: stepped(ball, x_t, torch.zeros_like(m), g))[1]
    here, m = both(lambda: stepped(ball, x_t, first, -g))[1]
    assert first.abs().max() > 1 and not m.any() and torch.allclose(here, x_t, rtol=0, atol=2**-23)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, in the interpreter
@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_spoils_the_same_numbers_and_its_own_image_alone(bad, norm):
    for normalize in NORMS:
        ball, x_t, m, g = scene((3, 3, 20, 24), norm)
        g[0, 1, 2, 3] = bad
        plain, fused = both(partial(stepped, ball, x_t, m, g, normalize=normalize))
        for there, here in zip(plain, fused, strict=True):
            assert torch.allclose(here, there, rtol=1e-5, atol=1e-6, equal_nan=True)
        assert fused[1][0].isnan().any() and fused[1][1:].isfinite().all()


@pytest.mark.parametrize("norm", BALLS)
def test_steps_are_the_same_bits_in_every_run_and_every_batch(norm):
    ball, x_t, m, g = scene((4, 3, 20, 24), norm, "channels_last")
    whole, again = (both(partial(stepped, ball, x_t, m, g))[1] for _ in range(2))
    for own in torch.arange(4).split(1):
        place = {name: v[own] for name, v in vars(ball).items() if isinstance(v, torch.Tensor)}
        alone = both(partial(stepped, replace(ball, **place), x_t[own], m[own], g[own]))[1]
        for one, two, three in zip(whole, again, alone, strict=True):
            assert torch.equal(one, two) and torch.equal(one[own], three)


@pytest.mark.parametrize("norm", BALLS)
def test_what_has_another_layout_than_the_iterates_is_brought_into_theirs(norm):
    ball, x_t, m, g = scene((2, 3, 7, 6), norm, "channels_last")
    no_layout = x_t.repeat_interleave(2, dim=3)[..., ::2]
    compare_steps(ball, x_t, m.contiguous(), g[:1].contiguous().expand(2, -1, -1, -1))
    for x in (x_t.contiguous(), no_layout):
        assert all(out.is_contiguous() for out in compare_steps(ball, x, m, g))


def test_iterates_in_float64_and_rules_and_balls_of_another_kind_stay_with_the_pytorch_code():
    class Other(al.Elastic):
        def accumulate(self, m, grad):
            return -super().accumulate(m, grad)

    class Free(BALLS["linf"]):
        def project(self, z):
            return z

    with patch("advlib.kernels.update.ascend", side_effect=AssertionError):
        for plain, fused in zip(*both(lambda: stepped(*scene((2, 3, 5, 4), "linf", dtype=torch.float64))), strict=True):
            assert fused.dtype == torch.float64 and torch.equal(plain, fused)
        ball, x_t, m, g = scene((2, 3, 5, 4), "linf")
        for rule, place in ((Other(), ball), (al.Elastic(), Free(**vars(ball)))):
            plain, fused = both(partial(al.loop.step, x_t, m, None, lambda *args: g, None, rule, place))
            assert all(map(torch.equal, plain, fused))


# --- whole attacks ---------------------------------------------------------------------------------------------------

CHAIN = [al.RandomErasure(2, p=1.0), al.ScaleCopies(2)]


def sample(n=2):
    """A model, images and their labels."""
    model, x = tiny_model().to(DEVICE), grid_images(n).to(DEVICE)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_start_at_the_same_points(norm):
    plain, fused = both(lambda: al.attacks.pgd(*sample(), steps=2, start="once", norm=norm))
    assert torch.allclose(plain, fused, atol=1e-6 if norm == "l2" else 0, rtol=0)


ELASTIC = {
    "I-FGSM": al.attacks.i_fgsm,
    "MI-FGSM": al.attacks.mi_fgsm,
    "EM-FGSM": partial(al.attacks.em_fgsm, project="ball"),
    "L2": partial(al.attacks.ni_fgsm, norm="l2", eps=0.5),
    "targeted": partial(al.attacks.mi_fgsm, target=torch.ones(2, dtype=torch.int64, device=DEVICE)),
}


@pytest.mark.parametrize("name", ELASTIC)
def test_attacks_take_the_same_steps(name):
    """Each on the kernels' own iterates. Nothing else than the step is another, since no random number is drawn."""
    steps = []
    with patch("advlib.kernels.update.ascend", lambda *args: steps.append(args) or ascend(*args)):
        plain, fused = both(lambda: ELASTIC[name](*sample(), steps=4))
    assert len(steps) == 4 and (plain - fused).abs().max() < 1e-5


@pytest.mark.parametrize("chunk", [1, 3])
def test_gradients_are_the_same_through_resizes(chunk):
    model, x, y = sample()
    g = al.gradient(model, [al.InputDiversity(copies=3)], chunk=chunk)
    plain, fused = both(partial(g, x, y, Draw(0, torch.arange(2, device=DEVICE), step=1)))
    assert torch.allclose(plain, fused, rtol=0, atol=1e-5 * plain.abs().max().item())


@pytest.mark.parametrize("transform", [CHAIN, CHAIN[::-1]], ids=["first", "second"])
@pytest.mark.parametrize("chunk", [1, 3])
def test_gradients_are_the_same_with_several_copies_at_once(transform, chunk):
    """Where the erasure comes first it makes the copies itself, of the images that it is given once."""
    model, x, y = sample()
    g, seen = al.gradient(model, transform, chunk=chunk), []
    draw = Draw(0, torch.arange(2, device=DEVICE), step=1)
    with patch("advlib.kernels.erasure.erase", lambda x, *rows: seen.append((len(x), len(rows[0]))) or erase(x, *rows)):
        plain, fused = both(lambda: g(x, y, draw))
    first = transform is CHAIN
    assert seen == [(2 if first else n, n) for n in ([2] * 4 if chunk == 1 else [6, 2])]
    assert torch.allclose(plain, fused, rtol=0, atol=1e-6 * plain.abs().max().item())
