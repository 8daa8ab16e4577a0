"""The main job from Python: what ``manifoldgd run dataset=digits ipc=10 guidance=mode`` does, and its result in hand.

    python examples/run_by_config.py [key=value ...]

Further overrides go to the configuration, as on the command line; the digits take a minute.
"""

import sys

import manifoldgd as mgd


def main(overrides: list[str]) -> mgd.Judged:
    """Distil, judge, and look at what came out."""
    config = mgd.compose(["dataset=digits", "ipc=10", "guidance=mode", "logger=none", *overrides])
    result = mgd.run(config)  # the same folder, resume and checks as the command

    images, labels = result.set.images, result.set.labels  # [n, C, H, W] uint8, [n] int64
    print(f"{len(images)} images of {tuple(images.shape[1:])} in {result.set.folder}")
    for label, name in enumerate(result.set.class_names):
        print(f"  {name}: {int((labels == label).sum())} images")
    print(f"accuracy after the last epoch: {100 * result.accuracy.mean:.1f} %, half interval {result.accuracy.half}")
    print(f"by student seed: {result.by_student}")
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
