from collections import Counter

from lavit_deploy.profiles.counting.stage_counts import (
    HEAD,
    STAGE_NAMES,
    by_part,
    classifier,
    total,
)

COUNTS = {
    "stage 1": Counter(mlp=3, patch_embed=5),
    "stage 2": Counter(mlp=7),
    HEAD: classifier(11, 13),
}


def test_stages_are_counted_from_one_and_the_head_follows_them():
    assert STAGE_NAMES == ("stage 1", "stage 2", "stage 3", "stage 4", HEAD)


def test_counts_are_summed_over_stages_and_over_everything():
    assert by_part(COUNTS) == Counter(mlp=10, patch_embed=5, head=143)
    assert total(COUNTS) == 158
