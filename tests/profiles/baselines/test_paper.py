from lavit_deploy.model.config import PRESETS
from lavit_deploy.profiles.baselines import BASELINES, PAPER, TABLE_2


def test_every_row_of_the_paper_names_a_model_that_exists():
    assert len(TABLE_2) == 33
    assert {row.model for row in TABLE_2} == {*BASELINES, *PAPER}
    assert set(PAPER) < set(PRESETS)
