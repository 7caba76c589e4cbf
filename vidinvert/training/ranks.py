"""Several processes that train as one: each draws its own pictures, all take the same step.

Started by torchrun, one process a device. Every rank has the same weights and optimisers; before an
optimiser steps, the gradients are averaged over the ranks, so that weights stay the same without
being sent. Alone, every function here does nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn


def count() -> int:
    """Return how many processes train together."""
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def number() -> int:
    """Return this process's number; 0 writes the files."""
    return distributed.get_rank() if count() > 1 else 0


def wait() -> None:
    """Go on when all ranks have come here."""
    if count() > 1:
        distributed.barrier()


@contextmanager
def first_goes_first() -> Iterator[None]:
    """Let rank 0 do what follows while the others wait: they find what it left in the folder."""
    if number() > 0:
        wait()
    yield
    if number() == 0:
        wait()


def agree(value: float, device: torch.device) -> float:
    """Return rank 0's value on all ranks, such as what its clock says."""
    if count() == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=device)
    distributed.broadcast(shared, src=0)
    return float(shared)


@contextmanager
def averaged_gradients(optimizers: Mapping[str, torch.optim.Optimizer]) -> Iterator[None]:
    """Average the gradients over the ranks before each step of the optimisers."""
    if count() == 1:
        yield
        return
    handles = [item.register_step_pre_hook(_average) for item in optimizers.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _average(optimizer: torch.optim.Optimizer, *given: Any) -> None:
    """Average all gradients in one message; where a rank has none, it counts as 0."""
    del given
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    average([gradient.detach() for gradient in gradients])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


@torch.no_grad()
def average_buffers(modules: Mapping[str, nn.Module]) -> None:
    """Average what modules measured of their own pictures, as the statistics of norms."""
    named = [item for module in modules.values() for item in module.named_buffers()]
    average([buffer for name, buffer in named if ".running_" in f".{name}"])


@torch.no_grad()
def average(tensors: list[Tensor]) -> None:
    """Average tensors over the ranks, in place."""
    if count() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= count()
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
