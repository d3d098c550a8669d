# SPDX-License-Identifier: Apache-2.0
"""Where images come from: what each source gives, what is held out, and what tells it from another."""

from __future__ import annotations

import os
import sys

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PIL

from vision_extras.images import SOURCES, Images, ImagesRecipe, load_split
from vision_extras.images.embedded import read_digits


@pytest.mark.parametrize(("name", "count"), [("digits", 1797), ("mnist", 5000), ("pictures", 2561)])
def test_a_source_gives_what_it_says(name, count):
    source, split = SOURCES[name], load_split(ImagesRecipe(name=name))
    assert len(split.train) + len(split.held_out) == count
    assert split.classes == source.classes and split.channels == source.channels
    pixels = []
    for rows in (split.train, split.held_out):
        assert set(rows.labels.tolist()) == set(range(len(source.classes)))
        image, label = rows[3]
        assert image.size == (source.side, source.side) and label == int(rows.labels[3])
        assert np.array_equal(np.asarray(image).reshape(source.side, source.side, -1), rows.pixels[3].permute(1, 2, 0))
        pixels.append(rows.pixels)
    pixels = torch.cat(pixels).double() / 255
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(source.mean, abs=0.001)
    assert pixels.transpose(0, 1).flatten(1).std(1).tolist() == pytest.approx(source.std, abs=0.001)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(ValueError, match=r"name='pictures' needs scikit-image.*pip install 'hylora\[vision\]'"):
        load_split(ImagesRecipe(name="pictures"))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_about_the_share_is_held_out(share):
    split = load_split(ImagesRecipe(name="digits", held_out=share))
    assert len(split.held_out) / 1797 == pytest.approx(share, abs=0.03)


def test_what_is_held_out_depends_on_the_image_alone():
    whole = read_digits()
    backwards = Images(whole.pixels.flip(0), whole.labels.flip(0))
    twice = Images(torch.cat([whole.pixels] * 2), torch.cat([whole.labels] * 2))
    expected = whole.chosen(0.2)
    assert torch.equal(backwards.chosen(0.2).flip(0), expected)
    assert torch.equal(twice.chosen(0.2), torch.cat([expected] * 2))


def test_pictures_hold_out_other_pixels():
    """Each patch is where its picture has it, and no place is on both sides."""
    import skimage.data

    split = load_split(ImagesRecipe(name="pictures"))
    brick = torch.from_numpy(skimage.data.brick())
    places = []
    for rows in (split.train, split.held_out):
        for patch in rows.pixels[rows.labels == split.classes.index("brick")][:20]:
            assert torch.equal(patch[0], patch[2])
            (place,) = [
                (top, left)
                for top in range(0, 512, 32)
                for left in range(0, 512, 32)
                if torch.equal(brick[top : top + 32, left : left + 32], patch[0])
            ]
            places.append(place)
    assert len(set(places)) == len(places) > 30


@pytest.mark.parametrize("name", ["digits", "pictures"])
def test_images_can_be_had_in_grey_or_in_colour(name):
    source = SOURCES[name]
    other = 4 - source.channels
    split = load_split(ImagesRecipe(name=name, channels=other))
    plain = load_split(ImagesRecipe(name=name))
    assert split.channels == other and split.train.pixels.shape[1] == other
    expected = plain.held_out[5][0].convert("L" if other == 1 else "RGB")
    # What is held out is told by pixels, so that other images may be.
    found = [split.held_out[index][0] for index in range(len(split.held_out))] + [
        split.train[index][0] for index in range(len(split.train))
    ]
    assert any(np.array_equal(np.asarray(image), np.asarray(expected)) for image in found)
    assert split.plain.mean == (sum(source.mean) / len(source.mean),) * other


def test_a_fingerprint_tells_one_pixel_one_label_and_the_order():
    images = read_digits()
    pixels, labels = images.pixels.clone(), images.labels.clone()
    pixels[3, 0, 2, 2] ^= 1
    labels[3] = (labels[3] + 1) % 10
    others = [
        Images(pixels, images.labels),
        Images(images.pixels, labels),
        Images(images.pixels.flip(0), images.labels.flip(0)),
    ]
    assert len({item.fingerprint() for item in (images, *others)}) == 4
    assert read_digits().fingerprint() == images.fingerprint()


# Folders


def picture(number, width=12, height=9):
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.fromarray(pixels)


@pytest.fixture
def folder(tmp_path):
    """Two classes with six images each to learn from, and one each to evaluate on."""
    for split, count in (("train", 6), ("val", 1)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                picture(10 * label + number).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


def folders(folder, **more):
    return ImagesRecipe(name="folder", path=str(folder), train_split="train", held_out_split="val", **more)


def test_a_folder_for_each_class_is_read(folder):
    (folder / "train/dog/deeper").mkdir()
    picture(77).convert("L").save(folder / "train/dog/deeper/grey.jpg")
    (folder / "train/dog/notes.txt").write_text("no image")
    split = load_split(folders(folder))
    assert split.classes == ("cat", "dog") and split.channels == 3
    assert split.train.labels.tolist() == [0] * 6 + [1] * 7 and len(split.held_out) == 2
    for number in range(6):
        assert np.array_equal(np.asarray(split.train[6 + number][0]), np.asarray(picture(10 + number)))
    assert split.train[12][0].mode == "RGB"
    grey = load_split(folders(folder, channels=1)).train[0][0]
    assert np.array_equal(np.asarray(grey), np.asarray(picture(0).convert("L")))


def test_what_is_hidden_is_no_class_and_no_image(folder):
    (folder / "train/.ipynb_checkpoints").mkdir()
    picture(1).save(folder / "train/.ipynb_checkpoints/1.png")
    (folder / "train/dog/._1.png").write_bytes(b"of another system")
    split = load_split(folders(folder))
    assert split.classes == ("cat", "dog") and len(split.train) == 12


def test_every_kind_of_file_becomes_eight_bits(folder):
    grey = np.arange(108, dtype=np.uint16).reshape(9, 12) * 600
    lying = picture(1).convert("L")
    turned = PIL.Exif()
    turned[0x0112] = 6  # the right side of the picture is its top
    path = folder / "train/cat"
    PIL.fromarray(grey).save(path / "a.png")
    PIL.fromarray(grey).save(path / "b.tif")
    lying.save(path / "c.png", exif=turned)
    picture(2).convert("CMYK").save(path / "d.tif")
    picture(2).quantize(16).save(path / "e.png")
    picture(2).convert("RGBA").save(path / "f.png")
    split = load_split(folders(folder, channels=1))
    found = {split.train.encoded.key(n): split.train[n][0] for n in range(len(split.train))}
    assert {image.mode for image in found.values()} == {"L"}
    for name in ("cat/a.png", "cat/b.tif"):
        assert np.array_equal(np.asarray(found[name]), grey >> 8)
    assert np.array_equal(np.asarray(found["cat/c.png"]), np.rot90(np.asarray(lying), -1))
    assert np.array_equal(np.asarray(found["cat/f.png"]), np.asarray(picture(2).convert("L")))
    PIL.fromarray(grey.astype(np.int32)).save(path / "g.tif")
    with pytest.raises(ValueError, match="cat/g.tif cannot be read as an image: pixels of mode 'I' have no known"):
        load_split(folders(folder))


def test_a_share_of_a_folder_is_held_out_by_name(folder):
    def names(split):
        return [{rows.encoded.name(n) for n in rows.numbers.tolist()} for rows in (split.train, split.held_out)]

    recipe = ImagesRecipe(name="folder", path=str(folder / "train"), held_out=0.4)
    train, held_out = names(load_split(recipe))
    assert len(train) + len(held_out) == 12 and held_out and not train & held_out
    picture(99).save(folder / "train/cat/another.png")
    assert {name for name in names(load_split(recipe))[1] if "another" not in name} == held_out


def test_a_folders_fingerprint_tells_what_changed_without_decoding(folder, monkeypatch):
    recipe = folders(folder, unreadable="trust")
    monkeypatch.setattr(PIL, "open", None)
    seen = [load_split(recipe).train.fingerprint()]
    assert load_split(recipe).train.fingerprint() == seen[0]
    os.utime(folder / "train/cat/3.png", ns=(1, 1))
    seen.append(load_split(recipe).train.fingerprint())
    (folder / "train/cat/3.png").rename(folder / "train/cat/33.png")
    seen.append(load_split(recipe).train.fingerprint())
    with open(folder / "train/dog/0.png", "ab") as file:
        file.write(b"\0")
    os.utime(folder / "train/dog/0.png", ns=(2, 2))
    seen.append(load_split(recipe).train.fingerprint())
    assert len(set(seen)) == 4


def test_unreadable_images_are_named_or_skipped_and_listed(folder):
    whole = (folder / "train/dog/2.png").read_bytes()
    (folder / "train/dog/2.png").write_bytes(whole[: len(whole) // 2])
    (folder / "train/cat/5.png").unlink()
    (folder / "train/cat/5.png").symlink_to("nowhere.png")
    (folder / "val/cat/0.png").write_bytes(b"no image at all")
    with pytest.raises(ValueError, match=r"unreadable='refuse' found 2 of 12 images.*cat/5.png.*dog/2.png.*skip"):
        load_split(folders(folder))
    split = load_split(folders(folder, unreadable="skip"))
    assert len(split.train) == 10 and len(split.held_out) == 1 and len(split.unreadable) == 3
    assert all(split.train[index][0].size == (12, 9) for index in range(10))
    trusting = load_split(folders(folder, unreadable="trust"))
    with pytest.raises(ValueError, match="dog/2.png cannot be read as an image"):
        trusting.train[8]


def test_folders_that_cannot_be_learned_from_are_refused(folder):
    with pytest.raises(ValueError, match="path='.*nowhere' is no folder"):
        load_split(ImagesRecipe(name="folder", path=str(folder / "nowhere")))
    (folder / "val/dgo").mkdir()
    with pytest.raises(ValueError, match="val' has class 'dgo', which there is not to learn from; the nearest is dog"):
        load_split(folders(folder))
    (folder / "val/dgo").rmdir()
    (folder / "train/emu").mkdir()
    with pytest.raises(ValueError, match="train/emu' has no image"):
        load_split(folders(folder))
    with pytest.raises(ValueError, match="at least two classes, and holds 0: no folder"):
        load_split(ImagesRecipe(name="folder", path=str(folder / "train/emu")))
    (folder / "train/emu/one").mkdir()
    with pytest.raises(ValueError, match="at least two classes, and holds 1: one"):
        load_split(ImagesRecipe(name="folder", path=str(folder / "train/emu")))


# Datasets


def dataset(labels, feature=None):
    """As many pictures as labels."""
    features = Features({"img": Image(), "label": feature or ClassLabel(names=["cat", "dog"])})
    return Dataset.from_dict({"img": [picture(n) for n in range(len(labels))], "label": labels}, features=features)


def saved(path, **splits):
    DatasetDict(splits).save_to_disk(path)
    return ImagesRecipe(name="dataset", path=str(path), image_column="img", held_out_split="test")


def test_a_dataset_is_read(tmp_path):
    recipe = saved(tmp_path / "saved", train=dataset([0, 1, 1, 0]), test=dataset([1, 0]))
    split = load_split(recipe)
    assert split.classes == ("cat", "dog") and split.train.labels.tolist() == [0, 1, 1, 0]
    assert split.held_out.labels.tolist() == [1, 0] and split.train.labels.dtype == torch.int64
    for number in range(4):
        assert np.array_equal(np.asarray(split.train[number][0]), np.asarray(picture(number)))
    assert load_split(recipe).train.fingerprint() == split.train.fingerprint()
    other = saved(tmp_path / "other", train=dataset([0, 1, 1, 1]), test=dataset([1, 0]))
    assert load_split(other).train.fingerprint() != split.train.fingerprint()


def test_a_folder_of_parquet_files_is_a_dataset(tmp_path, monkeypatch):
    """As the Hub has them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split, labels in (("train", [0, 1, 1, 0]), ("test", [1, 0])):
        dataset(labels).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    recipe = ImagesRecipe(name="dataset", path=str(tmp_path), image_column="img", held_out_split="test")
    split = load_split(recipe)
    assert split.train.labels.tolist() == [0, 1, 1, 0] and split.classes == ("cat", "dog")
    assert np.array_equal(np.asarray(split.held_out[1][0]), np.asarray(picture(1)))


@pytest.mark.parametrize(
    ("feature", "labels", "classes"),
    [
        (Value("int64"), [0, 2, 1, 2], ("0", "1", "2")),
        (Value("string"), ["b", "c", "a", "c"], ("a", "b", "c")),
    ],
    ids=["numbers", "names"],
)
def test_labels_may_be_numbers_or_names(tmp_path, feature, labels, classes):
    recipe = saved(tmp_path, train=dataset(labels, feature), test=dataset(labels[2:], feature))
    split = load_split(recipe)
    expected = [classes.index(str(label)) for label in labels]
    assert split.classes == classes and split.train.labels.tolist() == expected
    assert split.held_out.labels.tolist() == expected[2:]


def test_datasets_that_cannot_be_learned_from_are_refused(tmp_path):
    number = Value("int64")
    good, held_out = dataset([0, 1, 1], number), dataset([1, 0], number)

    def refused(message, recipe):
        with pytest.raises(ValueError, match=message):
            load_split(recipe)

    base = {"name": "dataset", "path": str(tmp_path / "good"), "held_out_split": "test"}
    saved(tmp_path / "good", train=good, test=held_out)
    refused("image_column='image' is no column of train.*img, label are; the nearest is img", ImagesRecipe(**base))
    base["image_column"] = "img"
    refused("label_column='lable' is no column.*nearest is label", ImagesRecipe(**base, label_column="lable"))
    refused("image_column='label' of .* must hold images", ImagesRecipe(**{**base, "image_column": "label"}))
    refused("has no split 'tain', but train, test; the nearest is train", ImagesRecipe(**base, train_split="tain"))
    nowhere = str(tmp_path / "nowhere")
    refused("path='.*nowhere' cannot be read as a dataset", ImagesRecipe(**{**base, "path": nowhere}))
    refused(
        "label -1 in row 1, and there are 2 classes",
        saved(tmp_path / "negative", train=dataset([0, -1, 1], number), test=held_out),
    )
    refused(
        "test of .* has label 2 in row 0, and there are 2 classes",
        saved(tmp_path / "above", train=good, test=dataset([2, 0], number)),
    )
    named = dataset([0, 1], ClassLabel(names=["cat", "emu"]))
    refused(
        "has classes cat, emu, and those to learn from are cat, dog",
        saved(tmp_path / "named", train=dataset([0, 1]), test=named),
    )
    refused("at least two classes", saved(tmp_path / "one", train=dataset([0, 0], number), test=held_out))


@pytest.mark.parametrize(
    ("feature", "labels", "message"),
    [
        (Value("string"), ["a", None, "b"], "has None in row 1"),
        (Value("int64"), [0, None, 1], "has None in row 1"),
        (Value("float64"), [0.0, 1.0], "has 0.0 in row 0"),
        (Value("bool"), [True, False], "has True in row 0"),
        (datasets.List(Value("int64")), [[0], [0, 1]], r"has \[0\] in row 0"),
    ],
    ids=["no name", "no number", "real", "truth", "several"],
)
def test_labels_of_other_kinds_are_refused(tmp_path, feature, labels, message):
    with pytest.raises(ValueError, match=f"label_column='label' of train of .* {message}, and labels are whole"):
        load_split(saved(tmp_path, train=dataset(labels, feature), test=dataset([0])))


def test_the_rows_held_out_are_the_same_wherever_the_dataset_is(tmp_path):
    held_out = []
    for name in ("here", "there"):
        saved(tmp_path / name, train=dataset([0, 1] * 20))
        split = load_split(ImagesRecipe(name="dataset", path=str(tmp_path / name), image_column="img", held_out=0.5))
        held_out.append(split.held_out.numbers.tolist())
    assert held_out[0] == held_out[1] and 0 < len(held_out[0]) < 40


def test_an_unreadable_row_is_named(tmp_path):
    broken = Dataset.from_dict(
        {"img": [{"bytes": b"none", "path": None}] * 2, "label": [0, 1]},
        features=Features({"img": Image(), "label": ClassLabel(names=["cat", "dog"])}),
    )
    recipe = saved(tmp_path, train=broken, test=dataset([0]))
    with pytest.raises(ValueError, match="found 2 of 2 images that cannot be decoded: row 0 of train of"):
        load_split(recipe)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "digit"}, "name='digit' must be digits.*the nearest is digits"),
        ({"name": "folder"}, "path=None must name the folder"),
        ({"name": "digits", "path": "/data"}, "path='/data' must be left out"),
        ({"name": "folder", "path": "x", "label_column": "y"}, "label_column='y' must be left out"),
        ({"name": "digits", "held_out": 1.0}, "held_out=1.0 must be at least 0 and below 1"),
        ({"name": "digits", "std": (0.0,)}, "std=.* must be above 0"),
        ({"name": "digits", "crop": 1.5}, "crop=1.5 must be above 0 and at most 1"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ImagesRecipe(**fields)


def test_means_are_counted_by_channel():
    with pytest.raises(ValueError, match=r"mean=\[0.5, 0.5\] must have a number for each of 1 channels"):
        load_split(ImagesRecipe(name="digits", mean=(0.5, 0.5)))
    split = load_split(ImagesRecipe(name="digits", mean=(0.5,), std=(0.25,)))
    batch = split.plain([split.train[7]], [None], (8, 8))["images"]
    torch.testing.assert_close(batch[0], (split.train.pixels[7] / 255 - 0.5) / 0.25)
