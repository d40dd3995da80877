from lavit_deploy.profiles.counting.module_rules import module_rules, residual_network_rules
from lavit_deploy.profiles.counting.parts import NOWHERE, Place
from lavit_deploy.profiles.counting.stage_counts import HEAD

RULES = module_rules(
    (r"stages\.(?P<stage>\d)\.norm", "mlp"),
    (r"stages\.(?P<stage>\d)", "convolutions"),
    (r"merge\.(?P<stage>\d)", "patch_embed", 1),
    (r"stem", "patch_embed"),
    (r"late", "mlp", 2),
    (r"classifier", HEAD),
)


def test_the_first_rule_that_matches_the_beginning_wins():
    assert RULES.locate("stages.2.norm.weight") == Place("stage 3", "mlp")
    assert RULES.locate("stages.2.normal") == Place("stage 3", "mlp")
    assert RULES.locate("stages.2.conv") == Place("stage 3", "convolutions")


def test_a_stage_is_that_of_the_name_or_of_the_rule_or_both_added():
    assert RULES.locate("merge.0.proj") == Place("stage 2", "patch_embed")
    assert RULES.locate("late") == Place("stage 3", "mlp")
    assert RULES.locate("stem.0") == Place("stage 1", "patch_embed")


def test_the_head_has_no_stage_but_its_own():
    assert RULES.locate("classifier.weight") == Place(HEAD, HEAD)


def test_a_name_that_no_rule_knows_belongs_nowhere():
    assert RULES.locate("") == NOWHERE
    assert RULES.locate("inner.stages.0.conv") == NOWHERE  # not at its beginning


def test_residual_networks_differ_by_the_name_of_the_model_alone():
    for name in ("resnet", "regnet"):
        rules = residual_network_rules(name)
        found = rules.locate(f"{name}.encoder.stages.0.layers.1.layer.0")
        assert found == Place("stage 1", "convolutions")
