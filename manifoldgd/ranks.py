"""Several processes at one command, one a device: ranks, as torch and Lightning call them.

:func:`launch` starts them on this machine; ``srun`` and ``torchrun`` start them on several. All do the same command.
The first holds the locks and does what is done once; batches of a set, seeds of students and the images of a prior's
training step are shared out; what they make meets on the disk, and they themselves at :func:`barrier`. Tensors
travel where no file holds them: latents to the first, which writes them, gradients, and features to all.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from manifoldgd.errors import RunError, UserError, require
from manifoldgd.stopping import Stopped, listening

Made = TypeVar("Made")
Items = TypeVar("Items", list[Any], Tensor)
PATIENCE = timedelta(days=7)  # for the other ranks: one may be training a network that all need
POLL_SECONDS = 0.05
GRACE_SECONDS = 3.0  # between asking ranks to end and ending them; less than a command that is stopped has itself
FIRST_PORT, PORTS = 15000, 10000  # where the steps of Slurm's jobs meet, each at a port of its own
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Lost(RunError):
    """Another rank has ended before its time, for a reason of its own."""


def started() -> bool:
    """Whether this process was started as one of several: by :func:`launch`, by ``torchrun`` or by ``srun``.

    Torchrun's variables say which it is, and those of Slurm are made into them. Within a job of Slurm only ``srun``
    starts several: a batch script is one process, whatever it asked for.
    """
    slurm = os.environ
    if int(slurm.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and TORCHRUN[0] not in os.environ:
        from lightning.fabric.plugins.environments import SLURMEnvironment  # here, because it imports all of Lightning

        # Of Lightning the address alone: an object of it refuses `srun -n`.
        address = SLURMEnvironment.resolve_root_node_address(slurm["SLURM_STEP_NODELIST"])
        port = FIRST_PORT + (16 * int(slurm["SLURM_JOB_ID"]) + int(slurm["SLURM_STEP_ID"])) % PORTS
        numbers = (slurm["SLURM_PROCID"], slurm["SLURM_STEP_NUM_TASKS"], slurm["SLURM_LOCALID"])
        os.environ.update(_variables(*numbers, address, port))
    return all(name in os.environ for name in TORCHRUN)


def _variables(*values: int | str) -> dict[str, str]:
    return {name: str(value) for name, value in zip(TORCHRUN, values, strict=True)}


def connect(devices: int, nodes: int) -> None:
    """Meet the other ranks, if this process was started as one of several.

    Args:
        devices: processes of a node.
        nodes: machines.

    Raises:
        UserError: as many were not started.
    """
    if not started() or dist.is_initialized():
        return
    there = int(os.environ["WORLD_SIZE"])
    require(
        there == devices * nodes,
        f"expected {devices * nodes} processes, {devices} on each of {nodes} node{'' if nodes == 1 else 's'}, got "
        f"{there} from whoever started them; give srun -n, or torchrun, that number",
        key="devices",
    )
    backend = "gloo"
    if torch.cuda.is_available():
        # Slurm may show each process its own device alone.
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    if rank() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  for good: the first says what there is to say


def rank() -> int:
    """Number of this process among those at the command; 0 is the first, and one that is alone."""
    return int(dist.get_rank()) if dist.is_available() and dist.is_initialized() else 0


def count() -> int:
    """How many processes are at the command."""
    return int(dist.get_world_size()) if dist.is_available() and dist.is_initialized() else 1


def share(items: Items) -> Items:
    """Those of ``items``, of a tensor its rows, that are this rank's: every so-manieth."""
    return items[rank() :: count()]


def add_up(tensors: list[Tensor]) -> None:
    """Add to each tensor, in place, what the other ranks hold in its place; all ranks end with the same bits.

    Args:
        tensors: of one type, on one device.

    Raises:
        Lost: another rank has ended.
    """
    if count() == 1 or not tensors:
        return
    flat = torch.cat([each.flatten() for each in tensors])
    try:
        dist.all_reduce(flat)
    except RuntimeError as error:
        raise _lost() from error
    for each, total in zip(tensors, flat.split([each.numel() for each in tensors]), strict=True):
        each.copy_(total.view_as(each))


def barrier() -> None:
    """Wait until all ranks are here.

    Raises:
        Lost: another one has ended.
    """
    if count() == 1:
        return
    try:
        meeting = dist.barrier(async_op=True)
        while not meeting.is_completed():  # not wait(), in which no signal is heard
            time.sleep(POLL_SECONDS)
        meeting.wait()
    except RuntimeError as error:
        raise _lost() from error


def told(value: Made) -> Made:
    """What the first rank was given here, on all ranks."""
    if count() == 1:
        return value
    held = [value]
    try:
        dist.broadcast_object_list(held, src=0)
    except RuntimeError as error:
        raise _lost() from error
    return held[0]


def by_first(make: Callable[[], Made]) -> Made:
    """What ``make`` makes: on the first rank first, so that the others find it made."""
    if rank() > 0:
        barrier()
        return make()
    made = make()
    barrier()
    return made


def gathered(own: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    """On the first rank, one round of what all ranks computed, in their order; nothing on the others.

    Args:
        own: ``[n, ...]`` on the CPU, of this rank.
        sizes: rows of each rank in this round; fewer than ranks in the last one.
    """
    try:
        if rank() > 0:
            dist.send(own.contiguous(), dst=0)
            return
        yield own
        for other, rows in enumerate(sizes[1:], start=1):
            received = own.new_empty(rows, *own.shape[1:])
            dist.recv(received, src=other)
            yield received
    except RuntimeError as error:
        if isinstance(error, RunError):
            raise
        raise _lost() from error


def together(own: list[Tensor]) -> list[Tensor]:
    """On all ranks, what each computed of the parts that :func:`share` gave it, in the order of the parts.

    Args:
        own: of this rank, on the CPU; of one type, and of one shape but for the rows.

    Raises:
        Lost: another rank has ended.
    """
    if count() == 1:
        return own
    found: list[Tensor] = []
    for place in range(told(len(own))):  # of the first rank, which has the most
        held: list[Any] = [None] * count()
        try:
            dist.all_gather_object(held, own[place] if place < len(own) else None)
        except RuntimeError as error:
            raise _lost() from error
        found += [each for each in held if each is not None]
    return found


def leave() -> None:
    """Part from the other ranks: from here on this process is alone."""
    if count() > 1:
        barrier()
        dist.destroy_process_group()


def _lost() -> Lost:
    return Lost("another process of this command has ended; what is finished is kept, and the same command continues")


def launch(devices: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run ``function(*arguments)`` in a process for each device of this machine, and wait for all.

    The first that fails ends the others. They end with this process, however it ends.

    Args:
        devices: processes.
        function: of a module, as the arguments are pickled for new interpreters.
        arguments: of ``function``.

    Raises:
        UserError: and RunError and OSError: what ``function`` raised in the rank that failed first.
        RunError: a process failed in another way.
    """
    from torch.multiprocessing import ProcessExitedException, get_context, start_processes

    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    failures = get_context("spawn").SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = (devices, port, failures, function, arguments)
    processes = start_processes(_work, given, nprocs=devices, join=False, start_method="spawn")
    try:
        while not processes.join(timeout=1.0, grace_period=GRACE_SECONDS / 2):
            pass
    except ProcessExitedException as error:
        raise _first(failures, error.error_index, error.exit_code, devices) from None
    except BaseException:
        _end(processes.processes)
        raise


def _work(local: int, devices: int, port: int, failures: Any, function: Callable[..., None], arguments: Any) -> None:
    """One rank, from its start to its exit code."""
    os.environ.update(_variables(local, devices, local, "127.0.0.1", port))
    try:
        with listening():
            function(*arguments)
            leave()
    except Stopped as stop:
        sys.exit(stop.exit_code)
    except (UserError, RunError, OSError) as error:
        failures.put(error)
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        failures.put(RunError(f"process {local} of {devices}: {type(error).__name__}: {error}"))
        sys.exit(1)


def _first(failures: Any, index: int, code: int, devices: int) -> Exception:
    """Why the ranks failed: what one says of its own, else how the one that ended first ended."""
    found = []
    while not failures.empty():
        found.append(failures.get())
    own = [error for error in found if not isinstance(error, Lost)]
    if own:
        return own[0]
    how = f"ended with exit code {code}"
    if code < 0:
        name = signal.Signals(-code).name
        how = f"was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    return RunError(
        f"process {index} of the {devices} of this command {how}; the others were stopped, what is finished is kept, "
        "and the same command continues"
    )


def _end(processes: Any) -> None:
    """End ranks: asked first, then told."""
    for process in processes:
        with suppress(ProcessLookupError):
            process.terminate()
    end = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
