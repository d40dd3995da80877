"""End with an error where a package is installed that the service must do without."""

import sys
from importlib.util import find_spec

ABSENT = ("torch", "onnx", "onnxscript", "transformers", "safetensors", "kornia", "tensorrt")

if found := [name for name in ABSENT if find_spec(name)]:
    sys.exit(f"the service is to be tested without {', '.join(found)}: remove .venv-serve")
