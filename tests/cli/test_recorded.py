"""Configurations are recorded in the words of earlier versions, so that what those made is found."""

import pytest

from manifoldgd.cli.commands import guidance_scale
from manifoldgd.cli.compose import compose
from manifoldgd.cli.setup import Setup
from manifoldgd.store.recorded import as_recorded

SMALL = ("dataset=digits", "machine=cpu", "ipc=2", "sampler.steps=10")
POOL = ("guidance.then.inner_steps=2", "guidance.then.t_start=0.3", "guidance.then.networks=2", "guidance.then.width=8",
        "guidance.then.real_per_class=20")  # fmt: skip
# What a version before today's words called the results of these command lines: the end of a folder's name. The second
# spelling, where there is one, is that version's own.
NAMES = {
    ("guidance=none",): "8b4fef1f",
    ("guidance=mode",): "63176ae2",
    ("guidance=manifold",): "c5810a86",
    ("guidance=manifold_released",): "8b10d273",
    ("guidance=manifold_x0",): "38d05d8e",
    ("guidance=mode_x0",): "06d3a7bf",
    ("guidance=mode_xt",): "ba4f6a3f",
    ("guidance=mode_then_manifold",): "956a3fd4",
    ("guidance=paper",): "bb1af6e7",
    ("guidance=projected_target",): "25de3732",
    ("guidance=kalman",): "28231184",
    ("guidance=matching", *POOL): "a7a6c861",
    ("guidance=regression", *POOL): "5343f150",
    ("guidance=regression_augmented", *POOL): "8d000314",
    ("guidance=repulsion", *POOL[:2]): "520578ae",
    ("guidance=dmgd", "guidance.centres=10"): "7b32fe1b",
    ("guidance=dap", *POOL[:2], POOL[-1]): "4d9e9d4c",
    ("guidance=dmgd", "guidance.centres=10", "clusterer/space@guidance.clusterer.space=pooled"): "a8ef5d92",
    ("guidance=regression", *POOL, "guidance.then.pool_seed=3", "guidance.first.scale=0.2"): "01513c54",
    ("guidance=regression", *POOL, "guidance.then.pool_seed=3", "guidance.scale=0.2"): "01513c54",
    ("guidance=manifold_x0", "guidance.method.scale=0.3", "guidance.method.estimator=clean"): "605e8635",
    ("guidance=manifold_x0", "guidance.scale=0.3", "guidance.method.estimator=clean"): "605e8635",
    ("guidance=mode", "clusterer/space=pooled"): "57c6bd5e",
    ("guidance=mode", "clusterer=kmeans", "clusterer/space=pca"): "49352518",
    ("guidance=mode", "clusterer=levelwise", "clusterer/space=denoiser"): "6c9e0633",
    ("guidance=mode", "clusterer=random"): "b8225184",
    ("guidance=mode", "sampler=ddim"): "e26bd306",
}


@pytest.mark.parametrize("given", NAMES, ids=" ".join)
def test_results_bear_the_names_of_earlier_versions(given):
    setup = Setup("distill", compose([*SMALL, *given]))
    assert setup.folder(setup.set_config).name.endswith(f"-{NAMES[given]}")


def test_the_strength_of_the_whole_is_that_of_its_parts():
    config = {"scale": 0.3, "first": {"scale": 0.1, "t": 1}, "then": {"t": 2, "method": {"scale": 0.2}}}
    assert as_recorded(config) == {"first": {"scale": 0.3, "t": 1}, "then": {"t": 2, "method": {"scale": 0.3}}}
    own = {"first": {"scale": 0.1}, "then": {"rate": 1}}
    assert as_recorded({"guidance": {"scale": None, **own}}) == {"guidance": own}
    assert config["scale"] == 0.3  # not modified
    assert as_recorded({"scale": 0.3, "kernel": "rbf"}) == {"scale": 0.3, "kernel": "rbf"}
    assert guidance_scale({"guidance": as_recorded(config)}) == 0.3


OTHER = {"_target_": "manifoldgd.prototypes.PrincipalComponents", "components": 4}


@pytest.mark.parametrize(
    ("space", "recorded"),
    [
        ({"_target_": "manifoldgd.prototypes.RawLatents"}, {"space": "raw", "pool": 2}),
        ({"_target_": "manifoldgd.prototypes.PooledLatents", "pool": 4}, {"space": "pooled", "pool": 4}),
        (OTHER, {"space": OTHER, "pool": 2}),
    ],
)
def test_spaces_are_words_beside_the_window(space, recorded):
    clusterer = {"representative": "nearest", "space": space}
    assert as_recorded({"clusterer": clusterer}) == {"clusterer": {"representative": "nearest", **recorded}}
    assert as_recorded({"then": {"space": space}}) == {"then": {"space": space}}  # no clusterer's
