"""Transforms against closed forms: what is left alone, what is erased or scaled, how large, for which image."""

import pytest
import torch
from conftest import grid_images

from advlib.core.draws import Draw
from advlib.transforms import InputDiversity, MixedImages, RandomErasure, ScaleCopies

N = 4096


def drawn(n, seed=0):
    return Draw(seed, torch.arange(n))


def copies(n, number=1):
    return torch.full((n,), number)


# --- random erasure -------------------------------------------------------------------------------------------------


def test_copy_zero_is_intact():
    x = grid_images(8)
    assert torch.equal(RandomErasure(p=1.0)(x, drawn(8), copies(8, 0)), x)


def test_erasure_of_probability_zero_is_the_identity():
    x = grid_images(8)
    assert torch.equal(RandomErasure(p=0.0)(x, drawn(8), copies(8, 3)), x)


def test_erasure_of_probability_one_erases_every_other_copy():
    erased = RandomErasure(p=1.0).mask(32, 32, drawn(N), copies(N)).flatten(1).any(1)
    _, width = RandomErasure().rectangle(32, 32, *drawn(N).uniform(5)[:, :2].T)
    assert erased[width > 4].float().mean() > 0.97  # a sliver may fall between pixel centres
    assert erased.float().mean() > 0.9


def test_half_of_the_copies_are_erased_at_p_one_half():
    erased = RandomErasure(p=0.5).mask(64, 64, drawn(N), copies(N)).flatten(1).any(1).float().mean()
    always = RandomErasure(p=1.0).mask(64, 64, drawn(N), copies(N)).flatten(1).any(1).float().mean()
    assert abs(erased - always / 2) < 0.04


@pytest.mark.parametrize("aspect", ["random", 0.3, 1.0, 4.0])
@pytest.mark.parametrize("s_h", [0.1, 0.4, 0.9])
@pytest.mark.parametrize(("h", "w"), [(32, 32), (16, 40), (40, 16), (64, 8), (8, 64)])
def test_every_rectangle_fits(aspect, s_h, h, w):
    corners = torch.tensor([0, 1e-6, 0.5, 1 - 2**-24])
    u = torch.cat([drawn(2000).uniform(2), torch.cartesian_prod(corners, corners)])
    height, width = RandomErasure(aspect=aspect, s_h=s_h).rectangle(h, w, u[:, 0], u[:, 1])
    assert torch.isfinite(height).all() and torch.isfinite(width).all()
    assert height.max() <= h * (1 + 1e-5) and width.max() <= w * (1 + 1e-5)


@pytest.mark.parametrize("s_h", [0.1, 0.4, 0.9])
def test_erased_share_is_uniform_up_to_s_h(s_h):
    u = drawn(N).uniform(2)
    height, width = RandomErasure(s_h=s_h).rectangle(32, 32, u[:, 0], u[:, 1])
    share = height * width / 32**2
    assert torch.allclose(share, s_h * u[:, 0], atol=1e-5)
    pixels = RandomErasure(s_h=s_h, p=1.0).mask(32, 32, drawn(N), copies(N)).float().mean((1, 2, 3))
    assert abs(pixels.mean() - s_h / 2) < 0.03 * s_h


def test_random_aspect_covers_wide_and_high_rectangles_alike():
    u = drawn(N).uniform(2)
    height, width = RandomErasure().rectangle(32, 32, u[:, 0], u[:, 1])
    log_r = torch.log(height / width)[u[:, 0] > 1e-3]
    limit = -torch.log(torch.tensor(0.3))
    assert log_r.abs().max() <= limit + 1e-4 and abs(log_r.mean()) < 0.05 and log_r.min() < -0.9 * limit


def test_literal_aspect_keeps_its_ratio_and_never_exceeds_share_r():
    u = drawn(N).uniform(2)
    height, width = RandomErasure(aspect=0.3, s_h=0.4).rectangle(32, 32, u[:, 0], u[:, 1])
    solid = u[:, 0] > 1e-3
    assert torch.allclose((height / width)[solid], torch.tensor(0.3), atol=1e-4)
    share = height * width / 32**2
    assert share.max() <= 0.3 + 1e-5 and abs(share.mean() - 0.15) < 0.01


def test_mask_is_a_rectangle_of_the_drawn_size_to_the_pixel():
    erasure = RandomErasure(p=1.0)
    mask = erasure.mask(32, 32, drawn(500), copies(500))[:, 0]
    height, width = erasure.rectangle(32, 32, *drawn(500).uniform(5)[:, :2].T)
    rows, cols = mask.any(2).sum(1), mask.any(1).sum(1)
    assert torch.equal(mask.sum((1, 2)), rows * cols)
    seen = rows * cols > 0
    assert ((rows - height).abs()[seen] <= 1).all() and ((cols - width).abs()[seen] <= 1).all()


def test_every_pixel_can_be_erased():
    assert RandomErasure(p=1.0).mask(16, 16, drawn(N), copies(N)).any(0).all()


@pytest.mark.parametrize("fill", ["noise", 0.0, 1.0])
def test_no_gradient_flows_through_erased_pixels(fill):
    x = grid_images(16, 16, 16).requires_grad_()
    erasure = RandomErasure(p=1.0, fill=fill)
    out = erasure(x, drawn(16), copies(16))
    (grad,) = torch.autograd.grad(out.sum(), x)
    mask = erasure.mask(16, 16, drawn(16), copies(16)).expand_as(x)
    assert mask.any() and torch.equal(grad, (~mask).float())


@pytest.mark.parametrize("fill", [0.0, 1.0, 0.25])
def test_number_as_fill_paints_the_rectangle(fill):
    x = grid_images(16, 16, 16)
    erasure = RandomErasure(p=1.0, fill=fill)
    out = erasure(x, drawn(16), copies(16))
    mask = erasure.mask(16, 16, drawn(16), copies(16)).expand_as(x)
    assert (out[mask] == fill).all() and torch.equal(out[~mask], x[~mask])


def test_noise_fill_is_uniform_and_differs_between_images_and_copies():
    x = torch.full((64, 3, 32, 32), 2.0)
    erasure = RandomErasure(p=1.0)
    out = erasure(x, drawn(64), copies(64))
    noise = out[out != 2]
    assert noise.min() >= 0 and noise.max() < 1 and abs(noise.mean() - 0.5) < 0.02 and abs(noise.var() - 1 / 12) < 0.01
    other = erasure(x, drawn(64).at(copy=copies(64, 2)), copies(64, 2))
    assert not torch.equal(out, other) and len(torch.unique(noise)) > 0.99 * len(noise)


def test_erasure_makes_the_copies_of_images_itself():
    x, erasure, copy = grid_images(4), RandomErasure(3, p=1.0), torch.arange(3).repeat_interleave(4)
    draw = Draw(0, torch.arange(4).repeat(3), copy=copy)
    out = erasure(x, draw, copy)
    assert torch.equal(out, erasure(x.repeat(3, 1, 1, 1), draw, copy)) and not torch.equal(out[:4], out[4:8])
    assert torch.equal(out[:4], x) and out[:4].data_ptr() != x.data_ptr()


# --- input diversity ------------------------------------------------------------------------------------------------


def test_diversity_of_probability_zero_is_the_identity_bit_for_bit():
    x = grid_images(8, 12, 10)
    assert torch.equal(InputDiversity(p=0.0)(x, drawn(8), copies(8)), x)


def test_diversity_applies_to_a_share_p_of_the_images():
    x = grid_images(1).expand(1000, -1, -1, -1)
    changed = (InputDiversity(p=0.3)(x, drawn(1000), copies(1000)) != x).flatten(1).any(1).float().mean()
    assert abs(changed - 0.3) < 0.06


def sampling(n=512, side=32, scale=1.1):
    """Interpolation matrices of images that are all transformed, the size of the image and its place in the canvas."""
    u = drawn(n).uniform(4)
    size = 1 + (scale - 1) * u[:, 1]
    rows = InputDiversity(p=1.0, scale=scale)._sampling(side, size, u[:, 2], torch.ones(n, dtype=torch.bool))
    return rows, size, u[:, 2]


def test_image_covers_between_one_over_scale_and_the_whole_canvas():
    rows, size, _ = sampling()
    share = rows.sum(2).sum(1) / 32  # a constant white line: how much of the canvas it covers
    assert torch.allclose(share, size / 1.1, atol=0.02)
    assert share.min() >= 1 / 1.1 - 0.02 and share.max() <= 1 + 1e-5


def test_rows_of_the_interpolation_sum_to_one_inside_and_zero_outside():
    rows, size, place = sampling()
    canvas = (torch.arange(32) + 0.5) * 1.1
    source = (canvas - ((1.1 - size) * place * 32)[:, None]) / size[:, None] - 0.5
    total = rows.sum(2)
    assert (rows >= 0).all()
    assert torch.allclose(total[(source >= 0) & (source <= 31)], torch.tensor(1.0), atol=1e-5)
    assert (total[(source <= -1) | (source >= 32)] == 0).all()


def test_constant_image_stays_constant_in_the_canvas_and_is_zero_around_it():
    x = torch.full((256, 1, 32, 32), 0.75)
    out = InputDiversity(p=1.0, scale=1.5)(x, drawn(256), copies(256))
    line = out[:, 0].amax(1)  # along the columns; the border pixel is a blend of image and padding
    assert torch.allclose(out[:, 0, 16, 16], torch.tensor(0.75), atol=1e-5) and out.min() == 0
    inside, outside = (line - 0.75).abs() < 1e-5, line == 0
    assert (~inside & ~outside).sum(1).max() <= 2
    assert outside.any(1).float().mean() > 0.8


def test_diversity_agrees_with_resize_then_pad_then_resize_on_a_linear_ramp():
    """Bilinear sampling is exact on a ramp, so the composed map is known in closed form."""
    ramp = (torch.arange(32.0) / 32).expand(64, 1, 32, 32)
    out = InputDiversity(p=1.0)(ramp, drawn(64), copies(64))
    u = drawn(64).uniform(4)
    size = 1 + 0.1 * u[:, 1]
    source = ((torch.arange(32) + 0.5) * 1.1 - ((1.1 - size) * u[:, 3] * 32)[:, None]) / size[:, None] - 0.5
    inside = (source >= 0) & (source <= 31)
    assert torch.allclose(out[:, 0, 16][inside], (source / 32)[inside], atol=1e-5)


def test_images_are_transformed_differently_and_alone_as_in_a_batch():
    x = grid_images(1, 16, 16).expand(8, -1, -1, -1)
    out = InputDiversity(p=1.0)(x, drawn(8), copies(8))
    assert len({tuple(image.flatten().tolist()) for image in out}) == 8
    alone = InputDiversity(p=1.0)(x[3:4], Draw(0, torch.tensor([3])), copies(1))
    assert torch.allclose(alone, out[3:4], atol=1e-6)


def test_diversity_keeps_the_type_of_the_images():
    x = grid_images(4).double()
    assert InputDiversity(p=1.0)(x, drawn(4), copies(4)).dtype == torch.float64


# --- scaled copies --------------------------------------------------------------------------------------------------


def test_copy_i_is_divided_by_two_to_the_i():
    x = grid_images(5)
    out = ScaleCopies(5)(x, drawn(5), torch.arange(5))
    assert torch.equal(out, torch.stack([x[i] / 2**i for i in range(5)]))


def test_grey_origin_is_halving_in_the_range_from_minus_one_to_one():
    x = grid_images(5)
    out = ScaleCopies(5, origin=0.5)(x, drawn(5), torch.arange(5))
    assert torch.allclose(2 * out - 1, torch.stack([(2 * x[i] - 1) / 2**i for i in range(5)]), atol=1e-6)


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, {"copies": c}) for kind in (InputDiversity, ScaleCopies, RandomErasure) for c in (0, -1)]
    + [(kind, {"p": p}) for kind in (InputDiversity, RandomErasure) for p in (-0.1, 1.1, float("nan"))]
    + [(InputDiversity, {"scale": 0.9})]
    + [(RandomErasure, {"s_h": s}) for s in (-0.1, 1.0)]
    + [(RandomErasure, {"aspect": a}) for a in (0, -1.0, "wide")]
    + [(RandomErasure, {"fill": f}) for f in (-0.1, 1.5, "pink")],
)
def test_bad_argument_is_refused_by_name(kind, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        kind(**options)


# --- mixed images ---------------------------------------------------------------------------------------------------


def test_mixed_images_add_a_share_of_one_image_of_the_pool():
    x, pool = grid_images(8), grid_images(5, seed=9)
    added = (MixedImages(pool, eta=0.5)(x, drawn(8), copies(8)) - x) / 0.5
    distance = (added[:, None] - pool).abs().amax((2, 3, 4))
    assert (distance.amin(1) < 1e-5).all()


def test_the_partner_depends_on_image_step_and_own_copy_alone():
    x, mix = grid_images(64), MixedImages(grid_images(50, seed=9))
    out, rows = mix(x, drawn(64), copies(64)), torch.tensor([40, 3, 17])
    assert torch.equal(mix(x[rows], drawn(64).at(index=rows), copies(3)), out[rows])
    scaled = drawn(64).at(copy=copies(64, 7))  # the same copy of a longer chain
    assert torch.equal(mix(x, scaled, copies(64)), out)
    for other in (mix(x, drawn(64), copies(64, 2)), mix(x, drawn(64).at(step=1), copies(64))):
        assert (other != out).flatten(1).any(1).float().mean() > 0.9


def test_every_image_of_the_pool_is_drawn():
    pool = torch.linspace(0, 1, 7).reshape(7, 1, 1, 1).expand(7, 3, 2, 2)
    out = MixedImages(pool, eta=1.0)(torch.zeros(1000, 3, 2, 2), drawn(1000), copies(1000))
    assert len(out[:, 0, 0, 0].unique()) == 7


def test_mixed_images_describe_their_pool():
    one, other = grid_images(3), grid_images(3, seed=1)
    assert repr(MixedImages(one)) == repr(MixedImages(one.clone())) != repr(MixedImages(other))


@pytest.mark.parametrize("options", [{"pool": torch.zeros(0, 3, 2, 2)}, {"eta": -0.1}, {"copies": 0}])
def test_mixed_images_refuse(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MixedImages(**{"pool": grid_images(2)} | options)
