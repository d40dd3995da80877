"""deploy/: by the schemas of Kubernetes, and by what the service really takes and answers."""

import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lavit_deploy.serving.cli import make_parser
from lavit_deploy.serving.settings import layers

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="kubernetes-validate is not installed"
)

ROOT = Path(__file__).parents[3]
KUBERNETES = ROOT / "deploy" / "kubernetes"
KSERVE = ROOT / "deploy" / "kserve" / "inference-service.yaml"
OLDEST, NEWEST = "1.29", "1.35"
PATIENCE = 30.0
CUSTOM_KINDS = {"Kustomization", "ServiceMonitor", "InferenceService"}  # not of Kubernetes itself

# `ComponentExtensionSpec` of KServe's reference (v1beta1): what a predictor has besides a PodSpec.
KSERVE_FIELDS = {
    "minReplicas": int,
    "maxReplicas": int,
    "scaleTarget": int,
    "scaleMetric": str,
    "containerConcurrency": int,
    "timeout": int,
    "canaryTrafficPercent": int,
}


def load(file):
    (document,) = yaml.safe_load_all(file.read_text())
    return document


DOCUMENTS = {file.stem: load(file) for file in sorted(KUBERNETES.glob("*.yaml"))}
OFFICIAL = [name for name, item in DOCUMENTS.items() if item["kind"] not in CUSTOM_KINDS]


def pod_of(name):
    """The pod's specification of the Deployment or the InferenceService."""
    if name == "kubernetes":
        return DOCUMENTS["deployment"]["spec"]["template"]["spec"]
    predictor = load(KSERVE)["spec"]["predictor"]
    return {key: value for key, value in predictor.items() if key not in KSERVE_FIELDS}


@pytest.fixture(params=["kubernetes", "kserve"])
def pod(request):
    return pod_of(request.param)


@pytest.fixture
def container(pod):
    (only,) = pod["containers"]
    return only


def image_of(stage):
    """(ENTRYPOINT, EXPOSEd port, user) of a stage of the Dockerfile."""
    stages = re.split(r"^FROM \S+ AS ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    (text,) = [text for text in stages if text.startswith(f"{stage}\n")]
    entry = yaml.safe_load(re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE).group(1))
    return (
        entry,
        int(re.search(r"^EXPOSE (\d+)$", text, re.MULTILINE).group(1)),
        int(re.search(r"^USER (\d+)$", text, re.MULTILINE).group(1)),
    )


def command_of(container):
    """The command line that the container runs, as Kubernetes puts it together."""
    entry, _, _ = image_of("cpu")
    return [*container.get("command", entry), *container["args"]]


def settings_of(container):
    """The settings that its command line gives; fails on an option or value that is not taken."""
    program, *arguments = command_of(container)
    assert program == "lavit-serve"
    return layers.read(make_parser, arguments, {})[0].settings()


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", OFFICIAL)
def test_kubernetes_own_schema_takes_it_and_knows_every_field(name, version):
    kubernetes_validate.validate(DOCUMENTS[name], version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_predictor_is_a_pod_and_kserves_own_fields(version):
    service = load(KSERVE)
    assert (service["apiVersion"], service["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    assert set(service["spec"]) == {"predictor"}
    for key, value in service["spec"]["predictor"].items():
        assert isinstance(value, KSERVE_FIELDS.get(key, object)), key
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": service["metadata"]}
    kubernetes_validate.validate({**pod, "spec": pod_of("kserve")}, version, strict=True)


def test_the_schema_would_find_a_misspelt_field():
    broken = {**DOCUMENTS["service"], "spec": {**DOCUMENTS["service"]["spec"], "port": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, NEWEST, strict=True)


def test_every_option_of_the_container_is_one_of_lavit_serve(container):
    settings_of(container)


def test_the_ports_are_those_of_the_command_and_of_the_image(container):
    (port,) = container["ports"]
    assert settings_of(container).port == port["containerPort"]
    if "command" not in container:
        assert image_of("cpu")[1] == port["containerPort"]


def test_the_container_listens_beyond_itself(container):
    assert settings_of(container).host == "0.0.0.0"  # noqa: S104 - what a container must do


def test_the_user_is_the_images(pod):
    context = pod["securityContext"]
    assert context["runAsNonRoot"]
    assert context["runAsUser"] == image_of("cpu")[2]


def test_there_are_as_many_threads_as_cores_are_requested(container):
    settings = settings_of(container)
    cores = int(container["resources"]["requests"]["cpu"])
    assert settings.threads == settings.decoders == cores


def test_the_grace_period_covers_the_pause_and_the_drain(pod, container):
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    needed = int(seconds) + settings_of(container).drain_seconds
    assert pod["terminationGracePeriodSeconds"] > needed


def probes(container):
    kinds = ("startupProbe", "readinessProbe", "livenessProbe")
    return {kind: container[kind]["httpGet"] for kind in kinds}


def test_the_probes_ask_the_port_that_the_container_has(container):
    (port,) = container["ports"]
    for probe in probes(container).values():
        assert probe["port"] in {port["containerPort"], port["name"]}


def test_nothing_is_written_where_nothing_can_be(pod, container):
    assert container["securityContext"]["readOnlyRootFilesystem"]
    settings = settings_of(container)
    mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts", ())}
    if mounts:
        assert mounts[str(settings.sources[0].path)]["readOnly"]
        assert {mount["name"] for mount in mounts.values()} == {
            volume["name"] for volume in pod["volumes"]
        }
    assert not settings.measure  # it would write into the bundle


def test_the_command_of_the_container_starts_and_its_probes_are_answered(
    serve, bundle_path, container
):
    """With the bundle and the port of this test in place of the container's."""
    replaced = {"--host", "--port", "--log-format"}
    _, *arguments = command_of(container)
    options, skip = [], False
    for word in arguments[1:]:  # the first is the bundle
        name = word.partition("=")[0]
        if not skip and name not in replaced:
            options.append(word)
        skip = name in replaced and "=" not in word
    server = serve(bundle_path, *options)
    for probe in probes(container).values():
        with urllib.request.urlopen(server.url + probe["path"], timeout=PATIENCE) as answer:  # noqa: S310 - always http
            assert answer.status == 200


def test_a_path_that_does_not_exist_would_be_found(serve, bundle_path):
    server = serve(bundle_path)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(server.url + "/health", timeout=PATIENCE)  # noqa: S310 - always http


def test_all_files_speak_of_the_same_pods():
    labels = DOCUMENTS["deployment"]["spec"]["template"]["metadata"]["labels"]
    selected = [
        DOCUMENTS["deployment"]["spec"]["selector"]["matchLabels"],
        DOCUMENTS["service"]["spec"]["selector"],
        DOCUMENTS["disruption-budget"]["spec"]["selector"]["matchLabels"],
        pod_of("kubernetes")["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    assert all(wanted.items() <= labels.items() for wanted in selected)
    target = DOCUMENTS["autoscaler"]["spec"]["scaleTargetRef"]
    deployment = DOCUMENTS["deployment"]
    assert (target["apiVersion"], target["kind"], target["name"]) == (
        deployment["apiVersion"],
        deployment["kind"],
        deployment["metadata"]["name"],
    )
    claim = pod_of("kubernetes")["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert claim == DOCUMENTS["bundle-volume"]["metadata"]["name"]


def test_prometheus_finds_the_services_port_and_our_metrics(serve, bundle_path):
    service, monitor = DOCUMENTS["service"], DOCUMENTS["service-monitor"]
    assert (monitor["apiVersion"], monitor["kind"]) == (
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
    )
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    (port,) = service["spec"]["ports"]
    assert endpoint["port"] == port["name"]
    names = {item["name"] for item in pod_of("kubernetes")["containers"][0]["ports"]}
    assert port["targetPort"] in names
    server = serve(bundle_path)
    with urllib.request.urlopen(server.url + endpoint["path"], timeout=PATIENCE) as answer:  # noqa: S310 - always http
        assert b"lavit_ready 1.0" in answer.read()


def test_a_disruption_and_an_update_leave_somebody_serving():
    least = DOCUMENTS["autoscaler"]["spec"]["minReplicas"]
    assert least - DOCUMENTS["disruption-budget"]["spec"]["maxUnavailable"] >= 1
    assert DOCUMENTS["deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_kustomize_names_files_and_images_that_exist():
    kustomization = DOCUMENTS["kustomization"]
    optional = {"service-monitor.yaml", "kustomization.yaml"}
    assert (
        set(kustomization["resources"])
        == {file.name for file in KUBERNETES.glob("*.yaml")} - optional
    )
    images = {container["image"] for container in pod_of("kubernetes")["containers"]}
    assert {image["name"] for image in kustomization["images"]} == images
