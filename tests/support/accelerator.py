"""A device that is not there: tensors with shapes and no numbers, on a torch without any accelerator.

Tensors of two devices in one operation raise, as on a GPU. Whatever makes the host wait for the device is counted by
the line of this package that asked for it: numbers read (``item``), copies either way, masks whose length is unknown,
and factorisations that report errors. Run as a script it prints the counts of a denoising step, a gradient step of set
guidance and a training step as JSON; ``test_accelerator.py`` says which are allowed. It registers a backend for good,
so it has a process of its own.

What it cannot see: autocast, copies inside inference mode, and numbers.
"""

import collections
import contextlib
import json
import math
import sys
import tempfile
import traceback
from pathlib import Path

import torch
import torch.utils.backend_registration
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

NAME = "fakegpu"
torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME)
getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
DEVICE = torch.device(NAME, 0)
aten = torch.ops.aten
PACKAGE = str(Path(__file__).parents[2] / "manifoldgd") + "/"


def place():
    """The innermost line of the package that is being executed."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(PACKAGE):
            return f"{frame.filename.removeprefix(PACKAGE)}: {frame.line}"
    return "elsewhere"


def as_if_all(index):
    """A mask as the indices that it stands for, were it true everywhere; other indices as they are."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [torch.empty(index.numel(), dtype=torch.int64, device=DEVICE) for _ in range(index.dim())]


class Audit(TorchDispatchMode):
    """Sends operations on the device to tensors without numbers, and counts what waits for it."""

    def __init__(self):
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.found = collections.Counter()

    def note(self, kind):
        self.found[f"{kind} at {place()}"] += 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = torch.utils._pytree.arg_tree_leaves(*args, **kwargs)
        to = kwargs.get("device")
        to_device = to is not None and torch.device(to).type == NAME
        if not to_device and not any(isinstance(each, FakeTensor) for each in leaves):
            with _disable_current_modes():
                return function(*args, **kwargs)
        if function is aten._local_scalar_dense.default:
            self.note("item")
            return {torch.bool: True}.get(args[0].dtype, 1.0 if args[0].dtype.is_floating_point else 1)
        if function is aten._to_copy.default:
            tensor = args[0]
            dtype = kwargs.get("dtype") or tensor.dtype
            if isinstance(tensor, FakeTensor) and to is not None and torch.device(to).type == "cpu":
                self.note("to the host")
                with _disable_current_modes():
                    return torch.zeros(tensor.shape, dtype=dtype)
            if not isinstance(tensor, FakeTensor) and to_device:
                self.note("to the device")
                with self.fake:
                    return torch.empty(tensor.shape, dtype=dtype, device=DEVICE)
        if function is aten.nonzero.default:
            self.note("mask")
            with self.fake:
                return torch.empty(args[0].numel(), args[0].dim(), dtype=torch.int64, device=DEVICE)
        if function is aten.index.Tensor and any(each is not None and each.dtype == torch.bool for each in args[1]):
            self.note("mask")
            with self.fake:
                args = (args[0], [whole for each in args[1] for whole in as_if_all(each)])
        if function is aten._linalg_check_errors.default:
            self.note("linalg")
            return None
        with self.fake:
            return function(*args, **kwargs)


class NewTensors(TorchFunctionMode):
    """``new_tensor`` makes a host tensor and copies it, out of sight of operations."""

    def __init__(self, audit):
        self.audit = audit

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.new_tensor and args[0].device.type == NAME:
            self.audit.note("to the device")
            with self.audit.fake:
                return torch.empty_like(torch.tensor(args[1]), device=DEVICE)
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def audited():
    """Yield the audit of what happens inside."""
    audit = Audit()
    with audit, NewTensors(audit):
        yield audit


def there(module):
    """Put a module on the device; call it inside :func:`audited`."""
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for key, value in list(store.items()):
                if value is not None:
                    moved = torch.empty(value.shape, dtype=value.dtype, device=DEVICE)
                    parameter = store is part._parameters
                    store[key] = torch.nn.Parameter(moved, requires_grad=value.requires_grad) if parameter else moved
    return module


def each_step(work, few, many):
    """What one step more of ``work(steps)`` adds to what waits."""
    counts = []
    for steps in (few, many):
        with audited() as audit:
            work(steps)
        counts.append(audit.found)
    more = {name: (count - counts[0][name]) / (many - few) for name, count in counts[1].items()}
    return {name: count for name, count in more.items() if count}


GUIDED = ("none", "mode", "manifold", "manifold_released", "kalman", "kalman_denoiser", "posterior", "projected_target")
ROWS, CLASSES = 6, 10
CFG = {"cfg_scale": 1.5, "cfg_channels": None}


def sampling(prior, guidance, denoise):
    """A denoising step, with its guidance."""
    from manifoldgd.diffusion import DDPM, ClassifierFreeGuidance, sample
    from manifoldgd.diffusion.protocol import Anchors
    from manifoldgd.randomness import RowKey, RowNoise

    def work(steps):
        size = getattr(guidance, "neighbourhood", 0)
        near = torch.empty(ROWS, size, math.prod(prior.latent_shape), device=DEVICE) if size else None
        anchors = Anchors(torch.empty(ROWS, *prior.latent_shape, device=DEVICE), near)
        sample(
            ClassifierFreeGuidance(denoise, 1.5, prior.null_class, None),
            prior.schedule.respaced(steps, "ddpm"),
            DDPM(steps=steps, cfg_scale=None),
            labels=torch.zeros(ROWS, dtype=torch.int64),
            noise=RowNoise(0, [RowKey("a", row) for row in range(ROWS)], DEVICE),
            shape=prior.latent_shape,
            variance=prior.variance,
            guidance=guidance.bind(anchors),
        )

    return each_step(work, 3, 5)


def descending(energy):
    """A gradient step of set guidance."""
    from manifoldgd.set_guidance import transport
    from manifoldgd.set_guidance.descent import gradient_of

    transport.ITERATIONS = 3  # all alike

    def work(steps):
        for draw in range(steps):
            gradient_of(energy, torch.empty(ROWS, 1, 8, 8, device=DEVICE), draw)

    return each_step(work, 1, 2)


def energies(augmentation):
    """Each set guidance's, of images that are their own latents."""
    from manifoldgd.set_guidance.denoiser import DenoiserEnergy
    from manifoldgd.set_guidance.matching import MatchingEnergy
    from manifoldgd.set_guidance.networks import RandomNetworks
    from manifoldgd.set_guidance.regression import RegressionEnergy
    from manifoldgd.set_guidance.repulsion import RepulsionEnergy
    from manifoldgd.set_guidance.transport import TransportEnergy

    networks = RandomNetworks((1, 8, 8), count=2, width=8, mean=(0.5,), std=(0.5,), precision="32-true")
    size = networks.networks[0].features(torch.zeros(1, 1, 8, 8)).shape[1]
    for network in networks.networks:
        there(network)
    on_device(networks)
    labels = torch.arange(ROWS) % 2
    regression = {
        "networks": networks,
        "real": torch.zeros(2, 20, size),
        "real_labels": torch.arange(20) % 2,
        "ridge": 0.1,
        "temperature": 10.0,
    }
    copies = {"copies": 1, "augmentation": augmentation}
    shares = torch.full((2, 4), 0.25, dtype=torch.float64)
    found = {
        "repulsion": RepulsionEnergy(labels),
        "matching": MatchingEnergy(lambda latents: latents, labels, networks, torch.zeros(2, 2, size)),
        "transport": TransportEnergy(torch.randn(2, 4, 64), shares, labels, 0.01),
        "denoiser": DenoiserEnergy(lambda x0, labels: x0.flatten(1), torch.randn(2, 5, 64), labels),
        "regression": RegressionEnergy(lambda latents: latents, labels, **regression),
        "regression_augmented": RegressionEnergy(lambda latents: latents, labels, **regression, **copies),
    }
    return {name: on_device(energy) for name, energy in found.items()}


def on_device(held):
    """Put the tensors that an object keeps on the device, as its maker does where labels lie there."""
    for name, value in vars(held).items():
        if isinstance(value, torch.Tensor):
            setattr(held, name, value.to(DEVICE))
        elif isinstance(value, list) and isinstance(value[0], torch.Tensor):
            setattr(held, name, [each.to(DEVICE) for each in value])
        elif isinstance(value, dict):
            setattr(held, name, {key: each.to(DEVICE) for key, each in value.items()})
    return held


def training(student):
    """A step of a student's training, without Lightning's own."""
    from manifoldgd.students.inference import Pixels
    from manifoldgd.students.objectives import class_labels
    from manifoldgd.students.training import Supervised

    module = Supervised(
        there(student.network((3, 8, 8), CLASSES, seed=0)),
        torch.zeros(40, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(40, dtype=torch.int64),
        Pixels((0.5,) * 3, (0.5,) * 3),
        augmentation=student.protocol.augmentation,
        size=(8, 8),
        cutmix_alpha=0,
        generator=torch.Generator().manual_seed(0),
        objective=class_labels,
        optimisation=lambda network: torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        after_epoch=lambda epoch, loss: {},
        name="student",
    )
    there(module)
    optimiser = module.configure_optimizers()

    def work(steps):
        for _ in range(steps):
            optimiser.zero_grad()
            module.training_step(torch.zeros(8, dtype=torch.int64, device=DEVICE), 0).backward()
            optimiser.step()

    return each_step(work, 1, 2)


def main():
    """Print what waits, by kind of step."""
    import composition
    from tiny import write_tiny_prior

    from manifoldgd.cli.compose import composing
    from manifoldgd.cli.setup import build
    from manifoldgd.priors import load_prior

    found = {}
    composition.remember()
    with composing() as compose, tempfile.TemporaryDirectory() as folder:
        prior = load_prior(path=str(write_tiny_prior(Path(folder) / "tiny")), autoencoder=None, **CFG)
        small = ["student.width=8", "student.depth=2"]
        large = [*small, "student/protocol=hard_large", "student.protocol.image_size=null"]
        students = {
            "student": build(compose(["student=convnet3", *small]).values, "student"),
            "student of large images": build(compose(["student=convnet3", *large]).values, "student"),
        }
        guidances = {name: build(compose([f"guidance={name}"]).values, "guidance") for name in GUIDED}
        guidances["noised"] = build(compose(["guidance=manifold", "guidance.estimator=noised"]).values, "guidance")
    with audited():
        there(prior.network)
        set_energies = energies(students["student"].protocol.augmentation)
    # The network once: it takes longer than every guidance and is the same for all.
    found["none"] = sampling(prior, guidances.pop("none"), prior.denoise)
    for name, guidance in guidances.items():
        found[name] = sampling(prior, guidance, lambda x_t, timestep, labels: torch.zeros_like(x_t))
    for name, energy in set_energies.items():
        found[name] = descending(energy)
    for name, student in students.items():
        with audited():
            found[name] = training(student)
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
