import numpy as np

from lavit_deploy.bundle.open import open_artifact
from lavit_deploy.profiles.timing.artifact_runner import ArtifactRunner


def test_an_artifact_is_run_on_uint8_images_of_the_batch(tiny_bundle):
    seen = []
    (artifact,) = tiny_bundle.manifest.artifacts
    with ArtifactRunner("onnx", open_artifact(tiny_bundle, artifact, threads=1)) as runner:
        infer = runner._runtime.infer
        runner._runtime.infer = lambda images: seen.append(images) or infer(images)
        runner.prepare(3)
        assert runner.call() > 0
    assert runner.max_batch == 16
    assert seen[0].shape == (3, 32, 32, 3)
    assert seen[0].dtype == np.uint8
    assert runner.peak_memory() is None
