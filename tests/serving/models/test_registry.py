"""Models come, go and are exchanged, and no request notices."""

import asyncio
import contextlib

import pytest

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.common.errors import InferenceError
from lavit_deploy.serving.errors import LastModelError, ModelRefusedError, UnknownModelError
from lavit_deploy.serving.models.open_models import open_models
from lavit_deploy.serving.models.registry import Registry
from lavit_deploy.serving.settings.model_source import ModelKey, ModelSource
from lavit_deploy.serving.settings.settings import ServiceSettings
from lavit_deploy.serving.telemetry.metrics import Metrics

PATIENCE = 30.0


def run(main):
    async def limited():
        async with asyncio.timeout(PATIENCE):
            await main()

    asyncio.run(limited())


@contextlib.asynccontextmanager
async def started(registry):
    registry.start()
    await registry.until_ready()
    try:
        yield registry
    finally:
        await registry.close(PATIENCE)


@pytest.fixture
def registry_of():
    """A registry over bundles on disk."""

    def make(*bundles, models=()):
        settings = ServiceSettings(bundles=bundles, models=models, threads=1, decoders=1)
        metrics = Metrics()
        return Registry(open_models(settings), settings, metrics), metrics

    return make


def keys(registry):
    return [ModelKey(entry.name, entry.version) for entry in registry.listing()]


async def ask(registry, picture, name=None, version=None):
    """Classify one picture: (checkpoint that answered, most likely class)."""
    with registry.use(name, version) as classifier:
        (result,) = await classifier.classify((picture,), 1)
        ((index, _),) = result.ranking.classes
        return classifier.model.id.checkpoint, classifier.classes[index]


OLD, NEW = "0123456789ab", "fedcba987654"


def test_models_are_asked_by_name_and_version_and_the_first_is_the_default(
    registry_of, write_bundle, picture
):
    first = write_bundle("colours", folder="a")
    second = write_bundle("colours", folder="b", checkpoint=NEW)
    third = write_bundle("paints", folder="c")

    async def main():
        registry, _ = registry_of(first, second, models=(ModelSource(third, "p", "7"),))
        async with started(registry):
            assert keys(registry) == [("colours", "1"), ("colours", "2"), ("p", "7")]
            assert [entry.default for entry in registry.listing()] == [True, False, False]
            assert await ask(registry, picture()) == (OLD, "red")
            assert (await ask(registry, picture(), "colours"))[0] == OLD
            assert (await ask(registry, picture(), "colours", "2"))[0] == NEW
            assert (await ask(registry, picture(), None, "2"))[0] == NEW
            assert (await ask(registry, picture(), "p"))[0] == OLD
            for wrong in (("colours", "7"), ("paints", None), (None, "7")):
                with pytest.raises(UnknownModelError, match="there is colours version 1, "):
                    registry.use(*wrong).__enter__()

    run(main)


def test_an_exchange_is_seen_by_the_next_request_while_the_last_finishes_with_the_old_model(
    make_registry, runtime, write_bundle, picture
):
    fresh = write_bundle(checkpoint=NEW)

    async def main():
        registry, _, _ = make_registry(runtime)
        async with started(registry):
            while runtime.entered.acquire(blocking=False):
                pass  # the warm-up's calls
            runtime.held = True
            holds = asyncio.create_task(ask(registry, picture()))
            assert await asyncio.to_thread(runtime.entered.acquire, timeout=PATIENCE)
            await registry.load(ModelSource(fresh))
            assert await ask(registry, picture((0, 0, 255))) == (NEW, "blue")
            assert not runtime.closed
            runtime.let_go()
            assert await holds == (OLD, "red")
            await asyncio.gather(*registry._retiring)
            assert runtime.closed

    run(main)


def test_no_request_fails_while_models_are_exchanged_under_load(registry_of, write_bundle, picture):
    bundles = [write_bundle(folder=str(n), checkpoint=f"{n:012x}") for n in range(2)]

    async def main():
        registry, _ = registry_of(bundles[0])
        async with started(registry):
            done = asyncio.Event()
            answers = []

            async def client():
                while not done.is_set():
                    answers.append(await ask(registry, picture()))

            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(client())
                for turn in range(1, 11):
                    await registry.load(ModelSource(bundles[turn % 2]))
                    await ask(registry, picture())  # traffic between two exchanges
                done.set()
            assert len(answers) >= 10
            assert {label for _, label in answers} == {"red"}
            assert {checkpoint for checkpoint, _ in answers} == {f"{n:012x}" for n in range(2)}

    run(main)


def alter(bundle):
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"x")


def spoil_parity(bundle):
    manifest = Bundle.open(bundle).manifest
    (artifact,) = manifest.artifacts
    update = {"passed": False, "reason": "top-1 agreement 0.1"}
    artifact = artifact.model_copy(update={"parity": artifact.parity.model_copy(update=update)})
    Bundle.write_manifest(bundle, manifest.model_copy(update={"artifacts": (artifact,)}))


DAMAGES = [
    (lambda bundle: (bundle / "manifest.json").unlink(), "has no manifest.json"),
    (lambda bundle: (bundle / "manifest.json").write_text("{"), "cannot be read as JSON"),
    (lambda bundle: (bundle / "model.onnx").unlink(), "the bundle is incomplete"),
    (alter, "is not the file that was exported"),
    (spoil_parity, "failed parity (top-1 agreement 0.1)"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_a_bundle_that_is_refused_leaves_the_old_model_in_service_and_says_why(
    registry_of, write_bundle, picture, caplog, damage, reason
):
    good, bad = write_bundle(folder="a"), write_bundle(folder="b", checkpoint=NEW)
    damage(bad)

    async def main():
        registry, _ = registry_of(good)
        async with started(registry):
            with pytest.raises(ModelRefusedError) as caught:
                await registry.load(ModelSource(bad, "colours", "1"))
            assert reason in str(caught.value)
            assert reason in caplog.text
            assert await ask(registry, picture()) == (OLD, "red")
            assert registry.unready_reason is None

    run(main)


def test_a_model_that_fails_its_warm_up_gets_no_traffic_and_is_freed(
    make_registry, runtime, write_bundle, picture, monkeypatch
):
    from lavit_deploy.runtimes.onnxruntime import OnnxRuntime

    closed = []

    def fail(*_):
        raise InferenceError("no memory")

    async def main():
        registry, _, _ = make_registry(runtime)
        async with started(registry):
            monkeypatch.setattr(OnnxRuntime, "_infer", fail)
            monkeypatch.setattr(OnnxRuntime, "close", lambda _: closed.append(True))
            with pytest.raises(ModelRefusedError, match="no memory"):
                await registry.load(ModelSource(write_bundle(checkpoint=NEW)))
            assert closed
            assert (await ask(registry, picture()))[0] == OLD

    run(main)


def test_a_loaded_model_can_become_the_default_and_the_others_go(
    registry_of, write_bundle, picture
):
    first, second = write_bundle(folder="a"), write_bundle(folder="b", checkpoint=NEW)

    async def main():
        registry, _ = registry_of(first)
        async with started(registry):
            added = await registry.load(ModelSource(second, "colours", "2"))
            assert not added.default
            assert (await ask(registry, picture()))[0] == OLD
            assert (await registry.load(ModelSource(second, "colours", "2"), default=True)).default
            assert (await ask(registry, picture()))[0] == NEW
            await registry.unload("colours", "1")
            assert keys(registry) == [("colours", "2")]
            with pytest.raises(UnknownModelError):
                await registry.unload("colours", "1")
            with pytest.raises(LastModelError):
                await registry.unload("colours", "2")

    run(main)


def test_a_reload_loads_what_changed_keeps_what_did_not_and_unloads_what_is_gone(
    registry_of, write_bundle, picture
):
    kept, changed, gone = (write_bundle(name, folder=name) for name in ("kept", "changed", "gone"))

    async def main():
        registry, _ = registry_of(kept, changed, gone)
        async with started(registry):
            with registry.use("kept") as before:
                pass
            write_bundle("changed", folder="changed", checkpoint=NEW)
            added = write_bundle("added", folder="added")
            await registry.reload([ModelSource(path) for path in (added, kept, changed)])
            assert [key.name for key in keys(registry)] == ["added", "kept", "changed"]
            assert registry.listing()[0].default
            with registry.use("kept") as after:
                assert after is before
            assert (await ask(registry, picture(), "changed"))[0] == NEW

    run(main)


@pytest.mark.parametrize("damage", [damage for damage, _ in DAMAGES])
def test_a_reload_with_a_bundle_that_is_refused_unloads_nothing(
    registry_of, write_bundle, picture, damage
):
    first, second = (write_bundle(name, folder=name) for name in ("first", "second"))

    async def main():
        registry, _ = registry_of(first, second)
        async with started(registry):
            bad = write_bundle("first", folder="first", checkpoint=NEW)
            damage(bad)
            with pytest.raises(ModelRefusedError):
                await registry.reload([ModelSource(bad)])
            assert (await ask(registry, picture(), "first"))[0] == OLD
            assert (await ask(registry, picture(), "second"))[0] == OLD

    run(main)


def test_the_metrics_follow_the_models(registry_of, write_bundle, picture):
    first, second = write_bundle(folder="a"), write_bundle(folder="b", checkpoint=NEW)

    async def main():
        registry, metrics = registry_of(first)

        def lines(start):
            text = metrics.exposition("")[0].decode()
            return [line for line in text.splitlines() if line.startswith(start)]

        async with started(registry):
            await ask(registry, picture())
            await registry.load(ModelSource(second, "colours", "1"))
            (info,) = lines("lavit_model_info")
            assert NEW in info
            await ask(registry, picture())
            labels = '{model="colours",version="1"}'
            assert lines("lavit_batch_size_count") == [f"lavit_batch_size_count{labels} 2.0"]
            await registry.load(ModelSource(first, "colours", "2"))
            assert len(lines("lavit_model_ready")) == len(lines("lavit_queue_depth")) == 2
            await registry.unload("colours", "1")
            assert lines("lavit_model_ready") == [
                'lavit_model_ready{model="colours",version="2"} 1.0'
            ]
            assert len(lines("lavit_model_info")) == 1
            assert lines("lavit_ready") == ["lavit_ready 1.0"]

    run(main)


def test_ready_only_when_every_model_is(make_registry, runtime, write_bundle):
    async def main():
        registry, _, _ = make_registry(runtime)
        assert registry.unready_reason == "the model is warming up"
        async with started(registry):
            assert registry.unready_reason is None
            await registry.load(ModelSource(write_bundle("second")))
            with registry.use("second") as classifier:
                classifier.stop_soon()
            assert registry.unready_reason == "second version 1: the service is stopping"
        assert registry.drained

    run(main)
