"""Which picture formats can be taken here: those of the project, and what is installed besides."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from PIL import features

from lavit_deploy.preprocess import FORMATS


@dataclass(frozen=True, slots=True)
class Formats:
    """Formats that are taken.

    Attributes:
        names: Pillow's names of them.
        media_types: what clients call them.
    """

    names: tuple[str, ...]
    media_types: tuple[str, ...]

    @classmethod
    def available(cls) -> Formats:
        """The project's formats, AVIF where Pillow has it, HEIC where pillow-heif is installed.

        Pillow knows HEIC in this process from then on.
        """
        names = list(FORMATS)
        if features.check("avif"):
            names.append("AVIF")
        with suppress(ImportError):
            import pillow_heif

            pillow_heif.register_heif_opener()
            names.append("HEIF")
        kinds = {"HEIF": ("image/heic", "image/heif")}
        types = (kinds.get(name, (f"image/{name.lower()}",)) for name in names)
        return cls(tuple(names), tuple(kind for several in types for kind in several))
