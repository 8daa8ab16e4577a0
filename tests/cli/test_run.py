"""Whole runs, as small as they get: what they leave, and what they do not do twice."""

import json
import shutil

import pytest
import torch
from command import quick
from drawing import undraw
from safetensors.torch import load_file, save_file

from manifoldgd.data.digits import digits
from manifoldgd.pipeline import classifiers, evaluation
from manifoldgd.store.keys import read_json, write_json
from manifoldgd.store.sets import load_set
from manifoldgd.students import Student


@pytest.fixture(autouse=True)
def somewhere_else(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_a_run_and_the_same_again(capfd, recwarn, monkeypatch, plots, tiny_prior, shared_cache, tmp_path):
    folder = tmp_path / "out"
    # Three steps of a prior that learned nothing let stronger pulls run away.
    weak = ("guidance.scale=0.001", "measures=true")
    assert quick("run", tiny_prior, shared_cache, folder, *weak) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert [
        str(each.message) for each in recwarn.list if "lightning" in each.filename or "manifoldgd" in each.filename
    ] == []
    assert "digits, manifold (posterior), ipc 1, ConvNet-3 (width 8): last-epoch accuracy" in out
    assert f"result: {folder}/report.html" in out
    files = {file.name for file in folder.iterdir()}
    assert files >= {"result.json", "config.yaml", "metrics.json", "grid.png", "pairs.png", "guidance.png"}
    assert files >= {"report.html", "latent_map.png", "students", "set"}
    check_metrics(metrics(folder))

    def never(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(Student, "train", never)
    monkeypatch.setattr(classifiers, "train_classifier", never)
    before = (folder / "metrics.json").read_text()
    assert quick("run", tiny_prior, shared_cache, folder, *weak) == 0
    assert (folder / "metrics.json").read_text() == before
    assert capfd.readouterr().out == out
    undraw(monkeypatch)
    (folder / "report.html").unlink()  # as if killed while drawing
    assert quick("run", tiny_prior, shared_cache, folder, *weak) == 0
    assert (folder / "report.html").is_file()
    assert (folder / "metrics.json").read_text() == before
    (folder / "metrics.json").unlink()  # as if killed while judging: finished students are not trained again
    assert quick("run", tiny_prior, shared_cache, folder, *weak) == 0
    assert metrics(folder)["accuracy"] == json.loads(before)["accuracy"]


def check_metrics(result):
    assert result["dataset"] == "digits"
    assert (result["method"], result["source"], result["ipc"]) == ("manifold (posterior)", "diffusion", 1)
    assert (result["num_images"], result["distillation_seed"], result["student_seeds"]) == (10, 0, [0])
    assert (result["student"], result["label_protocol"], result["epochs"]) == ("ConvNet-3 (width 8)", "hard_small", 1)
    assert set(result["accuracy"]) == {"last", "best"}
    assert set(result["accuracy"]["last"]) == {"mean", "std", "ci95", "values"}
    assert result["accuracy"]["last"]["std"] is None  # one student has no spread
    assert len(result["students"][0]["per_class"]) == 10
    assert {"mean_l2", "rbf_mmd", "frechet_distance", "diversity", "coverage"} <= set(result["set_metrics"])
    assert {"distill", "students", "metrics"} == set(result["seconds"])
    steps = result["guidance"]["steps"]
    assert [step["index"] for step in steps] == [2, 1, 0]
    assert steps[0]["ratio_mean"] > 0
    assert 0 <= steps[0]["kept_mean"] <= 1
    assert steps[2]["ratio_mean"] is None
    assert len(result["fingerprint"]) == 16


def test_evaluate_a_real_set(tiny_prior, shared_cache, tmp_path):
    """Real baselines come from the training split; an existing set can be judged on its own."""
    made = tmp_path / "random"
    assert quick("distill", "./not-needed", shared_cache, made, "source=random", "ipc=2") == 0
    manifest = json.loads((made / "set" / "manifest.json").read_text())
    rows = torch.tensor([row["train_image"] for row in manifest["images"]])
    assert digits(train_per_class=None, validation=None).train.labels[rows].tolist() == [
        label for label in range(10) for _ in range(2)
    ]
    assert manifest["inputs"]["prior"] is None
    judged = tmp_path / "judged"
    assert quick("evaluate", None, shared_cache, judged, f"set={made}") == 0
    result = metrics(judged)
    assert (result["method"], result["ipc"], result["guidance"]) == ("random", 2, None)
    assert not (judged / "latent_map.png").exists()


def test_sets_that_draw_nothing_are_one_set(shared_cache, tmp_path):
    for source, folders in (("herding", 1), ("random", 2)):
        for seed in (0, 5):
            changes = ("output=null", f"source={source}", f"seed={seed}")
            assert quick("distill", "./not-needed", shared_cache, None, *changes) == 0
        found = list((tmp_path / "outputs" / "digits").glob(f"{source}-*"))
        assert len(found) == folders
        sets = [load_set(folder).fingerprint for folder in found]
        assert len(set(sets)) == folders


@pytest.mark.slow
@pytest.mark.parametrize("changes", [["source=herding"], ["source=k_center"], ["source=kmeans_nearest"]], ids=str)
@pytest.mark.parametrize("reconstruct", [False, True])
def test_real_baselines(tiny_prior, shared_cache, tmp_path, changes, reconstruct):
    changes = [*changes, f"reconstruct={str(reconstruct).lower()}"]
    assert quick("run", tiny_prior, shared_cache, tmp_path / "o", *changes) == 0
    result = metrics(tmp_path / "o")
    assert result["method"] == changes[0].split("=")[1] + (" (reconstructed)" if reconstruct else "")


@pytest.mark.slow
@pytest.mark.parametrize("guidance", ["none", "mode", "manifold_released"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_other_methods(tiny_prior, shared_cache, tmp_path, guidance, sampler):
    changes = [f"guidance={guidance}", f"sampler={sampler}", "sampler.steps=4"]
    assert quick("run", tiny_prior, shared_cache, tmp_path / "o", *changes) == 0
    assert metrics(tmp_path / "o")["method"] == guidance


def test_summaries_use_student_s_t():
    found = evaluation.summary([0.5, 0.7])
    assert found["mean"] == pytest.approx(0.6)
    assert found["std"] == pytest.approx(0.1414213562)
    assert found["ci95"] == pytest.approx(12.7062047362 * 0.1)  # t(0.975, 1) * std / sqrt(2)
    assert evaluation.summary([0.5])["ci95"] is None


def test_students_join_those_that_a_folder_holds(monkeypatch, tiny_prior, shared_cache, tmp_path):
    """More student seeds extend a result; fewer summarise fewer; no finished student is trained again."""
    folder = tmp_path / "out"
    assert quick("run", tiny_prior, shared_cache, folder, "guidance=none") == 0
    first = metrics(folder)["students"]
    trained, train = [], Student.train

    def spy(self, *args, seed, **kwargs):
        trained.append(seed)
        return train(self, *args, seed=seed, **kwargs)

    monkeypatch.setattr(Student, "train", spy)
    assert quick("run", tiny_prior, shared_cache, folder, "guidance=none", "student_seeds=[0,4]") == 0
    assert trained == [4]
    grown = metrics(folder)
    assert grown["student_seeds"] == [0, 4]
    assert grown["students"][:1] == first
    assert len(grown["accuracy"]["last"]["values"]) == 2
    assert quick("run", tiny_prior, shared_cache, folder, "guidance=none", "student_seeds=[4]") == 0
    assert metrics(folder)["students"] == grown["students"][1:]
    assert trained == [4]
    assert quick("run", tiny_prior, shared_cache, folder, "guidance=none", "student.width=9") == 2  # another student


@pytest.mark.parametrize(
    ("key", "value"), [("precision", "bf16-mixed"), ("student_precision", "bf16-mixed"), ("compile", True)]
)
def test_results_of_two_precisions_do_not_share_a_folder(
    capsys, monkeypatch, tiny_prior, shared_cache, tmp_path, key, value
):
    monkeypatch.setenv("CXX", "true")  # a compiler is asked for and not reached
    folder = tmp_path / "out"
    chosen = ("guidance=none", "measures=false")
    assert quick("run", tiny_prior, shared_cache, folder, *chosen) == 0
    before = (folder / "result.json").read_text()
    assert quick("run", tiny_prior, shared_cache, folder, *chosen, f"machine.{key}={value}") == 2
    assert f"(different: {key} is None there, {value!r} here)" in capsys.readouterr().err
    assert (folder / "result.json").read_text() == before


def test_a_folder_that_refuses_a_run_stays_as_it_was(capsys, tiny_prior, shared_cache, tmp_path):
    folder = tmp_path / "out"
    assert quick("distill", tiny_prior, shared_cache, folder, "guidance=none") == 0
    before = (folder / "result.json").read_text()
    assert quick("run", tiny_prior, shared_cache, folder, "guidance=none", "seed=7", "student.width=9") == 2
    assert "seed is 0 there, 7 here" in capsys.readouterr().err
    assert (folder / "result.json").read_text() == before


def test_a_set_of_another_prior_of_the_same_name_is_refused(capsys, tiny_prior, shared_cache, tmp_path):
    path, folder = shutil.copytree(tiny_prior, tmp_path / "prior"), tmp_path / "out"
    assert quick("distill", path, shared_cache, folder, "guidance=none") == 0
    (weights,) = (path / "transformer").glob("*.safetensors")
    tensors = {name: value + 0.01 for name, value in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    assert quick("distill", path, shared_cache, folder, "guidance=none") == 2  # finished
    assert "a set of other inputs of the same names (different: prior is " in capsys.readouterr().err
    (folder / "set" / "manifest.json").unlink()
    assert quick("distill", path, shared_cache, folder, "guidance=none") == 2  # begun
    assert "(different: prior is " in capsys.readouterr().err


def test_measures_can_be_asked_for_later(monkeypatch, tiny_prior, shared_cache, tmp_path):
    folder = tmp_path / "out"
    assert quick("run", tiny_prior, shared_cache, folder, "guidance=none", "measures=false") == 0
    assert metrics(folder)["set_metrics"] == {}
    monkeypatch.setattr(Student, "train", lambda *_, **__: pytest.fail("trained again"))
    assert quick("run", tiny_prior, shared_cache, folder, "guidance=none", "measures=true") == 0
    assert metrics(folder)["set_metrics"]["coverage"] >= 0
    assert (folder / "latent_map.png").is_file()


def test_a_judgement_never_lies_among_the_classes(shared_cache, tmp_path):
    made, copied = tmp_path / "made", tmp_path / "copied"
    assert quick("distill", None, shared_cache, made, "source=random", "prior.path=./not-needed") == 0
    shutil.copytree(made / "set", copied)
    before = {each.name for each in copied.iterdir()}
    for place, found in ((made, made), (made / "set", made), (copied, tmp_path)):
        assert quick("evaluate", None, shared_cache, None, f"set={place}", "measures=false") == 0
        (judged,) = found.glob("*evaluation-*")
        assert (judged / "metrics.json").is_file()
        shutil.rmtree(judged)
    for place in (made / "set", copied):
        assert {each.name for each in place.iterdir()} == before


def test_students_of_other_images_are_trained_again(tiny_prior, shared_cache, tmp_path):
    folder = tmp_path / "out"
    assert quick("run", tiny_prior, shared_cache, folder, "source=random") == 0
    first = metrics(folder)
    student = folder / "students" / f"{first['student_seeds'][0]}.json"
    held = read_json(student)
    assert held["fingerprint"] == first["fingerprint"]
    for file, changes in ((student, {"last_top1": 2.0}), (folder / "metrics.json", {})):
        write_json(file, {**read_json(file), "fingerprint": "of others", **changes})
    assert quick("run", tiny_prior, shared_cache, folder, "source=random") == 0
    assert json.loads(student.read_text())["last_top1"] == held["last_top1"]
    assert metrics(folder)["fingerprint"] == first["fingerprint"]


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        (("source=herding",), True),
        (("source=random",), False),
        (("clusterer/space=embedding",), True),
        (("clusterer/space=embedding", "guidance=none"), False),  # nothing is clustered
        ((), False),
    ],
)
def test_a_set_knows_the_classifier_that_it_was_made_with(tiny_prior, shared_cache, tmp_path, overrides, needed):
    folder = tmp_path / "out"
    assert quick("distill", tiny_prior, shared_cache, folder, *overrides) == 0
    inputs = load_set(folder).manifest["inputs"]
    assert (inputs["classifier"] is not None) == needed


def test_a_set_is_made_for_the_augmentation_of_its_students(capsys, tiny_prior, shared_cache, tmp_path):
    small = [f"guidance.then.{each}" for each in ("inner_steps=1", "networks=1", "real_per_class=2", "width=8")]
    asked = ("guidance=regression_augmented", "student/protocol=soft_small", *small)
    assert quick("distill", tiny_prior, shared_cache, tmp_path / "out", *asked) == 0
    made = load_set(tmp_path / "out").manifest["config"]["guidance"]["then"]["augmentation"]
    assert (made["mode"], made["operations"]) == ("all", ["crop", "flip"])
    assert quick("distill", tiny_prior, shared_cache, tmp_path / "other", "student/protocol=soft_small") == 2
    assert "does not use 'student/protocol'" in capsys.readouterr().err


def test_a_judgement_knows_the_data_that_judged(shared_cache, tmp_path):
    made, judged = tmp_path / "made", tmp_path / "judged"
    assert quick("distill", None, shared_cache, made, "source=random", "prior.path=./not-needed") == 0
    arguments = ("evaluate", None, shared_cache, judged, f"set={made}", "measures=false")
    assert quick(*arguments) == 0
    student = judged / "students" / "0.json"
    right = json.loads(student.read_text())["last_top1"]
    assert metrics(judged)["dataset_fingerprint"] == digits(train_per_class=None, validation=None).test_fingerprint
    for file in (student, judged / "metrics.json"):  # as if test images had been corrected since
        write_json(file, {**read_json(file), "dataset_fingerprint": "before", "last_top1": 2.0})
    assert quick(*arguments) == 0
    assert metrics(judged)["accuracy"]["last"]["values"] == [right]


def test_images_that_a_set_may_be_made_from_do_not_judge_it(capsys, shared_cache, tmp_path):
    made = tmp_path / "made"
    assert quick("distill", None, shared_cache, made, "source=random", "prior.path=./not-needed") == 0
    held_out = ("measures=false", "dataset.validation=100")
    assert quick("evaluate", None, shared_cache, tmp_path / "o", f"set={made}", *held_out) == 2
    assert "was not made from the training split of digits-validation" in capsys.readouterr().err
    apart = tmp_path / "apart"
    given = ("source=random", "prior.path=./not-needed", "dataset.validation=100")
    assert quick("distill", None, shared_cache, apart, *given) == 0
    assert quick("evaluate", None, shared_cache, tmp_path / "o", f"set={apart}", *held_out) == 0
    assert metrics(tmp_path / "o")["dataset"] == "digits-validation"


def test_more_students_join_the_folder_of_the_first(shared_cache, tmp_path):
    for seeds in ("[0]", "[0,1]"):
        given = ("source=random", "prior.path=./not-needed", "measures=false", f"student_seeds={seeds}")
        assert quick("run", None, shared_cache, None, *given) == 0
    (folder,) = (tmp_path / "outputs" / "digits").iterdir()
    assert metrics(folder)["student_seeds"] == [0, 1]


def test_a_prior_that_recommends_something_else_makes_another_set(capsys, tiny_prior, shared_cache, tmp_path):
    """The CFG scale of a prior's card is in no weight."""
    prior = tmp_path / "prior"
    shutil.copytree(tiny_prior, prior)
    for scale, code in ((1.5, 0), (1.5, 0), (3.0, 2)):
        (prior / "manifoldgd.json").write_text(json.dumps({"cfg_scale": scale}))
        assert quick("distill", prior, shared_cache, tmp_path / "o", "guidance=none") == code
    assert "(different: card.cfg_scale is 1.5 there, 3.0 here)" in capsys.readouterr().err
