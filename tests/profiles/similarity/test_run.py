import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lavit_deploy.checkpoint import save_checkpoint
from lavit_deploy.common.errors import DatasetError
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.profiles.render.terminal import console
from lavit_deploy.profiles.similarity import plot, run
from lavit_deploy.profiles.similarity.report import MEASURES, SimilarityReport
from tiny_models import CLASSES, TINY, model_of


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The tiny model at 64 pixels: at 32 every map has a single key."""
    path = tmp_path_factory.mktemp("checkpoint") / "larger.pth"
    save_checkpoint(
        path,
        model_of(replace(TINY, image_size=(64, 64))),
        preprocess=Preprocess(resize=64, crop=(64, 64)),
        classes=CLASSES,
    )
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """Five pictures of noise, two of them deeper."""
    pictures = tmp_path / "pictures"
    (pictures / "deeper").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png", "deeper/d.png", "deeper/e.png"):
        Image.fromarray(noise.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(pictures / name)
    return pictures


@pytest.fixture
def found(checkpoint, folder):
    return run.report([checkpoint], str(folder), pictures=4)


def test_a_model_stands_beside_the_same_one_untrained(found):
    (model,) = found.models
    assert [one.name for one in model.trained] == [one.name for one in model.untrained]
    assert [one.name for one in model.trained if one.less_attention] == ["3.2", "4.2", "4.3"]
    assert model.trained != model.untrained
    assert found.pictures == 4
    assert found.data == "4 of 5 pictures of pictures"


def test_the_control_is_the_same_in_every_run(found, checkpoint, folder):
    again = run.report([checkpoint], str(folder), pictures=4)
    assert again.models == found.models


def test_the_digits_are_drawn_from_what_was_held_out():
    sample = run.draw_sample("digits", 5, 32)
    assert len(sample.images) == 5
    assert "held-out pictures of digits" in sample.source


def test_more_pictures_than_there_are_is_all_of_them(folder):
    assert len(run.draw_sample(str(folder), 100, 32).images) == 5


def test_an_empty_folder_is_no_data(tmp_path):
    with pytest.raises(DatasetError, match=tmp_path.name):
        run.draw_sample(str(tmp_path), 5, 32)


def test_the_files_hold_what_was_found(found, tmp_path):
    found.write_json(tmp_path / "maps.json")
    assert (
        SimilarityReport.model_validate(json.loads((tmp_path / "maps.json").read_text())) == found
    )
    found.write_csv(tmp_path / "maps.csv")
    rows = list(csv.DictReader((tmp_path / "maps.csv").open()))
    assert len(rows) == 2 * len(found.models[0].trained)
    last = found.models[0].trained[-1]
    (row,) = (
        row for row in rows if (row["weights"], row["layer"], row["stage"]) == ("trained", "3", "4")
    )
    assert float(row["plain"]) == last.plain.mean
    assert float(row["plain_deviation"]) == last.plain.deviation


def test_a_table_and_a_picture_show_every_measure(found, tmp_path, capsys):
    plot.show(console(), found)
    printed = " ".join(capsys.readouterr().out.split())
    assert "4.3 LA" in printed
    assert f"{found.models[0].trained[-1].plain.mean:.2f}" in printed
    plot.draw(found, tmp_path / "maps.svg")
    drawn = (tmp_path / "maps.svg").read_text()
    for title in MEASURES.values():
        assert f"<!-- {title} -->" in drawn  # matplotlib names its texts in comments
