"""A model takes bytes or pixels and gives plain results, whoever asks: HTTP is only one front."""

import asyncio
import json
import subprocess
import sys

import numpy as np
import pytest

from lavit_deploy.common.errors import CorruptImageError, UnsupportedImageError
from lavit_deploy.serving.errors import NotReadyError, UnexpectedError
from lavit_deploy.serving.models.classifier import Ranked

PATIENCE = 30.0

WITHOUT_HTTP = """\
import asyncio, json, sys
from importlib.abc import MetaPathFinder

class NoHttp(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"starlette", "fastapi", "uvicorn", "httptools"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, NoHttp())

from pathlib import Path
from lavit_deploy.serving.models.open_models import open_models
from lavit_deploy.serving.models.registry import Registry
from lavit_deploy.serving.settings.settings import ServiceSettings
from lavit_deploy.serving.telemetry.metrics import Metrics

async def main(bundle, *pictures):
    settings = ServiceSettings(bundles=(Path(bundle),), threads=1, decoders=1)
    registry = Registry(open_models(settings), settings, Metrics())
    registry.start()
    await registry.until_ready()
    with registry.use() as classifier:
        results = await classifier.classify([Path(path).read_bytes() for path in pictures], 1)
        print(json.dumps([classifier.classes[result.ranking.classes[0][0]] for result in results]))
    await registry.close(30)

asyncio.run(main(*sys.argv[1:]))
"""


def test_pictures_are_classified_where_no_http_package_can_be_imported(
    bundle_path, picture, tmp_path
):
    paths = []
    for name, colour in (("a", (0, 0, 255)), ("b", (0, 255, 0))):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(picture(colour))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HTTP, bundle_path, *paths],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["blue", "green"]


@pytest.fixture
def with_classifier(make_registry, runtime):
    """Runs `scenario(classifier, metrics)` on a model that has answered its warm-up."""

    def run(scenario, **changes):
        async def main():
            registry, _, metrics = make_registry(runtime, **changes)
            registry.start()
            await registry.until_ready()
            with registry.use() as classifier:
                await scenario(classifier, metrics)
            await registry.close(PATIENCE)

        async def limited():
            async with asyncio.timeout(PATIENCE):
                await main()

        asyncio.run(limited())

    return run


def errors_of(metrics):
    lines = metrics.exposition("")[0].decode().splitlines()
    counted = (line.rpartition(" ") for line in lines if line.startswith("lavit_errors_total"))
    return {name: float(value) for name, _, value in counted if float(value)}


def test_a_picture_gets_its_classes_and_where_its_time_went(with_classifier, picture, colours):
    async def scenario(classifier, _):
        (result,) = await classifier.classify([picture((200, 30, 90))], 2)
        assert isinstance(result, Ranked)
        expected = colours((200, 30, 90))
        assert [classifier.classes[index] for index, _ in result.ranking.classes] == ["red", "blue"]
        for index, probability in result.ranking.classes:
            assert probability == pytest.approx(expected[classifier.classes[index]], abs=2e-6)
        assert result.batch == 1
        assert min(result.decode_seconds, result.infer_seconds) > 0
        assert result.queue_seconds >= 0

    with_classifier(scenario)


def test_what_fails_is_an_error_in_its_place_and_counted(with_classifier, picture):
    async def scenario(classifier, metrics):
        pictures = [b"no picture", picture(), picture()[:60]]
        first, good, last = await classifier.classify(pictures, 1)
        assert isinstance(first, UnsupportedImageError)
        assert isinstance(good, Ranked)
        assert isinstance(last, CorruptImageError)
        assert errors_of(metrics) == {
            'lavit_errors_total{reason="unsupported-image"}': 1,
            'lavit_errors_total{reason="corrupt-image"}': 1,
        }

    with_classifier(scenario)


def test_logits_are_those_of_the_runtime_for_files_and_for_pixels(with_classifier, picture):
    async def scenario(classifier, _):
        pixels = np.full((64, 64, 3), (0, 255, 51), dtype=np.uint8)
        for result in await classifier.infer([picture((0, 255, 51)), pixels]):
            # Means of equal integers are exact in float32; 10 / 255 costs one rounding.
            np.testing.assert_allclose(result.logits, [0, 10, 2], rtol=1e-6)

    with_classifier(scenario)


def test_a_fault_of_ours_is_an_error_without_internals_and_counted(
    with_classifier, picture, monkeypatch, caplog
):
    async def fail(*_):
        raise ZeroDivisionError("/secret/path")

    async def scenario(classifier, metrics):
        monkeypatch.setattr(classifier._decoders, "decode", fail)
        for ask in (classifier.infer([picture()]), classifier.classify([picture()], 1)):
            (result,) = await ask
            assert isinstance(result, UnexpectedError)
            assert "secret" not in str(result)
        assert errors_of(metrics) == {'lavit_errors_total{reason="unexpected"}': 2}
        assert "ZeroDivisionError" in caplog.text

    with_classifier(scenario)


def test_nothing_is_taken_before_the_warm_up(make_registry, runtime, picture):
    async def main():
        registry, _, _ = make_registry(runtime)
        with registry.use() as classifier:
            for ask in (classifier.infer([picture()]), classifier.classify([picture()], 1)):
                with pytest.raises(NotReadyError, match="warming up"):
                    await ask
            with pytest.raises(RuntimeError, match="start"):
                await classifier.until_ready()
        await registry.close(PATIENCE)

    asyncio.run(main())
