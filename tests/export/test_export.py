"""An export is what others' tools say it is: each form is read back by the library that it is meant for."""

import io
import json
import re
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import numpy as np
import pytest
import torch
import yaml
from command import manifoldgd
from PIL import Image

from manifoldgd.errors import UserError
from manifoldgd.export import FORMATS, export_set
from manifoldgd.export.croissant import license_url
from manifoldgd.report.card import set_card
from manifoldgd.store.keys import write_json
from manifoldgd.store.set_sources import read_set
from manifoldgd.store.sets import SetWriter, load_set

# Spaces, digits, slashes, other scripts, words that are something else in YAML or on the Hub; in no order of names.
NAMES = ("zebra", "10", "9", "T-shirt/top", "Émile", "test tube", "no", 'a "b": c', "日本", ".net", "50%")
FACTS = {
    "method": "mode",
    "seed": 3,
    "config": {
        "source": "diffusion",
        "dataset": {"_target_": "manifoldgd.data.digits"},
        "prior": {"path": "bundled:digits"},
    },
    "inputs": {"dataset": "0123"},
}


def write(folder, channels=3, names=NAMES, **facts):
    writer = SetWriter(folder, names)
    generator = torch.Generator().manual_seed(0)
    for label in range(len(names)):
        for rank in range(2):
            image = torch.randint(256, (channels, 6, 8), dtype=torch.uint8, generator=generator)
            writer.save(image, label, rank)
    writer.finish(ipc=2, facts=FACTS | facts, card=set_card("pets", names, 2, FACTS | facts))
    return load_set(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write(tmp_path_factory.mktemp("made") / "result" / "set")


@pytest.fixture(scope="module")
def exports(made, tmp_path_factory):
    """A folder for each form."""
    root = tmp_path_factory.mktemp("exports")
    for form in FORMATS:
        export_set(made, root / form, form=form)
    return root


def same(pairs, made):
    """Whether images ``[h, w, 3]`` and labels are those of the set, in its order."""
    images, labels = zip(*pairs, strict=True)
    assert list(labels) == made.labels.tolist()
    assert np.array_equal(np.stack([np.asarray(image) for image in images]), made.images.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_export_is_the_set_that_it_was(form, channels, exports, made, tmp_path):
    if channels == 1:
        made = write(tmp_path / "grey" / "set", channels=1)
        export_set(made, tmp_path / form, form=form)
    again = read_set((exports if channels == 3 else tmp_path) / form)
    assert again.fingerprint == made.fingerprint
    assert again.class_names == NAMES
    assert (again.manifest["method"], again.manifest["config"]) == ("mode", FACTS["config"])
    assert (again.manifest["inputs"], again.manifest["seed"], again.folder) == (FACTS["inputs"], 3, None)


@pytest.mark.parametrize("form", ["hf", "parquet"])
def test_datasets_gives_images_and_class_labels_in_our_order(form, exports, made, monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    loaded = datasets.load_dataset(str(exports / form), split="train")
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded.features["label"].names == list(NAMES)
    same([(row["image"], row["label"]) for row in loaded], made)


def test_webdataset_reads_the_tar(exports, made):
    import webdataset

    shard = str(exports / "webdataset" / "train-000000.tar")
    loaded = webdataset.WebDataset(shard, shardshuffle=False).decode("pil").to_tuple("png", "cls")
    same(list(loaded), made)


def test_shards_are_read_as_one_set(made, monkeypatch, tmp_path):
    monkeypatch.setattr("manifoldgd.export.formats.SHARD", 10)
    files = export_set(made, tmp_path / "out", form="webdataset")
    assert [file.name for file in files][:3] == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    assert read_set(tmp_path / "out").fingerprint == made.fingerprint


def test_numpy_reads_the_npz(exports, made):
    with np.load(exports / "npz" / "train.npz", allow_pickle=False) as held:
        same(list(zip(held["images"], held["labels"], strict=True)), made)
        assert held["class_names"].tolist() == list(NAMES)


def test_the_zip_is_a_folder_of_classes(exports, made):
    with zipfile.ZipFile(exports / "zip" / "train.zip") as archive:
        folders = json.loads(archive.read("classes.json"))
        assert list(folders.values()) == list(NAMES)
        pictures = [name for name in archive.namelist() if name.endswith(".png")]
        assert all(name.count("/") == 1 and not name.startswith(".") for name in pictures)
        label_of = {folder: label for label, folder in enumerate(folders)}
        same([(Image.open(io.BytesIO(archive.read(name))), label_of[name.split("/")[0]]) for name in pictures], made)


def test_the_plain_folder_has_a_folder_a_class_whatever_it_is_called(made):
    assert sorted(each.name for each in made.folder.iterdir() if each.is_dir()) == sorted(
        ["zebra", "10", "9", "T-shirt%2Ftop", "Émile", "test tube", "no", 'a "b": c', "日本", "%2Enet", "50%25"]
    )


def test_a_set_with_folders_of_earlier_versions_is_read(tmp_path):
    made = write(tmp_path / "set", names=("T-shirt/top", "b"))
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    (tmp_path / "set" / "T-shirt").mkdir()
    (tmp_path / "set" / "T-shirt%2Ftop").rename(tmp_path / "set" / "T-shirt" / "top")
    for row in manifest["images"]:
        row["file"] = row["file"].replace("%2F", "/")
    write_json(tmp_path / "set" / "manifest.json", manifest)
    assert load_set(tmp_path / "set").fingerprint == made.fingerprint


def test_others_pixels_under_its_provenance_are_refused(exports, tmp_path):
    for name in ("provenance.json", "train.npz"):
        (tmp_path / name).write_bytes((exports / "npz" / name).read_bytes())
    with np.load(tmp_path / "train.npz") as held:
        changed = dict(held)
    changed["images"][0, 0, 0, 0] ^= 1
    np.savez(tmp_path / "train.npz", **changed)
    with pytest.raises(UserError, match=r"not those that provenance.json was written for"):
        read_set(tmp_path)
    (tmp_path / "provenance.json").unlink()
    assert read_set(tmp_path).manifest["config"]["source"] == "elsewhere"


# The card and the metadata


def test_the_card_says_terms_use_and_judgement(made, tmp_path):
    record = {
        "fingerprint": made.fingerprint,
        "dataset": "digits",
        "student": "ConvNet-3",
        "label_protocol": "hard_small",
        "epochs": 300,
        "test_images": 360,
        "accuracy": {"last": {"values": [0.5, 0.7]}},
    }
    write_json(made.folder.parent / "evaluation-1" / "metrics.json", record)
    write_json(
        made.folder.parent / "evaluation-2" / "metrics.json", record | {"fingerprint": "another", "student": "No"}
    )
    export_set(made, tmp_path / "out", form="hf", home="owner/name")
    text = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "cc-by-4.0"
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    for said in ("CC BY 4.0", "bundled:digits | Apache-2.0", "## Intended use", "synthetic", "ConvNet-3", "60.0 ± "):
        assert said in text
    assert "| No |" not in text
    assert 'load_dataset("owner/name"' in text
    export_set(read_set(tmp_path / "out"), tmp_path / "again", form="npz", license="mit")
    again = (tmp_path / "again" / "README.md").read_text()
    assert "60.0 ± " in again
    assert yaml.safe_load(again.split("---\n")[1])["license"] == "mit"


def test_what_is_not_known_is_said_to_be_unknown(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.full((4, 8, 8), 7, np.uint8), labels=np.arange(4))
    export_set(read_set(tmp_path / "x.npz"), tmp_path / "out", form="parquet")
    text = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "unknown"
    assert "made elsewhere" in text
    assert "Not judged yet" in text


REQUIRED = {"@context", "@type", "conformsTo", "name", "description", "license", "url", "creator", "datePublished"}


@pytest.mark.parametrize("form", FORMATS)
def test_the_metadata_is_croissant(form, exports):
    """The properties that the specification requires of each kind of object, and references that lead somewhere."""
    held = json.loads((exports / form / "croissant.json").read_text())
    assert held.keys() >= REQUIRED
    assert held["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert held["@type"] == "sc:Dataset"
    assert held["license"] == "https://spdx.org/licenses/CC-BY-4.0.html"
    assert license_url("some-terms-of-our-own") == "some-terms-of-our-own"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", held["datePublished"])
    used = set(re.findall(r'"([a-zA-Z]+)":', json.dumps(held["distribution"] + held["recordSet"])))
    vocabulary = {"name", "contentUrl", "contentSize", "encodingFormat", "sha256", "containedIn"}  # schema.org's own
    assert used <= vocabulary | held["@context"].keys()
    places = {each["@id"] for each in held["distribution"]}
    for each in held["distribution"]:
        if each["@type"] == "cr:FileObject":
            import hashlib

            data = (exports / form / each["contentUrl"]).read_bytes()
            assert each["sha256"] == hashlib.sha256(data).hexdigest()
            assert each["contentSize"] == f"{len(data)} B"
        else:
            assert each["@type"] == "cr:FileSet"
            assert each["includes"]
            assert {inner["@id"] for inner in each["containedIn"]} <= places
    ids = [each["@id"] for each in held["distribution"] + held["recordSet"]]
    assert len(set(ids)) == len(ids)
    fields = {field["@id"]: field for records in held["recordSet"] for field in records["field"]}
    for records in held["recordSet"]:
        assert records["@type"] == "cr:RecordSet"
        assert all(field["@id"].startswith(f"{records['@id']}/") for field in records["field"])
    for field in fields.values():
        assert field["@type"] == "cr:Field"
        assert field["dataType"].startswith("sc:")
        assert field.get("references", {"field": {"@id": "classes/label"}})["field"]["@id"] in fields
        if "source" in field:
            ((place,),) = (
                [field["source"][kind]["@id"] for kind in ("fileObject", "fileSet") if kind in field["source"]],
            )
            assert place in places
            assert field["source"]["extract"]
    classes = next(each for each in held["recordSet"] if each["@id"] == "classes")
    assert [row["classes/name"] for row in classes["data"]] == list(NAMES)
    assert ("images/image" in fields) == (form != "npz")


# Folders


def test_nothing_but_an_export_is_overwritten_and_nothing_is_half_written(made, monkeypatch, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"^output: .*holds no export"):
            export_set(made, mine, form="npz", overwrite=overwrite)
    assert (mine / "thesis.tex").read_text() == "precious"
    export_set(made, tmp_path / "out", form="npz")
    with pytest.raises(UserError, match=r"^output: .*overwrite=true"):
        export_set(made, tmp_path / "out", form="zip")
    monkeypatch.setitem(FORMATS, "zip", lambda made, folder: (folder / "train.zip").write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_set(made, tmp_path / "out", form="zip", overwrite=True)
    assert read_set(tmp_path / "out").fingerprint == made.fingerprint
    monkeypatch.undo()
    files = export_set(made, tmp_path / "out", form="zip", overwrite=True)
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == sorted(each.name for each in files)
    assert not [
        each.name for each in tmp_path.iterdir() if each.name.startswith(".out") and not each.name.endswith(".lock")
    ]


# The command


def test_the_command_exports_and_says_what_it_would_push(capsys, made, monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert manifoldgd("export", f"set={made.folder}", "format=webdataset", "output=out", "push=owner/name") == 0
    said = capsys.readouterr().out
    assert "export: 22 images in out: train-000000.tar, README.md" in said
    assert re.search(r"push: dry run, as there is no account .*4 files.*dataset owner/name", said)
    assert manifoldgd("export", f"set={made.folder}", "format=webdataset", "output=out") == 2
    assert "overwrite=true" in capsys.readouterr().err
    assert manifoldgd("export", "set=out", "format=npz", "output=again", "push=nothing") == 2
    assert "push: expected owner/name" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
    assert manifoldgd("export", "set=out", "format=npz") == 0
    assert read_set(tmp_path / "outputs" / "exports" / "out-npz").fingerprint == made.fingerprint


SENT = []


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as an upload talks to; remembers what it was sent."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        SENT.append((self.path, body))
        answers = {
            "/api/repos/create": {"url": "https://huggingface.co/datasets/owner/name"},
            "/api/datasets/owner/name/preupload/main": {
                "files": [
                    {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                    for each in (json.loads(body).get("files", []) if "preupload" in self.path else [])
                ]
            },
            "/api/datasets/owner/name/commit/main": {
                "success": True,
                "commitOid": "0" * 40,
                "commitUrl": "https://huggingface.co/datasets/owner/name/commit/0",
                "hookOutput": "",
            },
            "/api/validate-yaml": {"errors": [], "warnings": []},
        }
        self._answer(answers.get(self.path, {}))

    def do_GET(self):
        self._answer({"sha": "0" * 40, "id": "owner/name", "siblings": []})

    def _answer(self, held):
        data = json.dumps(held).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def test_with_an_account_the_folder_is_uploaded(exports, monkeypatch):
    import huggingface_hub

    from manifoldgd.export.hub import push

    server = HTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        api = huggingface_hub.HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token="hf_x")
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
        said = push(exports / "hf", "owner/name")
    finally:
        server.shutdown()
        server.server_close()
    assert said.startswith("pushed 4 files")
    assert "https://huggingface.co/datasets/owner/name/commit/0" in said
    (created,) = [json.loads(body) for path, body in SENT if path == "/api/repos/create"]
    assert (created["type"], created.get("visibility", created.get("private"))) in [
        ("dataset", "private"),
        ("dataset", True),
    ]
    (commit,) = [body for path, body in SENT if path.endswith("/commit/main")]
    names = {
        json.loads(line)["value"]["path"]
        for line in commit.splitlines()
        if b'"key": "file"' in line or b'"key":"file"' in line
    }
    assert names == {"README.md", "croissant.json", "provenance.json", "data/train-00000-of-00001.parquet"}
