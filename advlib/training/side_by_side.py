"""CR-SAM whose two perturbed passes run side by side, on two processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist

from ..sam import CRSAM, Closure, Local, Tensors, averaged


class SideBySideCRSAM(CRSAM):
    """`CRSAM` in the time of two passes (thesis Fig. 5.3): of each two processes that are given the same batch, one
    computes the gradient at w + rho v and the other that at w - rho v.

    It needs torch.distributed with an even number of processes. local: `net.no_sync`, or nullcontext for a net that
    nobody wraps; the others: as of `CRSAM`. Raises as that does, and ValueError without such processes."""

    def __init__(
        self,
        params: Iterable,
        base: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        *,
        local: Local,
        **options: object,
    ) -> None:
        if not (dist.is_initialized() and dist.get_world_size() % 2 == 0):
            raise ValueError("SideBySideCRSAM: needs torch.distributed with an even number of processes")
        super().__init__(params, base, local=local, **options)

    def _passes(self, closure: Closure, again: Callable[[], None]) -> torch.Tensor:
        loss = closure()
        weights, g0 = self._taken()
        loss, *g0 = averaged([loss, *g0])
        step = self._perturbation(weights, g0)
        (above, *plus), (below, *minus) = self._one_each(weights, step, closure, again)
        self._leave(weights, (g0, plus, minus), (loss, above, below))
        return loss

    def _one_each(
        self, weights: Tensors, step: Tensors, closure: Closure, again: Callable[[], None]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Loss and gradients at weights + step, which processes of even rank compute, and at weights - step."""
        even = dist.get_rank() % 2 == 0
        loss, gradients = self._at(weights, step, closure, again, 1 if even else -1)
        found = [2 * loss, *torch._foreach_mul(gradients, 2.0)]  # half of the processes bring zeros to the mean
        zeros = torch._foreach_mul(found, 0.0)
        mean = averaged([*found, *zeros] if even else [*zeros, *found])
        return mean[: len(found)], mean[len(found) :]
