"""Classify a picture with LiteRT, NumPy and Pillow alone.

python classify_litert.py model.fp32.tflite picture.jpg
"""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
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
    """Labels and preprocessing, from the archive behind the model in the same file."""
    with zipfile.ZipFile(file) as files:
        return json.loads(files.read("lavit.json"))


def run(file: Path, image: np.ndarray) -> np.ndarray:
    """Logits of a uint8 picture [1, H, W, C]."""
    interpreter = Interpreter(str(file))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


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
