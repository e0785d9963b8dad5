"""Parts of a batch: their sizes, and that they change nothing; and memory that a process keeps."""

import subprocess
import sys

import pytest
import torch

import advlib as al
from advlib.core.draws import Draw
from advlib.engine.processor import SMALL, images_at_once, in_parts


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(n, side=8):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(n))


def seen(n, copies=1, side=8):
    """The sizes of the parts of n images."""
    sizes = []
    in_parts(lambda x: sizes.append(len(x)) or x, images(n, side), copies=copies)
    return sizes


@pytest.mark.parametrize(
    ("n", "copies", "sizes"),
    [(64, 1, [64]), (65, 1, [33, 32]), (256, 1, [64] * 4), (24, 5, [12, 12]), (9, 32, [3, 3, 3]), (1, 99, [1])],
)
def test_parts_are_of_nearly_one_size(one_thread, n, copies, sizes):
    assert seen(n, copies) == sizes


def test_large_images_go_in_smaller_parts_and_threads_take_more(one_thread):
    assert images_at_once(images(1, SMALL)) == 64
    assert images_at_once(images(1, SMALL + 1)) == 16
    torch.set_num_threads(4)
    assert images_at_once(images(1)) == 128


def test_another_device_takes_all_at_once():
    assert images_at_once(torch.empty(500, 3, 8, 8, device="meta")) == 500


def test_parts_keep_their_rows_together(one_thread):
    x, y = images(150), torch.arange(150)
    assert torch.equal(in_parts(lambda x, y: x + y[:, None, None, None], x, y), x + y[:, None, None, None])


@pytest.mark.parametrize("kind", ["resnet", "densenet"])
def test_a_gradient_in_parts_is_that_of_the_whole_batch(kind, one_thread, monkeypatch):
    """Draws, copies and layout too, to the last bit."""
    f = al.models.create(kind, dataset="shapes", seed=1).eval().requires_grad_(False)
    f, x = f.to(memory_format=torch.channels_last), images(40, 32).contiguous(memory_format=torch.channels_last)
    y, draw = torch.arange(40) % 10, Draw(3, torch.arange(100, 140), step=2)
    g = al.gradient(f, [al.InputDiversity(), al.RandomErasure(2)], chunk=2)
    parts = g(x, y, draw)
    monkeypatch.setattr("advlib.engine.processor.images_at_once", lambda x, copies: len(x))
    whole = g(x, y, draw)
    assert torch.equal(parts, whole)
    assert parts.stride() == whole.stride()


def test_the_network_never_sees_more_than_a_part(one_thread):
    f, rows = al.models.create("resnet", dataset="shapes").eval(), []
    f.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    al.attacks.sim(f, images(40, 32), torch.zeros(40, dtype=torch.int64), steps=1, chunk=5)
    assert set(rows[1:]) == {10 * 5} and sum(rows[1:]) == 40 * 5  # 12 images of 5 copies are 60 of 64 rows
    rows.clear()
    data = al.datasets.load("shapes", "test", 100)
    al.evaluation.predictions(f, data)
    assert rows == [2, 50, 50]
    rows.clear()
    al.training.accuracy(f, data)
    assert rows == [50, 50]


FAULTS = """
import resource, torch
from advlib.engine.kept import keep_memory
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
without = faults()
print(keep_memory(), without, faults() and faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults of glibc")
def test_memory_is_kept():
    """64 MB ten times: every page each time, or none."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    could, without, kept = done.stdout.split()
    if could == "False":
        pytest.skip("another C library than glibc")
    assert int(kept) < int(without) / 10
