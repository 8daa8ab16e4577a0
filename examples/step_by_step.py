"""The same job in its four steps, with the tensors between them: encode, cluster, synthesise, evaluate.

    python examples/step_by_step.py [FOLDER] [key=value ...]

The overrides change the student, such as ``student.width=32``.
"""

import sys

import manifoldgd as mgd


def main(folder: str, *student: str, steps: int = 50) -> mgd.Judged:
    """Two images of each digit in ``folder``, judged."""
    dataset, prior = mgd.load_dataset("digits"), mgd.load_prior("digits")

    latents = mgd.encode(dataset, prior)
    print(f"{len(latents.latents)} training images as latents of {tuple(latents.latents.shape[1:])}")

    space = mgd.prototypes.RawLatents()
    clusterer = mgd.prototypes.Divisive(criterion="sse", representative="nearest", space=space, restarts=5)
    prototypes = mgd.cluster(latents, clusterer, ipc=2)
    print(f"each prototype stands for {prototypes.sizes.tolist()} images")

    made = mgd.synthesise(
        dataset,
        prior,
        prototypes,
        guidance=mgd.guidance.ModeGuidance(scale=0.1, kernel="rbf", bandwidth=1.0, t_stop=0.5),
        sampler=mgd.diffusion.DDPM(steps=steps, cfg_scale=None),
        folder=folder,
    )
    print(f"{len(made.images)} images in {made.folder}")

    judged = mgd.evaluate(made, dataset, student=mgd.build("student=convnet3", *student))
    print(f"accuracy of students trained on them: {100 * judged.accuracy.mean:.1f} %")
    return judged


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["my_set"]))
