import numpy as np
import pytest
import torch
from PIL import Image

from lavit_deploy.export.graphs.onnx_graph import write_onnx
from lavit_deploy.export.quantization.calibration import LabelledPictures
from lavit_deploy.export.quantization.scheme import Scheme
from lavit_deploy.folding.fold import fold
from lavit_deploy.manifest import BatchRange


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory):
    """40 pictures below two folders of classes, and one file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(3)
    for index in range(40):
        place = folder / ("ant" if index % 2 else "bee")
        place.mkdir(exist_ok=True)
        coarse = generator.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((40, 40)).save(place / f"{index:02d}.png")
    (folder / "ant" / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="session")
def float_graph(tiny_checkpoint, tmp_path_factory):
    """The folded tiny model in float32: the file and the graph."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("graph") / "model.onnx"
    folded = fold(tiny_checkpoint.build(), tiny_checkpoint.preprocess).model
    batch = BatchRange(minimum=1, optimum=4, maximum=16)
    return file, write_onnx(tiny_checkpoint, folded, file, batch=batch, precision="fp32")


@pytest.fixture
def scheme(float_graph, pictures):
    file, graph = float_graph
    return Scheme(file, graph, LabelledPictures(pictures, None, "12 pictures"))
