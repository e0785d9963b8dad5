"""How many copies go through a network at once, with a device whose memory is a number of images."""

import gc
from math import nan

import pytest
import torch
from conftest import grid_images, tiny_model
from torch import nn

import advlib as al
from advlib.bench.evaluation import counting
from advlib.core.draws import Draw
from advlib.engine import memory

N = 4
X, Y, DRAW = grid_images(N), torch.tensor([4, 8, 0, 5]), Draw(0, torch.arange(N), step=1)


class Seen(nn.Module):
    """A network that keeps the sizes of the batches that it is shown."""

    def __init__(self):
        super().__init__()
        self.net, self.batches = tiny_model(), []

    def forward(self, x):
        self.batches.append(len(x))
        return self.net(x)


class Device:
    """Each image takes a byte and any work `base`, in a memory of twice `images`, half of which may be used."""

    def __init__(self, images, base=0):
        self.images, self.base, self.trials, self.capturing = images, base, 0, False

    def peak(self, net):
        def of_work(device, work):
            self.trials += 1
            before = len(net.batches)
            work()
            if max(net.batches[before:]) > 2 * self.images:
                raise torch.OutOfMemoryError("full")
            return self.base + max(net.batches[before:])

        return of_work


@pytest.fixture
def gpu(monkeypatch):
    def made(net, images, base=0):
        device = Device(images, base)
        monkeypatch.setattr(memory, "_on_gpu", lambda x: True)
        monkeypatch.setattr(memory, "_free", lambda place: 2 * device.images)
        monkeypatch.setattr(memory, "_peak", device.peak(net))
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: device.capturing)
        return device

    return made


def erased(net, copies=25, **options):
    return al.gradient(net, al.RandomErasure(copies), **options)


def test_on_a_cpu_it_is_one_by_one_bit_for_bit():
    net = Seen()
    auto = erased(net)(X, Y, DRAW)
    assert net.batches == [N] * 25
    assert torch.equal(auto, erased(net, chunk=1)(X, Y, DRAW))


@pytest.mark.parametrize(("images", "base", "batches"), [
    (1000, 0, [25]),
    (10 * N, 0, [9, 9, 7]),  # ten would fit: three rounds, as equal as can be
    (12 * N + 1, 0, [9, 9, 7]),
    (13 * N, 0, [13, 12]),
    (13 * N, 4 * N, [9, 9, 7]),
    (2 * N, 0, [2] * 12 + [1]),
    (N, 0, [1] * 25),
    (N - 1, 0, [1] * 25),  # two are more than there is
])  # fmt: skip
def test_on_a_gpu_as_many_as_half_of_its_free_memory_holds(images, base, batches, gpu):
    net = Seen()
    gpu(net, images, base)
    g = erased(net)
    first = g(X, Y, DRAW)
    trial, net.batches = net.batches, []
    again = g(X, Y, DRAW)
    assert net.batches == [N * k for k in batches] and trial == [N, 2 * N, *net.batches]
    assert torch.equal(first, again)
    assert torch.allclose(again, erased(net, chunk=1)(X, Y, DRAW), atol=1e-6)


def test_a_network_is_tried_once_for_each_kind_of_work(gpu):
    net = Seen()
    device = gpu(net, 1000)
    for _ in range(2):
        al.attacks.re_fgsm(net, X, Y, steps=2)
    assert device.trials == 2  # of one and of two
    al.attacks.re_fgsm(net, X[:3], Y[:3], steps=1)
    al.attacks.sim(net, X, Y, steps=1)
    assert device.trials == 6
    al.attacks.dim(net, X, Y, steps=1)  # one copy: nothing to decide
    assert device.trials == 6


def test_points_are_copies_too(gpu):
    net = Seen()
    gpu(net, 6 * N)
    for g in (al.neighbours(al.gradient(net), 0.1, points=5), al.integrated(al.gradient(net), points=5)):
        g(X, Y, DRAW)
        net.batches.clear()
        g(X, Y, DRAW)
        assert net.batches == [5 * N]


def test_what_is_given_is_taken(gpu):
    net = Seen()
    device = gpu(net, 1000)
    erased(net, chunk=7)(X, Y, DRAW)
    assert net.batches == [7 * N] * 3 + [4 * N] and not device.trials


def test_while_a_graph_is_recorded_nothing_is_tried(gpu):
    net = Seen()
    device = gpu(net, 1000)
    device.capturing = True
    erased(net)(X, Y, DRAW)
    assert net.batches == [N] * 25
    device.capturing = False
    erased(net)(X, Y, DRAW)
    device.capturing = True
    net.batches.clear()
    erased(net)(X, Y, DRAW)
    assert net.batches == [25 * N]


def test_a_trial_is_no_pass_of_the_attack(gpu):
    net = Seen()
    gpu(net, 1000)
    with counting(net) as counter:
        al.attacks.re_fgsm(net, X, Y, steps=2)
    assert counter.rows == 2 * 5 * N and sum(net.batches) == 2 + (1 + 2) * N + counter.rows
    assert not memory.trying()


def test_networks_that_are_gone_are_forgotten(gpu, monkeypatch):
    gpu(Seen(), 1000)
    monkeypatch.setattr(memory, "_peak", lambda device, work: 1)
    net, before = tiny_model(), len(memory._KNOWN)
    assert memory.at_once("auto", 5, X, net, "kind", len) == 5 and len(memory._KNOWN) == before + 1
    del net
    gc.collect()
    assert len(memory._KNOWN) <= before
    assert memory.at_once("auto", 5, X, 3, "kind", len) == 1  # no such owner can be remembered


@pytest.mark.parametrize("chunk", [None, 0, -1, 1.5, nan, True, "all", "", [1]])
def test_what_is_no_chunk_is_refused(chunk):
    for make in (al.gradient, lambda f, chunk: al.neighbours(al.gradient(f), 0.1, chunk=chunk)):
        with pytest.raises((TypeError, ValueError), match="^chunk="):
            make(tiny_model(), chunk=chunk)
