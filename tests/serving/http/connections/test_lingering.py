"""A connection is closed in two steps, on either event loop, and the second one comes."""

import asyncio
import socket

import pytest
import uvloop

from lavit_deploy.serving.http.connections.lingering import LingeringTransport

PATIENCE = 30.0
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class Protocol(asyncio.Protocol):
    def __init__(self, *, seconds, pause):
        self.limits = {"seconds": seconds, "pause": pause}
        self.heard = bytearray()
        self.asked = asyncio.Event()
        self.lost = asyncio.Event()

    def connection_made(self, transport):
        loop = asyncio.get_running_loop()
        self.transport = LingeringTransport(transport, loop, **self.limits)

    def data_received(self, data):
        self.heard += data
        self.asked.set()
        if self.transport.is_closing():
            self.transport.heard()

    def connection_lost(self, exc):
        self.transport.ended()
        self.lost.set()


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def connected(request):
    """Runs a coroutine with a protocol and a client that are connected."""

    def run(work, *, seconds=PATIENCE, pause=PATIENCE):
        async def main():
            loop = asyncio.get_running_loop()
            protocol = Protocol(seconds=seconds, pause=pause)
            server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
            client = socket.create_connection(server.sockets[0].getsockname())
            client.setblocking(False)
            try:
                await loop.sock_sendall(client, b"question")
                async with asyncio.timeout(PATIENCE):
                    await protocol.asked.wait()
                    await work(protocol, client, loop)
            finally:
                client.close()
                server.close()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main())

    return run


def test_what_was_written_arrives_though_more_was_sent_that_nobody_reads(connected):
    async def work(protocol, client, loop):
        protocol.transport.pause_reading()
        await loop.sock_sendall(client, b"x" * 10_000)
        protocol.transport.write(b"answer")
        protocol.transport.close()
        assert protocol.transport.is_closing()
        protocol.transport.write(b"more")
        assert await loop.sock_recv(client, 100) == b"answer"
        assert await loop.sock_recv(client, 100) == b""
        await loop.sock_sendall(client, b"y" * 10_000)  # no reset
        assert not protocol.lost.is_set()
        client.shutdown(socket.SHUT_WR)
        await protocol.lost.wait()
        assert len(protocol.heard) == 20_008

    connected(work)


def test_it_waits_no_longer_than_a_pause_and_no_longer_than_it_may(connected):
    async def silent(protocol, client, loop):
        protocol.transport.close()
        await protocol.lost.wait()

    async def talking(protocol, client, loop):
        protocol.transport.close()
        began = loop.time()
        while not protocol.lost.is_set():
            try:
                await loop.sock_sendall(client, b"x")
            except OSError:
                break
            await asyncio.sleep(0.02)
        assert loop.time() - began >= 0.3

    connected(silent, pause=0.1)
    connected(talking, seconds=0.3, pause=0.2)


def test_it_can_be_closed_at_once(connected):
    async def work(protocol, client, loop):
        protocol.transport.write(b"answer")
        protocol.transport.close_now()
        protocol.transport.close()
        assert protocol.transport.closed
        assert await loop.sock_recv(client, 100) == b"answer"
        await protocol.lost.wait()

    connected(work)


def test_a_client_that_has_gone_is_no_fault(connected, caplog):
    async def work(protocol, client, loop):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        client.close()  # a reset
        protocol.transport.write(b"answer")
        protocol.transport.close()
        await protocol.lost.wait()
        protocol.transport.write(b"more")
        protocol.transport.resume_reading()
        protocol.transport.pause_reading()
        assert protocol.transport.get_write_buffer_size() == 0

    connected(work)
    assert not caplog.records
