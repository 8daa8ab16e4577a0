"""Several images a prototype, of which one is kept: the rule, the noise, the files, the command."""

import dataclasses
import itertools
import json

import pytest
import torch
from command import quick
from distill_parts import SAMPLER, Killed, contents, make, manifold, mode, targets_of
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from tiny import cpu, distil

from manifoldgd.cli.components import build
from manifoldgd.cli.compose import conf_dir
from manifoldgd.distill.items import work_items
from manifoldgd.distill.overgeneration import Overgeneration
from manifoldgd.errors import UserError
from manifoldgd.pipeline.sets import class_means, keep_one_a_prototype
from manifoldgd.prototypes import herding
from manifoldgd.prototypes.coresets import herding_by_group
from manifoldgd.store.sets import SetWriter

FACTS = {"method": "test", "config": {}}


def embed(images):
    return images.flatten(1).float()


def replica(folder, dataset, prior, number, guidance=None, batch_size=8):
    guidance = guidance or mode()
    targets, machine = targets_of(dataset, prior, guidance), cpu(batch_size=batch_size)
    numbers = {"ipc": 2, "seed": 0, "machine": machine, "facts": FACTS, "replica": number}
    return distil(folder / str(number), dataset, prior, SAMPLER, guidance, targets, **numbers)


def chosen(folder, dataset, candidates, rule_of=embed):
    return keep_one_a_prototype(folder, candidates, dataset, rule_of, Overgeneration(replicas=3, rule="herding"))


class TestRule:
    def test_with_a_group_for_each_row_and_their_own_mean_it_is_herding(self):
        features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
        taken = herding_by_group(features, torch.arange(40), features.mean(0))
        assert taken.tolist() == list(range(40))  # all, in the order of the groups
        # With two rows a group, one of them far away, the near ones are what herding chooses among.
        both = torch.cat([features, features + 1000])
        assert herding_by_group(both, torch.arange(40).repeat(2), features.mean(0)).tolist() == list(range(40))

    def test_each_step_is_the_best_that_a_free_group_offers(self):
        features = torch.randn(12, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        groups, target = torch.arange(4).repeat(3), torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
        left, taken = set(range(4)), []
        while left:
            offers = [row for row in range(12) if int(groups[row]) in left]
            means = {row: float((features[[*taken, row]].mean(0) - target).norm()) for row in offers}
            taken.append(min(means, key=means.get))
            left.remove(int(groups[taken[-1]]))
        assert herding_by_group(features, groups, target).tolist() == sorted(taken, key=lambda row: int(groups[row]))

    def test_the_first_step_of_herding_is_its_first_step(self):
        features = torch.randn(9, 4, generator=torch.Generator().manual_seed(2))
        one_group = herding_by_group(features, torch.zeros(9, dtype=torch.int64), features.mean(0))
        assert one_group.tolist() == herding(features, 1).tolist()

    def test_the_first_of_equal_candidates_is_kept(self):
        features = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(3)).repeat(3, 1, 1)
        assert Overgeneration(replicas=3, rule="herding").choose(features, torch.zeros(5)).tolist() == [0, 0, 0, 0]

    def test_replicas_are_told_from_prototypes(self):
        features = torch.full((3, 2, 1), 9.0)
        features[2, 0], features[1, 1] = 1.0, -1.0
        assert Overgeneration(replicas=3, rule="herding").choose(features, torch.zeros(1)).tolist() == [2, 1]

    def test_shapes_are_checked(self):
        with pytest.raises(ValueError, match=r"expected \[n, E\], \[n\], \[E\]"):
            herding_by_group(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), torch.zeros(2))

    def test_numbers_are_checked(self):
        with pytest.raises(UserError, match=r"replicas: expected .*, got 0"):
            Overgeneration(replicas=0, rule="herding")
        with pytest.raises(UserError, match=r"rule: expected .*, got 'luck'"):
            Overgeneration(replicas=2, rule="luck")


def test_class_means_are_those_of_the_training_images(dataset):
    images, labels = dataset.train.images(), dataset.train.labels
    wanted = torch.stack([images[labels == label].flatten(1).double().mean(0) for label in range(10)])
    for chunk in (7, 1024):
        torch.testing.assert_close(class_means(dataset, embed, chunk), wanted)


def test_replica_0_is_the_set_without_overgeneration_and_the_others_differ(prior, dataset, tmp_path):
    plain = make(tmp_path / "plain", dataset, prior, mode())
    sets = [replica(tmp_path, dataset, prior, number) for number in range(3)]
    assert torch.equal(sets[0].images, plain.images)
    for one, other in itertools.combinations(sets, 2):
        assert not torch.equal(one.images, other.images)
        assert one.manifest["images"][0]["prototype"] == other.manifest["images"][0]["prototype"]
    again = replica(tmp_path / "other batches", dataset, prior, 1, batch_size=3)
    assert int((again.images.int() - sets[1].images.int()).abs().max()) <= 1  # rounding
    keys = {
        item.row_key for number in range(3) for item in work_items(dataset.class_names, range(10), 2, replica=number)
    }
    assert len(keys) == 60


def test_the_kept_set_is_made_of_candidates_and_says_which(prior, dataset, tmp_path):
    def forbidden(positions):
        raise AssertionError("the test split was read")

    hidden = dataclasses.replace(dataset, test=dataclasses.replace(dataset.test, load=forbidden))
    sets = [replica(tmp_path, hidden, prior, number, manifold()) for number in range(3)]
    made = chosen(tmp_path / "set", hidden, sets)
    numbers = [row["replica"] for row in made.manifest["images"]]
    assert set(numbers) == {0, 1, 2}
    for position, number in enumerate(numbers):
        assert torch.equal(made.images[position], sets[number].images[position])
        row = {key: value for key, value in made.manifest["images"][position].items() if key != "replica"}
        assert row == sets[number].manifest["images"][position]  # prototype and curves come along
    assert made.manifest["seed"] == 0
    assert made.manifest["prior_labels"] == sets[0].manifest["prior_labels"]
    total = sum(one.manifest["seconds"]["distill"] for one in sets)
    assert made.manifest["seconds"]["distill"] >= round(total, 2)


def test_the_class_mean_comes_closer_than_in_any_replica(prior, dataset, tmp_path):
    sets = [replica(tmp_path, dataset, prior, number) for number in range(3)]
    made, means = chosen(tmp_path / "set", dataset, sets), class_means(dataset, embed)

    def distance(one):
        found = embed(one.images).double().view(10, 2, -1).mean(1)
        return float((found - means).square().sum())

    assert distance(made) < min(distance(one) for one in sets)


@pytest.mark.parametrize("images", [0, 7, 20], ids=["before the first", "in the middle", "before the manifest"])
def test_a_killed_choice_continues_to_the_same_files(prior, dataset, tmp_path, monkeypatch, images):
    sets = [replica(tmp_path, dataset, prior, number) for number in range(3)]
    chosen(tmp_path / "whole", dataset, sets)
    save, saved = SetWriter.save, []

    def dying(self, *args, **kwargs):
        if len(saved) == images:
            raise Killed
        save(self, *args, **kwargs)
        saved.append(args)

    def dying_finish(self, **kwargs):
        raise Killed

    monkeypatch.setattr(SetWriter, "save", dying)
    monkeypatch.setattr(SetWriter, "finish", dying_finish)
    with pytest.raises(Killed):
        chosen(tmp_path / "killed", dataset, sets)
    monkeypatch.undo()
    chosen(tmp_path / "killed", dataset, sets)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")

    def forbidden(images):
        raise AssertionError("chosen again")

    chosen(tmp_path / "killed", dataset, sets, forbidden)  # a finished set is read


def composed(*overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", list(overrides))


def test_the_configuration_names_the_keys_of_the_constructor():
    assert build(composed(), "overgeneration") == Overgeneration(replicas=1, rule="herding")
    with pytest.raises(UserError, match=r"overgeneration\.replicas: expected a whole number in \[1, 1000\], got 1\.5"):
        build(composed("overgeneration.replicas=1.5"), "overgeneration")
    with pytest.raises(UserError, match=r"replicas: expected .*"):
        build(composed("overgeneration.replicas=0"), "overgeneration")


def test_the_command(tiny_prior, shared_cache, tmp_path, capsys, monkeypatch):
    """Also that one replica leaves the configuration of the set as it always was."""
    monkeypatch.chdir(tmp_path)
    mode_guided, several = "guidance=mode", "overgeneration.replicas=3"
    assert quick("run", tiny_prior, shared_cache, tmp_path / "several", mode_guided, several) == 0
    assert "digits, mode (1 of 3 kept), ipc 1" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "several" / "set" / "manifest.json").read_text())
    assert manifest["config"]["overgeneration"]["replicas"] == 3
    assert {row["replica"] for row in manifest["images"]} <= {0, 1, 2}
    assert quick("distill", tiny_prior, shared_cache, tmp_path / "one", mode_guided) == 0
    plain = json.loads((tmp_path / "one" / "set" / "manifest.json").read_text())
    assert set(plain["config"]) == {"dataset", "ipc", "source", "seed", "prior", "sampler", "guidance", "clusterer"}
    assert "replica" not in plain["images"][0]
    first = contents(tmp_path / "several" / "replicas" / "0")[0]
    images = {name: data for name, data in contents(tmp_path / "one" / "set")[0].items() if name.endswith(".png")}
    assert images == {name: data for name, data in first.items() if name.endswith(".png")}
    assert quick("distill", tiny_prior, shared_cache, None, mode_guided, several) == 0
    (folder,) = (tmp_path / "outputs" / "digits").iterdir()
    assert folder.name.startswith("mode-1-of-3-kept-ipc1-")


def test_real_images_have_no_replicas(tiny_prior, shared_cache, tmp_path, capsys):
    arguments = ("source=random", "overgeneration.replicas=2")
    assert quick("run", tiny_prior, shared_cache, tmp_path / "r", *arguments) == 2
    assert "overgeneration.replicas: only source=diffusion samples images" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
