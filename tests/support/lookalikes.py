"""Small datasets in exactly the formats that readers read: written as the formats are defined, not by the readers."""

import io
import json
import pickle
import tarfile

import numpy as np
from PIL import Image

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def pixels(count, side=8, seed=0, channels=3):
    """``[count, side, side, channels]`` uint8, or without the last where there is one channel."""
    shape = (count, side, side, channels) if channels > 1 else (count, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image, form="PNG"):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, form)
    return stream.getvalue()


def hub_features(names):
    """What ``datasets`` writes into a table's metadata."""
    label = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "string", "_type": "Value"}
    return {"image": {"_type": "Image"}, "label": label}


def hub_table(images, labels, names, *, bytes_there=True, start=0):
    """A table as ``Dataset.to_parquet`` and ``push_to_hub`` write it."""
    import pyarrow as pa

    rows = [
        {"bytes": encoded(image) if bytes_there else None, "path": f"shot{start + row}.png"}
        for row, image in enumerate(images)
    ]
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", picture), ("label", pa.int64() if names else pa.string())])
    about = {"info": {"features": hub_features(names)}}
    table = pa.table({"image": pa.array(rows, picture), "label": list(labels)}, schema=schema)
    return table.replace_schema_metadata({"huggingface": json.dumps(about)})


def write_parquet(folder, splits=None, names=("zebra", "ant"), group=3):
    """``data/<split>-00000-of-00002.parquet``, two files a split."""
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True)
    for seed, (split, count) in enumerate((splits or {"train": 12, "test": 4}).items()):
        images, labels = pixels(count, seed=seed), np.arange(count) % len(names)
        for part, rows in enumerate(np.array_split(np.arange(count), 2)):
            table = hub_table(images[rows], labels[rows].tolist(), list(names), start=int(rows[0]))
            pq.write_table(table, folder / "data" / f"{split}-{part:05}-of-00002.parquet", row_group_size=group)
    return folder


def write_saved(folder, names=("zebra", "ant")):
    """What ``DatasetDict.save_to_disk`` leaves."""
    import pyarrow as pa

    folder.mkdir()
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    for seed, (split, count) in enumerate({"train": 12, "test": 4}.items()):
        (folder / split).mkdir()
        table = hub_table(pixels(count, seed=seed), [k % len(names) for k in range(count)], list(names))
        file = folder / split / "data-00000-of-00001.arrow"
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=5)
        (folder / split / "dataset_info.json").write_text(json.dumps({"features": hub_features(list(names))}))
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": split}
        (folder / split / "state.json").write_text(json.dumps(state))
    return folder


def write_hub_cache(cache, repository="someone/pets"):
    """A dataset in the Hub's cache, as ``snapshot_download`` leaves it; returns the commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = cache / f"datasets--{repository.replace('/', '--')}"
    write_parquet(place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    return commit


def _python2(value):
    """A pickle of protocol 2 with byte strings, as Python 2 wrote CIFAR's files."""
    return pickle.dumps(value, protocol=2)


def write_cifar10_python(folder, each=4):
    root = folder / "cifar-10-batches-py"
    root.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        count = each if number < 5 else 2 * each
        data = np.random.default_rng(number).integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = [(number * each + k) % 10 for k in range(count)]
        names = [b"x_%d.png" % k for k in range(count)]
        held = {b"batch_label": name.encode(), b"labels": labels, b"data": data, b"filenames": names}
        (root / name).write_bytes(_python2(held))
    meta = {b"num_cases_per_batch": each, b"label_names": [name.encode() for name in CIFAR10], b"num_vis": 3072}
    (root / "batches.meta").write_bytes(_python2(meta))
    return root


def write_cifar10_binary(folder, each=4):
    """The images of :func:`write_cifar10_python`."""
    root = folder / "cifar-10-batches-bin"
    root.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        count = each if number < 5 else 2 * each
        data = np.random.default_rng(number).integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = [(number * each + k) % 10 for k in range(count)]
        (root / f"{name}.bin").write_bytes(
            b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, data, strict=True))
        )
    (root / "batches.meta.txt").write_text("\n".join(CIFAR10) + "\n\n")
    return root


def _cifar100(name):
    count = 200 if name == "train" else 100
    data = np.random.default_rng(count).integers(0, 256, (count, 3072), dtype=np.uint8)
    return data, [k % 100 for k in range(count)], [k % 100 // 5 for k in range(count)]


FINE, COARSE = [f"fine{k}" for k in range(100)], [f"coarse{k}" for k in range(20)]


def write_cifar100_python(folder):
    root = folder / "cifar-100-python"
    root.mkdir(parents=True)
    for name in ("train", "test"):
        data, fine, coarse = _cifar100(name)
        (root / name).write_bytes(_python2({b"data": data, b"fine_labels": fine, b"coarse_labels": coarse}))
    names = {b"fine_label_names": [each.encode() for each in FINE]}
    names |= {b"coarse_label_names": [each.encode() for each in COARSE]}
    (root / "meta").write_bytes(_python2(names))
    return root


def write_cifar100_binary(folder):
    root = folder / "cifar-100-binary"
    root.mkdir(parents=True)
    for name in ("train", "test"):
        rows = zip(*_cifar100(name), strict=True)
        (root / f"{name}.bin").write_bytes(
            b"".join(bytes([coarse, fine]) + row.tobytes() for row, fine, coarse in rows)
        )
    (root / "fine_label_names.txt").write_text("\n".join(FINE) + "\n")
    (root / "coarse_label_names.txt").write_text("\n".join(COARSE) + "\n")
    return root


def write_npz(file, *, images="x_{}", labels="y_{}", channels=1, side=8):
    arrays = {}
    for seed, (split, count) in enumerate({"train": 9, "test": 6}.items()):
        arrays[images.format(split)] = pixels(count, side, seed, channels)
        arrays[labels.format(split)] = (np.arange(count) % 3).astype(np.uint8)[:, None]  # as MedMNIST shapes them
    np.savez(file, **arrays)
    return file


def write_svhn(folder, each=2):
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("train", "test", "extra")):
        labels = np.repeat(np.arange(1, 11), each).astype(np.uint8)[:, None]  # 10 is the digit 0
        images = np.moveaxis(pixels(10 * each, 32, seed), 0, 3)
        savemat(folder / f"{name}_32x32.mat", {"X": images, "y": labels}, do_compression=True)
    return folder


WNIDS = ["n02124075", "n01443537", "n04067472"]


def write_tiny_imagenet(folder, train=3, test=2):
    root = folder / "tiny-imagenet-200"
    root.mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    (root / "words.txt").write_text(
        "n01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\nn04067472\treel\n"
    )
    lines = []
    (root / "val" / "images").mkdir(parents=True)
    for label, wnid in enumerate(WNIDS):
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        for k in range(train):
            (images / f"{wnid}_{k}.JPEG").write_bytes(encoded(pixels(1, 64, 10 * label + k)[0], "JPEG"))
        (images.parent / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    for k in range(test * len(WNIDS)):
        (root / "val" / "images" / f"val_{k}.JPEG").write_bytes(encoded(pixels(1, 64, 100 + k)[0], "JPEG"))
        lines.append(f"val_{k}.JPEG\t{WNIDS[k % len(WNIDS)]}\t0\t32\t44\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (root / "test" / "images").mkdir(parents=True)
    (root / "test" / "images" / "test_0.JPEG").write_bytes(encoded(pixels(1, 64, 999)[0], "JPEG"))
    return root


def write_shards(folder, labels="cls", form="jpg", names=("cat", "dog")):
    """Two shards a split, samples as WebDataset's writers lay them."""
    folder.mkdir(parents=True)
    for seed, (split, count) in enumerate({"train": 8, "test": 4}.items()):
        images = pixels(count, seed=seed)
        for shard in range(2):
            with tarfile.open(folder / f"pets-{split}-{shard:06}.tar", "w") as archive:
                for k in range(shard * count // 2, (shard + 1) * count // 2):
                    data = encoded(images[k], "JPEG" if form == "jpg" else "PNG")
                    said = str(k % 2) if labels == "cls" else json.dumps({"label": names[k % 2], "caption": "a pet"})
                    for kind, content in (("txt", b"a pet"), (form, data), (labels, said.encode())):
                        member = tarfile.TarInfo(f"sample{k:06}.{kind}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))
    return folder
