"""Which constants in the scores can never reach an output.

softmax(A + c 1^T) = softmax(A): what is the same for every key of a query is lost in a layer's
own softmax. It is alive only where something else reads the same scores.
"""

from __future__ import annotations

from lavit_deploy.model.config import STAGES, LaViTConfig


def key_constants_matter(config: LaViTConfig, stage: int, layer: int) -> bool:
    """Whether adding c_n to all scores of query n can change the model's output.

    Args:
        config: the architecture.
        stage: 0-based stage of a layer.
        layer: 0-based layer within the stage.

    Two things read scores besides their softmax. Theta and Psi of the LA layers that follow turn
    the constant into P (c 1^T) T^T, which differs from key to key. The attention residual keeps it
    constant over keys, for it maps queries and heads only, and hands it to the first layer of the
    next stage, where the same question is asked again; but a class token's padding makes it differ
    between the token and the other keys.
    """
    if layer + 1 < config.depths[stage]:
        return config.is_less_attention(stage, layer + 1)
    following = stage + 1
    if following == STAGES or not config.attention_residual:
        return False
    return config.has_class_token(following) or key_constants_matter(config, following, 0)
