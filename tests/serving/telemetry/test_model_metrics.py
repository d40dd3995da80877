"""The metrics of a model: begun, replaced, hidden, and apart from its neighbours."""

import math

import pytest
from prometheus_client import CollectorRegistry

from lavit_deploy.serving.telemetry.model_metrics import AllModels, Gauges

GAUGES = (
    "lavit_queue_depth",
    "lavit_pictures_pending",
    "lavit_predicted_wait_seconds",
    "lavit_runtime_instances",
    "lavit_model_ready",
)
DESCRIPTION = {"artifact": "onnx-fp32", "checkpoint": "0123", "runtime": "onnxruntime"}


class House:
    """The metrics of all models, and what a scrape would show."""

    def __init__(self, *, removable=True):
        self.registry = CollectorRegistry()
        self.every = AllModels(self.registry, removable=removable)

    def model(self, version="1"):
        return self.every.of("digits", version)

    def value(self, name, version="1", **labels):
        self.every.refresh()
        named = {"model": "digits", "version": version, **labels}
        return self.registry.get_sample_value(name, named)

    def gauges(self, version="1"):
        return [self.value(name, version) for name in GAUGES]


@pytest.fixture
def house():
    return House()


def gauges(first=1.0):
    """Gauges that read first, first + 1, ..., in the order of `GAUGES`."""
    names = ("depth", "pending", "predicted_wait", "instances", "ready")
    return Gauges(**{name: lambda value=first + n: value for n, name in enumerate(names)})


def test_batches_are_counted_by_size_and_time(house):
    model = house.model()
    for size, seconds in ((1, 0.004), (3, 0.02), (8, 0.3)):
        model.batch(size, seconds)
    assert house.value("lavit_batch_size_sum") == 12
    assert house.value("lavit_batch_size_bucket", le="4.0") == 2
    assert house.value("lavit_infer_seconds_count") == 3
    assert house.value("lavit_infer_seconds_sum") == pytest.approx(0.324)


def test_a_pictures_times_go_to_the_stages_where_they_were_spent(house):
    house.model().picture(decode_seconds=0.25, queue_seconds=0.5)
    assert house.value("lavit_decode_seconds_sum") == 0.25
    assert house.value("lavit_queue_seconds_sum") == 0.5


def test_restarts_are_shown_before_the_first_and_counted_by_outcome(house):
    model = house.model()
    restarts = [
        lambda outcome=outcome: house.value("lavit_runtime_restarts_total", outcome=outcome)
        for outcome in ("ok", "failed")
    ]
    assert [read() for read in restarts] == [0, 0]
    for success in (False, False, True):
        model.restarted(success)
    assert [read() for read in restarts] == [1, 2]


def test_gauges_are_read_whenever_metrics_are(house):
    depth = [5, 2]
    house.model().show(
        Gauges(
            depth=depth.pop,
            pending=lambda: 7,
            predicted_wait=lambda: 0.5,
            instances=lambda: 2,
            ready=lambda: 1,
        ),
        **DESCRIPTION,
    )
    assert house.value("lavit_queue_depth") == 2
    assert house.value("lavit_queue_depth") == 5


def test_every_gauge_shows_its_own_number(house):
    house.model().show(gauges(), **DESCRIPTION)
    assert house.gauges() == [1, 2, 3, 4, 5]
    assert house.value("lavit_model_info", **DESCRIPTION) == 1


def test_versions_of_a_model_are_counted_apart(house):
    house.model("1").show(gauges(), **DESCRIPTION)
    house.model("2").show(gauges(10), **DESCRIPTION)
    house.model("2").batch(4, 0.1)
    assert house.gauges("1") == [1, 2, 3, 4, 5]
    assert house.gauges("2") == [10, 11, 12, 13, 14]
    assert house.value("lavit_batch_size_count", "1") == 0
    assert house.value("lavit_batch_size_count", "2") == 1


def test_a_hidden_model_is_shown_no_more_but_what_it_counted_stays(house):
    model = house.model()
    model.show(gauges(), **DESCRIPTION)
    model.batch(4, 0.1)
    model.hide()
    assert house.gauges() == [None] * len(GAUGES)
    assert house.value("lavit_model_info", **DESCRIPTION) is None
    assert house.value("lavit_batch_size_count") == 1


def test_hiding_one_version_leaves_the_other(house):
    house.model("1").show(gauges(), **DESCRIPTION)
    house.model("2").show(gauges(10), **DESCRIPTION)
    house.model("1").hide()
    assert house.gauges("2") == [10, 11, 12, 13, 14]


def test_what_was_never_shown_can_be_hidden(house):
    house.model().hide()
    assert house.gauges() == [None] * len(GAUGES)


def test_another_bundle_in_the_same_place_takes_over(house):
    before, after = house.model(), house.model()
    before.show(gauges(), **DESCRIPTION)
    other = {**DESCRIPTION, "checkpoint": "4567"}
    after.show(gauges(10), **other)
    before.replaced(after)
    assert house.gauges() == [10, 11, 12, 13, 14]
    assert house.value("lavit_model_info", **DESCRIPTION) is None
    assert house.value("lavit_model_info", **other) == 1


def test_the_same_bundle_opened_again_stays_described(house):
    before, after = house.model(), house.model()
    before.show(gauges(), **DESCRIPTION)
    after.show(gauges(10), **DESCRIPTION)
    before.replaced(after)
    assert house.value("lavit_model_info", **DESCRIPTION) == 1


def test_where_processes_share_files_a_hidden_gauge_is_no_number():
    """A file cannot lose a line: sums, minima and maxima of the others must not be touched."""
    house = House(removable=False)
    model = house.model()
    model.show(gauges(), **DESCRIPTION)
    model.hide()
    assert all(math.isnan(number) for number in house.gauges())
    assert math.isnan(house.value("lavit_model_info", **DESCRIPTION))
