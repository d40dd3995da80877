from lavit_deploy.model.counts import multiply_adds
from lavit_deploy.profiles.baselines.pvt import PVT
from lavit_deploy.profiles.counting.stage_counts import by_part


def test_pvt_is_counted_as_the_lavit_without_less_attention():
    for baseline in PVT.baselines():
        parts = by_part(baseline.closed_form())
        assert parts == multiply_adds(baseline.config)
        assert not parts["la_transform"] + parts["attention_residual"]
