"""Pictures are named by a folder, a glob, a list or a table, and keep their names and order."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lavit_deploy.common.errors import DatasetError
from lavit_deploy.prediction.sources import open_source


def names(source):
    found = [item.name for item in source]
    assert len(found) == len(source)
    return found


def test_a_folder_gives_its_pictures_in_order_and_nothing_else(folder):
    (folder / "notes.md").write_text("not a picture")
    source = open_source(str(folder))
    assert names(source)[:4] == ["blue/0.png", "blue/1.png", "blue/2.png", "green/0.png"]
    assert len(source) == 10
    assert not source.labelled


def test_with_labels_a_picture_has_the_name_of_its_folder(folder):
    source = open_source(str(folder), labelled=True)
    assert source.labelled
    assert [item.label for item in source] == ["blue"] * 3 + ["green"] * 3 + ["red"] * 4


def test_a_picture_outside_the_folders_is_not_labelled_by_guess(folder):
    (folder / "stray.png").write_bytes(b"x")
    assert len(open_source(str(folder))) == 11
    with pytest.raises(DatasetError, match=r"stray\.png lies in no folder"):
        open_source(str(folder), labelled=True)


def test_a_glob_takes_what_matches(folder):
    source = open_source(f"{folder}/**/1.png", labelled=True)
    assert [item.label for item in source] == ["blue", "green", "red"]
    with pytest.raises(DatasetError, match="no file matches"):
        open_source(f"{folder}/*.jpg")


def test_paths_of_a_list_count_from_its_folder(folder):
    (folder / "list.txt").write_text("\ufeffred/0.png\n\n  blue/1.png \n")
    source = open_source(str(folder / "list.txt"))
    assert names(source) == ["red/0.png", "blue/1.png"]
    assert [item.content for item in source] == [folder / "red/0.png", folder / "blue/1.png"]


def test_a_csv_may_have_labels(folder):
    (folder / "list.csv").write_text("Label,Path\nrot,red/0.png\nblau,blue/1.png\n")
    source = open_source(str(folder / "list.csv"))
    assert [(item.name, item.label) for item in source] == [
        ("red/0.png", "rot"),
        ("blue/1.png", "blau"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("number\n1\n", "has no column of paths: its first line is number"),
        ("path\na.png\na.png\n", "names a.png twice"),
        ("path,label\n,red\n", "line 2: no path in the column path"),
        ("path\n", "names no pictures"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(tmp_path, text, words):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DatasetError, match=words):
        open_source(str(tmp_path / "list.csv"))


@pytest.mark.parametrize("form", ["bytes", "hugging face", "paths"])
def test_a_table_holds_pictures_as_bytes_or_as_paths(folder, form):
    data = (folder / "red" / "0.png").read_bytes()
    column = {
        "bytes": ("image", [data, data]),
        "hugging face": ("image", [{"bytes": data, "path": "a.png"}] * 2),
        "paths": ("file_name", ["red/0.png", "red/0.png"]),
    }[form]
    file = folder / "table.parquet"
    pq.write_table(pa.table({column[0]: column[1], "label": [0, 2]}), file)
    source = open_source(str(file))
    assert names(source) == ["table.parquet#0", "table.parquet#1"]
    assert [item.label for item in source] == [0, 2]
    for item in source:
        content = item.content if isinstance(item.content, bytes) else item.content.read_bytes()
        assert content == data


def test_a_table_without_pictures_names_its_columns(tmp_path):
    pq.write_table(pa.table({"age": [1]}), tmp_path / "t.parquet")
    with pytest.raises(DatasetError, match="no column of pictures: it has age"):
        open_source(str(tmp_path / "t.parquet"))
    (tmp_path / "no.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(DatasetError, match="cannot be read as Parquet"):
        open_source(str(tmp_path / "no.parquet"))


def test_nothing_there_says_what_may_be_given(tmp_path):
    with pytest.raises(DatasetError, match="expected a folder, a file, a glob"):
        open_source(str(tmp_path / "absent"))
