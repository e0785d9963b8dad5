"""SAM and CR-SAM against closed forms, their limits, and the promises of an optimizer."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advlib.sam import CRSAM, SAM, RandomSAM, crsam_gradient, crsam_gradient_log, sam_perturbation
from advlib.training import SideBySideCRSAM

SGD = {"base": torch.optim.SGD, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
ADAMW = {"base": torch.optim.AdamW, "lr": 0.01}


def network(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Softplus(), nn.Dropout(dropout), nn.Linear(8, 3)
    ).train()


def batch(step=0):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=generator), torch.randint(3, (16,), generator=generator)


def closure_of(net, optimizer, step=0, seen=None):
    def closure():
        optimizer.zero_grad()
        x, y = batch(step)
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        if seen is not None:
            seen.append(loss.item())
        return loss

    return closure


def trained(make, steps=5, net=None, **options):
    net = net or network()
    optimizer = make(net.parameters(), **options)
    for step in range(steps):
        optimizer.step(closure_of(net, optimizer, step))
    return net, optimizer


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def plain(params, base, **options):
    return base(params, **options)


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [SGD, ADAMW])
@pytest.mark.parametrize("make", [SAM, CRSAM])
def test_radius_zero_without_penalty_is_the_base_bit_for_bit(make, options):
    penalty = {"alpha": 0.0, "beta": 0.0} if make is CRSAM else {}
    assert equal(trained(make, rho=0.0, **penalty, **options)[0], trained(plain, **options)[0])


def test_crsam_without_penalty_is_sam_and_with_it_is_not():
    sam = trained(SAM, rho=0.1, **SGD)[0]
    assert equal(trained(CRSAM, rho=0.1, alpha=0.0, beta=0.0, **SGD)[0], sam)
    for penalty in ({"alpha": 0.1, "beta": 0.0}, {"alpha": 0.0, "beta": 0.1}):
        assert not equal(trained(CRSAM, rho=0.1, **penalty, **SGD)[0], sam)


def test_random_sam_without_noise_is_sam_and_with_it_the_gradient_at_the_random_point():
    sam = trained(SAM, rho=0.1, **SGD)[0]
    assert equal(trained(RandomSAM, rho=0.1, sigma=0.0, **SGD)[0], sam)
    assert not equal(trained(RandomSAM, rho=0.1, sigma=0.5, **SGD)[0], sam)
    net, seen = network(), []
    optimizer = RandomSAM(net.parameters(), rho=0.0, sigma=0.5, same_draws=True, **SGD)
    optimizer.step(closure_of(net, optimizer, seen=seen))
    other, at_w = network(), []
    closure_of(other, optimizer, seen=at_w)()
    assert seen[0] == seen[1] != at_w[0]


# --- closed forms ----------------------------------------------------------------------------------------------------


def quadratic_step(make, **options):
    """One step of gradient descent on w'Hw / 2 from w = (1, 2), H = diag(4, 1)."""
    w = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    h = torch.tensor([4.0, 1.0], dtype=torch.float64)
    optimizer = make([w], lr=0.1, **options)

    def closure():
        optimizer.zero_grad()
        loss = 0.5 * (h * w * w).sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss.item() == pytest.approx(4) and not loss.requires_grad
    return w.detach(), torch.tensor([1.0, 2.0], dtype=torch.float64), h


def test_a_step_of_sam_on_a_quadratic():
    new, w, h = quadratic_step(SAM, rho=0.3)
    g = h * w
    assert torch.allclose(new, w - 0.1 * h * (w + 0.3 * g / g.norm()))


def test_on_a_quadratic_the_curvature_bracket_is_zero_and_the_slope_bracket_twice_the_difference():
    alone, w, h = quadratic_step(SAM, rho=0.3)
    assert torch.allclose(quadratic_step(CRSAM, rho=0.3, alpha=5.0, beta=0.0)[0], alone)
    g = h * w
    slope = 2 * h * 0.3 * g / g.norm()
    assert torch.allclose(quadratic_step(CRSAM, rho=0.3, alpha=5.0, beta=0.7)[0], alone - 0.1 * 0.7 * slope)


def test_adaptive_radius_is_the_closed_form_and_blind_to_the_scale_of_a_weight():
    w, g = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5])
    (step,) = sam_perturbation([w], [g], [0.2], adaptive=True)
    assert torch.allclose(step, 0.2 * w**2 * g / (w * g).norm())
    (scaled,) = sam_perturbation([10 * w], [g / 10], [0.2], adaptive=True)
    assert torch.allclose(scaled, 10 * step)


def test_zero_gradient_moves_nothing_and_the_norm_is_over_all_tensors():
    zero, w = torch.zeros(3), torch.ones(3)
    assert not sam_perturbation([w], [zero], [0.5])[0].any()
    a, b = sam_perturbation([w, w], [3 * w, 4 * w], [1.0, 2.0])
    assert torch.allclose(a, w * 3 / 75**0.5) and torch.allclose(b, 2 * w * 4 / 75**0.5)


@pytest.mark.parametrize(("what", "order"), [("slope", 2), ("curvature", 2)])
def test_finite_differences_of_theorem_1_have_an_error_of_second_order(what, order):
    net = network().double().eval()
    weights = list(net.parameters())
    x, y = batch()
    v = [torch.randn_like(w) for w in weights]

    def loss(shift):
        moved = {name: w + shift * d for (name, w), d in zip(net.named_parameters(), v, strict=True)}
        return F.cross_entropy(torch.func.functional_call(net, moved, (x.double(),)), y)

    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(shift), shift, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, shift)
    errors = []
    for rho in (0.04, 0.02):
        up, down = loss(rho), loss(-rho)
        found = {"slope": (up - down) / (2 * rho), "curvature": (up + down - 2 * loss(0.0)) / rho**2}
        errors.append((found[what] - {"slope": slope, "curvature": curvature}[what]).abs())
    assert (errors[0] / errors[1]).log2().item() == pytest.approx(order, abs=0.1)


# --- the log form ----------------------------------------------------------------------------------------------------


def test_log_form_is_the_gradient_of_the_printed_regularizer():
    w = torch.tensor([0.5, -0.3], dtype=torch.float64)
    v = torch.tensor([0.6, 0.8], dtype=torch.float64)

    def loss(w):
        return w.exp().sum() + w.pow(4).sum()

    def printed(w):
        above, here, below = (loss(w + s * v) for s in (0.5, 0.0, -0.5))
        return above + 0.3 * (above + below - 2 * here).log() + 0.2 * (above - below).log()

    points = [w, w + 0.5 * v, w - 0.5 * v]
    gradients = [[torch.func.grad(loss)(p)] for p in points]
    (found,), below = crsam_gradient_log(*gradients, [loss(p) for p in points], alpha=0.3, beta=0.2)
    assert torch.allclose(found, torch.func.grad(printed)(w)) and not below.any()


def test_where_the_curvature_is_not_positive_its_log_has_no_gradient_and_is_counted():
    g0, plus, minus = ([torch.tensor([k])] for k in (1.0, 2.0, 4.0))
    losses = [torch.tensor(k) for k in (1.0, 1.5, 0.4)]  # 1.5 + 0.4 - 2 < 0
    (found,), below = crsam_gradient_log(g0, plus, minus, losses, alpha=0.3, beta=0.2)
    assert below.tolist() == [True, False]
    assert found.item() == pytest.approx(2 + 0.2 * (2 - 4) / 1.1)
    assert crsam_gradient(g0, plus, minus, alpha=0.3, beta=0.2)[0].item() == pytest.approx(2 + 0.3 * 4 - 0.2 * 2)


def test_lists_that_do_not_match_are_refused_by_name():
    one, two = [torch.ones(2)], [torch.ones(3)]
    calls = {
        "gradients: expected tensors in the shapes of weights": lambda: sam_perturbation(one, two, [0.1]),
        "rho: expected a number for each of 1 tensors, got 2": lambda: sam_perturbation(one, one, [0.1, 0.1]),
        "weights: expected at least one tensor": lambda: sam_perturbation([], [], []),
        "plus: expected tensors in the shapes of g0": lambda: crsam_gradient(one, two, one, alpha=0.1, beta=0.1),
        "minus: expected tensors": lambda: crsam_gradient_log(one, one, two, one * 3, alpha=0.1, beta=0.1),
        "losses: expected L0": lambda: crsam_gradient_log(one, one, one, one, alpha=0.1, beta=0.1),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_the_optimizer_counts_the_floor_and_its_steps_are_finite():
    net, optimizer = trained(CRSAM, steps=20, form="log", rho=0.1, alpha=0.01, beta=0.01, **SGD)
    assert all(p.isfinite().all() for p in net.parameters())
    assert optimizer.floored.tolist()[1] == 0 and 0 <= optimizer.floored.tolist()[0] <= 20


# --- what an optimizer promises --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [SAM, RandomSAM, CRSAM])
def test_a_pass_that_fails_leaves_the_weights_bit_for_bit(make):
    passes = 3 if make is CRSAM else 2
    for fails in range(passes):
        net = network()
        optimizer, before, seen = make(net.parameters(), rho=0.5, **SGD), [p.clone() for p in net.parameters()], []
        inner = closure_of(net, optimizer, seen=seen)

        def closure(inner=inner, seen=seen, fails=fails):
            if len(seen) == fails:
                raise RuntimeError("out of memory")
            return inner()

        with pytest.raises(RuntimeError, match="out of memory"):
            optimizer.step(closure)
        assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("make", [SAM, CRSAM])
def test_batchnorm_remembers_the_first_pass_only(make):
    net, once = network(), network()
    optimizer = make(net.parameters(), rho=0.5, **SGD)
    optimizer.step(closure_of(net, optimizer))
    once(batch()[0])
    assert torch.equal(net[1].running_mean, once[1].running_mean)
    assert torch.equal(net[1].running_var, once[1].running_var)
    assert net[1].num_batches_tracked == 1 and net[1].track_running_stats


@pytest.mark.parametrize("same", [True, False])
def test_dropout_draws_the_same_in_every_pass_if_it_is_asked_for(same):
    net, seen = network(dropout=0.5), []
    optimizer = CRSAM(net.parameters(), rho=0.0, same_draws=same, **SGD)
    optimizer.step(closure_of(net, optimizer, seen=seen))
    assert len(seen) == 3 and (len(set(seen)) == 1) == same


@pytest.mark.parametrize("options", [SGD, ADAMW])
@pytest.mark.parametrize("make", [SAM, CRSAM])
def test_saved_and_loaded_is_never_having_stopped(make, options):
    straight, _ = trained(make, steps=6, rho=0.1, **options)
    net, optimizer = trained(make, steps=3, rho=0.1, **options)
    other = network()
    other.load_state_dict(net.state_dict())
    resumed = make(other.parameters(), rho=0.9, **options)
    resumed.load_state_dict(optimizer.state_dict())
    for step in range(3, 6):
        resumed.step(closure_of(other, resumed, step))
    assert equal(other, straight)
    assert set(optimizer.state_dict()["state"][0]) == set(trained(plain, **options)[1].state_dict()["state"][0])


def test_groups_have_radii_and_rates_of_their_own_and_a_schedule_reaches_the_base():
    net = network()
    groups = [{"params": net[0].parameters(), "rho": 0.0}, {"params": net[4].parameters(), "lr": 0.5}]
    optimizer = SAM(groups, rho=0.2, **SGD)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    optimizer.step(closure_of(net, optimizer))
    schedule.step()
    assert [g["rho"] for g in optimizer.param_groups] == [0.0, 0.2]
    assert [g["lr"] for g in optimizer.base.param_groups] == pytest.approx([0.01, 0.05])
    optimizer.add_param_group({"params": net[1].parameters()})
    assert optimizer.base.param_groups[2]["rho"] == 0.2 and optimizer.base.param_groups[2]["momentum"] == 0.9


def test_frozen_and_unused_weights_stay():
    net = network()
    net[0].weight.requires_grad_(False)
    spare = nn.Parameter(torch.ones(2))
    frozen = net[0].weight.clone()
    optimizer = CRSAM([*net.parameters(), spare], rho=0.1, **SGD)
    before = net[4].weight.clone()
    optimizer.step(closure_of(net, optimizer))
    assert torch.equal(net[0].weight, frozen) and torch.equal(spare, torch.ones(2))
    assert not torch.equal(net[4].weight, before)


def test_clipping_in_a_hook_of_the_base_sees_the_final_gradient():
    net = network()
    optimizer = SAM(net.parameters(), torch.optim.SGD, rho=0.1, lr=1.0)

    def clip(*_):
        nn.utils.clip_grad_norm_(net.parameters(), 1e-3)

    optimizer.base.register_step_pre_hook(clip)
    before = [p.clone() for p in net.parameters()]
    optimizer.step(closure_of(net, optimizer))
    moved = torch.cat([(p - q).flatten() for p, q in zip(net.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_a_scaled_loss_gives_the_same_step_and_an_overflow_none():
    straight, _ = trained(CRSAM, steps=1, rho=0.1, **SGD)
    net = network()
    optimizer, scaler = CRSAM(net.parameters(), rho=0.1, **SGD), torch.amp.GradScaler("cpu", init_scale=1024.0)

    def closure(factor=1.0):
        optimizer.zero_grad()
        x, y = batch()
        loss = F.cross_entropy(net(x), y)
        scaler.scale(factor * loss).backward()
        return loss

    optimizer.step(closure, scaler)
    scaler.update()
    weights = [p.clone() for p in net.parameters()]
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(weights, straight.parameters(), strict=True))
    optimizer.step(lambda: closure(float("inf")), scaler)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), weights, strict=True))


def compiled(net, how):
    """The network compiled, and what is called."""
    if how == "in place":
        net.compile(backend="eager")
    if how == "a function":
        return torch.compile(lambda x: net(x), backend="eager")
    return net if how == "in place" else torch.compile(net, backend=how)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("how", ["eager", "aot_eager", "in place", "a function"])
@pytest.mark.parametrize("make", [SAM, RandomSAM, CRSAM])
def test_a_compiled_network_has_the_weights_and_statistics_of_the_uncompiled_one(make, how, known):
    torch._dynamo.reset()
    wanted, net = network(), network()
    torch.manual_seed(1)
    trained(make, steps=2, net=wanted, rho=0.5, **SGD)
    torch.manual_seed(1)
    run, optimizer = compiled(net, how), make(net.parameters(), rho=0.5, model=net if known else None, **SGD)
    for step in range(2):
        optimizer.step(closure_of(run, optimizer, step))
    assert net[1].num_batches_tracked == 2
    for found, right in zip(net.state_dict().values(), wanted.state_dict().values(), strict=True):
        assert torch.allclose(found, right, atol=1e-6)


@pytest.mark.parametrize("make", [SAM, RandomSAM, CRSAM])
def test_a_closure_that_forgets_to_zero_gradients_takes_the_same_steps(make):
    wanted, net = network(), network()
    torch.manual_seed(1)
    trained(make, steps=3, net=wanted, rho=0.1, **SGD)
    torch.manual_seed(1)
    optimizer = make(net.parameters(), rho=0.1, **SGD)
    for step in range(3):

        def closure(step=step):
            x, y = batch(step)
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    assert equal(net, wanted)


@pytest.mark.parametrize("make", [SAM, CRSAM])
def test_a_group_added_later_takes_part(make):
    whole, net = network(), network()
    optimizer = make(net[0].parameters(), rho=0.1, **SGD)
    optimizer.add_param_group({"params": [*net[1].parameters(), *net[4].parameters()]})
    other = make(whole.parameters(), rho=0.1, **SGD)
    for step in range(3):
        optimizer.step(closure_of(net, optimizer, step))
        other.step(closure_of(whole, other, step))
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(net.parameters(), whole.parameters(), strict=True))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        *[(make, {"rho": rho}, ValueError, "rho=") for make in (SAM, CRSAM) for rho in (-1.0, NAN, INF)],
        *[(make, {"rho": rho}, TypeError, "rho=") for make in (SAM, CRSAM) for rho in (None, "a", True)],
        *[(RandomSAM, {"sigma": sigma}, ValueError, "sigma=") for sigma in (-1.0, NAN, INF)],
        *[(CRSAM, {name: value}, ValueError, f"{name}=") for name in ("alpha", "beta") for value in (-1.0, NAN, INF)],
        (CRSAM, {"alpha": "a"}, TypeError, "alpha='a'"),
        (CRSAM, {"form": "root"}, ValueError, "form='root'"),
        (SAM, {"lr": NAN}, ValueError, "lr=nan"),
        (SAM, {"adaptive": 1}, TypeError, "adaptive=1"),
        (SAM, {"local": 1}, TypeError, "local: expected a function"),
        (SAM, {"model": 1}, TypeError, "model: expected an nn.Module"),
        (SAM, {"base": "sgd"}, TypeError, "base: expected an optimizer's class"),
        (SAM, {"base": torch.optim.LBFGS}, TypeError, "base: LBFGS needs a closure"),
        (SAM, {"base": SAM}, TypeError, "base: SAM needs a closure"),
        (SAM, {"base": lambda params, lr: params}, TypeError, "base: expected it to make an optimizer"),
    ],
)
def test_bad_options_are_refused_by_name(make, options, error, message):
    with pytest.raises(error, match=message):
        make(network().parameters(), **{"base": torch.optim.SGD, "lr": 0.1} | options)


@pytest.mark.parametrize(("params", "error"), [(None, TypeError), (torch.ones(2), TypeError), ([], ValueError)])
def test_parameters_are_named(params, error):
    with pytest.raises(error, match="params: expected"):
        SAM(params, lr=0.1)


def test_a_group_with_a_radius_of_its_own_is_checked():
    with pytest.raises(ValueError, match="rho=-1"):
        SAM([{"params": network().parameters(), "rho": -1}], lr=0.1)


@pytest.mark.parametrize(
    ("closure", "error", "message"),
    [
        (lambda net: 3, TypeError, "closure: expected a function"),
        (lambda net: lambda x: x, TypeError, "closure: .* cannot take 0"),
        (lambda net: lambda: net(batch()[0]).sum().backward(), TypeError, "closure: expected it to return the loss"),
        (lambda net: lambda: net(batch()[0]), TypeError, "closure: expected it to return the loss"),
        (lambda net: lambda: net(batch()[0]).sum(), ValueError, "closure: left no gradient"),
    ],
)
@pytest.mark.parametrize("make", [SAM, RandomSAM, CRSAM])
def test_bad_closures_are_refused_by_name_and_leave_the_weights(make, closure, error, message):
    net = network()
    before = [p.clone() for p in net.parameters()]
    optimizer = make(net.parameters(), **SGD)
    with pytest.raises(error, match=message):
        optimizer.step(closure(net))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


def test_sparse_gradients_are_refused_by_name():
    table = nn.Embedding(5, 3, sparse=True)

    def closure():
        loss = table(torch.tensor([1])).sum()
        loss.backward()
        return loss

    with pytest.raises(ValueError, match="closure: left a sparse gradient"):
        CRSAM(table.parameters(), lr=0.1).step(closure)


@pytest.mark.parametrize(("make", "lacks"), [(SAM, "rho"), (CRSAM, "alpha, beta, rho")])
def test_the_state_of_another_optimizer_is_refused_by_name(make, lacks):
    plain_sgd = torch.optim.SGD(network().parameters(), lr=0.1)
    with pytest.raises(ValueError, match=f"state_dict: has no {lacks}.*expected the state of a {make.__name__}"):
        make(network().parameters(), **SGD).load_state_dict(plain_sgd.state_dict())
    with pytest.raises(TypeError, match="state_dict: expected"):
        make(network().parameters(), **SGD).load_state_dict(None)


# --- several processes -----------------------------------------------------------------------------------------------


def by_itself(rank, make, options, wrapped, whole, folder):
    """Train 20 steps as one of two processes; save the weights."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    net = network()
    net = nn.parallel.DistributedDataParallel(net) if wrapped else net
    local = {None: None, "no_sync": getattr(net, "no_sync", None), "null": nullcontext}[options.pop("local", None)]
    optimizer = make(net.parameters(), local=local, **options)
    share = slice(None) if whole else slice(8 * rank, 8 * rank + 8)
    for step in range(20):
        optimizer.step(of_share(net, optimizer, step, share))
    torch.save([p.detach() for p in net.parameters()], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def of_share(net, optimizer, step, share):
    def closure():
        optimizer.zero_grad()
        x, y = batch(step)
        loss = F.cross_entropy(net.eval()(x[share]), y[share])  # statistics of half a batch are others
        loss.backward()
        return loss

    return closure


def in_two(folder, make, options, wrapped=True, whole=False):
    arguments = (make, options, wrapped, whole, str(folder))
    torch.multiprocessing.spawn(by_itself, arguments, nprocs=2)
    first, second = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    return first


def in_one(make, steps=20, **options):
    net = network()
    optimizer = make(net.parameters(), **options)
    for step in range(steps):
        optimizer.step(of_share(net, optimizer, step, slice(None)))
    return list(net.parameters())


def close(a, b):
    return all(torch.allclose(p, q, atol=1e-5) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("make", [SAM, CRSAM])
def test_two_processes_with_half_the_batch_each_are_one_with_all_of_it(make, tmp_path):
    assert close(in_two(tmp_path, make, {"rho": 0.1, **SGD}), in_one(make, rho=0.1, **SGD))


@pytest.mark.parametrize(("local", "wrapped"), [("no_sync", True), ("null", False)])
def test_side_by_side_is_one_process(local, wrapped, tmp_path):
    options = {"rho": 0.1, "alpha": 0.3, "beta": 0.2, **SGD}
    found = in_two(tmp_path, SideBySideCRSAM, {**options, "local": local}, wrapped, whole=True)
    assert close(found, in_one(CRSAM, **options))


@pytest.mark.parametrize("make", [SAM, CRSAM])
def test_perturbed_each_by_its_own_share_is_the_mean_of_the_shares(make, tmp_path):
    found = in_two(tmp_path, make, {"rho": 0.5, "local": "no_sync", **SGD})
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), **{k: v for k, v in SGD.items() if k != "base"})
    for step in range(20):
        gradients = []
        for rank in range(2):
            alone = make(net.parameters(), torch.optim.SGD, rho=0.5, lr=0.0)
            alone.step(of_share(net, alone, step, slice(8 * rank, 8 * rank + 8)))
            gradients.append([p.grad.clone() for p in net.parameters()])
        for p, *both in zip(net.parameters(), *gradients, strict=True):
            p.grad = sum(both) / 2
        optimizer.step()
    assert close(found, list(net.parameters()))
    assert not close(found, in_one(make, rho=0.5, **SGD))


def test_side_by_side_needs_processes_and_a_way_to_keep_gradients_apart():
    with pytest.raises(ValueError, match="even number of processes"):
        SideBySideCRSAM(network().parameters(), local=nullcontext, **SGD)
    with pytest.raises(TypeError, match="local"):
        SideBySideCRSAM(network().parameters(), **SGD)
