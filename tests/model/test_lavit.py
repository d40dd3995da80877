"""The model against an independent transcription of the paper in float64 NumPy."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import erf, softmax

from lavit_deploy.model.config import LaViTConfig, lavit_micro
from lavit_deploy.model.lavit import AttentionResidual, LaViT, LessAttention, VanillaAttention

# Both sides compute in float64, so only the order of sums differs: about 50 products in sequence
# of sums of up to 512 terms give some 1e-13 relative.
TOLERANCE = 1e-11

SMALL = LaViTConfig(
    image_size=(32, 64),
    num_classes=7,
    depths=(1, 2, 3, 3),
    dims=(8, 16, 24, 32),
    heads=(1, 2, 3, 2),
    mlp_ratios=(2, 2, 3, 2),
    sr_ratios=(8, 4, 2, 1),
    la_start=(0, 2, 3, 2),
)
CONFIGS = {
    "not square": SMALL,
    "micro": lavit_micro(),
    "class token": dataclasses.replace(SMALL, image_size=(64, 64), class_token=True),
    "no residual": dataclasses.replace(SMALL, attention_residual=False, sr_ratios=(2, 2, 1, 1)),
    "no less-attention": dataclasses.replace(SMALL, la_start=(0, 0, 0, 0)),
    "96 pixels": lavit_micro(image_size=96),
}


def random_model(config):
    """A model in which no parameter is at a value that hides a mistake (0, 1, identity)."""
    generator = torch.Generator().manual_seed(11)
    model = LaViT(config).double().eval()
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.dtype == torch.float64:
                value.add_(torch.randn(value.shape, generator=generator), alpha=0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.abs_().add_(0.1)
    return model


class Transcription:
    """The paper's equations in NumPy; `weights` are the model's parameters by name."""

    def __init__(self, config, weights):
        self.config = config
        self.w = {name: value.numpy() for name, value in weights.items()}
        self.scores = []

    def linear(self, x, name):
        return np.einsum("...i,oi->...o", x, self.w[f"{name}.weight"]) + self.w[f"{name}.bias"]

    def norm(self, x, name):
        centred = x - x.mean(-1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.config.norm_eps)
        return unit * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def patches(self, x, name, size):
        """Convolution with k = s = size on [B, h, w, C], as a sum over each patch."""
        batch, height, width, channels = x.shape
        cut = x.reshape(batch, height // size, size, width // size, size, channels)
        kernel = self.w[f"{name}.weight"]  # [D, C, size, size]
        out = np.einsum("bhiwjc,dcij->bhwd", cut, kernel)
        return out + self.w.get(f"{name}.bias", 0.0)

    def heads(self, x, count):
        batch, tokens, dim = x.shape
        return x.reshape(batch, tokens, count, dim // count).transpose(0, 2, 1, 3)

    def reduced(self, x, name, stage):
        ratio = self.config.sr_ratios[stage]
        if ratio == 1:
            return x
        height, width = self.config.grid(stage)
        picture = x.reshape(len(x), height, width, -1)
        small = self.patches(picture, f"{name}.reduce.conv", ratio)
        return self.norm(small.reshape(len(x), -1, x.shape[-1]), f"{name}.reduce.norm")

    def vanilla(self, x, name, stage, residual):
        """Eq. 4, then Eq. 7's sum, then Eq. 3."""
        heads, dim = self.config.heads[stage], x.shape[-1]
        reduced = self.reduced(x, name, stage)
        q = self.heads(self.linear(x, f"{name}.q"), heads)
        both = self.linear(reduced, f"{name}.kv")
        k, v = self.heads(both[..., :dim], heads), self.heads(both[..., dim:], heads)
        scores = np.einsum("bhnd,bhmd->bhnm", q, k) / np.sqrt(dim // heads)
        if residual is not None:
            scores = scores + residual
        return self.mixed(scores, v, name), scores

    def less(self, x, name, stage, scores):
        """Eq. 5 in matrix form: A = P A' T^T + P 1 b_t^T + b_p 1^T."""
        theta, psi = self.w[f"{name}.theta.weight"], self.w[f"{name}.psi.weight"]
        b_theta, b_psi = self.w[f"{name}.theta.bias"], self.w[f"{name}.psi.bias"]
        scores = (
            psi @ scores @ theta.T
            + np.outer(psi.sum(axis=1), b_theta)
            + np.outer(b_psi, np.ones(len(theta)))
        )
        v = self.heads(
            self.linear(self.reduced(x, name, stage), f"{name}.v"), self.config.heads[stage]
        )
        return self.mixed(scores, v, name), scores

    def mixed(self, scores, v, name):
        out = (softmax(scores, axis=-1) @ v).transpose(0, 2, 1, 3)
        return self.linear(out.reshape(*out.shape[:2], -1), f"{name}.proj")

    def residual(self, scores, name, stage):
        """Eq. 6: depth-wise 2 x 2 convolution over queries, BatchNorm, 1 x 1 convolution."""
        height, width = self.config.grid(stage - 1)
        patch = self.config.patch_sizes[stage]
        batch, heads, _, keys = scores.shape
        cut = scores.reshape(batch, heads, height // patch, patch, width // patch, patch, keys)
        kernel = self.w[f"{name}.dwconv.weight"][:, 0]  # [H', 2, 2]
        depthwise = np.einsum("bghiwjm,gij->bghwm", cut, kernel)
        mean, var = self.w[f"{name}.norm.running_mean"], self.w[f"{name}.norm.running_var"]
        gain = self.w[f"{name}.norm.weight"] / np.sqrt(var + 1e-5)
        shift = self.w[f"{name}.norm.bias"] - mean * gain
        normed = depthwise * gain[:, None, None, None] + shift[:, None, None, None]
        mixed = np.einsum("bghwm,og->bohwm", normed, self.w[f"{name}.pointwise.weight"][..., 0, 0])
        scaled = mixed * self.w[f"{name}.scale"][:, None, None, None]  # Eq. 7's LayerScale
        out = scaled.reshape(batch, scaled.shape[1], -1, keys)
        if self.config.has_class_token(stage):
            out = np.pad(out, ((0, 0), (0, 0), (1, 0), (1, 0)))
        return out

    def block(self, x, stage, layer, lead):
        name = f"stages.{stage}.blocks.{layer}"
        normed = self.norm(x, f"{name}.norm1")
        if self.config.is_less_attention(stage, layer):
            mixed, scores = self.less(normed, f"{name}.attn", stage, lead)
        else:
            mixed, scores = self.vanilla(normed, f"{name}.attn", stage, lead)
        x = x + mixed
        hidden = self.linear(self.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        hidden = 0.5 * hidden * (1 + erf(hidden / np.sqrt(2)))
        return x + self.linear(hidden, f"{name}.mlp.fc2"), scores

    def logits(self, images):
        x, last = images.transpose(0, 2, 3, 1), None
        for stage, depth in enumerate(self.config.depths):
            name = f"stages.{stage}"
            size = self.config.patch_sizes[stage]
            x = self.patches(x, f"{name}.patch_embed.proj", size)
            x = self.norm(x.reshape(len(x), -1, x.shape[-1]), f"{name}.patch_embed.norm")
            if self.config.has_class_token(stage):
                token = np.broadcast_to(self.w[f"{name}.class_token"], (len(x), 1, x.shape[-1]))
                x = np.concatenate((token, x), axis=1)
            lead = None
            if self.config.attention_residual and stage > 0:
                lead = self.residual(last, f"{name}.residual", stage)
            for layer in range(depth):
                if layer and not self.config.is_less_attention(stage, layer):
                    lead = None
                x, lead = self.block(x, stage, layer, lead)
                self.scores.append(lead)
            last = lead
            if stage < 3:
                x = x.reshape(len(x), *self.config.grid(stage), -1)
        x = self.norm(x, "norm")
        return self.linear(x[:, 0] if self.config.class_token else x.mean(axis=1), "head")


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS.keys())
def both(request):
    """Model and transcription on the same random images, with all their outputs."""
    config = request.param
    model = random_model(config)
    images = torch.randn(2, 3, *config.image_size, dtype=torch.float64)
    transcription = Transcription(config, model.state_dict())
    expected = transcription.logits(images.numpy())
    with torch.no_grad():
        output = model.forward_with_scores(images)
    return output, expected, transcription.scores


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_logits_equal_the_transcription(both):
    output, expected, _ = both
    assert relative(output.logits.numpy(), expected) < TOLERANCE


def test_scores_of_every_layer_equal_the_transcription(both):
    output, _, expected = both
    assert len(output.scores) == len(expected)
    for item, scores in zip(output.scores, expected, strict=True):
        assert item.scores.shape == scores.shape
        assert relative(item.scores.numpy(), scores) < TOLERANCE, (item.stage, item.layer)


def test_equation_4_is_the_scaled_product_of_queries_and_keys():
    attention = VanillaAttention(SMALL, 3).double()
    x = torch.randn(2, SMALL.tokens(3), 32, dtype=torch.float64)
    _, scores = attention(x, None)
    q = attention.q(x).detach().numpy()
    k = attention.kv(x).detach().numpy()[..., :32]
    for head in range(2):
        part = slice(16 * head, 16 * head + 16)
        expected = q[..., part] @ k[..., part].transpose(0, 2, 1) / 4.0  # sqrt(16)
        np.testing.assert_allclose(scores.detach().numpy()[:, head], expected, rtol=1e-12)


def test_equation_5_applies_theta_to_keys_and_psi_to_queries():
    layer = LessAttention(SMALL, 1).double()
    torch.nn.init.normal_(layer.theta.weight)
    torch.nn.init.normal_(layer.psi.weight)
    torch.nn.init.normal_(layer.theta.bias)
    torch.nn.init.normal_(layer.psi.bias)
    scores = torch.randn(2, 2, SMALL.tokens(1), SMALL.keys(1), dtype=torch.float64)
    found = layer.transform(scores).detach().numpy()
    theta, psi = layer.theta.weight.detach().numpy(), layer.psi.weight.detach().numpy()
    with_keys = scores.numpy() @ theta.T + layer.theta.bias.detach().numpy()
    expected = psi @ with_keys + layer.psi.bias.detach().numpy()[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_a_new_less_attention_layer_reuses_the_scores_it_is_given():
    layer = LaViT(lavit_micro()).stages[2].blocks[1].attn
    scores = torch.randn(1, 3, 16, 4)
    # weights are the identity plus noise of 1e-3, summed over at most 16 entries
    torch.testing.assert_close(layer.transform(scores), scores, atol=0.05, rtol=0)


def test_equation_6_downsamples_queries_and_leaves_keys_alone():
    config = lavit_micro()
    residual = AttentionResidual(config, 1).double().eval()
    scores = torch.zeros(1, 1, config.tokens(0), config.keys(0), dtype=torch.float64)
    scores[0, 0, 0, 2] = 1.0  # query (0, 0), key 2
    before = residual(torch.zeros_like(scores))
    changed = (residual(scores) - before).abs() > 1e-12
    assert changed.any()
    assert set(map(tuple, changed.nonzero()[:, 2:].tolist())) == {(0, 2)}


def test_under_autocast_scores_stay_float32():
    config = lavit_micro()
    model = LaViT(config).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.forward_with_scores(torch.randn(1, 3, 64, 64))
    assert {item.scores.dtype for item in output.scores} == {torch.float32}
