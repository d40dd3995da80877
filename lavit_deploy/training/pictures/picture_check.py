"""Reading every picture once, before a long training meets a broken one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from lavit_deploy.common.errors import DatasetError
from lavit_deploy.datasets import Pictures


def unreadable(pictures: Pictures, threads: int) -> Iterator[str]:
    """Why each picture that cannot be read cannot, in order.

    Args:
        pictures: what to read.
        threads: how many at a time; decoding does not hold the interpreter's lock.
    """

    def reason(index: int) -> str | None:
        try:
            pictures.image(index)
        except DatasetError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(threads) as pool:
        yield from filter(None, pool.map(reason, range(len(pictures))))
