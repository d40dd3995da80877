"""Clients that mean no good, or know no better."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import itertools
import json
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from serving_load.connections import LOST
from serving_load.requests import form, post

Deed = Callable[[], Coroutine[Any, Any, int]]
_WAIT_SECONDS = 30.0


class Hostile:
    """Each of these takes one connection and tells the status that it was answered with.

    Args:
        url: of the classifying route.
        picture: a good JPEG, to be spoiled.
        seed: of the garbage.
    """

    def __init__(self, url: str, picture: bytes, seed: int = 0) -> None:
        self._url, self._picture = url, picture
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._chance = random.Random(seed)
        self._bomb = bomb(20_000)
        self._packed = gzip.compress(bytes(200 << 20), 9)

    def deeds(self) -> dict[str, Deed]:
        """All of them by name."""
        return {
            "garbage": self.garbage,
            "truncated picture": self.truncated,
            "damaged picture": self.damaged,
            "PNG of 400 megapixels": self.decompression_bomb,
            "gzip of 200 MiB": self.packed_bomb,
            "40 MiB announced": self.announced,
            "40 MiB in chunks": self.chunked,
            "form cut short": self.cut_form,
            "JSON that is none": self.bad_json,
            "slow upload": self.slow,
            "gone in the middle": self.gone_early,
            "gone before the answer": self.gone_late,
            "no HTTP": self.no_http,
        }

    async def garbage(self) -> int:
        """Random bytes as a picture."""
        return await self._ask(post(self._url, "image/jpeg", self._chance.randbytes(20_000)))

    async def truncated(self) -> int:
        """Half a JPEG."""
        return await self._ask(form(self._url, "file", self._picture[: len(self._picture) // 2]))

    async def damaged(self) -> int:
        """A JPEG with random bytes inside; a decoder may well make something of it."""
        spoiled = bytearray(self._picture)
        for _ in range(200):
            spoiled[self._chance.randrange(100, len(spoiled))] = self._chance.randrange(256)
        return await self._ask(form(self._url, "file", bytes(spoiled)))

    async def decompression_bomb(self) -> int:
        """A PNG of 0.4 MB that would decode to 1.2 GB."""
        return await self._ask(post(self._url, "image/png", self._bomb))

    async def packed_bomb(self) -> int:
        """A small gzip'd JSON that unpacks to more than a body may have."""
        headers = {"Content-Encoding": "gzip"}
        return await self._ask(post(self._url, "application/json", self._packed, headers))

    async def announced(self) -> int:
        """A Content-Length over the limit."""
        head = post(self._url, "image/jpeg", b"").replace(
            b"Content-Length: 0", b"Content-Length: 41943040"
        )
        return await self._ask(head + bytes(1 << 20))

    async def chunked(self) -> int:
        """A body without a length that does not end."""
        head = post(self._url, "image/jpeg", b"").replace(
            b"Content-Length: 0", b"Transfer-Encoding: chunked"
        )
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        return await self._ask(head + chunk * 640 + b"0\r\n\r\n")

    async def cut_form(self) -> int:
        """A form whose last boundary is missing."""
        whole = form(self._url, "file", self._picture)
        head, _, body = whole.partition(b"\r\n\r\n")
        cut = body[:-40]
        head = head.replace(str(len(body)).encode(), str(len(cut)).encode())
        return await self._ask(head + b"\r\n\r\n" + cut)

    async def bad_json(self) -> int:
        """A picture in base64, in JSON that ends too early."""
        text = json.dumps({"pictures": [{"data": base64.b64encode(self._picture).decode()}]})
        return await self._ask(post(self._url, "application/json", text[:-2].encode()))

    async def slow(self) -> int:
        """A byte every 50 ms: never done within the service's limit for uploads."""
        data = form(self._url, "file", self._picture)
        start = data.index(b"\r\n\r\n") + 100
        return await self._ask(data[:start], trickle=data[start:])

    async def gone_early(self) -> int:
        """Disconnects with half the body sent."""
        data = form(self._url, "file", self._picture)
        return await self._leave(data[: len(data) // 2])

    async def gone_late(self) -> int:
        """Disconnects with everything sent and nothing read."""
        return await self._leave(form(self._url, "file", self._picture))

    async def no_http(self) -> int:
        """Bytes that are no request."""
        return await self._ask(self._chance.randbytes(200) + b"\r\n\r\n")

    async def _ask(self, data: bytes, trickle: bytes = b"") -> int:
        """Send, and read the status line; `LOST` where the server hangs up without one."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        sending = asyncio.create_task(_send(writer, data, trickle))
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                line = await reader.readline()
            return int(line.split()[1]) if line.startswith(b"HTTP/1.1 ") else LOST
        except (OSError, TimeoutError):
            return LOST
        finally:
            sending.cancel()
            writer.transport.abort()

    async def _leave(self, data: bytes) -> int:
        _, writer = await asyncio.open_connection(self._host, self._port)
        await _send(writer, data, b"")
        writer.transport.abort()
        return LOST


async def _send(writer: asyncio.StreamWriter, data: bytes, trickle: bytes) -> None:
    with suppress(OSError):  # a server may refuse before it has read everything
        for start in range(0, len(data), 1 << 16):
            writer.write(data[start : start + (1 << 16)])
            await writer.drain()
        for index in range(len(trickle)):
            writer.write(trickle[index : index + 1])
            await asyncio.sleep(0.05)


async def trouble(hostile: Hostile, seconds: float, rate: float) -> dict[str, Counter[int]]:
    """Commit so many deeds a second, each kind in turn; statuses by kind."""
    found: dict[str, Counter[int]] = {name: Counter() for name in hostile.deeds()}
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    running: set[asyncio.Task[None]] = set()

    async def one(name: str, deed: Deed) -> None:
        try:
            found[name][await deed()] += 1
        except OSError:
            found[name][LOST] += 1

    turn: Iterator[tuple[str, Deed]] = itertools.cycle(hostile.deeds().items())
    while loop.time() < end:
        task = asyncio.create_task(one(*next(turn)))
        running.add(task)
        task.add_done_callback(running.discard)
        await asyncio.sleep(1 / rate)
    if running:
        await asyncio.wait(running, timeout=_WAIT_SECONDS)
    return found


def bomb(side: int) -> bytes:
    """A PNG of side x side grey pixels, all black, in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    packer, packed = zlib.compressobj(9), io.BytesIO()
    row = bytes(side + 1)  # a filter byte before the pixels
    for _ in range(side):
        packed.write(packer.compress(row))
    packed.write(packer.flush())
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", packed.getvalue())
        + chunk(b"IEND", b"")
    )
