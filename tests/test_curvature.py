"""Curvature against exact Hessians, quadratics and other closed forms."""

import math

import pytest
import torch
import torch.utils.checkpoint
from conftest import Counted, grid_images, tiny_model
from torch import nn

from advlib import curvature
from advlib.core.second_order import SecondOrder
from advlib.curvature import (
    approximation_ratio,
    filter_normalized,
    gradient,
    hutchinson_trace,
    hvp,
    loss_surface,
    mean_loss,
    normalized_trace,
    restored,
    top_eigenvalue,
    value,
)
from advlib.zoo import datasets


@pytest.fixture
def net():
    """conv, BatchNorm, softplus, linear, in double precision: 3 classes, fewer than 300 weights."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    net[1].running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture
def data(net):
    images = (grid_images(12) * 255).round().to(torch.uint8)
    return datasets.Images(images, torch.arange(12) % 3, torch.arange(12), ("a", "b", "c"), "shapes", "test")


@pytest.fixture
def loss(net, data):
    return mean_loss(lambda x: net(x.double()), data)


@pytest.fixture
def weights(net):
    return curvature.weights(net)


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def exact_hessian(loss, weights):
    (part,) = loss()
    first = torch.autograd.grad(part, weights, create_graph=True)
    rows = [
        torch.autograd.grad(g, weights, retain_graph=True, materialize_grads=True) for t in first for g in t.flatten()
    ]
    return torch.stack([flat(row) for row in rows])


def quadratic(hessian, at):
    """A loss of one vector of weights with this Hessian, and the weights."""
    w = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    h = torch.tensor(hessian, dtype=torch.float64)
    return (lambda: [0.5 * w @ h @ w]), [w]


def test_a_product_is_one_way_back_and_no_dot_product(loss, weights):
    """The vector is where the way back starts, and a product is added to zeros; the dot product of a gradient with it,
    tensor by tensor, would be three operations for each, and their derivatives."""
    v = [w.detach().clone() for w in weights]

    def operations(call, *args, **options):
        with Counted() as counted:
            call(*args, **options)
        return sum(counted.calls.values())

    with SecondOrder():
        (part,) = loss()
        first = torch.autograd.grad(part, weights, create_graph=True)
    way_back = operations(torch.autograd.grad, first, weights, v, retain_graph=True)
    one, two = (operations(hvp, loss, weights, vectors) for vectors in ([v], [v, v]))
    assert two - one == way_back + len(weights) + 1


def test_products_are_those_of_the_exact_hessian_for_several_vectors_at_once(loss, weights):
    vectors = [[torch.randn_like(w) for w in weights] for _ in range(3)]
    exact = exact_hessian(loss, weights)
    assert len(exact) < 2000
    for v, product in zip(vectors, hvp(loss, weights, vectors), strict=True):
        assert torch.allclose(flat(product), exact @ flat(v))


def test_batches_add_up_to_the_whole(net, data, weights, loss):
    parts = mean_loss(lambda x: net(x.double()), data, batch_size=5)
    v = [[torch.randn_like(w) for w in weights]]
    assert len(list(parts())) == 3 and torch.allclose(value(parts), value(loss))
    assert torch.allclose(flat(gradient(parts, weights)), flat(gradient(loss, weights)))
    assert torch.allclose(flat(hvp(parts, weights, v)[0]), flat(hvp(loss, weights, v)[0]))


def test_linear_loss_has_no_curvature_and_unused_weights_have_none():
    w, unused = (torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss, probe = (lambda: [2 * w.sum()]), [[torch.ones(3, dtype=torch.float64)] * 2]
    assert flat(gradient(loss, [w, unused])).tolist() == [2, 2, 2, 0, 0, 0]
    assert not flat(hvp(loss, [w, unused], probe)[0]).any()
    assert hutchinson_trace(loss, [w, unused], probes=2).value == 0


def test_one_probe_gives_the_trace_of_a_diagonal_hessian():
    loss, w = quadratic([[3.0, 0, 0], [0, 5, 0], [0, 0, -1]], [1.0, 2, 3])
    trace = hutchinson_trace(loss, w, probes=1)
    assert trace.value == pytest.approx(7) and trace.probes == 1 and trace.standard_error == math.inf


def test_trace_is_within_its_standard_error_and_the_error_is_the_one_theory_gives(loss, weights):
    exact, probes = exact_hessian(loss, weights), 400
    found = hutchinson_trace(loss, weights, probes, per_graph=100, deflate=0)
    variance = 2 * (exact.square().sum() - exact.diagonal().square().sum()).item()
    assert abs(found.value - exact.trace().item()) < 4 * found.standard_error
    assert found.standard_error == pytest.approx((variance / probes) ** 0.5, rel=0.2)


def test_trace_stops_at_the_requested_error_and_depends_on_the_seed_alone(loss, weights):
    found = hutchinson_trace(loss, weights, probes=1000, tolerance=0.1, per_graph=20)
    assert found.standard_error <= 0.1 * found.value and found.probes < 1000 and not found.probes % 20
    same = hutchinson_trace(loss, weights, probes=found.probes, per_graph=7)
    assert same.value == pytest.approx(found.value)
    assert hutchinson_trace(loss, weights, probes=20, seed=1).value != found.value


def test_deflated_by_all_directions_the_trace_is_exact(loss, weights):
    n = flat(weights).numel()
    full = hutchinson_trace(loss, weights, probes=2, deflate=n)
    assert full.value == pytest.approx(exact_hessian(loss, weights).trace().item(), rel=1e-6)
    assert full.standard_error < 1e-6 * abs(full.value)


def test_deflation_takes_out_what_a_few_eigenvalues_bring():
    torch.manual_seed(0)
    u = torch.linalg.qr(torch.randn(200, 3, dtype=torch.float64))[0]
    h = u @ torch.diag(torch.tensor([900.0, 500.0, 300.0], dtype=torch.float64)) @ u.T
    noise = torch.randn(200, 200, dtype=torch.float64) / 20
    h = h + noise + noise.T
    w = torch.zeros(200, dtype=torch.float64, requires_grad=True)

    def loss():
        return [0.5 * w @ h @ w]

    plain, deflated = (hutchinson_trace(loss, [w], probes=40, deflate=k) for k in (0, 12))
    assert deflated.standard_error < plain.standard_error / 20
    assert abs(deflated.value - h.trace().item()) < 4 * deflated.standard_error


def test_deflation_of_a_hessian_of_low_rank_stops_where_nothing_is_left():
    w, h = torch.zeros(50, requires_grad=True), torch.tensor([1.0, 2.0, 4.0])
    found = hutchinson_trace(lambda: [(h * w[:3].square()).sum()], [w], probes=2, deflate=30)
    assert found.value == pytest.approx(14, abs=1e-4) and found.standard_error < 1e-4


def test_top_eigenvalue_is_the_exact_one(loss, weights):
    exact = torch.linalg.eigvalsh(exact_hessian(loss, weights))[-1].item()
    found = top_eigenvalue(loss, weights, tolerance=1e-6)
    assert found.converged and found.value == pytest.approx(exact, rel=1e-6)
    assert found.residual <= 1e-6 * exact and found.steps < len(flat(weights))


def test_top_eigenvalue_is_the_largest_and_not_the_largest_in_size():
    loss, w = quadratic([[-9.0, 0], [0, 4]], [1.0, 1])
    assert top_eigenvalue(loss, w).value == pytest.approx(4)


def test_top_eigenvalue_says_that_it_has_not_converged(loss, weights):
    found = top_eigenvalue(loss, weights, tolerance=1e-9, steps=2)
    assert not found.converged and found.steps == 2 and found.residual > 0


def test_normalized_trace_of_a_quadratic():
    loss, w = quadratic([[2.0, 0], [0, 6]], [2.0, 0.5])
    found = normalized_trace(loss, w, probes=2)
    assert found.value == pytest.approx(8 / 5) and found.standard_error == pytest.approx(0)


def test_one_step_finds_all_there_is_on_a_plane_and_in_a_round_bowl():
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    for part in (lambda: 3 * w.sum(), lambda: 2 * w.square().sum()):
        ratio = approximation_ratio([lambda part=part: [part()]], [w], rho=0.1)
        assert ratio.of_means == pytest.approx(1) and ratio.n == 1


def test_ratio_in_a_valley_is_the_one_of_a_scan_of_the_circle():
    loss, w = quadratic([[1.0, 0], [0, 30]], [1.0, 0.005])
    angle = torch.linspace(0, 2 * math.pi, 100_001, dtype=torch.float64)
    x, y = 1 + 0.3 * angle.cos(), 0.005 + 0.3 * angle.sin()
    start = 0.5 + 15 * 0.005**2
    best = (0.5 * x**2 + 15 * y**2).max().item() - start
    step = torch.tensor([1.0, 0.15], dtype=torch.float64)
    x, y = torch.tensor([1.0, 0.005], dtype=torch.float64) + 0.3 * step / step.norm()
    one = (0.5 * x**2 + 15 * y**2).item() - start
    found = approximation_ratio([loss], w, rho=0.3).of_means
    assert one / best <= found < 1.1 * one / best < 0.5  # an ascent finds a lower bound of the best


def test_ratio_of_means_and_mean_of_ratios_differ(loss, weights, net, data):
    losses = [mean_loss(lambda x: net(x.double()), data[i : i + 4]) for i in (0, 4, 8)]
    alone = [approximation_ratio([one], weights, rho=2.0).of_means for one in losses]
    ratio = approximation_ratio(losses, weights, rho=2.0)
    assert ratio.mean_of_ratios == pytest.approx(sum(alone) / 3) and ratio.n == 3
    assert min(alone) < ratio.of_means < max(alone) and max(alone) <= 1


def test_weights_come_back_bit_for_bit(loss, weights):
    before = flat(weights).clone()
    approximation_ratio([loss], weights, rho=1.0, steps=3)
    direction = filter_normalized(weights, seed=0)
    loss_surface(loss, weights, direction, direction, torch.tensor([-1.0, 1.0]))
    with pytest.raises(RuntimeError), restored(weights), torch.no_grad():
        weights[0].add_(1)
        raise RuntimeError
    assert torch.equal(flat(weights), before)


def test_directions_have_filters_as_long_as_those_of_the_weights(weights):
    for w, d in zip(weights, filter_normalized(weights, seed=0), strict=True):
        lengths = (t.detach().flatten(1).norm(dim=1) if t.dim() > 1 else t.detach().abs() for t in (w, d))
        wanted, found = lengths
        assert torch.allclose(found, wanted) if w.dim() > 1 else not found.any()


def test_surface_of_a_quadratic_and_of_an_input():
    loss, w = quadratic([[2.0, 0], [0, 6]], [0.0, 0])
    across, ahead = torch.tensor([1.0, 0], dtype=torch.float64), torch.tensor([0.0, 1], dtype=torch.float64)
    axis = torch.tensor([-1.0, 0.0, 2.0])
    rows = loss_surface(loss, w, [across], [ahead], axis)
    assert torch.allclose(rows, axis.double()[:, None] ** 2 + 3 * axis.double()[None] ** 2)
    model, x = tiny_model(), grid_images(1)
    start = model(x).square().sum().item()
    seen = loss_surface(lambda: [model(x).square().sum()], [x], [torch.ones_like(x)], [torch.ones_like(x)], axis)
    assert seen[1, 1].item() == pytest.approx(start, rel=1e-5) and not torch.allclose(seen, seen[1, 1])


# --- networks in train mode, compiled, checkpointed, with attention --------------------------------------------------


def summaries(loss, weights):
    """What is measured, as numbers."""
    return [
        value(loss).item(),
        *flat(gradient(loss, weights))[:3].tolist(),
        hutchinson_trace(loss, weights, probes=2, deflate=2).value,
        normalized_trace(loss, weights, probes=2, deflate=0).value,
        top_eigenvalue(loss, weights, steps=3).value,
        approximation_ratio([loss], weights, steps=2).of_means,
    ]


@pytest.mark.parametrize("batch_size", [12, 5])
def test_train_mode_normalises_by_the_batch_and_leaves_the_network_as_it_is(net, data, batch_size):
    loss, weights = mean_loss(lambda x: net(x.double()), data, batch_size), curvature.weights(net)
    in_eval = value(loss).item()
    before = {k: v.clone() for k, v in net.train().state_dict().items()}
    found = summaries(loss, weights)
    assert found[0] != in_eval and found == summaries(loss, weights)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and net[1].training
    layer = net[1]
    layer.track_running_stats = False  # torch's own way to normalise by the batch
    assert found == pytest.approx(summaries(loss, weights))


@pytest.mark.parametrize("batch_size", [12, 5])
@pytest.mark.parametrize("measure", [hutchinson_trace, top_eigenvalue, normalized_trace])
def test_a_loss_that_changes_from_call_to_call_is_refused(data, measure, batch_size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 3)).train()
    loss, weights = mean_loss(model, data, batch_size), curvature.weights(model)
    with pytest.raises(ValueError, match="loss: two calls at the same weights gave .* dropout in eval mode"):
        measure(loss, weights)
    with pytest.raises(ValueError, match="loss: two calls at the same weights gave"):
        approximation_ratio([loss], weights)
    model.eval()
    assert math.isfinite(measure(loss, weights).value)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_curvature_is_measured_where_gradients_are_switched_off(loss, weights, off):
    wanted, v = summaries(loss, weights), [torch.ones_like(w) for w in weights]
    product = flat(hvp(loss, weights, [v])[0])
    across = filter_normalized(weights, seed=0)
    surface = loss_surface(loss, weights, across, across, torch.tensor([0.0, 1.0]))
    with off():
        assert summaries(loss, weights) == wanted
        assert torch.equal(flat(hvp(loss, weights, [v])[0]), product)
        assert torch.equal(loss_surface(loss, weights, across, across, torch.tensor([0.0, 1.0])), surface)


def test_one_seed_has_the_same_probes_in_every_layout(data):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 3)).double()
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        net.to(memory_format=layout)
        loss, weights = mean_loss(lambda x: net(x.double()), data), curvature.weights(net)
        found.append([hutchinson_trace(loss, weights, probes=3, deflate=k).value for k in (0, 2)])
        found[-1] += [
            top_eigenvalue(loss, weights, steps=3).value,
            flat(filter_normalized(weights, seed=1)).sum().item(),
        ]
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_a_compiled_network_has_the_curvature_of_the_uncompiled_one(net, data, loss, weights):
    torch._dynamo.reset()
    run = torch.compile(net, backend="aot_eager")
    assert summaries(mean_loss(lambda x: run(x.double()), data), weights) == pytest.approx(summaries(loss, weights))


def test_a_checkpointed_network_has_the_curvature_of_the_plain_one(net, data, loss, weights):
    def checkpointed(x):
        return net[3:](torch.utils.checkpoint.checkpoint(net[:3], x.double(), use_reentrant=False))

    for mode in (False, True):
        net.train(mode)
        assert summaries(mean_loss(checkpointed, data), weights) == pytest.approx(summaries(loss, weights))


def test_a_vision_transformer_has_the_curvature_of_attention_written_by_hand(data):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    size = {"img_size": 8, "patch_size": 4, "num_classes": 3, "depth": 1, "embed_dim": 12}
    net = timm.create_model("vit_tiny_patch16_224", **size).eval().double()
    loss, weights = mean_loss(lambda x: net(x.double()), data[:4]), curvature.weights(net)
    v = [[torch.randn_like(w) for w in weights]]
    found = flat(hvp(loss, weights, v)[0])
    for block in net.blocks:
        block.attn.fused_attn = False  # timm's own words for it
    (part,) = loss()
    first = torch.autograd.grad(part, weights, create_graph=True)
    exact = torch.autograd.grad(sum((a * b).sum() for a, b in zip(first, v[0], strict=True)), weights)
    assert torch.allclose(found, flat(exact)) and found.abs().max() > 0


# --- what is refused -------------------------------------------------------------------------------------------------


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda loss, w: hvp(loss, w, [w[1:]]), ValueError, "vectors"),
        (lambda loss, w: hvp(loss, w, None), TypeError, "vectors"),
        (lambda loss, w: hvp(loss, w, [3]), TypeError, "vectors"),
        *[
            (lambda loss, w, option=option: hutchinson_trace(loss, w, **option), error, next(iter(option)))
            for error, options in (
                (ValueError, [{"probes": 0}, {"per_graph": 0}, {"tolerance": -1}, {"tolerance": NAN}, {"deflate": -1}]),
                (TypeError, [{"probes": 1.5}, {"probes": None}, {"tolerance": None}, {"deflate": "a"}, {"seed": 1.5}]),
            )
            for option in options
        ],
        (lambda loss, w: top_eigenvalue(loss, w, steps=0), ValueError, "steps=0"),
        (lambda loss, w: top_eigenvalue(loss, w, steps=None), TypeError, "steps=None"),
        (lambda loss, w: top_eigenvalue(loss, w, tolerance="a"), TypeError, "tolerance='a'"),
        (lambda loss, w: top_eigenvalue(loss, w, seed="a"), TypeError, "seed='a'"),
        *[
            (lambda loss, w, rho=rho: approximation_ratio([loss], w, rho=rho), ValueError, "rho=")
            for rho in (0, -1, NAN, INF)
        ],
        (lambda loss, w: approximation_ratio([loss], w, steps=1.5), TypeError, "steps=1.5"),
        (lambda loss, w: approximation_ratio([], w), ValueError, "losses"),
        (lambda loss, w: approximation_ratio(3, w), TypeError, "losses"),
        (lambda loss, w: loss_surface(loss, w, w, w, [0.0]), TypeError, "axis"),
        (lambda loss, w: loss_surface(loss, w, w, w, torch.zeros(2, 2)), ValueError, "axis"),
        (lambda loss, w: loss_surface(loss, w, w, w, torch.tensor([NAN])), ValueError, "axis"),
        (lambda loss, w: loss_surface(loss, w, w[1:], w, torch.zeros(1)), ValueError, "across"),
        (lambda loss, w: loss_surface(loss, None, w, w, torch.zeros(1)), TypeError, "tensors"),
        (lambda loss, w: filter_normalized(w, seed="a"), TypeError, "seed='a'"),
        (lambda loss, w: curvature.weights(None), TypeError, "model"),
    ],
)
def test_bad_input_is_refused_by_name(loss, weights, call, error, message):
    with pytest.raises(error, match=message):
        call(loss, weights)


TAKES_WEIGHTS = [
    gradient,
    lambda loss, w: hvp(loss, w, [w]),
    hutchinson_trace,
    normalized_trace,
    top_eigenvalue,
    lambda loss, w: approximation_ratio([loss], w),
]


@pytest.mark.parametrize("call", TAKES_WEIGHTS)
@pytest.mark.parametrize(
    ("spoilt", "error"),
    [
        (lambda w: [], ValueError),
        (lambda w: None, TypeError),
        (lambda w: "weights", TypeError),
        (lambda w: w[0], TypeError),
        (lambda w: [3], TypeError),
        (lambda w: [t.detach() for t in w], ValueError),
        (lambda w: [t * 1 for t in w], ValueError),
    ],
    ids=["empty", "None", "text", "one tensor", "number", "no gradient", "no leaf"],
)
def test_weights_are_refused_by_name(loss, weights, call, spoilt, error):
    with pytest.raises(error, match="weights: expected"):
        call(loss, spoilt(weights))


@pytest.mark.parametrize("call", [lambda loss, w: value(loss), *TAKES_WEIGHTS])
@pytest.mark.parametrize(
    ("loss", "error"),
    [
        (None, TypeError),
        (lambda x: [x], TypeError),
        (lambda: torch.ones(()), TypeError),
        (lambda: None, TypeError),
        (lambda: [None], TypeError),
        (lambda: [torch.ones(2, requires_grad=True)], TypeError),
        (lambda: [], ValueError),
    ],
    ids=["None", "argument", "scalar", "returns None", "yields None", "vector", "nothing"],
)
def test_losses_are_refused_by_name(weights, call, loss, error):
    with pytest.raises(error, match="loss: (expected|yielded)"):
        call(loss, weights)


@pytest.mark.parametrize("call", TAKES_WEIGHTS)
def test_a_loss_without_a_graph_is_refused_by_name(weights, call):
    with pytest.raises(ValueError, match="loss: yielded a part without a graph"):
        call(lambda: [torch.ones(())], weights)


@pytest.mark.parametrize("measure", [hutchinson_trace, normalized_trace, top_eigenvalue])
def test_a_curvature_that_is_not_finite_is_refused(measure):
    w = torch.zeros(3, requires_grad=True)
    with pytest.raises(ValueError, match="loss: .* (not finite|nan)"):
        measure(lambda: [w.abs().sqrt().sum()], [w])


def test_where_the_gradient_is_zero_there_is_no_trace_over_it_and_nothing_to_gain():
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="loss: the length of its gradient is 0"):
        normalized_trace(lambda: [(w * w).sum()], [w])
    for flat_loss in (lambda: [-(w * w).sum()], lambda: [0 * w.sum()]):
        with pytest.raises(ValueError, match="losses: the highest within rho=0.05"):
            approximation_ratio([flat_loss], [w])
    ratio = approximation_ratio([lambda: [w.sum()], lambda: [0 * w.sum()]], [w])
    assert ratio.of_means == pytest.approx(1) and math.isnan(ratio.mean_of_ratios)


@pytest.mark.parametrize("batch_size", [-1, 0])
def test_a_mean_loss_is_refused_by_name(data, batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
        mean_loss(tiny_model(), data, batch_size)
    with pytest.raises(ValueError, match="data: holds no image"):
        mean_loss(tiny_model(), data[:0])
    with pytest.raises(TypeError, match="data: expected Images"):
        mean_loss(tiny_model(), None)
    with pytest.raises(TypeError, match="model: expected"):
        mean_loss(None, data)
    few = tiny_model(classes=2)
    with pytest.raises(ValueError, match="data.labels: class 2 is out of range for 2 logits"):
        value(mean_loss(few, data))
