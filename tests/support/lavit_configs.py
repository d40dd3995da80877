"""A strategy: configurations of LaViT of many shapes, small enough to build."""

from hypothesis import strategies as st

from lavit_deploy.model.config import LaViTConfig


def configs():
    """Valid configurations of many shapes, the residual only where the key grids agree."""

    @st.composite
    def build(draw):
        rows, columns = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        depths = tuple(draw(st.integers(1, 3)) for _ in range(4))
        heads = tuple(draw(st.integers(1, 3)) for _ in range(4))
        starts = tuple(draw(st.sampled_from([0, *range(2, depth + 1)])) for depth in depths)
        return LaViTConfig(
            image_size=(32 * rows, 32 * columns),
            in_channels=draw(st.integers(1, 4)),
            num_classes=draw(st.integers(1, 5)),
            depths=depths,
            dims=tuple(4 * count for count in heads),
            heads=heads,
            mlp_ratios=tuple(draw(st.integers(1, 3)) for _ in range(4)),
            sr_ratios=(8, 4, 2, 1),
            la_start=starts,
            attention_residual=draw(st.booleans()),
            class_token=draw(st.booleans()),
        )

    return build()
