from lavit_deploy.model import counts
from lavit_deploy.profiles.counting.parts import NOWHERE, OTHER, PARTS, TITLES


def test_the_parts_are_lavits_and_two_more_with_the_head_last():
    assert set(PARTS) - set(counts.PARTS) == {"convolutions", "token_selection"}
    assert set(counts.PARTS) <= set(PARTS)
    assert PARTS[-1] == counts.PARTS[-1] == "head"


def test_every_part_has_a_title_and_nowhere_is_none_of_them():
    assert set(TITLES) == set(PARTS)
    assert NOWHERE == (OTHER, OTHER)
    assert OTHER not in PARTS
