"""Decoders: limits in time and memory, and processes that die of a picture without the service."""

import asyncio
import importlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavit_deploy.common.errors import CorruptImageError, ImageTooLargeError, UnsupportedImageError
from lavit_deploy.preprocess import Preprocess, prepare
from lavit_deploy.serving.decoding.pool import Decoders
from lavit_deploy.serving.decoding.process import DecoderFaultError
from lavit_deploy.serving.errors import DecoderCrashError, DecodingTimeoutError

PREPROCESS = Preprocess(resize=32, crop=(32, 32))
PATIENCE = 60.0


def jpeg(seed=0, size=(120, 90)):
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def treacherous(monkeypatch):
    """A decoder that really breaks, from a module that a child process can import."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("treacherous_decoder").treacherous


@pytest.fixture
def make():
    made = []

    def decoders(isolation="threads", **changes):
        options = {"workers": 1, "max_pixels": 1_000_000, "seconds": PATIENCE, **changes}
        made.append(Decoders(isolation=isolation, **options))
        return made[-1]

    yield decoders
    for item in made:
        item.close()


def run(decoders, *pictures):
    """Outcome of each picture, one after the other."""

    async def outcomes():
        found = []
        for data in pictures:
            (one,) = await asyncio.gather(decoders.decode(data, PREPROCESS), return_exceptions=True)
            found.append(one if isinstance(one, Exception) else one.pixels)
        return found

    return asyncio.run(outcomes())


def test_threads_and_processes_give_the_pixels_that_prepare_gives(make):
    pictures = [jpeg(seed, (120 + 40 * seed, 90)) for seed in range(3)]
    expected = [prepare(data, PREPROCESS) for data in pictures]
    for isolation in ("threads", "processes"):
        found = run(make(isolation), *pictures)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("isolation", ["threads", "processes"])
def test_a_refused_picture_keeps_its_error_and_its_words(make, isolation):
    found = run(make(isolation), b"text", jpeg()[:400], jpeg(size=(1200, 900)))
    assert [type(item) for item in found] == [
        UnsupportedImageError,
        CorruptImageError,
        ImageTooLargeError,
    ]
    assert "JPEG, PNG" in str(found[0])
    assert "1200 x 900 = 1,080,000 pixels; the limit is 1,000,000" in str(found[2])


def test_a_crash_of_the_decoder_costs_one_picture(make, treacherous, caplog):
    decoders = make("processes", job=treacherous)
    good = jpeg()
    first, crashed, after = run(decoders, good, b"crash", good)
    assert isinstance(crashed, DecoderCrashError)
    assert np.array_equal(first, after)
    assert "exit code -11" in caplog.text  # SIGSEGV


def test_a_decoder_that_is_killed_while_idle_is_replaced_without_a_loss(make):
    decoders = make("processes")
    (child,) = decoders._children
    (before,) = run(decoders, jpeg())
    os.kill(child.pid, signal.SIGKILL)
    child._process.join()
    (after,) = run(decoders, jpeg())
    assert np.array_equal(before, after)


def test_a_decoder_that_cannot_start_is_a_fault_of_ours_and_not_of_the_picture(make):
    (fault,) = run(make("processes", job=os.abort), jpeg())
    assert isinstance(fault, DecoderFaultError)


def test_a_decoder_that_hangs_is_killed_at_the_limit_and_replaced(make, treacherous):
    decoders = make("processes", job=treacherous, seconds=0.5)
    (child,) = decoders._children
    before = child.pid
    hung, after = run(decoders, b"hang", jpeg())
    assert isinstance(hung, DecodingTimeoutError)
    assert "longer than 0.5 s" in str(hung)
    assert after.shape == (32, 32, 3)
    assert child.pid != before


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP is of POSIX")
@pytest.mark.parametrize("size", [0, 8 << 20])
def test_a_decoder_that_is_stopped_is_killed_at_the_limit_however_large_the_picture(make, size):
    decoders = make("processes", seconds=0.5)
    (child,) = decoders._children
    run(decoders, jpeg())
    os.kill(child.pid, signal.SIGSTOP)
    stopped, after = run(decoders, jpeg() + bytes(size), jpeg())  # more than a pipe holds
    assert isinstance(stopped, DecodingTimeoutError)
    assert after.shape == (32, 32, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS binds on Linux")
def test_a_decoder_whose_memory_blows_up_costs_one_picture(make, treacherous):
    decoders = make("processes", job=treacherous)
    (child,) = decoders._children
    before = child.pid
    grown, after = run(decoders, b"grow", jpeg())
    assert isinstance(grown, ImageTooLargeError)
    assert after.shape == (32, 32, 3)
    assert child.pid == before  # the allocation was refused; it need not die


def test_a_fault_of_ours_in_a_child_keeps_its_traceback(make, treacherous):
    (fault,) = run(make("processes", job=treacherous), b"fault")
    assert isinstance(fault, DecoderFaultError)
    assert "ZeroDivisionError: a fault of ours" in str(fault)


def test_a_child_that_answers_more_than_was_asked_for_counts_as_broken(make, treacherous):
    flooded, after = run(make("processes", job=treacherous), b"flood", jpeg())
    assert isinstance(flooded, DecoderCrashError)
    assert after.shape == (32, 32, 3)


def test_a_slow_picture_in_a_thread_is_answered_at_the_limit(make, monkeypatch):
    from lavit_deploy.serving.decoding import pool

    release = threading.Event()
    monkeypatch.setattr(pool, "prepare", lambda *_, **__: release.wait(PATIENCE))
    (slow,) = run(make("threads", seconds=0.05), b"slow")
    release.set()
    assert isinstance(slow, DecodingTimeoutError)


def test_waiting_for_a_thread_does_not_count_as_decoding(make, monkeypatch):
    from lavit_deploy.serving.decoding import pool

    def decode(data, *_, **__):
        time.sleep(0.15)
        return np.zeros((32, 32, 3), dtype=np.uint8)

    monkeypatch.setattr(pool, "prepare", decode)
    decoders = make("threads", seconds=0.4)

    async def several():
        return await asyncio.gather(*(decoders.decode(b"x", PREPROCESS) for _ in range(4)))

    answers = asyncio.run(several())  # the last waits longer than the limit
    assert max(answer.wait_seconds for answer in answers) > 0.4


def test_closing_ends_the_processes_even_while_one_hangs(make, treacherous):
    decoders = make("processes", job=treacherous)
    (child,) = decoders._children

    async def main():
        hanging = asyncio.create_task(decoders.decode(b"hang", PREPROCESS))
        while not child._ready:
            await asyncio.to_thread(time.sleep, 0.01)
        decoders.close()
        with pytest.raises(DecoderCrashError):
            await hanging

    asyncio.run(main())
    assert not child._process.is_alive()


def test_the_service_goes_on_when_its_decoder_is_killed(make_client, runtime, picture):
    client = make_client(runtime, decoder_isolation="processes", decoders=1)
    (child,) = client.classifier._decoders._children

    def post():
        headers = {"Content-Type": "image/png"}
        return client.post("/classify", content=picture(), headers=headers).status_code

    assert post() == 200
    os.kill(child.pid, signal.SIGKILL)
    child._process.join()
    assert post() == 200


def test_a_program_that_forgets_to_close_its_decoders_ends_all_the_same():
    code = (
        "from lavit_deploy.serving.decoding.pool import Decoders\n"
        "made = Decoders(workers=2, max_pixels=9, seconds=9, isolation='processes')\n"
        "[child._await_start() for child in made._children]\n"
        "print(*(child.pid for child in made._children))"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    pids = run.stdout.split()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_a_real_server_with_decoder_processes_answers_and_stops(serve, bundle_path, post, picture):
    server = serve(bundle_path, "--decoder-isolation", "processes", "--decoders", "2")
    status, answer = post(server.url + "/classify", picture((0, 0, 255)))
    assert status == 200
    assert answer["results"][0]["predictions"][0]["label"] == "blue"
    assert server.stop() == 0
