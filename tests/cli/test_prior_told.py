"""What `manifoldgd prior` says at its end: how good the prior is, where to look, what to do next."""

from pathlib import Path

import pytest

from manifoldgd.cli.commands import prior_told
from manifoldgd.cli.compose import compose
from manifoldgd.data import digits


def told(recognised, path="diffusion", *words):
    judge = {"recognised": recognised, "samples": 1000, "classifier_test_accuracy": 0.9}
    recipe = {"denoiser": {"path": path} if path == "flow" else {}}
    facts = {"judge": judge, "recipe": recipe, "steps": {"denoiser": 300}}
    return list(prior_told(digits(train_per_class=5, validation=None), Path("my prior"), compose(words), facts))


def test_a_good_prior_is_followed_by_the_next_command():
    first, pictures, following = told(0.8, "diffusion", "dataset=digits", "dataset.train_per_class=5", "seed=3")
    assert first.startswith("prior: my prior; 80.0 % of 1,000 unguided samples recognised, 90.0 % of the real test")
    assert pictures.startswith("pictures: my prior/samples.png, a row a class; my prior/training is kept")
    assert following.startswith("next: manifoldgd run dataset=digits dataset.train_per_class=5 prior='my prior' ipc=10")


@pytest.mark.parametrize("path", ["diffusion", "flow"])
def test_of_a_poor_one_it_is_said_how_it_gets_better(path):
    *_, advice, following = told(0.71, path)
    assert "the same command with recipe.denoiser.steps=600 goes on" in advice
    assert ("recipe.path=flow" in advice) == (path == "diffusion")
    assert following.startswith("next: ")
