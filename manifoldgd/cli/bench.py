"""``manifoldgd bench``: a device against the processor, and speed as ratios within one run."""

from __future__ import annotations

import datetime
import itertools
import json
import platform
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import pandas as pd
import torch
from omegaconf import OmegaConf
from torch import Tensor

from manifoldgd import library
from manifoldgd.bench import agreement, growth, lookalikes, sections
from manifoldgd.bench.sections import Row
from manifoldgd.diffusion.protocol import judges_in
from manifoldgd.errors import UserError, require
from manifoldgd.files import atomic_write_json
from manifoldgd.pipeline.real_side import RealImages
from manifoldgd.priors.prior import Prior
from manifoldgd.provenance import code_version, hardware
from manifoldgd.system import cores

HELP = """manifoldgd bench: does a device give what the processor gives, and how fast is it?

usage: manifoldgd bench [key=value ...]

  device=cpu            or cuda
  sections=[steps,...]  these only; all of them:
{sections}
  small=true            few rows and repetitions: a dry run of the same work
  output=FOLDER         where bench.json goes (default: outputs/benchmarks/NAME_OF_THE_MACHINE); sections measured
                        there before stay unless they are measured again

Priors of the size of DiT-XL/2 (on a processor a smaller one, on the same latents) and of Stable Diffusion's autoencoder
with random weights stand in for the real ones: speed and memory do not depend on what was learned. The two sides of a
ratio are measured in turns."""
SET_GUIDANCES = ("matching", "regression", "regression_augmented")


@dataclass
class Options:
    """The command's keys."""

    device: str = "cpu"
    sections: list[str] = field(default_factory=list)
    small: bool = False
    output: str | None = None


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    denoiser: Mapping[str, int]
    batch: int
    steps: int
    repetitions: int
    epochs: int  # of a ConvNet-3; of a ResNetAP-10 a fifth
    full_size: bool = True  # latents of 4,096 numbers, images of 256 pixels for a student
    latents: tuple[int, ...] = (1_000, 10_000, 100_000)
    classes: tuple[int, ...] = (10, 100, 1_000)
    images: tuple[int, ...] = (1_000, 10_000, 50_000)


GPU = Sizes(lookalikes.DIT_XL_2, batch=64, steps=10, repetitions=5, epochs=100)
PROCESSOR = Sizes(lookalikes.DIT_S_2, batch=8, steps=3, repetitions=3, epochs=30)
SMALL = Sizes(lookalikes.DIT_S_2, 2, 2, 1, 2, full_size=False, latents=(200,), classes=(2,), images=(20,))


@dataclass(frozen=True)
class Bench:
    """What the sections share. Each method that :data:`SECTIONS` names returns its rows."""

    device: torch.device
    sizes: Sizes
    folder: Path  # for what is computed on the way

    def latents_agree(self) -> list[Row]:
        """Largest difference of sampled latents between device and processor, for each guidance."""
        return agreement.latents(library.load_prior("digits"), _guidances(), self.device, rows=20, steps=50)

    def draws_agree(self) -> list[Row]:
        """Bits of the counter-based generator on both, and its time for the neighbours of 64 latents."""
        numbers = 128 * (4096 if self.sizes.full_size else 64)
        return [agreement.draws(self.device, rows=64, numbers=numbers)]

    def students_agree(self) -> list[Row]:
        """Test accuracy of three students on both, in single precision and bfloat16."""
        digits, student = library.load_dataset("digits"), _student("convnet3", "hard_small", 60)
        return [
            agreement.students(student, digits, self.device, seeds=3, precision=precision)
            for precision in ("32-true", "bf16-mixed")
        ]

    def set_gradients(self) -> list[Row]:
        """Seconds of a gradient step of a set guidance, and its difference from the processor's."""
        draws = torch.randn(100, *library.load_prior("digits").latent_shape)
        return [
            {"guidance": name, "prior": "digits", "images": len(draws)}
            | agreement.energies(energy, draws, self.device)
            | {
                "seconds_a_gradient": sections.set_gradient(
                    energy(self.device), draws, self.device, self.sizes.repetitions
                )
            }
            for name in SET_GUIDANCES
            for energy in [self._energy(name)]
        ]

    def tangents(self) -> list[Row]:
        """Tangent bases against a dense eigendecomposition."""
        size = 4096 if self.sizes.full_size else 256
        return sections.tangents(self.device, self.sizes.repetitions, size=size)

    def denoiser(self) -> list[Row]:
        """Rate of the denoiser over the device's own, with weights kept in several ways."""
        gpu, sizes = self.device.type == "cuda", self.sizes
        return sections.denoiser_rate(self._prior(), self.device, sizes.batch, sizes.repetitions, compiled=gpu)

    def steps(self) -> list[Row]:
        """Guided over unguided steps; images a second over those of the released code's algorithm."""
        prior, sizes = self._prior(), self.sizes
        prior.hold("bf16-true" if self.device.type == "cuda" else "32-true")
        numbers = {"batch": sizes.batch, "repetitions": sizes.repetitions}
        rows = sections.guidance_steps(
            prior, _guidances("guidance.t_stop=0.0"), self.device, steps=sizes.steps, **numbers
        )
        ours = next(row for row in rows if row["guidance"] == "manifold (posterior)")["seconds_a_step"]
        return [*rows, sections.over_released(prior, self.device, ours, **numbers)]

    def encoding(self) -> list[Row]:
        """Images of 256 pixels encoded and decoded a second, and latents written and read."""
        numbers = {"batch": 1, "repetitions": 1}  # half a minute an image on two cores
        if self.device.type == "cuda":
            numbers = {"batch": min(self.sizes.batch, 32), "repetitions": self.sizes.repetitions}
        rows = sections.encoding(self._prior(), self.device, **numbers)
        return [*rows, sections.bank(20 * self.sizes.latents[0], 4096)]

    def students(self) -> list[Row]:
        """Epochs a second over a plain loop: 10 images a class, small grey ones and large ones in colour."""
        rows = []
        for name, protocol, shape, epochs in (
            ("convnet3", "hard_small", (1, 28, 28), self.sizes.epochs),
            ("resnetap10", "hard_large", (3, 256, 256), self.sizes.epochs // 5),
        ):
            if not epochs:
                continue
            images = torch.randint(0, 256, (100, *shape), dtype=torch.uint8)
            student = _student(name, protocol, epochs)
            rows.append(sections.students(student, self.device, images, torch.arange(100) % 10, epochs))
        return rows

    def clustering(self) -> list[Row]:
        """Divisive clustering against scikit-learn's, and classes shared by processes."""
        points, processes = 6 * self.sizes.latents[0], max(2, cores())
        shape = (4, 32, 32) if self.sizes.full_size else (1, 4, 4)
        return [
            *(sections.bisecting_kmeans(points, size, 50, self.sizes.repetitions) for size in (64, 784)),
            sections.classes_in_processes(8 * processes, self.sizes.latents[0], shape, processes),
        ]

    def growth(self) -> list[Row]:
        """Time and memory as latents, classes and images grow."""
        return growth.growth(self.sizes.latents, self.sizes.classes, self.sizes.images)

    def whole_run(self) -> list[Row]:
        """``manifoldgd run dataset=digits`` from empty folders, by stage."""
        with tempfile.TemporaryDirectory() as folder:
            epochs = [] if self.sizes.full_size else ["student.protocol.epochs=2", "ipc=1", "student_seeds=[0]"]
            place = [f"output={folder}/run", f"cache={folder}/cache", "logger=none"]
            started = time.perf_counter()
            judged = library.run(library.compose(["dataset=digits", *epochs, *place]))
            spent = time.perf_counter() - started
        stages = judged.metrics["seconds"]
        other = {"everything else": round(spent - sum(stages.values()), 2)}
        return [{"stage": name, "seconds": seconds} for name, seconds in (stages | other).items()]

    def _prior(self) -> Prior:
        denoiser: Any = lookalikes.dit(dict(self.sizes.denoiser), self.device)
        autoencoder: Any = lookalikes.sd_vae(self.device)
        return lookalikes.prior(denoiser, autoencoder)

    def _energy(self, name: str) -> Callable[[torch.device], Any]:
        """Device -> the energy of a set of ten digits a class under a set guidance."""
        dataset, prior = library.load_dataset("digits"), library.load_prior("digits")
        (judge,) = judges_in(library.build(f"guidance={name}", "dataset=digits"))

        def energy(device: torch.device) -> Callable[[Tensor, int], Tensor]:
            prior.to(device)
            energy_of = judge.prepare(RealImages(dataset, agreement.machine(device), self.folder))
            return energy_of(lambda z: prior.decode_pixels(z, (8, 8)), torch.arange(100) % 10)

        return energy


SECTIONS: dict[str, Callable[[Bench], list[Row]]] = {
    name: getattr(Bench, name)
    for name in (
        *(
            "latents_agree",
            "draws_agree",
            "set_gradients",
            "students_agree",
            "tangents",
            "denoiser",
            "steps",
            "encoding",
        ),
        *("students", "clustering", "growth", "whole_run"),
    )
}


def run_bench(words: list[str]) -> int:
    """Measure what is asked for, write each section as soon as it is measured, and print it; say before what is next.

    Returns:
        The exit code: 1 if a section failed; its error stands in the record.

    Raises:
        UserError: a key or a section is unknown, or there is no such device.
    """
    if {"--help", "-h"} & set(words):
        print(HELP.format(sections="\n".join(f"    {name:18}{work.__doc__}" for name, work in SECTIONS.items())))
        return 0
    options = read_options(words)
    device, sizes = torch.device(options.device), SMALL if options.small else PROCESSOR
    if device.type == "cuda" and not options.small:
        sizes = GPU
    folder = Path(options.output or f"outputs/benchmarks/{platform.node() or 'machine'}").expanduser()
    file = folder / "bench.json"
    record: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"sections": {}}
    record |= {
        "date": datetime.date.today().isoformat(),
        "code_version": code_version(),
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
    }
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(device, sizes, Path(scratch))
        wanted = list(options.sections or SECTIONS)
        for number, name in enumerate(wanted, start=1):
            print(f"{number}/{len(wanted)} {name}: {SECTIONS[name].__doc__}", flush=True)
            section = measured(SECTIONS[name], bench)
            failed |= "failed" in section
            record["sections"][name] = section | {"small": options.small}
            atomic_write_json(file, json.loads(json.dumps(record, default=float)))
            print(f"{name} ({section['seconds']:.0f} s)", *table(section["rows"]), sep="\n  ", flush=True)
    print(f"result: {file}")
    return int(failed)


def read_options(words: list[str]) -> Options:
    """The keys of the command line.

    Raises:
        UserError: one is unknown or of another type, a section is unknown, or there is no such device.
    """
    given = OmegaConf.from_dotlist(words)
    known = ", ".join(asdict(Options()))
    for key in given:
        require(str(key) in asdict(Options()), f"unknown key {key!r}; `manifoldgd bench` knows {known}")
    options = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Options), given))
    assert isinstance(options, Options)
    unknown = [name for name in options.sections if name not in SECTIONS]
    require(not unknown, f"sections: expected some of {', '.join(SECTIONS)}, got {', '.join(unknown)}")
    require(options.device in ("cpu", "cuda"), f"device: expected cpu or cuda, got {options.device!r}; set one of them")
    require(
        options.device == "cpu" or torch.cuda.is_available(),
        "device: cuda asked for, but torch finds no GPU; set device=cpu",
    )
    return options


def measured(section: Callable[[Bench], list[Row]], bench: Bench) -> Row:
    """A section's rows, how long it took and how much of a GPU's memory; of one that fails the error."""
    gpu = bench.device.type == "cuda"
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    found: Row = {"rows": []}
    try:
        found["rows"] = section(bench)
    except UserError:
        raise
    except Exception as error:  # the others may still be measured
        traceback.print_exc()
        found["failed"] = f"{type(error).__name__}: {error}"[:500]
    found["seconds"] = round(time.perf_counter() - started, 1)
    return found | {"peak_gib": torch.cuda.max_memory_allocated() / 2**30 if gpu else None}


def table(rows: list[Row]) -> list[str]:
    """Lines of text, a column a key; rows of other keys begin a table of their own."""
    tables = (pd.DataFrame(list(alike)) for _, alike in itertools.groupby(rows, key=list))
    return [line for one in tables for line in one.to_string(index=False, float_format="{:.4g}".format).splitlines()]


def _guidances(*changes: str) -> dict[str, Any]:
    """Guidances of one image, and manifold guidance by its three estimators."""
    found = {name: library.build(f"guidance={name}", *changes) for name in ("mode", "manifold_released", "posterior")}
    for estimator in ("posterior", "clean", "noised"):
        built = library.build("guidance=manifold", f"guidance.estimator={estimator}", *changes)
        found[f"manifold ({estimator})"] = built
    return found


def _student(name: str, protocol: str, epochs: int) -> Any:
    changes = (f"student.protocol.epochs={epochs}", "student.protocol.evaluations=1")
    return library.build(f"student={name}", f"student/protocol={protocol}", *changes)
