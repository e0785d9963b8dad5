"""Training on image files that are decoded while it runs: views of them, their order, and the loop over the epochs, one
process for each device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from ..core.draws import Draw, Stream
from ..zoo.photographs import Photographs
from .fitting import State, _closure

Watch = Callable[[nn.Module], dict[str, float]]


class Views(Dataset):
    """What a network sees of photographs: (image, label, index), the image float32 (3, size, size) in [0, 1].

    least: to train, a random part of the image, of at least this share of its area and another aspect ratio, flipped or
    not, which hangs on seed, index and epoch alone, whichever process decodes it. None: to test, the shorter side at
    8/7 of `size` and the middle."""

    def __init__(self, data: Photographs, size: int, least: float | None = None, seed: int = 0) -> None:
        view = [v2.Resize(size * 8 // 7), v2.CenterCrop(size)]
        if least is not None:
            view = [v2.RandomResizedCrop(size, scale=(least, 1.0)), v2.RandomHorizontalFlip()]
        self.data, self.seed, self.random = data, seed, least is not None
        self._view = v2.Compose([*view, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """key: epoch and row, as `Order` gives them."""
        epoch, row = key
        index = self.data.index[row]
        draw = Draw(self.seed, index[None], epoch, stream=Stream.CROP)
        with torch.random.fork_rng(devices=[]):  # the transforms draw from torch's generator, on the processor
            torch.default_generator.manual_seed(int(draw.words(1)))  # torch.manual_seed asks after every device
            image = self._view(Image.fromarray(self.data.pixels(row)))
        return image.as_subclass(torch.Tensor), self.data.labels[row], index


class Order(Sampler):
    """The share of this process in n rows, each with the epoch: (epoch, row), since workers know no other way what
    epoch it is. seed: to train, in an order that hangs on it and the epoch alone, and as many for every process. None:
    to test, as they are, and every row in exactly one share."""

    def __init__(self, n: int, seed: int | None = None) -> None:
        self.n, self.seed, self.epoch = n, seed, 0
        many = dist.is_initialized()
        self._rank, self._world = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)

    def __len__(self) -> int:
        return self.n // self._world if self.seed is not None else len(range(self._rank, self.n, self._world))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.seed is None:
            return ((0, row) for row in range(self._rank, self.n, self._world))
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(_seed(self.seed, self.epoch)))
        return ((self.epoch, row) for row in order[self._rank :: self._world][: len(self)].tolist())


def _seed(seed: int, epoch: int) -> int:
    return seed * 100_003 + epoch


def loader(views: Views, batch_size: int, workers: int) -> DataLoader:
    """This process' batches of views; of random ones in random order, and whole batches only. workers: processes that
    decode, 0 for none."""
    order = Order(len(views), views.seed if views.random else None)
    options = {"num_workers": workers, "pin_memory": torch.cuda.is_available(), "persistent_workers": workers > 0}
    # With a generator of its own, a loader takes nothing from that which dropout draws from.
    options["generator"] = torch.Generator().manual_seed(0)
    return DataLoader(views, batch_size, sampler=order, drop_last=views.random, **options)


def train(
    state: State,
    run: nn.Module,
    to_train: DataLoader,
    to_validate: DataLoader,
    checkpoint: Path | None,
    report: Callable[[dict], None] = lambda row: None,
    watch: Watch = lambda model: {},
) -> list[dict]:
    """All epochs, or those after a checkpoint; a row an epoch (epoch, loss, val_accuracy, lr, seconds, and what `watch`
    measures).

    run: what is called, the network of `state`, or that in DistributedDataParallel; to_train, to_validate: of `loader`.
    The checkpoint is written atomically after every epoch, by the first process, which reports. Raises as
    `State.resume` and `State.mean` do."""
    history = state.resume(checkpoint)
    run = torch.compile(run) if state.recipe.compile else run
    for epoch in range(len(history), state.recipe.epochs):
        started = time.perf_counter()
        loss = _epoch(state, run, to_train, epoch)
        kept = state.kept()
        row = {
            "epoch": epoch + 1,
            "loss": loss,
            "val_accuracy": accuracy(kept, to_validate),
            "lr": state.schedule.get_last_lr()[0],
            "seconds": time.perf_counter() - started,
            **watch(kept),
        }
        history.append(row)
        if first():
            if checkpoint is not None:
                state.save(checkpoint, history)
            report(row)
    state.finish()
    return history


def first() -> bool:
    """Whether this is the first process, or the only one."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _epoch(state: State, run: Callable, batches: DataLoader, epoch: int) -> float:
    """The mean loss of this process' share; all processes draw alike, from (seed, epoch)."""
    state.model.train()
    batches.sampler.epoch = epoch
    device, losses, seed = next(state.model.parameters()).device, [], state.recipe.seed
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(_seed(seed, epoch))
        for x, y, index in batches:
            x = x.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            y, index = y.to(device, non_blocking=True), index.to(device, non_blocking=True)
            losses.append(state.step(_closure(state, run, x, y, Draw(seed, index, epoch))))
    return state.mean(losses, epoch)


def accuracy(net: nn.Module, batches: DataLoader, classes: torch.Tensor | None = None) -> float:
    """Share of the images of all processes whose class `net` names. classes: as of `counted`."""
    hits = counted(net, batches, classes)
    if dist.is_initialized():
        dist.all_reduce(hits)
    return (hits[0] / hits[1]).item()


@torch.no_grad()
def counted(net: nn.Module, batches: DataLoader, classes: torch.Tensor | None = None) -> torch.Tensor:
    """How many images of this process' share `net` names right, in eval mode, and all, float64 (2,). classes: what the
    data's labels are among the network's, int64 (K,); only those compete. None: they are the same."""
    device, was_training = next(net.parameters()).device, net.training
    net.eval()
    found = torch.zeros(2, dtype=torch.float64, device=device)
    for x, y, _ in batches:
        logits = net(x.to(device, non_blocking=True))
        logits = logits if classes is None else logits[:, classes.to(device)]
        found += torch.tensor([0, len(y)], device=device)
        found[0] += (logits.argmax(1) == y.to(device)).sum()
    net.train(was_training)
    return found
