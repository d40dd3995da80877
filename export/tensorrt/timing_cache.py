"""Kernel timings kept between builds: a second build of a like network takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lavit_deploy.common.atomic_files import atomic_path
from lavit_deploy.common.errors import UsageError
from lavit_deploy.runtimes.tensorrt_library import Library


def attach(library: Library, config: Any, file: Path) -> bool:  # noqa: ANN401 # no published types
    """Give the builder the timings of earlier builds, if it can use them.

    Args:
        library: TensorRT; TensorRT-RTX times nothing and keeps no cache.
        config: a builder configuration.
        file: where the cache is kept.

    Returns:
        Whether the builder now has a cache (an empty one where the file is absent, or of another
        version of TensorRT or another GPU).

    Raises:
        UsageError: the file is there and cannot be read.
    """
    if library.is_rtx:
        return False
    try:
        content = file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise UsageError(f"--timing-cache {file} cannot be read: {error.strerror}") from None
    cache = config.create_timing_cache(content)
    if cache is not None and config.set_timing_cache(cache, False):
        return True
    return bool(config.set_timing_cache(config.create_timing_cache(b""), False))


def keep(config: Any, file: Path) -> None:  # noqa: ANN401 # no published types
    """Write the builder's timings for the next build.

    Raises:
        UsageError: the file cannot be written.
    """
    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        with atomic_path(file) as temporary:
            temporary.write_bytes(bytes(cache.serialize()))
    except OSError as error:
        raise UsageError(f"--timing-cache {file} cannot be written: {error.strerror}") from None
