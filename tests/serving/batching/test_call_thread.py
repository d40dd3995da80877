"""A thread that is awaited: one call at a time, every outcome comes back, and it can be left."""

import asyncio
import queue
import threading

import pytest

from event_loop import PATIENCE, run
from lavit_deploy.serving.batching.call_thread import CallThread


@pytest.fixture
def thread():
    made = CallThread("runtime-7")
    yield made
    assert made.stop(PATIENCE)


@pytest.fixture
def gate():
    """A call that says when it has begun, and waits until it is let go."""

    class Gate:
        begun, open = threading.Event(), threading.Event()

        def __call__(self):
            self.begun.set()
            assert self.open.wait(PATIENCE)
            return "let go"

    return Gate()


async def begun(gate):
    assert await asyncio.to_thread(gate.begun.wait, PATIENCE)


def test_calls_run_in_one_thread_that_bears_the_name_and_keeps_no_process_alive(thread):
    async def main():
        first = await thread.run(threading.current_thread)
        assert await thread.run(threading.current_thread) is first
        assert (first.name, first.daemon) == ("runtime-7", True)
        assert first is not threading.current_thread()

    run(main)


def test_arguments_and_the_result_go_through(thread):
    async def main():
        assert await thread.run(divmod, 17, 5) == (3, 2)
        assert await thread.run(sorted, [1, 3, 2], reverse=True) == [3, 2, 1]

    run(main)


def test_an_error_of_the_call_is_raised_where_it_is_awaited_and_the_next_call_runs(thread):
    async def main():
        with pytest.raises(ZeroDivisionError):
            await thread.run(divmod, 1, 0)
        assert await thread.run(abs, -1) == 1

    run(main)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("stop")])
def test_what_would_end_the_event_loop_arrives_as_an_ordinary_error(thread, error):
    def call():
        raise error

    async def main():
        with pytest.raises(RuntimeError, match=type(error).__name__):
            await thread.run(call)
        assert await thread.run(abs, -1) == 1

    run(main)


def test_the_event_loop_goes_on_while_a_call_runs(thread, gate):
    async def main():
        call = asyncio.create_task(thread.run(gate))
        await begun(gate)
        assert not call.done()
        gate.open.set()
        assert await call == "let go"

    run(main)


def test_a_call_that_was_given_up_before_it_began_does_not_run(thread, gate):
    ran = []

    async def main():
        first = asyncio.create_task(thread.run(gate))
        await begun(gate)
        second = asyncio.create_task(thread.run(ran.append, "second"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        gate.open.set()
        assert await first == "let go"
        await thread.run(ran.append, "third")

    run(main)
    assert ran == ["third"]


def test_callers_who_do_not_take_turns_are_told(thread, gate):
    async def main():
        calls = [asyncio.create_task(thread.run(gate))]
        await begun(gate)
        calls += [asyncio.create_task(thread.run(abs, -1)) for _ in range(3)]
        await asyncio.sleep(0)
        gate.open.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert outcomes[:3] == ["let go", 1, 1]
        assert isinstance(outcomes[3], queue.Full)

    run(main)


def test_stopping_waits_for_the_call_that_runs_and_says_whether_it_ended(gate):
    thread = CallThread("runtime-0")

    async def main():
        call = asyncio.create_task(thread.run(gate))
        await begun(gate)
        assert not await asyncio.to_thread(thread.stop, 0.001)
        gate.open.set()
        assert await call == "let go"
        assert await asyncio.to_thread(thread.join, PATIENCE)  # it had its order to end

    run(main)


def test_stopping_gives_up_where_calls_still_wait(gate):
    thread = CallThread("runtime-0")

    async def main():
        calls = [asyncio.create_task(thread.run(gate))]
        await begun(gate)
        calls += [asyncio.create_task(thread.run(abs, -1)) for _ in range(2)]
        await asyncio.sleep(0)
        assert not await asyncio.to_thread(thread.stop, 0.001)
        gate.open.set()
        assert await asyncio.gather(*calls) == ["let go", 1, 1]
        assert await asyncio.to_thread(thread.stop, PATIENCE)

    run(main)


def test_a_thread_that_hangs_can_be_left_and_tidies_up_should_it_come_back(gate):
    thread, tidied = CallThread("runtime-0"), []

    async def main():
        call = asyncio.create_task(thread.run(gate))
        await begun(gate)
        thread.abandon(lambda: tidied.append(threading.current_thread().name))
        assert not await asyncio.to_thread(thread.join, 0.001)
        assert tidied == []
        gate.open.set()
        assert await call == "let go"
        assert await asyncio.to_thread(thread.join, PATIENCE)

    run(main)
    assert tidied == ["runtime-0"]
