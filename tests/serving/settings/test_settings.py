import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.common.errors import UsageError
from lavit_deploy.serving.cli import make_parser
from lavit_deploy.serving.settings.settings import MIB, ServiceSettings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"port": 70000}, r"--port must be 0\.\.65535, given 70000"),
        ({"threads": 0}, "--threads must be more than 0, given 0"),
        ({"decoders": -1}, "--decoders must be more than 0"),
        ({"max_batch": 0}, "--max-batch must be more than 0"),
        ({"queue": 0}, "--queue must be more than 0"),
        ({"max_wait_ms": -1.0}, r"--max-wait-ms must be 0\.\.60000"),
        ({"max_wait_ms": float("nan")}, r"--max-wait-ms must be 0\.\.60000"),
        ({"upload_seconds": float("inf")}, "--upload-seconds must be more than 0"),
        ({"drain_seconds": float("nan")}, "--drain-seconds must be more than 0"),
        ({"decode_seconds": 0.0}, "--decode-seconds must be more than 0"),
        ({"cors_origins": ("example.org",)}, "--cors-origins must be like https://example.org"),
        ({"otlp_endpoint": "collector:4318"}, "--otlp-endpoint must be like http://collector"),
        ({"keep_alive_seconds": 0.0}, "--keep-alive-seconds must be more than 0"),
        ({"keep_alive_seconds": float("inf")}, "--keep-alive-seconds must be more than 0"),
        ({"root_path": "lavit"}, "--root-path must be like /lavit, given 'lavit'"),
        ({"root_path": "/lavit/"}, "no slash at its end"),
        ({"root_path": "/"}, "no slash at its end"),
        ({"root_path": "/a b"}, "--root-path must be like /lavit"),
        ({"root_path": "/a//b"}, "--root-path must be like /lavit"),
        (
            {"forwarded_allow_ips": ("proxy",)},
            r"networks such as 10\.0\.0\.0/8, or \*, given 'proxy'",
        ),
        ({"forwarded_allow_ips": ("10.0.0.1/8",)}, r"given '10\.0\.0\.1/8': .* has host bits set"),
        ({"forwarded_allow_ips": ("10.0.0.1", "")}, "--forwarded-allow-ips must be"),
        ({"agreement": 1.5}, r"--agreement must be 0\.\.1, given 1.5"),
        ({"max_files": 8, "queue": 4}, "could never be accepted"),
        ({"workers": 0}, "--workers must be more than 0"),
        ({"workers": 3, "threads": 2}, "--workers 3 is more than the 2 threads they share"),
        ({"workers": 2, "threads": 2, "max_files": 8, "queue": 15}, "the share of --queue 15"),
        (
            {"workers": 2, "threads": 2, "max_bytes": 9, "max_pending_bytes": 17},
            "the share of --max-pending-bytes 17",
        ),
        ({"max_bytes": 9, "max_pending_bytes": 8}, "could never be accepted"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_option_name(change, message):
    with pytest.raises(UsageError, match=message):
        ServiceSettings(bundles=(Path(),), **change)


@given(
    workers=st.integers(2, 8),
    threads=st.integers(8, 64),
    decoders=st.integers(1, 64),
    queue=st.integers(256, 10_000),
    pending=st.integers(256 * MIB, 2048 * MIB),
)
def test_the_shares_of_the_workers_are_whole_services_within_the_limits(
    workers, threads, decoders, queue, pending
):
    whole = ServiceSettings(
        bundles=(Path(),),
        workers=workers,
        threads=threads,
        decoders=decoders,
        queue=queue,
        max_pending_bytes=pending,
    )
    share = whole.of_worker()
    assert share.workers == 1
    assert share.threads * workers <= threads
    assert share.decoders * workers <= max(decoders, workers)  # each has one, at least
    assert share.queue * workers <= queue
    assert share.max_pending_bytes * workers <= pending


def test_every_setting_is_an_option_with_the_same_default():
    given = vars(make_parser().parse_args(["some.bundle"]))
    assert (given.pop("config"), given.pop("show_config")) == (None, False)
    assert ServiceSettings(**given) == ServiceSettings(bundles=(Path("some.bundle"),))
    assert set(given) == {field.name for field in dataclasses.fields(ServiceSettings)}


def test_the_command_line_is_pinned():
    options = {option for action in make_parser()._actions for option in action.option_strings} - {
        "-h",
        "--help",
        "--version",
    }
    assert options == {
        "--host",
        "--port",
        "--keep-alive-seconds",
        "--root-path",
        "--forwarded-allow-ips",
        "--model",
        "--workers",
        "--instances",
        "--infer-seconds",
        "--admin-keys",
        "--artifact",
        "--runtime",
        "--agreement",
        "--measure",
        "--no-measure",
        "--retune",
        "--no-retune",
        "--config",
        "--show-config",
        "--device",
        "--threads",
        "--decoders",
        "--decoder-isolation",
        "--decode-seconds",
        "--api-keys",
        "--cors-origins",
        "--max-batch",
        "--max-wait-ms",
        "--queue",
        "--top-k",
        "--max-bytes",
        "--max-pending-bytes",
        "--max-pixels",
        "--max-files",
        "--request-seconds",
        "--upload-seconds",
        "--drain-seconds",
        "--log-format",
        "--otlp-endpoint",
    }
