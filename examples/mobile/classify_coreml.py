"""Classify a picture with Core ML and Pillow alone; macOS only, where Core ML runs.

python classify_coreml.py model.fp16.mlpackage picture.jpg
"""

import json
import sys
from pathlib import Path

import coremltools
from PIL import Image, ImageOps


def main(file: Path, picture: Path) -> None:
    """Print the most likely class and its logit."""
    model = coremltools.models.MLModel(str(file))
    about = json.loads(model.user_defined_metadata["lavit"])
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
    answer = model.predict({"image": image})
    print(answer["classLabel"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
