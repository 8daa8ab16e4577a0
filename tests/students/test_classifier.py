"""The embedding network: it recognises, and it comes back from disk as it was."""

import dataclasses
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from student_parts import MEAN, STD, pictures, source

from manifoldgd.errors import UserError
from manifoldgd.store.classifiers import load_classifier, save_classifier
from manifoldgd.students import inference, train_classifier
from manifoldgd.students.inference import Pixels, outputs
from manifoldgd.students.recipe import STANDARD, ShiftFlip, untrained

QUICK = dataclasses.replace(STANDARD, width=16, images_shown=15_000, learning_rate=0.1)


@pytest.fixture(scope="module")
def classifier():
    data = load_digits()
    images = torch.tensor(data.images * 255 / 16).round().to(torch.uint8)[:1000, None]
    labels = torch.tensor(data.target, dtype=torch.int64)[:1000]
    return train_classifier(images, labels, num_classes=10, mean=MEAN, std=STD, seed=0, flip=False, recipe=QUICK,
                            progress=False, accelerator="cpu")  # fmt: skip


def test_the_embedding_network_recognises_digits(classifier, digits):
    assert classifier.accuracy(digits[2], digits[3]) > 0.9
    embedding = classifier.embed(digits[2][:5])
    assert embedding.shape == (5, classifier.embedding_size)
    torch.testing.assert_close(classifier.network.classifier(embedding), classifier.logits(digits[2][:5]))


def test_a_saved_classifier_comes_back_as_it_was(classifier, digits, tmp_path):
    path = tmp_path / "cache" / "judge.safetensors"
    save_classifier(classifier, path)
    loaded = load_classifier(path)
    assert torch.equal(loaded.logits(digits[2][:20]), classifier.logits(digits[2][:20]))
    assert loaded.description == classifier.description
    assert [each.name for each in path.parent.iterdir()] == ["judge.safetensors"]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 99])
def test_a_damaged_classifier_is_a_user_error(classifier, tmp_path, damage):
    path = tmp_path / "judge.safetensors"
    save_classifier(classifier, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"judge.safetensors: damaged file .*remove it to have it trained again"):
        load_classifier(path)


def test_shift_flip_moves_whole_pixels():
    x = pictures(5, 1, 6)
    padded = F.pad(x, (1, 1, 1, 1))
    windows = {(i, j): padded[:, :, i : i + 6, j : j + 6] for i in range(3) for j in range(3)}
    seen = set()
    for seed in range(60):
        out = ShiftFlip(shift=1 / 6, flip=False)(x, source(seed), (6, 6))
        matches = [place for place, window in windows.items() if torch.equal(window, out)]
        assert len(matches) == 1
        seen.update(matches)
    assert seen == set(windows)
    out = ShiftFlip(shift=0, flip=True)(x, source(1), (6, 6))
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(2)) for a, b in zip(out, x, strict=True))
    assert not torch.equal(out, x)


def test_images_of_another_size_are_resized_before_they_are_shifted():
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert ShiftFlip(shift=0.1, flip=True)(images, source(0), (32, 32)).shape == (3, 1, 32, 32)
    grown = torch.nn.functional.interpolate(images, (32, 32), mode="bilinear", antialias=True)
    assert torch.equal(ShiftFlip(shift=0, flip=False)(images, source(0), (32, 32)), grown)


def test_a_test_pass_in_smaller_batches_says_the_same(monkeypatch):
    network = untrained("convnet", 8, 3, (1, 16, 16), 10, seed=0)
    images = torch.randint(256, (23, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def logits():
        return outputs(network, images, Pixels((0.5,), (0.5,)), (16, 16), cover=Fraction(1))

    whole, seen = logits(), []
    monkeypatch.setattr(inference, "EVALUATION_PIXELS", 5 * 16 * 16)
    network.register_forward_hook(lambda module, given, found: seen.append(len(given[0])))
    torch.testing.assert_close(logits(), whole)
    assert seen == [5, 5, 5, 5, 3]
