from lavit_deploy.profiles.report.costs import Counts, UncountedOperator


def test_an_operator_without_a_reason_is_unknown():
    harmless = UncountedOperator(operator="aten::gelu", calls=1, elements=1, reason="pointwise")
    unknown = UncountedOperator(operator="my::product", calls=1, elements=1, reason=None)
    counts = Counts(
        total=1, method="traced", closed_form=None, by_part={}, by_stage={},
        uncounted=(harmless, unknown),
    )  # fmt: skip
    assert counts.unknown == (unknown,)
