"""Attacks recorded and replayed, without a GPU: a tape takes the place of a CUDA graph. It keeps every operation with
the memory that it read and wrote, and a replay does them again, there, and nothing else."""

import inspect
import math
import warnings
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from conftest import grid_images, tiny_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

import advlib as al
from advlib import attacks, graphs, transforms
from advlib.bench.evaluation import OnNetwork, _Part, _Run, success_rates
from advlib.core import facts
from advlib.zoo.datasets import Images

A = attacks
X, Y, INDEX = grid_images(), torch.tensor([4, 8, 0, 5]), torch.tensor([7, 1, 9, 2])
OTHER = grid_images(seed=1)
READING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class Strict(TorchDispatchMode):
    """What reads values raises, as on a device that must not be waited for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in READING:
            raise RuntimeError("operation not permitted: it waits")
        return function(*args, **(kwargs or {}))


class Tape(Strict):
    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(function, types, args, kwargs)
        # Aliases, since a parameter may be given other memory later.
        same = partial(tree_map_only, torch.Tensor, torch.Tensor.detach)
        self.done.append((function, same(args), same(kwargs or {}), same(out)))
        return out

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, out in self.done:
            new = function(*args, **kwargs)
            for mine, its in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if isinstance(mine, torch.Tensor) and mine.data_ptr() != its.data_ptr():
                    mine.copy_(its)


class Recorder:
    """What `engine.graphs.Recorder` is on a GPU."""

    def __init__(self):
        self.tapes = []

    def rehearsal(self):
        return Strict()

    @contextmanager
    def pause(self):
        with _disable_current_modes():
            yield

    def part(self):
        self.tapes.append(Tape())
        return self.tapes[-1], self.tapes[-1].replay


@pytest.fixture
def recorder(monkeypatch):
    """Attacks are recorded as if there were a GPU."""
    made = Recorder()
    monkeypatch.setattr(graphs, "_recorder", lambda device: made)
    monkeypatch.setattr(transforms, "_log", math.log)  # a number of the host, which a tape cannot tell from others
    return made


PRESETS = {
    "fgsm": {},
    "pgd": {"norm": "l2", "start": "every"},
    "mi_fgsm": {},
    "em_fgsm": {},
    "vmi_fgsm": {"points": 2},
    "emi_fgsm": {"points": 3},
    "smoothed_gradient": {"points": 2},
    "pgn": {"points": 2},
    "dim": al.GNP,
    "tim": {"target": torch.tensor([1, 2, 3, 4])},
    "sim": {"chunk": 5},
    "re_fgsm": {"chunk": 2},
    "composite": al.EM_RE,
    "admix": {"pool": grid_images(3, seed=2)},
    "taig": {"points": 2},
    "rap": {"late": 1},
    "aa": {"layer": "net.2"},
    "ata": {"layers": "net.2"},
    "aoa": {},
}


def attacked(name, **more):
    """An attack with its options, in two steps."""
    attack = getattr(A, name)
    steps = {"steps": 2} if "steps" in inspect.signature(attack).parameters else {}
    return partial(attack, **PRESETS[name], **steps, **more)


@pytest.mark.parametrize("name", PRESETS)
def test_a_replay_is_the_attack_on_what_it_is_given(name, recorder):
    f, attack = tiny_model(), attacked(name)
    run = al.captured(attack, f, X, Y, INDEX)
    parts, clean = len(recorder.tapes), X.clone()
    first = run(X, Y, INDEX)
    assert torch.equal(first, attack(f, X, Y, index=INDEX))
    other = run(OTHER, Y.flip(0), INDEX + 1)
    assert torch.equal(other, attack(f, OTHER, Y.flip(0), index=INDEX + 1)) and not torch.equal(other, first)
    assert torch.equal(run(X, Y), attack(f, X, Y))
    assert torch.equal(run(X, Y, INDEX), first), "the first result was written over, or a draw kept"
    assert torch.equal(X, clean) and len(recorder.tapes) == parts


def test_nothing_but_the_tape_runs_in_a_replay(recorder):
    f, called = tiny_model(), []
    run = al.captured(A.mi_fgsm, lambda x: called.append(len(x)) or f(x), X, Y)
    called.clear()
    run(OTHER, Y)
    assert not called


def test_a_replay_looks_where_the_attack_does(recorder, monkeypatch):
    looks, look = [], facts.look
    monkeypatch.setattr(facts, "look", lambda found: looks.append([fact.name for fact in found]) or look(found))
    run = al.captured(A.mi_fgsm, tiny_model(), X, Y)
    looks.clear()
    run(OTHER, Y)
    assert looks == [["x", "y", "model", "y", "target"], ["model"], []]


WRONG = {
    "images": ({"x": X + 1}, "^x: expected values in"),
    "NaN": ({"x": X * float("nan")}, "^x: contains NaN"),
    "labels": ({"y": Y - 5}, "^y: class -5 is out of range"),
    "a class without logit": ({"y": Y + 5}, "^y: class 13 is out of range for 10 logits"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_batch_is_said_before_its_loop_and_the_next_one_is_right(what, recorder):
    spoiled, message = WRONG[what]
    run = al.captured(A.mi_fgsm, tiny_model(), X, Y)
    before = run(X, Y)
    loop, done = recorder.tapes[1], recorder.tapes[1].done
    loop.done = None  # what would be iterated over
    with pytest.raises(ValueError, match=message):
        run(**{"x": X, "y": Y, **spoiled})
    loop.done = done
    assert torch.equal(run(X, Y), before)


class Fragile(nn.Module):
    """No gradient where an image is dark, and NaN where it is bright: none of the first two, whose logits are seen."""

    def __init__(self):
        super().__init__()
        self.net = tiny_model()

    def forward(self, x):
        bright = x.mean((1, 2, 3), keepdim=True)
        x = torch.where(bright < 0.1, x.detach(), x)
        return self.net(x) * torch.where(bright > 0.9, float("nan"), 1.0)[:, :, 0, 0]


def test_gradients_of_a_replay_are_looked_at(recorder):
    run = al.captured(A.mi_fgsm, Fragile(), X, Y, steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(X, Y)
    dark, bright = (torch.cat([X[:3], torch.full_like(X[:1], value)]) for value in (0.01, 0.99))
    with pytest.warns(RuntimeWarning, match="exactly 0") as caught:
        run(dark, Y)
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match="its gradient is NaN or infinite"):
        run(bright, Y)
    assert torch.equal(run(X, Y), A.mi_fgsm(Fragile(), X, Y, steps=2))


def test_a_short_batch_is_attacked_without_the_recording_and_another_kind_is_refused(recorder):
    f, called = tiny_model(), []
    run = al.captured(A.dim, lambda x: called.append(len(x)) or f(x), X, Y, steps=1)
    called.clear()
    assert torch.equal(run(X[:3], Y[:3], INDEX[:3]), A.dim(f, X[:3], Y[:3], steps=1, index=INDEX[:3])) and called
    for x in (grid_images(5), X.double(), X[:, :, :7], X.to("meta")):
        with pytest.raises(ValueError, match="^x: expected up to 4 images like a tensor of shape"):
            run(x, torch.zeros(len(x), dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^y: expected shape \(4,\)"):
        run(X, Y[:3])
    with pytest.raises(ValueError, match=r"^index: expected shape \(4,\)"):
        run(X, Y, INDEX[:3])


def test_the_network_is_that_of_the_recording(recorder):
    """Moved or converted, a network leaves its memory, which a replay reads."""
    f = tiny_model()
    places = {t.data_ptr() for t in (*f.parameters(), *f.buffers())}
    run, there = al.captured(A.mi_fgsm, f, X, Y), A.mi_fgsm(f, X, Y)
    f.to(torch.float64)
    assert torch.equal(run(X, Y), there)
    assert places == {t.data_ptr() for t in run.weights}


def waits(model, x, y, **options):
    return x if x.sum() > 0 else A.fgsm(model, x, y, **options)


REFUSED = {"waits": waits, "jsma": lambda *args, index: al.jsma(*args), "nattack": partial(al.queries.nattack, steps=1)}


@pytest.mark.parametrize("name", REFUSED)
def test_what_waits_on_its_way_cannot_be_recorded(name, recorder):
    with pytest.raises(ValueError, match="^attack: cannot be recorded as a CUDA graph: operation not permitted"):
        al.captured(REFUSED[name], tiny_model(), X, Y)


@pytest.mark.parametrize("recorded", [False, True])
def test_what_is_wrong_with_the_batch_of_the_recording(recorded, monkeypatch):
    if recorded:
        monkeypatch.setattr(graphs, "_recorder", lambda device: Recorder())
    f = tiny_model()
    for given, message in (
        ((A.fgsm, f, X[0], Y), "^x: expected shape"),
        ((A.fgsm, f, X, Y.float()), "^y: expected an int64"),
        ((A.fgsm, f, X, Y, Y.float()), "^index: expected an integer"),
        (("fgsm", f, X, Y), "^attack: expected a function"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            al.captured(*given)
    with pytest.raises(ValueError, match="^x: expected values"):
        al.captured(A.fgsm, f, X + 1, Y)(X + 1, Y)


def test_on_a_cpu_the_attack_is_run(model, x, y):
    run = al.captured(A.dim, model, x, y, eps=0.1, steps=2)
    for images in (x, OTHER, x[:2]):
        assert torch.equal(run(images, y[: len(images)]), A.dim(model, images, y[: len(images)], eps=0.1, steps=2))
    with pytest.raises(ValueError, match="^x: expected up to 4 images"):
        run(grid_images(5), torch.zeros(5, dtype=torch.int64))


# --- tables ----------------------------------------------------------------------------------------------------------


def pictures(n):
    x = grid_images(n, seed=5)
    labels, index = tiny_model()(x).argmax(1), torch.arange(n)
    return Images((x * 255).round().to(torch.uint8), labels, index, tuple("abcdefghij"), "shapes", "test")


def rows(attack, surrogate, n, **options):
    """The table of one attack in batches of two, without the seconds."""
    targets = {"h": tiny_model(1)}
    frame = success_rates({"a": attack}, {"f": surrogate}, targets, pictures(n), [8, 64], batch_size=2, **options)
    return frame.drop(columns="seconds")


def of(model):
    """A network that lets its BatchNorm be linear behind it, as chapter 4 puts them into a table."""
    return OnNetwork(partial(A.mi_fgsm, steps=2), al.linear_backward(model, "net.2"))


KNOWN = {
    "preset": A.mi_fgsm,
    "with options": partial(A.composite, steps=2, **al.EM_RE),
    "wrapped": partial(A.dim, steps=2, wrap=partial(al.norm_penalty, beta=0.4)),
    "advised": partial(al.advice.composed, steps=2, scaled=2, erased=2),
    "on another network": of(tiny_model(2)),
}


@pytest.mark.parametrize("n", [12, 13])
@pytest.mark.parametrize("name", KNOWN)
def test_a_table_of_replays_is_the_table(name, n, recorder, monkeypatch):
    f = al.ensemble([tiny_model(), tiny_model(3)]) if name != "on another network" else tiny_model()
    replayed = rows(KNOWN[name], f, n)
    tapes = len(recorder.tapes)
    monkeypatch.setattr(graphs, "_recorder", lambda device: None)
    assert tapes == 2 * 3  # for two budgets: before the loop, the loop, the result
    assert replayed.equals(rows(KNOWN[name], f, n)) and (replayed.passes > 0).all()


class Workers:
    """Whoever runs what an engine is told, here."""

    def at_once(self, job):
        return 2

    def run(self, job, parts):
        with job.ready():
            yield from [(part, job(part, say=None)) for part in parts]


def test_a_table_of_parts_that_are_each_recorded_is_the_table(recorder, monkeypatch):
    halves = lambda run, cells, workers: [_Part(cell, *ends) for cell in cells for ends in ((0, 12), (12, 25))]  # noqa: E731
    monkeypatch.setattr(_Run, "parts", halves)
    found = rows(A.mi_fgsm, tiny_model(), 25, engine=Workers())
    assert len(recorder.tapes) == 2 * 2 * 3
    monkeypatch.undo()
    assert found.equals(rows(A.mi_fgsm, tiny_model(), 25))


def own(model, x, y, **options):
    return A.mi_fgsm(model, x, y, steps=1, **options)


@pytest.mark.parametrize(("attack", "surrogate", "n"), [
    (own, tiny_model(), 12),
    (partial(A.mi_fgsm, transform=lambda x, draw, copy: x), tiny_model(), 12),
    (A.mi_fgsm, lambda x: tiny_model()(x), 12),
    (A.mi_fgsm, tiny_model(), 11),
], ids=["of one's own", "with one's own transform", "on a function", "of few batches"])  # fmt: skip
def test_what_may_differ_from_batch_to_batch_is_not_recorded(attack, surrogate, n, recorder):
    rows(attack, surrogate, n)
    assert not recorder.tapes


class Hasty(nn.Module):
    """A network that waits for its device."""

    def __init__(self):
        super().__init__()
        self.net = tiny_model()

    def forward(self, x):
        return self.net(x) if x.sum() > 0 else self.net(x)


def test_a_preset_that_cannot_be_recorded_says_so_and_is_run(recorder, monkeypatch):
    with pytest.warns(RuntimeWarning) as caught:
        found = rows(A.mi_fgsm, Hasty(), 12)
    told = [f"attack 'a' on 'f' at {eps}/255: every batch is launched anew: model: RuntimeError" for eps in (8, 64)]
    assert all(str(each.message).startswith(start) for each, start in zip(caught, told, strict=True))
    monkeypatch.setattr(graphs, "_recorder", lambda device: None)
    assert found.equals(rows(A.mi_fgsm, Hasty(), 12))


# --- on a GPU --------------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@needs_gpu
@pytest.mark.parametrize("name", PRESETS)
def test_on_a_gpu_a_replay_is_the_attack(name):
    on = partial(tree_map_only, torch.Tensor, lambda t: t.cuda())
    attack, f = attacked(name), tiny_model().cuda()
    f.net[3] = nn.AvgPool2d(2)  # the same of 8 pixels; the adaptive one has no algorithm with a fixed order
    attack = partial(attack.func, **on(attack.keywords))
    with al.deterministic():
        run = al.captured(attack, f, *on((X, Y, INDEX)))
        for batch in ((OTHER, Y.flip(0), INDEX + 1), (X, Y, INDEX), (X[:3], Y[:3], INDEX[:3])):
            if len(batch[0]) == len(X) or "target" not in PRESETS[name]:
                x, y, index = on(batch)
                assert torch.equal(run(x, y, index), attack(f, x, y, index=index))
    with pytest.raises(ValueError, match="^x: expected values in"):
        run(X.cuda() + 1, Y.cuda())
    with pytest.raises(ValueError, match="^y: class 13 is out of range"):
        run(X.cuda(), Y.cuda() + 5)


@needs_gpu
def test_on_a_gpu_what_waits_is_refused_and_the_gpu_goes_on():
    f, x, y = tiny_model().cuda(), X.cuda(), Y.cuda()
    for attack in (waits, *REFUSED.values(), lambda *args, index: al.carlini_wagner(*args, steps=2)):
        with pytest.raises(ValueError, match="^attack: cannot be recorded"):
            al.captured(attack, f, x, y)
    run = al.captured(A.mi_fgsm, f, x, y)
    assert run(x, y).shape == x.shape
