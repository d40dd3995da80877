"""A hook of MkDocs: links that leave docs/ lead to the repository.

On the pages as a repository shows them, `[the alerts](../deploy/prometheus/alerts.yml)` is a link
between files. A site has only what lies in docs/, so there the link leads to the file in the
repository where `repo_url` is configured, and is the file's path beside the text where it is not.
A path that does not exist is a warning, which ends a strict build.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>\.\./[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
_FENCE = re.compile(r"^```.*?^```", flags=re.MULTILINE | re.DOTALL)
_LOG = logging.getLogger(f"mkdocs.hooks.{__name__}")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by MkDocs with the text of each page, before it becomes HTML."""
    del files  # part of MkDocs' call
    repository = Path(config.config_file_path).parent
    docs = Path(config.docs_dir).relative_to(repository).as_posix()
    folder = posixpath.dirname(posixpath.join(docs, page.file.src_uri))

    def outside(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match["target"]))
        if path.startswith(f"{docs}/"):
            return match[0]
        if path.startswith("..") or not (repository / path).exists():
            _LOG.warning("%s links to %s, which does not exist", page.file.src_uri, path)
        if config.repo_url:
            base = config.repo_url.rstrip("/")
            return f"[{match['text']}]({base}/blob/main/{path}{match['anchor'] or ''})"
        shown = match["text"].strip("`")
        return f"`{path}`" if shown in {path, match["target"]} else f"{match['text']} (`{path}`)"

    return _outside_fences(markdown, outside)


def _outside_fences(markdown: str, replace: Callable[[re.Match[str]], str]) -> str:
    """Replace the links of a text, but none within a fenced block of code."""
    parts, last = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(replace, markdown[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join((*parts, _LINK.sub(replace, markdown[last:])))
