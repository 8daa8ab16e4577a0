"""What the work runs on. Nothing here changes a result beyond rounding; the precisions are part of what a result is."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import logging
import os
import shutil
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, Literal

import torch

from manifoldgd import ranks
from manifoldgd.errors import UserError, require
from manifoldgd.ranges import Batch, Range, checked
from manifoldgd.system import cores, memory

SINGLE = "32-true"
PRECISIONS = (SINGLE, "bf16-mixed", "16-mixed")
HELD = ("bf16-true", "16-true")  # weights of the prior themselves in half precision
Backend = Literal["faiss", "faiss-gpu", "exact"]  # of the search for nearest neighbours
Devices = Annotated[int, Range("[1, 1024]")]
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
# Lightning's remarks on things that are as we want them: in-memory loaders, iterable datasets, frozen networks.
EXPECTED_WARNINGS = (
    "does not have many workers",
    "LeafSpec",
    "smaller than the logging interval",
    "in eval mode at the start",
    "weights_only` was not set",
    "callbacks used to create the checkpoint need to be provided",  # of earlier versions: their own saving
    "is not writable",
    "`srun` command is available",  # advised for every stage of a Trainer on a machine with Slurm
)


@checked
@dataclass(frozen=True, kw_only=True)
class Machine:
    """Accelerator, precision and sizes; the numbers live in ``conf/machine``."""

    accelerator: str
    precision: str
    student_precision: str
    batch_size: Batch
    threads: Annotated[int, Range("[1, 1024]")] | None
    progress: bool
    devices: Devices
    nodes: Devices
    compile: bool  # the denoiser and students, by torch.compile: other kernels round otherwise
    neighbours: Backend | None = None  # None: FAISS where it is installed, else exact; the same ones are found

    def __post_init__(self) -> None:
        require(
            self.accelerator in ACCELERATORS,
            f"expected one of {', '.join(ACCELERATORS)}, got {self.accelerator!r}",
            key="accelerator",
        )
        require(
            self.accelerator not in ("gpu", "cuda") or torch.cuda.is_available(),
            f"{self.accelerator} asked for, but torch finds no GPU; set machine=cpu",
            key="accelerator",
        )
        require(
            self.accelerator != "mps" or torch.backends.mps.is_available(),
            "mps asked for, but this is no Mac with Metal; set it to auto",
            key="accelerator",
        )
        for key, known in (("precision", (*PRECISIONS, *HELD)), ("student_precision", PRECISIONS)):
            value = getattr(self, key)
            require(value in known, f"expected one of {', '.join(known)}, got {value!r}", key=key)
            require(
                not value.startswith("16") or self.device.type == "cuda",
                f"{value} needs a CUDA device, got {self.device.type}; set bf16-mixed or {SINGLE}",
                key=key,
            )
        require(
            not self.compile or shutil.which(os.environ.get("CXX", "g++")) is not None,
            f"needs a C++ compiler, and {os.environ.get('CXX', 'g++')} is not on the PATH; install it, name another in "
            "the environment variable CXX, or set it to false",
            key="compile",
        )
        if self.neighbours is not None and self.neighbours != "exact":
            faiss_library(gpu=self.neighbours == "faiss-gpu", key="neighbours")

    def prepare(self) -> None:
        """Set up this process: its place among others, threads, allocator, silence about what is as we want it.

        Raises:
            UserError: it was started as one of another number of processes than ``devices`` and ``nodes`` say.
        """
        if self.several:
            ranks.connect(self.devices, self.nodes)
        if self.device.type == "cpu":
            _keep_freed_memory()
        if self.threads is None and ranks.count() > 1 and self.device.type == "cpu":
            torch.set_num_threads(max(1, self.cores // self.devices))
        if self.threads is not None:
            torch.set_num_threads(self.threads)
            if has_faiss():
                with suppress(UserError):  # one that cannot be imported is told of where it is asked for
                    faiss_library().omp_set_num_threads(self.threads)
        if note := self.slow_rounding:
            print(note, file=sys.stderr)
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=f".*{message}.*")

    @property
    def slow_rounding(self) -> str | None:
        """A remark where bfloat16 is asked for on a processor that has no instructions for it, and rounds by hand."""
        asked = [key for key in ("precision", "student_precision") if getattr(self, key).startswith("bf16")]
        if not asked or self.device.type != "cpu" or has_bfloat16():
            return None
        return (
            f"machine.{asked[0]}: this processor has no instructions for bfloat16, so {getattr(self, asked[0])} is "
            f"slower here than {SINGLE}; its results are kept apart from those of {SINGLE}"
        )

    @property
    def cores(self) -> int:
        """Processor cores that the work may use."""
        return self.threads or cores()

    @property
    def device(self) -> torch.device:
        """Where networks run outside a Lightning loop."""
        if self.accelerator == "cpu":
            return torch.device("cpu")
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device(
            "mps" if self.accelerator in ("auto", "mps") and torch.backends.mps.is_available() else "cpu"
        )

    @property
    def memory(self) -> int | None:
        """Bytes of the device's memory, or of the machine's where it has none of its own; ``None`` where unknown."""
        if self.device.type == "cuda":
            return int(torch.cuda.get_device_properties(self.device).total_memory)
        return memory()

    @property
    def several(self) -> bool:
        """Whether a command's work is shared among processes."""
        return self.devices * self.nodes > 1

    def launches(self) -> bool:
        """Whether the command has to start these processes itself, as nobody else did.

        Raises:
            UserError: some are to run on other machines.
        """
        if not self.several or ranks.started():
            return False
        require(
            self.nodes == 1,
            f"processes on {self.nodes} machines are started from outside; put `srun --ntasks-per-node={self.devices}` "
            "or torchrun before the command",
            key="nodes",
        )
        there = torch.cuda.device_count()
        require(
            self.device.type != "cuda" or self.devices <= there,
            f"expected at most the {there} GPUs of this machine, got {self.devices}; lower it",
            key="devices",
        )
        return True

    def trainer(self, *, shared: bool = False, **changes: Any) -> dict[str, Any]:
        """Arguments for a Lightning Trainer that leaves nothing behind but what its callbacks write.

        Args:
            shared: whether all ranks call it, each with its part of the batches; otherwise it is this process's own.
            changes: other arguments.
        """
        import lightning.pytorch  # noqa: F401 - which sets the level of its loggers anew

        for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
            logging.getLogger(name).setLevel(logging.ERROR)
        alone = not shared or ranks.count() == 1
        return {
            "accelerator": self.accelerator,
            **(own_device() if alone else {"devices": self.devices, "num_nodes": self.nodes, "strategy": "ddp"}),
            # Where weights are held in half precision the prior sees to it; all else stays single.
            "precision": SINGLE if self.precision in HELD else self.precision,
            "plugins": single_process() if alone else shared_process(),
            "logger": False,
            "enable_progress_bar": self.progress,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            **changes,
        }


def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; yes where torch cannot tell."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return known.get("architecture") != "x86_64" or bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def has_faiss() -> bool:
    """Whether FAISS is installed; nothing is imported to find out."""
    return find_spec("faiss") is not None


def check_faiss(what: str, *, key: str | None = None, extra: str = "faiss-cpu", otherwise: str | None = None) -> None:
    """Raise :class:`UserError` where FAISS is not installed: ``what`` takes it, as the argument ``key`` asks for."""
    instead = f", or {otherwise}" if otherwise else ""
    remedy = f"`pip install 'manifoldgd[{extra}]'`{instead}"
    require(has_faiss(), f"{what} takes FAISS, which is not installed; {remedy}", key)


def faiss_library(*, gpu: bool = False, key: str | None = None) -> Any:
    """The module faiss, which this package does without where it is not installed, but for k-means.

    Args:
        gpu: whether its search on a GPU is asked for, which is in another distribution of the same module.
        key: argument that asks for it.

    Raises:
        UserError: it is not there or cannot be imported, as where two distributions overwrite each other.
    """
    extra = "faiss-gpu" if gpu else "faiss-cpu"
    remedy = f"`pip install 'manifoldgd[{extra}]'`"
    check_faiss("this search" if key else "this", key=key, extra=extra)
    try:
        faiss = importlib.import_module("faiss")
    except Exception as error:  # whatever a damaged installation raises
        names = installed_faiss()
        several = f"{' and '.join(names)} overwrite each other's files: uninstall all, then " if len(names) > 1 else ""
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"FAISS cannot be imported ({reason}); {several}{remedy}", key) from error
    if gpu and not (hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0):
        raise UserError(
            f"faiss-gpu needs a CUDA device and FAISS built for it, got that of {' and '.join(installed_faiss())}; "
            f"uninstall it, then {remedy}, or choose faiss or exact",
            key,
        )
    return faiss


def installed_faiss() -> list[str]:
    """Names of the installed distributions that bring a module faiss; more than one overwrite each other.

    Takes a second or so: the files of every installed distribution are looked through.
    """
    return sorted(importlib.metadata.packages_distributions().get("faiss", ["an unknown distribution"]))


def shared_process() -> list[Any]:
    """Plugins for a Lightning Trainer that is one of several, already connected (see :mod:`manifoldgd.ranks`)."""
    from lightning.fabric.plugins.environments import TorchElasticEnvironment

    return [TorchElasticEnvironment()]


def own_device() -> dict[str, Any]:
    """Arguments by which a Lightning Trainer keeps to the one device of this process."""
    chosen = ranks.count() > 1 and torch.cuda.is_available()
    return {"devices": [torch.cuda.current_device()] if chosen else 1}


def single_process() -> list[Any]:
    """Plugins for a Lightning Trainer that is one process, wherever it runs.

    Lightning would look for a cluster otherwise: where Slurm is installed it advises `srun` at every stage, and inside
    a job it requeues that job itself on a signal. We stop with exit code 143, and whoever queued the job decides.
    """
    from lightning.fabric.plugins.environments import LightningEnvironment

    return [LightningEnvironment()]


def _keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks instead of returning them to the system; nothing elsewhere.

    Every step of a training or a sampling frees and asks for the same tens of MiB again. From the system they come page
    by page, each cleared first: measured, two thirds of the time of a prior's training step.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # names of mallopt(3)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 1 << 26)


def half_precision(precision: str, device: torch.device) -> torch.autocast:
    """Autocast as Lightning's ``precision`` asks for, off for single precision."""
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision.endswith("-mixed"))
