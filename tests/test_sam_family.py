"""LookSAM, ESAM, SSAM, AE-SAM and GSAM: each is SAM or its base at a limit, and a closed form on two weights."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from test_sam import ADAMW, SGD, batch, closure_of, equal, network, plain, quadratic_step
from torch import nn

from advlib.curvature import norm
from advlib.sam import SAM
from advlib.sam_family import AESAM, ESAM, GSAM, SSAM, LookSAM, gsam_gradient, orthogonal, sparse_mask

NEVER, ALWAYS = 1e30, -1e30  # thresholds of AE-SAM
FAMILY = {
    "LookSAM": partial(LookSAM, every=2),
    "SSAM": partial(SSAM, sparsity=0.7, every=2),
    "AESAM": partial(AESAM, total=6),
    "GSAM": partial(GSAM, alpha=0.7),
    "ESAM": partial(ESAM, beta=0.6, gamma=0.4),
}
EACH = pytest.mark.parametrize("name", FAMILY)


def losses_of(net, step=0, seen=None):
    """ESAM's closure."""

    def losses(keep):
        x, y = (t if keep is None else t[keep] for t in batch(step))
        if seen is not None:
            seen.append((len(x), torch.is_grad_enabled()))
        return F.cross_entropy(net(x), y, reduction="none")

    return losses


def mean_of(net, optimizer, step=0):
    """The closure of the others, of the mean as ESAM takes it."""

    def closure():
        optimizer.zero_grad()
        loss = losses_of(net, step)(None).mean()
        loss.backward()
        return loss

    return closure


def stepped(make, steps=5, net=None, first=0, optimizer=None, **options):
    net = net or network()
    optimizer = optimizer or make(net.parameters(), **options)
    for step in range(first, first + steps):
        examples = isinstance(optimizer, ESAM)
        optimizer.step(losses_of(net, step) if examples else mean_of(net, optimizer, step))
    return net, optimizer


# --- limits ----------------------------------------------------------------------------------------------------------

IS_SAM = {
    "LookSAM": partial(LookSAM, every=1),
    "ESAM": partial(ESAM, beta=1.0, gamma=1.0),
    "SSAM": partial(SSAM, sparsity=0.0, every=2),
    "AESAM": partial(AESAM, low=ALWAYS, high=ALWAYS, total=3),
    "GSAM": partial(GSAM, alpha=0.0),
}
IS_BASE = {
    "ESAM": partial(ESAM, beta=0.5, gamma=1.0, rho=0.0),
    "SSAM": partial(SSAM, sparsity=1.0, rho=0.5),
    "AESAM": partial(AESAM, low=NEVER, high=NEVER, total=3, rho=0.5),
    "GSAM": partial(GSAM, rho=0.0),
}


@pytest.mark.parametrize("options", [SGD, ADAMW], ids=["SGD", "AdamW"])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("name", IS_SAM)
def test_at_one_limit_each_is_sam_bit_for_bit(name, adaptive, options):
    sam = stepped(SAM, rho=0.1, adaptive=adaptive, **options)[0]
    assert equal(stepped(IS_SAM[name], rho=0.1, adaptive=adaptive, **options)[0], sam)


@EACH
def test_elsewhere_none_is_sam(name):
    assert not equal(stepped(FAMILY[name], rho=0.1, **SGD)[0], stepped(SAM, rho=0.1, **SGD)[0])


@pytest.mark.parametrize("options", [SGD, ADAMW], ids=["SGD", "AdamW"])
@pytest.mark.parametrize("name", IS_BASE)
def test_at_the_other_limit_it_is_the_base(name, options):
    found, base = stepped(IS_BASE[name], **options)[0], stepped(plain, **options)[0]
    close = all(torch.allclose(p, q, atol=1e-6) for p, q in zip(found.parameters(), base.parameters(), strict=True))
    assert close if name == "GSAM" else equal(found, base)  # GSAM's g0 has no part at right angles but by rounding


def test_with_nothing_kept_the_steps_between_two_looks_are_the_base():
    net, _ = stepped(LookSAM, steps=3, every=3, rho=0.1, alpha=0.0, **ADAMW)
    wanted, optimizer = stepped(SAM, steps=1, rho=0.1, **ADAMW)
    for step in (1, 2):
        optimizer.base.step(mean_of(wanted, optimizer, step))
    assert equal(net, wanted)


# --- the arithmetic --------------------------------------------------------------------------------------------------

ALONG, OTHER = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])], [torch.tensor([1.0, 2.0]), torch.tensor([1.0])]


def dot(a, b):
    return sum((x * y).sum().item() for x, y in zip(a, b, strict=True))


def test_orthogonal_part_of_a_vector():
    part, zero = orthogonal(OTHER, ALONG), [torch.zeros(2), torch.zeros(1)]
    assert dot(part, ALONG) == pytest.approx(0, abs=1e-6)
    assert torch.allclose(torch.cat(part), torch.tensor([1.0 - 7 * 3 / 25, 2.0, 1.0 - 7 * 4 / 25]))
    assert all(torch.equal(a, b) for a, b in zip(orthogonal(OTHER, zero), OTHER, strict=True))


def test_gsam_keeps_the_slope_along_the_perturbed_gradient_and_lowers_the_plain_one():
    g0, plus = OTHER, ALONG
    found = gsam_gradient(g0, plus, [0.5, 0.5])
    assert dot(found, plus) == pytest.approx(dot(plus, plus))
    rest = orthogonal(g0, plus)
    assert dot(found, g0) == pytest.approx(dot(plus, g0) - 0.5 * dot(rest, rest))
    one, none = gsam_gradient(g0, plus, [1.0, 0.0])
    assert torch.allclose(one, plus[0] - rest[0]) and torch.equal(none, plus[1])


def test_mask_keeps_the_highest_scores_of_all_tensors_together():
    scores = [torch.tensor([[1.0, 9.0], [3.0, 0.0]]), torch.tensor([8.0, 2.0])]
    assert [m.tolist() for m in sparse_mask(scores, 0.5)] == [[[0, 1], [1, 0]], [1, 0]]
    assert [m.tolist() for m in sparse_mask(scores, 0.7)] == [[[0, 1], [0, 0]], [0, 0]]  # 1.8 of 6
    assert [m.mean().item() for m in (*sparse_mask(scores, 0.0), *sparse_mask(scores, 1.0))] == [1, 1, 0, 0]


def test_lists_that_do_not_match_are_refused_by_name():
    one, two = [torch.ones(2)], [torch.ones(3)]
    for message, call in {
        "along: expected tensors in the shapes of gradients": lambda: orthogonal(one, two),
        "along: expected tensors": lambda: gsam_gradient(one, two, [0.1]),
        "alpha: expected a number for each of 1 tensors, got 2": lambda: gsam_gradient(one, one, [0.1, 0.1]),
        "scores: expected at least one": lambda: sparse_mask([], 0.5),
        "sparsity=1.5": lambda: sparse_mask(one, 1.5),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


# --- steps by hand ---------------------------------------------------------------------------------------------------


def test_a_step_of_gsam_on_a_quadratic():
    new, w, h = quadratic_step(GSAM, rho=0.3, alpha=0.5)
    g = h * w
    plus = h * (w + 0.3 * g / g.norm())
    assert torch.allclose(new, w - 0.1 * (plus - 0.5 * (g - (g @ plus) / (plus @ plus) * plus)))


def test_a_step_of_ssam_moves_the_weight_with_the_larger_gradient_alone():
    new, w, h = quadratic_step(SSAM, rho=0.3, sparsity=0.5)
    g = h * w  # (4, 2)
    step = torch.stack([0.3 * g[0] / g.norm(), torch.zeros_like(g[0])])
    assert torch.allclose(new, w - 0.1 * h * (w + step))


def test_masks_of_ssam_are_of_the_squares_since_the_last_look():
    w, masks = nn.Parameter(torch.zeros(4)), []
    optimizer = SSAM([w], lr=0.0, sparsity=0.75, every=2)
    slopes = [[9.0, 1, 1, 1], [0, -2, 2.1, 1], [0, -2, 1, 2.5], [0, 0, 0, 9], [0, 0, 9, 9.1]]

    def closure():
        loss = w @ torch.tensor(slopes[len(masks)], dtype=w.dtype)
        loss.backward()
        return loss

    for _ in slopes:
        optimizer.step(closure)
        masks.append(optimizer.param_groups[0]["mask"][0].argmax().item())
    assert masks == [0, 0, 1, 1, 3]  # squares of the second and third slope: 0, 8, 5.4, 7.3


@pytest.mark.parametrize("total", [1, 2])
def test_steps_of_aesam_on_a_quadratic(total):
    w = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    h, by_hand = torch.tensor([4.0, 1.0], dtype=torch.float64), w.detach().clone()
    optimizer = AESAM([w], lr=0.1, rho=0.3, low=-1.0, high=3.0, delta=0.8, total=total)
    mean, variance, taken = 0.0, torch.tensor(-10.0).exp().item(), []

    def closure():
        taken[-1] += 1
        loss = 0.5 * (h * w * w).sum()
        loss.backward()
        return loss

    for t in range(4):
        g, wanted = h * by_hand, 1
        square = (g @ g).item()
        mean = 0.8 * mean + 0.2 * square
        variance = 0.8 * variance + 0.2 * (square - mean) ** 2
        c = 3 - 4 * min(1, t / total)
        if square >= mean + c * variance**0.5:
            g, wanted = h * (by_hand + 0.3 * g / g.norm()), 2
        by_hand = by_hand - 0.1 * g
        taken.append(0)
        optimizer.step(closure)
        assert torch.allclose(w.detach(), by_hand) and taken[-1] == wanted
        group = optimizer.param_groups[0]
        assert (group["mean"], group["variance"], group["steps"]) == (
            pytest.approx(mean),
            pytest.approx(variance),
            t + 1,
        )
    assert set(taken) == {1, 2}


def test_a_step_of_esam_on_two_examples_and_two_tensors():
    """Losses a^2 / 2 + 2 b^2 and 3 (a + b)^2 / 2; one tensor moves, and the example that rises more counts."""
    draws = []
    for seed in range(8):
        a, b = (nn.Parameter(torch.tensor([v], dtype=torch.float64)) for v in (1.0, 2.0))
        optimizer = ESAM([a, b], lr=0.1, rho=0.3, beta=1e-6, gamma=0.5, seed=seed)

        def losses(keep, a=a, b=b):
            both = torch.cat([a**2 / 2 + 2 * b**2, 1.5 * (a + b) ** 2])
            return both if keep is None else both[keep]

        loss = optimizer.step(losses)
        assert loss.item() == pytest.approx((0.5 + 8 + 13.5) / 2)
        # The step is rho / beta long: so far out the second example, steeper in a, or the first, in b, rises more.
        far = 0.3 / 1e-6
        if b.item() - 2 == pytest.approx(-0.1 * 4 * (2 + far)):
            assert a.item() == pytest.approx(1 - 0.1)
            draws.append("b")
        else:
            g = 3 * (1 + far + 2)
            assert (a.item(), b.item()) == (pytest.approx(1 - 0.1 * g), pytest.approx(2 - 0.1 * g))
            draws.append("a")
    assert set(draws) == {"a", "b"}


def test_what_looksam_reuses_is_at_right_angles_and_as_long_as_alpha_says():
    net, gradients = network(), {}
    optimizer = LookSAM(net.parameters(), every=2, rho=0.5, alpha=0.7, **SGD)
    hook = optimizer.base.register_step_pre_hook(
        lambda *_: gradients.__setitem__("used", [p.grad.clone() for p in net.parameters()])
    )
    seen = []

    def watched(step):
        loss = closure_of(net, optimizer, step)()
        seen.append([p.grad.clone() for p in net.parameters()])
        return loss

    for step in (0, 1):
        optimizer.step(partial(watched, step))
    hook.remove()
    g0, _, g = seen
    added = [u - p for u, p in zip(gradients["used"], g, strict=True)]
    assert norm(added) == pytest.approx(0.7 * norm(g).item(), rel=1e-5)
    kept = optimizer.param_groups[0]["sideways"]
    assert dot(added, kept) / norm(added) / norm(kept) == pytest.approx(1, abs=1e-5)
    assert dot(g0, kept) / norm(g0) / norm(kept) == pytest.approx(0, abs=1e-5)


# --- what a step costs, and leaves -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (partial(LookSAM, every=3), [2, 1, 1, 2]),
        (SSAM, [2, 2, 2, 2]),
        (GSAM, [2, 2, 2, 2]),
        (partial(AESAM, low=NEVER, high=NEVER, total=4), [1, 1, 1, 1]),
        (partial(AESAM, low=ALWAYS, high=ALWAYS, total=4), [2, 2, 2, 2]),
        (partial(AESAM, low=ALWAYS, high=NEVER, total=2), [1, 2, 2, 2]),
    ],
)
def test_passes_a_step(make, wanted):
    net = network()
    optimizer, found = make(net.parameters(), rho=0.1, **SGD), []
    for step in range(len(wanted)):
        seen = []
        optimizer.step(closure_of(net, optimizer, step, seen))
        found.append(len(seen))
    assert found == wanted


@pytest.mark.parametrize(
    ("gamma", "wanted"), [(1.0, [(16, True)] * 2), (0.4, [(16, True), (16, False), (7, True)])], ids=str
)
def test_examples_and_backward_passes_of_esam(gamma, wanted):
    net, seen = network(), []
    ESAM(net.parameters(), rho=0.1, gamma=gamma, **SGD).step(losses_of(net, seen=seen))
    assert seen == wanted


def test_esam_learns_from_the_examples_that_rise_the_most():
    net, chosen, losses = network().eval(), [], []

    def closure(keep):
        chosen.append(keep)
        losses.append(losses_of(net)(keep))
        return losses[-1]

    ESAM(net.parameters(), rho=0.5, beta=1.0, gamma=0.25, **SGD).step(closure)
    risen = losses[1] - losses[0].detach()
    assert chosen[:2] == [None, None] and chosen[2].tolist() == sorted(risen.argsort().tolist()[-4:])


def test_tensors_that_esam_leaves_out_get_no_gradient_first_and_one_at_the_end():
    net = network()
    net[0].bias.requires_grad_(False)
    flags = []

    def closure(keep):
        flags.append([p.requires_grad for p in net.parameters()])
        return losses_of(net)(keep)

    optimizer = ESAM(net.parameters(), rho=0.1, beta=0.5, gamma=1.0, **SGD)
    for _ in range(20):
        optimizer.step(closure)
        assert [p.grad is not None for p in net.parameters()] == flags[-1] == [True, False, True, True, True, True]
    share = sum(sum(first) for first in flags[::2]) / (20 * 5)
    assert 0.35 < share < 0.65 and not any(first[1] for first in flags)
    assert len({tuple(first) for first in flags[::2]}) > 5


@EACH
def test_batchnorm_remembers_the_first_pass_only(name):
    net, once = network(), network()
    stepped(FAMILY[name], steps=1, net=net, rho=0.5, **SGD)
    stepped(plain, steps=1, net=once, **SGD)
    assert all(torch.equal(p, q) for p, q in zip(net[1].buffers(), once[1].buffers(), strict=True))
    assert net[1].num_batches_tracked == 1 and net[1].track_running_stats


@EACH
def test_a_pass_that_fails_leaves_the_weights_bit_for_bit(name):
    for fails in range(3 if name == "ESAM" else 1 if name == "AESAM" else 2):
        net, seen = network(), []
        optimizer, before = FAMILY[name](net.parameters(), rho=0.5, **SGD), [p.clone() for p in net.parameters()]
        inner = losses_of(net) if name == "ESAM" else mean_of(net, optimizer)

        def closure(*keep, inner=inner, seen=seen, fails=fails):
            seen.append(keep)
            if len(seen) > fails:
                raise RuntimeError("out of memory")
            return inner(*keep)

        with pytest.raises(RuntimeError, match="out of memory"):
            optimizer.step(closure if name == "ESAM" else lambda closure=closure: closure())
        assert len(seen) == fails + 1 and all(p.requires_grad for p in net.parameters())
        assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("options", [SGD, ADAMW], ids=["SGD", "AdamW"])
@EACH
def test_saved_and_loaded_is_never_having_stopped(name, options):
    make = FAMILY[name]
    straight, _ = stepped(make, steps=6, rho=0.1, **options)
    net, optimizer = stepped(make, steps=3, rho=0.1, **options)
    other = network()
    other.load_state_dict(net.state_dict())
    resumed = make(other.parameters(), rho=0.9, **options)
    resumed.load_state_dict(optimizer.state_dict())
    assert equal(stepped(make, 3, other, 3, resumed)[0], straight)
    assert set(optimizer.state_dict()["state"][0]) == set(stepped(plain, **options)[1].state_dict()["state"][0])


@EACH
def test_a_group_added_later_takes_part(name):
    whole, net = network(), network()
    optimizer = FAMILY[name](net[0].parameters(), rho=0.1, **SGD)
    optimizer.add_param_group({"params": [*net[1].parameters(), *net[4].parameters()]})
    stepped(None, 3, net, optimizer=optimizer)
    stepped(FAMILY[name], 3, whole, rho=0.1, **SGD)
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(net.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("name", ["LookSAM", "ESAM", "SSAM", "AESAM"])
def test_a_group_added_in_mid_run_counts_the_steps_of_the_first(name):
    net = network()
    optimizer = FAMILY[name](net[0].parameters(), rho=0.1, **SGD)
    stepped(None, 3, net, optimizer=optimizer)
    optimizer.add_param_group({"params": net[4].parameters()})
    stepped(None, 1, net, 3, optimizer)
    assert [group["steps"] for group in optimizer.param_groups] == [4, 4]


@EACH
def test_frozen_and_unused_weights_stay(name):
    net, spare = network(), nn.Parameter(torch.ones(2))
    net[0].weight.requires_grad_(False)
    frozen, before = net[0].weight.clone(), net[4].weight.clone()
    stepped(None, 3, net, optimizer=FAMILY[name]([*net.parameters(), spare], rho=0.1, **SGD))
    assert torch.equal(net[0].weight, frozen) and torch.equal(spare, torch.ones(2))
    assert not torch.equal(net[4].weight, before)


def test_dropout_of_esam_draws_the_same_where_it_is_asked_for():
    net, masks = network(dropout=0.5), []
    net[4].register_forward_pre_hook(lambda layer, inputs: masks.append(inputs[0] == 0))
    ESAM(net.parameters(), rho=0.1, beta=0.5, gamma=0.95, same_draws=True, **SGD).step(losses_of(net))
    assert len(masks) == 3 and all(torch.equal(mask, masks[0]) for mask in masks)  # ceil(0.95 * 16) is all of them


@pytest.mark.parametrize("name", ["GSAM", "ESAM"])
def test_a_scaled_loss_gives_the_same_step(name):
    straight, _ = stepped(FAMILY[name], steps=1, rho=0.1, **SGD)
    net = network()
    optimizer, scaler = FAMILY[name](net.parameters(), rho=0.1, **SGD), torch.amp.GradScaler("cpu", init_scale=1024.0)

    def closure():
        loss = losses_of(net)(None).mean()
        scaler.scale(loss).backward()
        return loss

    optimizer.step(losses_of(net) if name == "ESAM" else closure, scaler)
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(net.parameters(), straight.parameters(), strict=True))


def test_an_overflow_is_no_sharp_gradient_and_moves_no_mean():
    net = network()
    optimizer = AESAM(net.parameters(), low=ALWAYS, high=ALWAYS, total=3, **SGD)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = [p.clone() for p in net.parameters()]

    def closure():
        loss = losses_of(net)(None).mean() * float("inf")
        scaler.scale(loss).backward()
        return loss

    optimizer.step(closure, scaler)
    assert optimizer.param_groups[0]["steps"] == optimizer.param_groups[0]["mean"] == 0
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


@EACH
def test_a_compiled_network_has_the_weights_and_statistics_of_the_uncompiled_one(name):
    torch._dynamo.reset()
    wanted, net = network(), network()
    stepped(FAMILY[name], 2, wanted, rho=0.5, **SGD)
    run, optimizer = torch.compile(net, backend="eager"), FAMILY[name](net.parameters(), rho=0.5, model=net, **SGD)
    stepped(None, 2, run, optimizer=optimizer)
    for found, right in zip(net.state_dict().values(), wanted.state_dict().values(), strict=True):
        assert torch.allclose(found, right, atol=1e-6)


def as_one_of_two(rank, folder):
    """Train all of them as one of two processes, with the whole batch, then with half of it; save the weights."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for name, make in FAMILY.items():
        for share in (slice(None), slice(8 * rank, 8 * rank + 8)):
            net = network().eval()
            optimizer = make(net.parameters(), rho=0.1, local=nullcontext, **SGD)
            for step in range(6):
                optimizer.step(share_of(net, optimizer, step, share))
            masks = optimizer.param_groups[0].get("mask", [])
            found[name, share == slice(None)] = [p.detach() for p in (*net.parameters(), *masks)]
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def share_of(net, optimizer, step, share):
    def losses(keep):
        x, y = (t[share] if keep is None else t[share][keep] for t in batch(step))
        return F.cross_entropy(net(x), y, reduction="none")

    def closure():
        optimizer.zero_grad()
        loss = losses(None).mean()
        loss.backward()
        return loss

    return losses if isinstance(optimizer, ESAM) else closure


def test_two_processes_stay_together_and_with_the_same_batch_are_one(tmp_path):
    torch.multiprocessing.spawn(as_one_of_two, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, make in FAMILY.items():
        net = network().eval()
        stepped(None, 6, net, optimizer=make(net.parameters(), rho=0.1, **SGD))
        for p, alone in zip(net.parameters(), first[name, True], strict=name != "SSAM"):
            assert torch.allclose(p, alone, atol=1e-6)
        assert all(torch.equal(p, q) for p, q in zip(first[name, False], second[name, False], strict=True)), name


# --- bad input -------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        *[(kind, {"alpha": bad}, ValueError, "alpha=") for kind in (LookSAM, GSAM) for bad in (-1.0, NAN, INF)],
        *[(kind, {"alpha": None}, TypeError, "alpha=None") for kind in (LookSAM, GSAM)],
        *[(kind, {"every": 0}, ValueError, "every=0") for kind in (LookSAM, SSAM)],
        *[(ESAM, {name: bad}, ValueError, f"{name}=") for name in ("beta", "gamma") for bad in (0.0, 1.5, NAN)],
        *[(SSAM, {"sparsity": bad}, ValueError, "sparsity=") for bad in (-0.1, 1.1)],
        *[(AESAM, {"total": 1, name: bad}, ValueError, f"{name}=") for name in ("low", "high") for bad in (NAN, INF)],
        (AESAM, {"total": 0}, ValueError, "total=0"),
        (AESAM, {"total": 1, "delta": 1.0}, ValueError, "delta=1.0"),
        (ESAM, {"seed": 0.5}, TypeError, "seed=0.5"),
        *[(kind, {"rho": -1.0}, ValueError, "rho=") for kind in (LookSAM, GSAM, ESAM, SSAM)],
    ],
)
def test_bad_options_are_refused_by_name(make, options, error, message):
    with pytest.raises(error, match=message):
        make(network().parameters(), **{"base": torch.optim.SGD, "lr": 0.1} | options)


@pytest.mark.parametrize(
    ("closure", "error", "message"),
    [
        (lambda net: 3, TypeError, "closure: expected a function"),
        (lambda net: lambda: losses_of(net)(None), TypeError, "closure: .* cannot take 1"),
        (lambda net: lambda keep: losses_of(net)(keep).mean(), TypeError, "closure: expected a loss for each example"),
        (lambda net: lambda keep: None, TypeError, "closure: expected a loss for each example"),
        (lambda net: lambda keep: losses_of(net)(keep).detach(), ValueError, "closure: left no gradient"),
    ],
)
def test_bad_closures_of_esam_are_refused_by_name(closure, error, message):
    net = network()
    with pytest.raises(error, match=message):
        ESAM(net.parameters(), **SGD).step(closure(net))


@pytest.mark.parametrize(
    ("make", "lacks"),
    [
        (LookSAM, "alpha, rho, sideways, steps"),
        (partial(AESAM, total=2), "mean, rho, steps, variance"),
        (SSAM, "fisher, mask, rho, steps"),
        (GSAM, "alpha, rho"),
        (ESAM, "rho, steps"),
    ],
)
def test_the_state_of_another_optimizer_is_refused_by_name(make, lacks):
    state = torch.optim.SGD(network().parameters(), lr=0.1).state_dict()
    with pytest.raises(ValueError, match=f"state_dict: has no {lacks}; expected the state of a "):
        make(network().parameters(), **SGD).load_state_dict(state)
