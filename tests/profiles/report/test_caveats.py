from lavit_deploy.profiles.report.caveats import limits, uncounted
from lavit_deploy.profiles.report.costs import UncountedOperator
from lavit_deploy.profiles.report.times import BatchLimit


def with_operators(report, *operators):
    models = []
    for model, operator in zip(report.models, operators, strict=True):
        counts = model.counts.model_copy(update={"uncounted": (operator,)})
        models.append(model.model_copy(update={"counts": counts}))
    return report.model_copy(update={"models": tuple(models)})


def gelu(elements):
    return UncountedOperator(operator="aten::gelu", calls=1, elements=elements, reason="pointwise")


def test_harmless_operators_are_one_sentence_with_the_most_that_any_model_writes(
    unfinished_report,
):
    (line,) = uncounted(with_operators(unfinished_report, gelu(2_000_000), gelu(5_000_000)))
    assert line == "Not counted, at most M elements written per image in any model: gelu 5.0."


def test_an_operator_that_may_hide_a_product_is_a_warning_before_the_others(unfinished_report):
    unknown = UncountedOperator(operator="my::product", calls=3, elements=1, reason=None)
    warning, other = uncounted(with_operators(unfinished_report, gelu(1_000_000), unknown))
    assert warning.startswith("WARNING: pvt_v2_b1: my::product ran 3 times, is not counted")
    assert "gelu 1.0" in other


def test_a_batch_that_did_not_fit_says_what_became_of_it(unfinished_report):
    found = (
        BatchLimit(batch=8, halved_to=4, reason="m: a batch of 8 does not fit"),
        BatchLimit(batch=2, halved_to=None, reason="m: a batch of 2 does not fit"),
    )
    model = unfinished_report.models[0].model_copy(update={"limits": found})
    assert limits(unfinished_report.model_copy(update={"models": (model,)})) == [
        "m: a batch of 8 does not fit: halved to 4.",
        "m: a batch of 2 does not fit: left out.",
    ]
    assert limits(unfinished_report) == []
