"""One run in several processes: `torchrun --nproc_per_node=N train.py ...`.

Every process draws the same batch and encodes its share of the images. What comes out is gathered
with its gradient, so that each computes the losses of the whole batch: they are those of a single
process, also where a loss is no mean over images. Gradients are averaged as they reach the learned
tensors, and all processes take the same step.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from promptclip.errors import UserError

if TYPE_CHECKING:
    from yacs.config import CfgNode


def join(cfg: CfgNode) -> int:
    """Join the processes that torchrun has started, for as long as this one lives.

    Each has the GPU of its local rank, or with USE_CUDA False or no GPU runs on the CPU.

    Returns:
        The number of this process.

    Raises:
        UserError: there are more processes on this machine than GPUs, or the run has no seed.
    """
    if cfg.SEED < 0:
        raise UserError("several processes must draw alike; set a seed of 0 or more")
    if dist.is_initialized():
        return rank()
    gpus = torch.cuda.device_count() if cfg.USE_CUDA else 0
    if gpus:
        local = int(os.environ["LOCAL_RANK"])
        if local >= gpus:
            raise UserError(
                f"{os.environ['LOCAL_WORLD_SIZE']} processes cannot share {gpus} GPU(s); give "
                f"torchrun --nproc_per_node={gpus}, or set USE_CUDA False"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if gpus else "gloo")
    atexit.register(dist.destroy_process_group)
    return rank()


def rank() -> int:
    """Number of this process; 0 if it is the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def tell(go: bool) -> None:
    """From the first process: whether there is something to do. Waits until all are ready."""
    dist.broadcast_object_list([go])
    if go:
        wait()


def told() -> bool:
    """What the first process tells."""
    message = [False]
    dist.broadcast_object_list(message)
    return message[0]


def wait() -> None:
    """Until all processes are here."""
    dist.barrier()


def share(batch: Any) -> Any:
    """This process's rows of a batch; the last row where there are more processes than rows."""
    rows = -(-len(batch) // size())
    start = min(rank() * rows, len(batch) - 1)
    return batch[start : start + rows]


def gather(rows: Any, batch: int) -> Any:
    """The rows of all processes, each of which has its `share` of `batch` rows.

    Args:
        rows: a tensor, or a function that gives one; then it is gathered when asked for.
        batch: number of rows in all.
    """
    if size() == 1:
        return rows
    if isinstance(rows, Tensor):
        return _Gather.apply(rows, batch)
    return lambda: _Gather.apply(rows(), batch)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Have gradients averaged over the processes, each as soon as it is complete."""
    if size() > 1:
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_hook(_average)


def _average(gradient: Tensor) -> Tensor:
    total = gradient.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / size()


class _Gather(torch.autograd.Function):
    """All rows; and back to each process the gradient of its own.

    Every process computes the same losses from them, so each knows the whole gradient already.
    It is taken `size()` times, because the average over processes follows.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, batch: int) -> Tensor:
        each = -(-batch // size())
        ctx.start, ctx.shape = rank() * each, rows.shape
        padded = rows.new_zeros(each, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(size())]
        dist.all_gather(parts, padded)
        return torch.cat(parts)[:batch]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        own = gradient.new_zeros(ctx.shape)
        mine = gradient[ctx.start : ctx.start + len(own)]
        own[: len(mine)] = size() * mine
        return own, None
