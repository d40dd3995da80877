"""The Ray Serve application: two real replicas, one killed under load, both replaced under load."""

import asyncio
import dataclasses
import http.client
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from lavit_deploy.common.errors import InferenceError, ParityError, UsageError
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime
from lavit_deploy.serving.batching.batcher import Batcher

ray = pytest.importorskip("ray", reason="Ray is not installed")
serve = pytest.importorskip("ray.serve", reason="Ray Serve is not installed")
yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
ray_app = pytest.importorskip("lavit_deploy.serving.ray_app")

pytestmark = pytest.mark.slow

PATIENCE = 30.0
APPLICATION = f"test-{os.getpid()}"

ROOT = Path(__file__).parents[2]
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
RETRIES = 5
"""Of a client, as docs/deploying.md asks for: after 5xx or a lost connection, with a pause."""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def port():
    """A Ray cluster of two cores in this machine, and the port of its HTTP proxy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # it would keep one in the home
        # Its own folder, and a short name: paths of sockets have at most 107 bytes.
        scratch = tempfile.mkdtemp(prefix="ray")
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 << 20,
            log_to_driver=False,
            _temp_dir=scratch,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
        )
        try:
            chosen = free_port()
            serve.start(http_options={"host": "127.0.0.1", "port": chosen})
            yield chosen
        finally:
            serve.shutdown()
            ray.shutdown()
            shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture
def deploy(port, bundle_path):
    """Runs the application with two replicas, and takes it away afterwards."""

    def run(**changes):
        settings = {"threads": 1, "decoders": 1, **changes}
        options = ray_app.Options(
            bundle=str(bundle_path), min_replicas=2, max_replicas=2, cpus=0.5, settings=settings
        )
        serve.run(ray_app.build(options), name=APPLICATION, route_prefix="/")

    yield run
    serve.delete(APPLICATION)


def replicas():
    """Process ids of our replicas, which are descendants of this process."""
    title = f"ray::ServeReplica:{APPLICATION}:lavit"
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(title):
                found.add(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def running():
    """How many replicas Ray counts as running."""
    deployment = serve.status().applications[APPLICATION].deployments["lavit"]
    return deployment.replica_states.get("RUNNING", 0)


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


class Client(threading.Thread):
    """Sends pictures of one colour without a pause until it is told to stop."""

    def __init__(self, port, label, data, retries):
        super().__init__(daemon=True)
        self.answered = 0
        self.unanswered = []
        self.repeated = Counter()
        self.stopping = False
        self._port = port
        self._label = label
        self._data = data
        self._retries = retries

    def run(self):
        while not self.stopping:
            self._classify()

    def _classify(self):
        for attempt in range(self._retries + 1):
            status, answer = self._ask()
            if status == 200:
                found = json.loads(answer)["results"][0]["predictions"][0]["label"]
                if found != self._label:
                    self.unanswered.append(f"{found} for {self._label}")
                self.answered += 1
                return
            self.repeated[status] += 1
            if status < 500 or attempt == self._retries:
                self.unanswered.append((status, answer[:200]))
                return
            time.sleep(0.2 * 2**attempt)

    def _ask(self):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request("POST", "/classify", self._data, {"Content-Type": "image/png"})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            return 599, repr(error).encode()  # a lost connection counts as a server's error
        finally:
            connection.close()


@pytest.fixture
def load(port, picture):
    """Starts two clients of each colour; they are stopped afterwards."""
    clients = []

    def start(retries):
        clients.extend(
            Client(port, label, picture(colour), retries)
            for label, colour in COLOURS.items()
            for _ in range(2)
        )
        for client in clients:
            client.start()
        wait_until(lambda: all(client.answered >= 5 for client in clients))
        return clients

    yield start
    for client in clients:
        client.stopping = True
    for client in clients:
        client.join(PATIENCE)


def more_answers(clients, count):
    """Wait until every client has that many more answers."""
    goals = [client.answered + count for client in clients]
    wait_until(
        lambda: all(client.answered >= goal for client, goal in zip(clients, goals, strict=True))
    )


def finish(clients):
    """Stop; returns what went wrong for good, and how often each status was repeated."""
    for client in clients:
        client.stopping = True
    for client in clients:
        client.join(PATIENCE)
        assert not client.is_alive()
    return (
        [item for client in clients for item in client.unanswered],
        sum((client.repeated for client in clients), Counter()),
    )


def test_a_replica_killed_under_load_costs_no_answer_and_comes_back(deploy, load):
    deploy()
    before = replicas()
    assert len(before) == running() == 2
    clients = load(RETRIES)
    victim = min(before)
    psutil.Process(victim).kill()
    more_answers(clients, 5)  # by the one that is left
    wait_until(lambda: len(replicas()) == 2 and victim not in replicas())
    wait_until(lambda: running() == 2)
    more_answers(clients, 5)
    wrong, repeated = finish(clients)
    assert wrong == []
    # Those that the victim was working on, one for each client at most.
    assert sum(repeated.values()) <= len(clients), repeated
    assert (before - {victim}) < replicas()


def test_an_update_under_load_drains_the_old_replicas(deploy, load):
    """Nobody repeats anything: what an old replica accepted, it answers."""
    deploy()
    before = replicas()
    clients = load(retries=0)
    deploy(max_wait_ms=1.0)
    wait_until(lambda: not replicas() & before and running() == 2)
    more_answers(clients, 5)
    wrong, repeated = finish(clients)
    assert wrong == []
    assert repeated == Counter()


def options(bundle_path, **changes):
    return ray_app.Options(bundle=str(bundle_path), **changes)


def live(replica, story):
    """Run `story` while the replica's application is alive, as Ray does."""
    app = replica.__serve_build_asgi_app__()

    async def run():
        async with app.router.lifespan_context(app):
            await story()

    asyncio.run(run())
    return app


def test_a_replica_is_well_once_its_models_are_warm_and_until_one_is_broken(
    bundle_path, monkeypatch
):
    replica = ray_app.Replica(options(bundle_path, cpus=1).service_settings())

    async def story():
        assert replica._registry.unready_reason == "the model is warming up"
        await replica.check_health()  # returns after the warm-up
        assert replica._registry.unready_reason is None
        monkeypatch.setattr(Batcher, "fault", "the runtime is gone")
        with pytest.raises(RuntimeError, match="the runtime is gone"):
            await replica.check_health()

    live(replica, story)


def test_a_model_that_fails_its_warm_up_never_becomes_a_replica(bundle_path, monkeypatch):
    def fail(_runtime, _images):
        raise InferenceError("no memory")

    monkeypatch.setattr(OnnxRuntime, "_infer", fail)
    replica = ray_app.Replica(options(bundle_path, cpus=1).service_settings())

    async def story():
        with pytest.raises(InferenceError, match="no memory"):
            await replica.check_health()

    live(replica, story)


def test_a_replica_has_no_administration(bundle_path, monkeypatch):
    """It would change the models of one replica among several."""
    monkeypatch.setenv("LAVIT_API_KEYS", "0123456789abcdef")
    replica = ray_app.Replica(options(bundle_path, cpus=1).service_settings())
    app = live(replica, replica.check_health)
    paths = app.openapi()["paths"]
    assert "/classify" in paths
    assert not any(path.startswith("/admin") for path in paths)


def test_a_replica_serves_several_bundles(bundle_path):
    chosen = options(bundle_path, cpus=1, models=(f"second:7={bundle_path}",))
    replica = ray_app.Replica(chosen.service_settings())
    live(replica, replica.check_health)
    names = [(entry.name, entry.version) for entry in replica._registry.listing()]
    assert names == [("colours", "1"), ("second", "7")]


def test_a_bundle_that_failed_parity_is_no_replica(write_bundle):
    with pytest.raises(ParityError, match="failed parity"):
        ray_app.Replica(options(write_bundle(passed=False)).service_settings())


def test_a_replica_has_as_many_threads_as_it_reserves_cores(bundle_path):
    settings = options(bundle_path, cpus=2.5).service_settings()
    assert (settings.threads, settings.decoders, settings.device) == (3, 3, "cpu")
    given = options(bundle_path, gpus=0.5, settings={"threads": 1}).service_settings()
    assert (given.threads, given.decoders, given.device) == (1, 2, "cuda")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"bundles": ["x"]}}, r"settings\.bundles is not for a replica: see bundle"),
        ({"models": ("a",)}, r"--model must be NAME\[:VERSION\]=PATH, given .a."),
        ({"settings": {"port": 80}}, r"settings\.port is not for a replica: see http_options"),
        ({"settings": {"measure": True}}, r"settings\.measure is not for a replica"),
        ({"settings": {"max_bathc": 4}}, r"settings\.max_bathc is unknown; .* max_batch, "),
        ({"settings": {"queue": "many"}}, r"settings\.queue: Input should be a valid integer"),
        ({"settings": {"queue": 0}}, r"--queue must be more than 0, given 0"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas 2 is less than min_replicas 3"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_one_line(bundle_path, changes, message):
    with pytest.raises(UsageError, match=message) as caught:
        ray_app.build(options(bundle_path, **changes))
    assert "\n" not in str(caught.value)


def test_the_options_reach_ray(bundle_path):
    """Load is bounded where it waits for a replica, and a replica has time to drain."""
    settings = {"queue": 40, "drain_seconds": 7.0}
    application = ray_app.build(
        options(bundle_path, min_replicas=2, max_replicas=3, settings=settings)
    )
    deployment = application._bound_deployment
    assert (deployment.max_ongoing_requests, deployment.max_queued_requests) == (40, 40)
    config = deployment._deployment_config
    assert config.graceful_shutdown_timeout_s > 7.0
    scaling = config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 3)


def test_every_option_is_explained():
    documented = ray_app.Options.__doc__.partition("Attributes:")[2]
    for name in ray_app.Options.model_fields:
        assert f"        {name}: " in documented
    assert dataclasses.is_dataclass(options("x").service_settings())


def test_the_config_file_of_the_documentation_is_taken():
    page = (ROOT / "docs" / "deploying.md").read_text()
    blocks = [block.split("```")[0] for block in page.split("```yaml\n")[1:]]
    (block,) = (block for block in blocks if "applications:" in block)
    (application,) = yaml.safe_load(block)["applications"]
    module, _, name = application["import_path"].partition(":")
    assert (module, name) == (ray_app.build.__module__, ray_app.build.__name__)
    chosen = ray_app.Options.model_validate(application["args"])
    assert ray_app.build(chosen)
    assert chosen.service_settings().queue == 128


def test_the_options_of_the_documentation_are_the_options():
    page = (ROOT / "docs" / "deploying.md").read_text()
    table = page.split("| `args` |")[1].split("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(
        ray_app.Options.model_fields
    )
