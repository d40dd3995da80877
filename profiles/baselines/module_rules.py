"""Where the modules of every architecture belong."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lavit_deploy.profiles.baselines.base import Family
from lavit_deploy.profiles.counting.closed_form import HEAD
from lavit_deploy.profiles.counting.parts import Rule, Splitter

_PATCH, _PROJECTIONS, _SCORES = "patch_embed", "attention_projections", "attention_scores_values"
_LA, _RESIDUAL, _MLP = "la_transform", "attention_residual", "mlp"
_CONVOLUTIONS, _SELECTION = "convolutions", "token_selection"


def _splitter(*rules: tuple[str, str] | tuple[str, str, int]) -> Splitter:
    return Splitter(tuple(Rule(*rule) for rule in rules))


def _residual(name: str) -> Splitter:
    """ResNet and its kin in transformers."""
    layers = name + r"\.encoder\.stages\.(?P<stage>\d)\.layers"
    return _splitter(
        (name + r"\.embedder", _PATCH),
        (layers + r"\.\d+\.shortcut", _PATCH),
        (layers, _CONVOLUTIONS),
        (name + r"\.pooler|classifier", HEAD),
    )


_LAVIT = r"stages\.(?P<stage>\d)\.blocks\.\d+\."
_PVT = r"pvt\.encoder\.block\.(?P<stage>\d)\.\d+\."
_PVT_V2 = r"pvt_v2\.encoder\.layers\.(?P<stage>\d)\.blocks\.\d+\."
_SWIN = r"swin\.encoder\.layers\.(?P<stage>\d)\.blocks\.\d+\."
_VIT = r"vit\.layers\.\d+\."
_CVT = r"cvt\.encoder\.stages\.(?P<stage>\d)\.layers\.\d+\."
_LIT = r"stages\.(?P<stage>\d)\.blocks\.\d+\."
_EFFICIENTVIT = r"stages\.(?P<stage>\d)\.blocks\.\d+\.context"

SPLITS: Mapping[Family, Splitter] = MappingProxyType(
    {
        # LaViT as it is trained, and as it is folded for export.
        "lavit": _splitter(
            (r"normalise", _PATCH),
            (r"stages\.(?P<stage>\d)\.(patch_embed|class_token)", _PATCH),
            (r"stages\.(?P<stage>\d)\.residual", _RESIDUAL),
            (r"stages\.(?P<stage>\d)\.chain", _LA),
            (_LAVIT + r"attn\.(theta|psi)", _LA),
            (
                _LAVIT + r"(norm1|attn\.(q|kv|v|proj|reduce|projections|stacked)\b)",
                _PROJECTIONS,
            ),
            (_LAVIT + r"attn", _SCORES),
            (_LAVIT + r"(norm2|mlp)", _MLP),
            (r"norm|last_norm|head", HEAD),
        ),
        "pvt": _splitter(
            (r"pvt\.encoder\.patch_embeddings\.(?P<stage>\d)", _PATCH),
            (
                _PVT + r"(layer_norm_1|attention\.output|"
                r"attention\.self\.(query|key|value|sequence_reduction|layer_norm))",
                _PROJECTIONS,
            ),
            (_PVT + r"attention", _SCORES),
            (_PVT + r"(layer_norm_2|mlp)", _MLP),
            (r"pvt\.encoder\.layer_norm|classifier", HEAD),
        ),
        "pvt_v2": _splitter(
            (r"pvt_v2\.encoder\.layers\.(?P<stage>\d)\.patch_embedding", _PATCH),
            (
                _PVT_V2 + r"(layer_norm_1|"
                r"attention\.(query|key|value|proj|spatial_reduction|layer_norm))",
                _PROJECTIONS,
            ),
            (_PVT_V2 + r"attention", _SCORES),
            (_PVT_V2 + r"(layer_norm_2|mlp)", _MLP),
            # The norm that closes a stage feeds the next patch embedding, the last one the head.
            (r"pvt_v2\.encoder\.layers\.(?P<stage>[012])\.layer_norm", _PATCH, 1),
            (r"pvt_v2\.encoder\.layers\.3\.layer_norm|classifier", HEAD),
        ),
        "swin": _splitter(
            (r"swin\.embeddings", _PATCH),
            (r"swin\.encoder\.layers\.(?P<stage>\d)\.downsample", _PATCH, 1),
            (_SWIN + r"(layernorm_before|attention\.[qkvo]_proj)", _PROJECTIONS),
            (_SWIN + r"attention", _SCORES),
            (_SWIN + r"(layernorm_after|mlp)", _MLP),
            (r"swin\.layernorm|classifier", HEAD),
        ),
        "vit": _splitter(
            (r"vit\.embeddings", _PATCH),
            (_VIT + r"(layernorm_before|attention\.[qkvo]_proj)", _PROJECTIONS),
            (_VIT + r"attention", _SCORES),
            (_VIT + r"(layernorm_after|mlp)", _MLP),
            (r"vit\.layernorm|classifier", HEAD),
        ),
        "plain": _splitter(
            (r"patch_embed|class_token|positions", _PATCH),
            (r"reductions", _SELECTION),
            (r"blocks\.\d+\.(norm1|attn\.(qkv|proj))", _PROJECTIONS),
            (r"blocks\.\d+\.attn", _SCORES),
            (r"blocks\.\d+\.(norm2|mlp)", _MLP),
            (r"norm|head", HEAD),
        ),
        "cvt": _splitter(
            (r"cvt\.encoder\.stages\.(?P<stage>\d)\.(embedding|cls_token)", _PATCH),
            (
                _CVT + r"(layernorm_before|attention\.output|"
                r"attention\.attention\.(convolution_)?projection)",
                _PROJECTIONS,
            ),
            (_CVT + r"attention", _SCORES),
            (_CVT + r"(layernorm_after|intermediate|output)", _MLP),
            (r"layernorm|classifier", HEAD),
        ),
        "lit": _splitter(
            (r"patch_embed", _PATCH),
            (r"stages\.(?P<stage>\d)\.merge", _PATCH),
            (_LIT + r"(norm1|attn\.(qkv|proj))", _PROJECTIONS),
            (_LIT + r"attn", _SCORES),
            (_LIT + r"(norm2|mlp)", _MLP),
            (r"norm|head", HEAD),
        ),
        "resnet": _residual("resnet"),
        "regnet": _residual("regnet"),
        # Stages by resolution: down to a quarter, an eighth, a sixteenth, and the rest. The numbers
        # of the blocks are those of B4.
        "efficientnet": _splitter(
            (r"efficientnet\.embeddings", _PATCH),
            (r"efficientnet\.encoder\.blocks\.[0-5]\.", _CONVOLUTIONS, 0),
            (r"efficientnet\.encoder\.blocks\.[6-9]\.", _CONVOLUTIONS, 1),
            (r"efficientnet\.encoder\.blocks\.(1\d|2[01])\.", _CONVOLUTIONS, 2),
            (r"efficientnet\.encoder\.blocks\.(2[2-9]|3[01])\.", _CONVOLUTIONS, 3),
            (r"efficientnet\.encoder\.top|efficientnet\.pooler|classifier|dropout", HEAD),
        ),
        "efficientvit": _splitter(
            (r"stem", _PATCH),
            (_EFFICIENTVIT + r"\.(qkv|aggregate|proj)", _PROJECTIONS),
            (_EFFICIENTVIT, _SCORES),
            (r"stages\.(?P<stage>\d)\.blocks", _CONVOLUTIONS),
            (r"head", HEAD),
        ),
    }
)
"""One splitter for each way of naming modules."""
