"""What lies beside weights in a folder, by whom it was written."""

import json

import pytest

from lavit_deploy.common.errors import CheckpointError
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.weights.hugging_face import described

LAYOUT = {"depths": [1, 1, 2, 3], "architectures": ["LaViT"], "torch_dtype": "float32"}
PROCESSOR = {
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.2, 0.2],
    "resample": 2,
    "size": {"shortest_edge": 73},
    "do_center_crop": True,
    "crop_size": {"height": 64, "width": 64},
}


@pytest.fixture
def about(tmp_path):
    """What files of this content say."""

    def write(config=None, processor=None):
        names = set()
        for name, content in (("config.json", config), ("preprocessor_config.json", processor)):
            if content is not None:
                (tmp_path / name).write_text(json.dumps(content))
                names.add(name)
        return described(tmp_path, names)

    return write


def test_sizes_are_those_of_the_configuration_and_names_those_of_its_labels(about):
    named = {str(index): f"class {index}" for index in range(11)}
    read = about({**LAYOUT, "id2label": named, "label2id": {}})
    assert read.values["config"] == LAYOUT
    assert read.values["classes"] == [f"class {index}" for index in range(11)]  # not by letters
    assert read.files == ("config.json",)


def test_a_configuration_may_lie_one_deeper(about):
    assert about({"config": {"depths": [1]}, "family": "lavit"}).values == {
        "config": {"depths": [1]},
        "family": "lavit",
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"resize": 73, "crop": (64, 64)}),
        ({"size": 73}, {"resize": 73, "crop": (64, 64)}),
        ({"crop_size": 64}, {"resize": 73, "crop": (64, 64)}),
        ({"resample": 3}, {"resize": 73, "crop": (64, 64), "interpolation": "bicubic"}),
        (
            {"size": {"height": 64, "width": 96}, "crop_size": None, "do_center_crop": False},
            {"resize": (64, 96), "crop": (64, 96)},
        ),
    ],
)
def test_an_image_processor_is_a_preprocessing(about, changes, expected):
    read = about(LAYOUT, {**PROCESSOR, **changes})
    found = Preprocess.model_validate(read.values["preprocess"])
    assert found.mean == (0.5, 0.4, 0.3)
    assert found.interpolation == expected.pop("interpolation", "bilinear")
    assert found.model_dump(include=set(expected)) == expected
    assert read.files == ("config.json", "preprocessor_config.json")


def test_stretching_is_said_not_to_be_kept_to(about):
    processor = {**PROCESSOR, "size": {"height": 64, "width": 64}, "do_center_crop": False}
    (note,) = about(LAYOUT, processor).notes
    assert "stretches pictures to 64 x 64" in note


def test_a_filter_that_there_is_not_is_refused(about):
    with pytest.raises(CheckpointError, match="resample is 5; there are"):
        about(LAYOUT, {**PROCESSOR, "resample": 5})


def test_timms_configuration_is_read(about):
    timm = {
        "input_size": [3, 224, 224],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    read = about({"architecture": "x", "pretrained_cfg": timm, "label_names": ["a", "b"]})
    found = Preprocess.model_validate(read.values["preprocess"])
    assert (found.resize, found.crop, found.mean) == (248, (224, 224), (0.5, 0.5, 0.5))
    assert read.values["classes"] == ["a", "b"]


def test_nothing_beside_is_nothing(about):
    assert about().values == {"config": {}}
