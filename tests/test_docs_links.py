"""The hook of the documentation's site: links that leave docs/, as the site shows them."""

import importlib.util
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("docs_links", ROOT / ".ci" / "docs_links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def shown(hook, tmp_path):
    """A page's text as the hook passes it on; `docs/` and one file outside it exist."""
    (tmp_path / "docs" / "reports").mkdir(parents=True)
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "alerts.yml").touch()

    def show(text, page="operations.md", repo_url=""):
        config = SimpleNamespace(
            config_file_path=str(tmp_path / "mkdocs.yml"),
            docs_dir=str(tmp_path / "docs"),
            repo_url=repo_url,
        )
        page = SimpleNamespace(file=SimpleNamespace(src_uri=page))
        return hook.on_page_markdown(text, page=page, config=config, files=None)

    return show


def test_a_link_that_leaves_the_documentation_becomes_the_path_beside_its_text(shown):
    assert shown("see [alerts](../deploy/alerts.yml).") == "see alerts (`deploy/alerts.yml`)."
    assert shown("[`deploy/alerts.yml`](../deploy/alerts.yml)") == "`deploy/alerts.yml`"


def test_it_leads_to_the_repository_where_that_has_an_address(shown):
    found = shown("[alerts](../deploy/alerts.yml#L3)", repo_url="https://git.example/p/")
    assert found == "[alerts](https://git.example/p/blob/main/deploy/alerts.yml#L3)"


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("[the service](../profiling.md#roofline)", "reports/README.md"),
        ("[the bundle](bundle.md)", "operations.md"),
        ("![a picture](../images/page.png)", "reports/README.md"),
        ("```\n[alerts](../deploy/alerts.yml)\n```", "operations.md"),
    ],
)
def test_links_within_the_documentation_pictures_and_code_stay(shown, text, page):
    assert shown(text, page=page) == text


def test_a_path_that_does_not_exist_is_a_warning_which_ends_a_strict_build(shown, caplog):
    with caplog.at_level(logging.WARNING, logger="mkdocs"):
        shown("[gone](../deploy/gone.yml)")
        shown("[far](../../outside.txt)")
    assert [record.getMessage() for record in caplog.records] == [
        "operations.md links to deploy/gone.yml, which does not exist",
        "operations.md links to ../outside.txt, which does not exist",
    ]
