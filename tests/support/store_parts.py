"""What several tests need of a set on disk."""

import torch

from manifoldgd.store.sets import SetWriter

NAMES = ("cat", "great dane")


def picture(value, channels=3):
    image = torch.full((channels, 4, 6), value, dtype=torch.uint8)
    image[0, 1, 2] = 255
    return image


def write(folder, ipc=2, channels=3, **facts):
    writer = SetWriter(folder, NAMES)
    for label in reversed(range(2)):  # the order of arrival must not matter
        for rank in range(ipc):
            writer.save(picture(10 * label + rank, channels), label, rank, note=f"{label}{rank}")
    writer.finish(ipc=ipc, facts={"seed": 3, **facts}, card="# a card\n")
    return folder
