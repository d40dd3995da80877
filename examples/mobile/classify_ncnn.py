"""Classify a picture with ncnn, NumPy and Pillow alone.

python classify_ncnn.py model.fp32.ncnn.param picture.jpg
"""

import json
import sys
from pathlib import Path

import ncnn
import numpy as np
from PIL import Image, ImageOps


def prepared(picture: Path, about: dict) -> np.ndarray:
    """The picture as uint8 [1, H, W, C]: resized, centre cropped."""
    wanted = about["preprocess"]
    image = ImageOps.exif_transpose(Image.open(picture)).convert(wanted.get("mode", "RGB"))
    resize = wanted["resize"]
    if isinstance(resize, list):  # height and width of a box that the picture covers
        scale = max(resize[0] / image.height, resize[1] / image.width)
    else:
        scale = resize / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    image = image.resize(size, Image.Resampling[wanted["interpolation"].upper()])
    height, width = wanted["crop"]
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    image = image.crop((left, top, left + width, top + height))
    return np.asarray(image, dtype=np.uint8).reshape(1, height, width, -1)


def described(file: Path) -> dict:
    """Labels and preprocessing, from the JSON beside the file."""
    return json.loads(Path(f"{file}.json").read_text(encoding="utf-8"))


def run(file: Path, image: np.ndarray) -> np.ndarray:
    """Logits of a uint8 picture [1, H, W, C]."""
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.load_param(str(file))
    net.load_model(str(file.with_suffix(".bin")))
    # [1, H, W, C] -> [C, H, W]
    planes = np.ascontiguousarray(image[0].transpose(2, 0, 1), dtype=np.float32)
    with net.create_extractor() as extractor:
        extractor.input("in0", ncnn.Mat(planes))
        return np.array(extractor.extract("out0")[1])


def main(file: Path, picture: Path) -> None:
    """Print the three most likely classes."""
    about = described(file)
    logits = run(file, prepared(picture, about)).reshape(-1)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    for index in np.argsort(-shares)[:3]:
        print(f"{shares[index]:6.1%}  {about['classes'][index]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
