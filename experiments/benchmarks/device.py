"""Check a device against the processor and measure it: ``python experiments/benchmarks/device.py --device cuda``.

Full-size priors with random weights stand in for DiT-XL/2 and Stable Diffusion's autoencoder: speed and memory do not
depend on what was learned. Every section is written to the JSON as soon as it is measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from manifoldgd.bench import agreement, lookalikes, sections
from manifoldgd.cli.compose import conf_dir
from manifoldgd.data import digits
from manifoldgd.diffusion.protocol import judges_in
from manifoldgd.files import atomic_write_json
from manifoldgd.pipeline.real_side import RealImages
from manifoldgd.priors import load_prior
from manifoldgd.provenance import code_version, hardware

POINTWISE = ("mode", "manifold", "manifold_released", "posterior")
SET = ("matching", "regression", "regression_augmented")


def built(group: str, *overrides: str) -> Any:
    """A component as ``manifoldgd run OVERRIDES`` builds it."""
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        return instantiate(compose("config", list(overrides))[group], _convert_="all")


def pointwise(*overrides: str) -> dict[str, Any]:
    """Guidances of one image, and manifold guidance by its three estimators."""
    found = {name: built("guidance", f"guidance={name}", *overrides) for name in POINTWISE if name != "manifold"}
    for estimator in ("posterior", "clean", "noised"):
        name = f"manifold ({estimator})"
        found[name] = built("guidance", "guidance=manifold", f"guidance.estimator={estimator}", *overrides)
    return found


def bundled(name: str) -> Any:
    """A prior of the package."""
    return load_prior(path=f"bundled:{name}", autoencoder=None, cfg_scale=None, cfg_channels=None)


def energy_on(name: str, side: str, cache: Path) -> Callable[[torch.device], Any]:
    """Device -> the energy of a set of ten digits a class under a set guidance."""
    dataset, prior = digits(train_per_class=None, validation=None), bundled("digits")
    (judge,) = judges_in(built("guidance", f"guidance={name}", "dataset=digits"))

    def energy(device: torch.device) -> Any:
        energy_of = judge.prepare(RealImages(dataset, agreement.machine(device), cache))
        prior.to(device)
        return energy_of(lambda z: prior.decode_pixels(z, (8, 8)), torch.arange(100) % 10)

    return energy


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--output", type=Path, default=Path("device.json"))
    parser.add_argument("--small", action="store_true", help="a 33-million-parameter DiT and few rows: a dry run")
    parser.add_argument("--only", nargs="*", help="sections")
    given = parser.parse_args()
    device = torch.device(given.device)
    cache = given.output.absolute().parent / "bench-cache"
    batch, size = (4, lookalikes.DIT_S_2) if given.small else (64, lookalikes.DIT_XL_2)
    repetitions = 1 if given.small else 5
    guided = ("guidance.t_stop=0.0",)

    def full() -> Any:
        return lookalikes.prior(lookalikes.dit(size, device), lookalikes.sd_vae(device))

    def steps() -> list[dict[str, Any]]:
        prior = full()
        prior.hold("bf16-true" if device.type == "cuda" else "32-true")
        rows = sections.guidance_steps(
            prior,
            pointwise(*guided),
            device,
            batch=batch,
            steps=10 if not given.small else 2,
            repetitions=3 if not given.small else 1,
        )
        manifold = next(row for row in rows if row["guidance"] == "manifold (posterior)")
        return [*rows, sections.over_released(prior, device, manifold["seconds_a_step"], batch, min(3, repetitions))]

    def set_gradients() -> list[dict[str, Any]]:
        draws = torch.randn(100, *bundled("digits").latent_shape)
        return [
            {"guidance": name, "prior": "digits", "images": 100}
            | agreement.energies(energy_on(name, "digits", cache), draws, device)
            | {
                "seconds_a_gradient": sections.set_gradient(
                    energy_on(name, "digits", cache)(device), draws, device, repetitions
                )
            }
            for name in SET
        ]

    def student_speed() -> list[dict[str, Any]]:
        rows = []
        # 10 images a class as in the tables: small grey ones by a ConvNet-3, 224 pixels in colour by a ResNetAP-10.
        for name, protocol, shape, epochs in (
            ("convnet3", "hard_small", (1, 28, 28), 100),
            ("resnetap10", "hard_large", (3, 256, 256), 20),
        ):
            if given.small and name == "resnetap10":
                continue
            student = built(
                "student",
                f"student={name}",
                f"student/protocol={protocol}",
                f"student.protocol.epochs={epochs if not given.small else 2}",
                "student.protocol.evaluations=1",
            )
            images = torch.randint(0, 256, (100, *shape), dtype=torch.uint8)
            rows.append(
                sections.students(student, device, images, torch.arange(100) % 10, epochs if not given.small else 2)
            )
        return rows

    convnet = (
        "student=convnet3",
        "student/protocol=hard_small",
        "student.protocol.epochs=60",
        "student.protocol.evaluations=1",
    )
    work: dict[str, Callable[[], Any]] = {
        "latents agree": lambda: agreement.latents(bundled("digits"), pointwise(), device, rows=20, steps=50),
        "set gradients": set_gradients,
        "students agree": lambda: [
            agreement.students(
                built("student", *convnet),
                digits(train_per_class=None, validation=None),
                device,
                seeds=3,
                precision=precision,
            )
            for precision in ("32-true", "bf16-mixed")
        ],
        "tangents": lambda: sections.tangents(device, repetitions),
        "denoiser": lambda: sections.denoiser_rate(full(), device, batch, repetitions, compiled=device.type == "cuda"),
        "steps": steps,
        "encoding": lambda: sections.encoding(full(), device, min(batch, 32), repetitions),
        "students": student_speed,
    }
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "code_version": code_version(),
        "hardware": hardware(device),
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "sections": {},
    }
    for name, measure in work.items():
        if given.only and name not in given.only:
            continue
        started = time.perf_counter()
        try:
            found: Any = measure()
        except Exception as error:
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {error}"[:500]}
        spent = time.perf_counter() - started
        memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
        record["sections"][name] = {"rows": found, "seconds": round(spent, 1), "peak_gib": memory}
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        atomic_write_json(given.output, json.loads(json.dumps(record, default=float)))
        print(f"{name} ({spent:.0f} s)", *(found if isinstance(found, list) else [found]), sep="\n  ", flush=True)


if __name__ == "__main__":
    main()
