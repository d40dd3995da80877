"""Whatever `LaViTConfig` accepts: closed forms, folding and ONNX agree with the network itself."""

import math

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lavit_deploy.checkpoint import load_checkpoint, save_checkpoint
from lavit_deploy.export.graphs.onnx_graph import write_onnx
from lavit_deploy.export.tensorrt.uint8_input import cast_first
from lavit_deploy.families.lavit import LAVIT
from lavit_deploy.folding.fold import fold
from lavit_deploy.manifest import BatchRange
from lavit_deploy.model.config import STAGES, LaViTConfig
from lavit_deploy.model.counts import multiply_adds, parameter_count
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.preprocess import Preprocess

EXACT = 1e-10
"""Both sides compute in float64 and differ in the order of sums alone."""

SINGLE = 1e-4
"""Of float32 over the largest logit: some hundred products in a row, at 6e-8 each, with room for
what LayerNorms over a channel or two amplify."""


PATCHES = st.tuples(st.integers(1, 5), *[st.integers(1, 3)] * (STAGES - 1)).filter(
    lambda patches: math.prod(patches[1:]) <= 8  # Psi has the square of the first tokens
)


@st.composite
def divisors(draw, *numbers):
    common = math.gcd(*numbers)
    return draw(st.sampled_from([value for value in range(1, common + 1) if common % value == 0]))


@st.composite
def configurations(draw):
    """A configuration, built from the last grid to the picture, so that every size divides."""

    def each(values):
        return tuple(draw(values) for _ in range(STAGES))

    patches = draw(PATCHES)
    heads, depths = each(st.integers(1, 3)), each(st.integers(1, 3))
    class_token, residual = draw(st.booleans()), draw(st.booleans())
    height, width = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    ratios = [1 if class_token else draw(st.integers(1, 2))]
    height, width = height * ratios[0], width * ratios[0]
    for patch in reversed(patches[1:]):
        height, width = height * patch, width * patch
        # The residual needs one grid of keys in all stages.
        ratios.insert(0, ratios[0] * patch if residual else draw(divisors(height, width)))
    return LaViTConfig(
        image_size=(height * patches[0], width * patches[0]),
        in_channels=draw(st.integers(1, 4)),
        num_classes=draw(st.integers(1, 5)),
        patch_sizes=patches,
        depths=depths,
        dims=tuple(count * draw(st.integers(2, 6)) for count in heads),
        heads=heads,
        mlp_ratios=each(st.integers(1, 3)),
        sr_ratios=tuple(ratios),
        la_start=tuple(draw(st.sampled_from((0, *range(2, depth + 1)))) for depth in depths),
        attention_residual=residual,
        class_token=class_token,
        norm_eps=draw(st.sampled_from((1e-6, 1e-5, 1e-3))),
    )


def model_of(config):
    """A model whose parameters are all away from 0, 1 and identity."""
    generator = torch.Generator().manual_seed(5)
    model = LaViT(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    return model


def pictures_of(config, count=3):
    random = np.random.default_rng(6)
    shape = (count, *config.image_size, config.in_channels)
    return random.integers(0, 256, shape, dtype=np.uint8)


def reference(model, preprocess, images):
    """Logits of the network in float64, of pictures normalised by hand."""
    scaled = (images / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    pixels = torch.from_numpy(scaled.transpose(0, 3, 1, 2).copy())  # [B, H, W, C] -> [B, C, H, W]
    double = LaViT(model.config).double().eval()
    double.load_state_dict(model.double().state_dict())
    with torch.inference_mode():
        logits = double(pixels)
    model.float()
    return logits.numpy()


def difference(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


MANY = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEW = settings(
    MANY,
    max_examples=2,
    suppress_health_check=[HealthCheck.function_scoped_fixture, *MANY.suppress_health_check],
)


@pytest.mark.slow
@MANY
@given(configurations())
def test_closed_forms_count_what_the_network_has_and_does(config):
    model = LaViT(config).eval()
    picture = torch.zeros(1, config.in_channels, *config.image_size)
    assert parameter_count(config).total() == sum(value.numel() for value in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(picture)
    # PyTorch counts a multiply and an add as two.
    assert multiply_adds(config).total() == counter.get_total_flops() // 2


@pytest.mark.slow
@MANY
@given(configurations())
def test_a_folded_model_is_the_same_function(config):
    model = model_of(config)
    preprocess = Preprocess.for_size(config.image_size, config.in_channels)
    images = pictures_of(config)
    folded = fold(model, preprocess, dtype=torch.float64).model
    with torch.inference_mode():
        found = folded(torch.from_numpy(images)).numpy()
    assert difference(found, reference(model, preprocess, images)) < EXACT


@MANY
@given(configurations())
def test_a_configuration_survives_writing_and_has_a_name(config):
    assert LAVIT.read_config(config.to_dict()) == config
    assert LAVIT.preset_name(config) == "custom"


@pytest.mark.slow
@FEW
@given(configurations())
def test_a_checkpoint_becomes_a_graph_of_the_same_function(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("drawn")
    preprocess = Preprocess.for_size(config.image_size, config.in_channels)
    classes = [f"class {index}" for index in range(config.num_classes)]
    save_checkpoint(folder / "m.pth", model_of(config), preprocess=preprocess, classes=classes)
    checkpoint = load_checkpoint(folder / "m.pth")
    model = checkpoint.build()
    graph = write_onnx(
        checkpoint,
        LAVIT.fold(model, preprocess).model,
        folder / "m.onnx",
        batch=BatchRange(minimum=1, optimum=2, maximum=4),
        precision="fp32",
    )
    images = pictures_of(config)
    wanted = reference(model, preprocess, images)
    for made in (graph, cast_first(graph)):
        session = onnxruntime.InferenceSession(made.SerializeToString())
        for count in (1, 3):
            (found,) = session.run(None, {"images": images[:count]})
            assert difference(found, wanted[:count]) < SINGLE
