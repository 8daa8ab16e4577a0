"""How long a table of large images takes on a GPU, from counted operations and assumed speeds.

Left out, as they are minutes a table: encoding the real images, clustering, test passes, start-up. Left out although
they are not: the gradient steps of matching and regression guidance, each of which goes through the decoder and back.
"""

from __future__ import annotations

from dataclasses import dataclass

# Counted with torch.utils.flop_counter for one image; a multiplication and an addition are two operations. The paper of
# DiT (arXiv 2212.09748, Table 1) counts them as one: its 118.6 G are these 237.3.
DIT_XL_2_256_FLOPS = 237.3e9  # one forward pass of the denoiser at 256 pixels
DECODE_FLOPS = 622.2e9  # its autoencoder, latents to 256 pixels
CFG_PASSES = 2  # conditional and unconditional
TRAINING_PASSES = 3  # forward, and about twice that backward
# One NVIDIA A100. Its data sheet has 312 TFLOP/s in bfloat16 and 19.5 in single precision; a third of the first and
# half of the second are what large matrix products and convolutions usually sustain. Assumed, not measured.
SAMPLING_FLOPS_PER_SECOND = 100e12
TRAINING_FLOPS_PER_SECOND = 10e12
# Classes of the subsets by name, for an estimate where the data is not there yet.
CLASSES = {"imagenette": 10, "imagewoof": 10, "imagenet100": 100}

ASSUMPTIONS = (
    f"one A100: DiT-XL/2 at {SAMPLING_FLOPS_PER_SECOND / 1e12:.0f} TFLOP/s in bfloat16, students at "
    f"{TRAINING_FLOPS_PER_SECOND / 1e12:.0f} TFLOP/s in single precision; {DIT_XL_2_256_FLOPS / 1e9:.0f} GFLOP a "
    "denoiser pass, two passes a step, backward twice forward; without encoding, clustering, test passes and the "
    "gradient steps of set guidance"
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one cell computes."""

    images: int  # in the set
    steps: int  # of the sampler; 0 for real images
    students: int
    epochs: int  # of each student
    student_flops: float  # of one forward pass on one image
    replicas: int = 1  # images sampled for each of the set

    @property
    def gpu_seconds(self) -> float:
        """On one GPU."""
        an_image = self.steps * CFG_PASSES * DIT_XL_2_256_FLOPS + DECODE_FLOPS if self.steps else 0.0
        shown = self.students * self.epochs * self.images
        return (
            self.images * self.replicas * an_image / SAMPLING_FLOPS_PER_SECOND
            + shown * TRAINING_PASSES * self.student_flops / TRAINING_FLOPS_PER_SECOND
        )
