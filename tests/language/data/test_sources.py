# SPDX-License-Identifier: Apache-2.0
"""Sources that cannot be read are refused before anything is tokenised."""

from __future__ import annotations

import errno
from itertools import islice

import datasets
import pytest

from hylora.language.data import DataRecipe, SourceRecipe, build_datasets


def test_a_missing_file(build, tmp_path):
    missing = str(tmp_path / "corpus.jsonl")
    with pytest.raises(ValueError, match=r"data\.sources\.0\.path='.*corpus\.jsonl' does not exist"):
        build(missing)
    with pytest.raises(ValueError, match=r"data\.sources\.0\.path='.*/\*\.txt' must match a file"):
        build(str(tmp_path / "*.txt"))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_that_the_hub_does_not_give(build, monkeypatch, streaming):
    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'someone/corpus' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    message = r"data\.sources\.0\.path='someone/corpus' must be a local file .*Couldn't reach.*without a network"
    with pytest.raises(ValueError, match=message):
        build("someone/corpus", streaming=streaming)


def test_a_hub_dataset_is_asked_for_as_written(build, write, monkeypatch):
    asked = {}
    real = datasets.load_dataset

    def load_dataset(path, name=None, **options):
        asked.update(path=path, name=name, **options)
        return real("json", data_files=write("a.jsonl", ["abcdefghij"]), split="train", cache_dir=options["cache_dir"])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    build(SourceRecipe("someone/corpus", subset="en", split="train[:1%]", revision="v2"))
    assert asked.pop("cache_dir").endswith("cache")
    assert asked == {
        "path": "someone/corpus",
        "name": "en",
        "split": "train[:1%]",
        "revision": "v2",
        "streaming": False,
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_an_unknown_field(build, write, streaming):
    path = write("a.jsonl", [{"contents": "abc", "id": 1}])
    with pytest.raises(
        ValueError, match=r"data\.sources\.0\.text_field='content' must .* contents, id; did you mean 'contents'\?"
    ):
        build(SourceRecipe(path, text_field="content"), streaming=streaming)


def test_a_field_that_is_not_text(build, write):
    path = write("a.jsonl", [{"text": 3}])
    with pytest.raises(ValueError, match=r"data\.sources\.0\.path=\S+ must hold text in the field 'text', not 3;"):
        build(path)


@pytest.mark.parametrize("name", ["weights.pt", "corpus.pkl"])
def test_pickles_are_refused(build, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"data\.sources\.0\.path='.*' must not be a pickle.*convert it"):
        build(str(path))


def test_an_unsupported_extension(build, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\nabc\n")
    with pytest.raises(ValueError, match=r"data\.sources\.0\.path='.*a\.csv' must end in one of \.txt, \.json"):
        build(str(path))


def test_a_folder_of_mixed_formats(build, write):
    folder = write("mixed/a.txt", "abc").rsplit("/", 1)[0]
    write("mixed/b.jsonl", ["abc"])
    message = r"data\.sources\.0\.path=\S+ must hold files of one format, not 1 json, 1 text;"
    with pytest.raises(ValueError, match=message):
        build(folder)


def test_a_folder_without_data(build, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"data\.sources\.0\.path='.*empty' must hold files that end in"):
        build(str(tmp_path / "empty"))


def test_a_readme_beside_the_data_is_left_alone(build, write, tmp_path, caplog):
    folder = write("corpus/a.txt", "abcdefghij").rsplit("/", 1)[0]
    (tmp_path / "corpus" / "README.md").write_text("what this is")
    assert len(build(folder).train) == 1
    assert "1 other files" in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_byte_order_mark_is_no_text(build, tmp_path, show, name, streaming):
    text = "abcdefg" if name == "a.txt" else '{"text": "abcdefg"}\n'
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    data = build(str(tmp_path / name), streaming=streaming)
    assert show(next(iter(data.train))) == "abcdefg<eos>"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("b.jsonl", b'{"text": "a\xffb"}\n', "invalid start byte"),
        ("b.jsonl", b'{"text": "ab}\n', "Invalid control|Unterminated|delimiter"),
        ("b.txt", b"a\xffb\n", "invalid start byte"),
    ],
)
def test_a_broken_line_is_named(build, tmp_path, name, line, reason, streaming):
    good = b'{"text": "abc"}\n' if name == "b.jsonl" else b"abc\n"
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / name.replace("b", "a")).write_bytes(3 * good)
    (folder / name).write_bytes(6 * good + line + good)
    with pytest.raises(ValueError, match=rf"path='\S+corpus' must be .*correct line 7 of '\S+{name}' \(.*({reason})"):
        list(islice(build(str(folder), streaming=streaming).train, 10))


def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_source(write, tokenizer, tmp_path):
    (tmp_path / "file").touch()
    source = SourceRecipe(write("a.jsonl", ["abcdefghij"]))
    for cache in ("file", "file/below"):
        data = DataRecipe([source], cache_dir=str(tmp_path / cache))
        with pytest.raises(ValueError, match=rf"^data\.cache_dir='\S+/{cache}' must be a folder that can be written"):
            build_datasets(data, tokenizer, 8, 0)


@pytest.mark.parametrize("step", ["load_dataset", "map"])
def test_a_full_disk_is_not_blamed_on_the_source(build, write, monkeypatch, step):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datasets if step == "load_dataset" else datasets.Dataset, step, full)
    with pytest.raises(ValueError, match=r"^data\.cache_dir='\S+' must .*No space left on device\); make room"):
        build(write("a.jsonl", ["abcdefghij"]))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("content", ["", "\n", '{"text": "abc"\n'])
def test_files_without_content_or_broken(build, tmp_path, content, streaming):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"data\.sources\.0\.path='.*a\.jsonl' must"):
        build(str(path), streaming=streaming)


def test_documents_without_content(build, write):
    message = r"data\.sources\.0\.path=\S+ must hold something to learn, and none of its 1 documents does"
    with pytest.raises(ValueError, match=message):
        build(write("a.jsonl", [""]))


def test_empty_documents_are_dropped_and_counted(build, write, show):
    data = build(write("a.jsonl", [{"text": "abc"}, {"text": ""}, {"text": None}, {"text": "def"}]))
    assert [show(row) for row in data.train] == ["abc<eos>def<eos>"]
    assert data.description["train"][0]["dropped_documents"] == 2


def test_data_shorter_than_a_row(build, write):
    message = r"data\.sources\.0\.path=\S+ must fill a row, and its 4 tokens .* give no row of 8; use more data"
    with pytest.raises(ValueError, match=message):
        build(write("a.jsonl", ["abc"]))


def test_a_context_longer_than_any_document_when_nothing_is_packed(build, write):
    message = r"data\.packing='none' must .* sequence_length=8.* longest has 6 tokens; .*set sequence_length to 6"
    with pytest.raises(ValueError, match=message):
        build(write("a.jsonl", ["abc", "abcde"]), packing="none")


@pytest.mark.parametrize("length", [0, 1, 8.0])
def test_a_wrong_length(build, write, length):
    with pytest.raises(ValueError, match=r"sequence_length=\S+ must be an integer of at least 2"):
        build(write("a.jsonl", ["abc"]), length=length)
