"""All keys of the configuration through odd values: answered in one line that names the key, or meaningful."""

from collections import Counter, defaultdict
from fnmatch import fnmatch

import pytest
from values import ODD, walk

from manifoldgd.cli.table import read_options
from manifoldgd.errors import UserError
from manifoldgd.ranges import fits

# Which odd values mean something, by key; every other one is an error everywhere.
MEANINGFUL = {
    # 0 switches off, or is the end of a range that has it.
    "*scale": "0",
    "*.rate *.t_stop *.t_start *.uniform_share *.warmup_steps guidance.noise_power sampler.eta": "0",
    "clusterer.start_level *.space.timestep seed": "0",
    "student.protocol.*weight_decay student.protocol.*momentum student.protocol.cutmix_alpha": "0",
    "student.protocol.cosine_span *_from_classes student.protocol.most_classes": "0",
    "*.flip_probability *.crop_ratio *.cutout_ratio *.rotate_degrees *.brightness *.saturation *.contrast": "0",
    "*.jitter *.lighting *.shift": "0",
    "guidance.axes": "0",
    "recipe.*.ema recipe.autoencoder.kl_weight recipe.denoiser.class_dropout": "0",
    # null stands for a rule.
    "prior.cfg_* sampler.cfg_scale machine.threads machine.neighbours guidance.*generator": "null",
    "guidance.then.pool_seed": "0 null",
    "guidance.scale": "0 null",  # of guidances that hold others: the parts' own
    "student.protocol.image_size teacher.width recipe.autoencoder.image_size": "null",
    "*.teacher.architecture *.teacher.width *.teacher.depth": "null",
    "cell": "null",
    "dataset.train_per_class dataset.validation dataset.white dataset.prior_labels dataset.expected_counts": "null",
    "dataset.fit dataset.test_share": "null",
    # Texts.
    "reading.*": "null",
    "reading.run": "0 H",  # texts and numbers of what it may hold are for its own tests
    "output set table sweep license push logger.entity logger.group prior.autoencoder prior.*revision": "abc null",
    "prior.negative_prompt": "abc null",
    "dataset.name dataset.obtain dataset.test_labels dataset.group_by dataset.revision": "abc null",
    "dataset.train dataset.test dataset.file dataset.image dataset.label": "abc",
    "embedding.*weights embedding.model": "abc",
    "cache logger.project logger.folder student.protocol.name prior.path": "abc",
    # Lists.
    "student_seeds": "[0]",
    "student.protocol.milestones student.protocol.augmentation.operations": "[]",
}
EITHER = ("student.protocol.teacher.epochs", "student.protocol.teacher.images_shown")  # one of the two is null
OF_DATA = (
    "dataset.mean",
    "dataset.std",
    "dataset.classes",
    "dataset.names",
    "dataset.folder",
    "prior.prompt",
)  # refused where the dataset is built, or the prior: their tests


def meaningful(key: str) -> set[str]:
    """The odd values that a key takes."""
    found = [values for names, values in MEANINGFUL.items() if any(fnmatch(key, name) for name in names.split())]
    return {value for values in found for value in values.split()}


def test_no_key_takes_an_odd_value_that_means_nothing():
    accepted, wrong, count = defaultdict(set), [], Counter()
    for key, value, outcome in walk():
        count[outcome] += 1
        if outcome == "accepted":
            accepted[key].add(value)
        elif outcome != "answered":
            wrong.append((key, value, outcome))
    assert wrong == []
    known = {key: values for key, values in accepted.items() if key not in (*OF_DATA, *EITHER)}
    assert known == {key: meaningful(key) for key in known}
    assert {key for key in known if "." not in key} >= {"seed", "output", "cache"}
    assert count["answered"] > 1500


@pytest.mark.parametrize("key", ["jobs", "seeds", "student_seeds"])
@pytest.mark.parametrize("value", [name for name in ODD if name != "null"])
def test_options_of_a_table(key, value):
    text = f"{key}={'99999999999999999999' if value == 'H' else value}"
    if key != "jobs" and value in ("0", "[]"):  # an empty list of seeds is found when the table is read
        assert read_options([text])
        return
    with pytest.raises(UserError, match=f"{key}: expected .* got"):
        read_options([text])


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 1e30, "abc", None, [], True, 10**400])
def test_a_range_holds_finite_numbers_inside_it(value):
    from manifoldgd.ranges import Seed, Share

    assert not fits(value, Share)
    assert not fits(value, Seed)
