"""The dashboard and the alerts against a scrape of the running application."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")

DEPLOY = Path(__file__).parents[3] / "deploy"
DOCS = Path(__file__).parents[3] / "docs"
DASHBOARD = DEPLOY / "grafana" / "lavit-serve.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"

WORDS = {"by", "on", "group_left", "sum", "max", "rate", "increase", "changes", "label_values"}
WORDS |= {"histogram_quantile"}
OF_PROMETHEUS = {"up"}  # made by Prometheus for each target
TARGET_LABELS = {"job", "instance"}  # given by Prometheus to each sample
DURATION = re.compile(r"\d+(?:ms|s|m|h|d)$")


def dashboard():
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def rules():
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions():
    yield from (rule["expr"] for rule in rules())
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def names_in(expression):
    """(metrics, labels) that a PromQL expression speaks of."""
    labels = set()
    for selector in re.findall(r"\{([^}]*)\}", expression):
        labels |= set(re.findall(r"(\w+)\s*[=!]~?", re.sub(r'"[^"]*"', '""', selector)))
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", expression)
    for listed in re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", text):
        labels |= set(re.findall(r"\w+", listed))
    text = re.sub(r"\b(by|on|group_left)\s*\([^)]*\)", " ", text)
    if wanted := re.fullmatch(r"label_values\((.*), (\w+)\)", text.strip()):
        text = wanted[1]
        labels.add(wanted[2])
    return set(re.findall(r"\b[a-z_][a-z_0-9]*\b", text)) - WORDS, labels


@pytest.fixture
def scraped(make_client, runtime, picture):
    """name -> labels of every sample of a service that has answered and refused."""
    client = make_client(runtime)
    client.post("/classify", content=picture(), headers={"Content-Type": "image/png"})
    client.post("/classify", content=b"bad", headers={"Content-Type": "image/png"})
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_metric_and_label_that_is_asked_for_is_in_a_scrape(scraped):
    for expression in expressions():
        metrics, labels = names_in(expression)
        assert metrics, expression
        assert metrics <= set(scraped) | OF_PROMETHEUS, expression
        there = set().union(*(scraped.get(name, set()) for name in metrics)) | TARGET_LABELS
        assert labels <= there, expression


@pytest.mark.parametrize(
    ("expression", "metrics", "labels"),
    [
        ('sum by (le, a) (rate(x_y{b=~"c|{d", e!="f"}[5m])) > 0.8', {"x_y"}, set("abe") | {"le"}),
        ("x / on (job) group_left () y", {"x", "y"}, {"job"}),
        ('label_values(x{job=~"$job"}, instance)', {"x"}, {"job", "instance"}),
        ("histogram_quantile(0.99, increase(x[1h]))", {"x"}, set()),
    ],
)
def test_names_are_found_in_promql(expression, metrics, labels):
    assert names_in(expression) == (metrics, labels)


def test_every_own_metric_of_a_scrape_is_in_the_documentation(scraped):
    text = "".join((DOCS / name).read_text() for name in ("http-api.md", "operations.md"))
    for name in scraped:
        family = re.sub("_(bucket|count|sum|created)$", "", name)
        assert not name.startswith("lavit_") or f"`{family}" in text, name


def test_grafana_finds_what_it_needs():
    board = dashboard()
    assert board["title"] == board["uid"] == "lavit-serve"
    assert isinstance(board["schemaVersion"], int)
    assert {"time", "templating", "annotations", "refresh"} <= set(board)
    assert "id" not in board  # of one Grafana's database; another one refuses it
    variables = {item["name"] for item in board["templating"]["list"]}
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(numbers) == len(set(numbers))
    for panel in panels():
        assert {"type", "title", "gridPos", "targets", "fieldConfig", "options"} <= set(panel)
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)) > 0
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables


def test_panels_lie_side_by_side():
    taken = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert max(column for column, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_alert_says_how_bad_it_is_and_what_to_do():
    headings = re.findall(r"^### (\w+)$", (DOCS / "operations.md").read_text(), re.MULTILINE)
    names = [rule["alert"] for rule in rules()]
    assert sorted(names) == sorted(set(names)) == sorted(headings)
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert DURATION.match(rule.get("for", "0s"))
        anchor = f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == anchor
        assert rule["expr"].count("(") == rule["expr"].count(")")
