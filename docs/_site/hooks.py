"""What mkdocs runs: pages that are written from the code and from the files of the repository's root.

    reference/cli.md       every verb and option, from typer's own help          (reference.py)
    reference/configs.md   every field of the config dataclasses, with its line   (reference.py)
    reference/api/*.md     the public names, and a page for each room             (reference.py)
    index.md and others    README.md, CONTRIBUTING.md, CHANGELOG.md, SECURITY.md, with their links led into the site

A link to another file of the repository, such as a config, leads to a copy of it in the site. A broken link stays a warning.
"""

from __future__ import annotations

import importlib.util
import posixpath
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
"""file of the root -> page; a page of this name in docs/ goes before it"""
_LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#]+)|(?<=src=\")(?P<source>[^\"#]+)")


def _load(name: str) -> ModuleType:
    """A module beside this one; mkdocs gives hooks no package to import from."""
    spec = importlib.util.spec_from_file_location(f"mmada_docs_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _load("reference")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the entry `API` of the navigation with the pages that will be written."""
    for section in config.nav or []:
        for entry in section.get("Reference", []):
            if "API" in entry:
                entry["API"] = [{title: page} for page, (title, _) in reference.api().items()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the written pages, and the files of the repository that a page links to."""
    pages = {"reference/cli.md": reference.cli(), "reference/configs.md": reference.configs()}
    pages |= {page: text for page, (_, text) in reference.api().items()}
    for source, page in ROOT_PAGES.items():
        if (ROOT / source).exists() and files.get_file_from_path(page) is None:
            pages[page] = (ROOT / source).read_text(encoding="utf-8")
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    for file in [file for file in files if file.is_documentation_page()]:
        for path in _linked(file.src_uri, file.content_string):
            if files.get_file_from_path(f"files/{path}") is None:
                files.append(File.generated(config, f"files/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files outside docs/ to where they are in the site."""
    here = page.file.src_uri

    def lead(match: re.Match[str]) -> str:
        path = _repository_path(here, match[0])
        if path is None or (path.startswith("docs/") and here not in ROOT_PAGES.values()):
            return match[0]
        inside = ROOT_PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}")
        return posixpath.relpath(inside, posixpath.dirname(here) or ".") if files.get_file_from_path(inside) else match[0]

    return _LINK.sub(lead, markdown)


def _linked(page: str, markdown: str) -> set[str]:
    """Files of the repository outside docs/ that a page links to, and that are no page themselves."""
    paths = {_repository_path(page, match[0]) for match in _LINK.finditer(markdown)}
    return {path for path in paths if path and not path.startswith("docs/") and path not in ROOT_PAGES and (ROOT / path).is_file()}


def _repository_path(page: str, target: str) -> str | None:
    """Where a relative link of a page leads, from the repository's root; None for the web and for what leaves the repository."""
    if re.match(r"[a-z]+:|/", target):
        return None
    is_root_page = page in ROOT_PAGES.values() and not (ROOT / "docs" / page).exists()
    path = posixpath.normpath(posixpath.join("" if is_root_page else posixpath.dirname(f"docs/{page}"), target))
    return None if path.startswith("..") else path


def on_post_build(config: MkDocsConfig, **kwargs: Any) -> None:
    """Fail if a page asks for a script, a style or a font of another site: the site must work without a network."""
    outside = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//(?!127\.0\.0\.1)[^\"\s>]+")
    for file in Path(config.site_dir).rglob("*.html"):
        if found := outside.search(file.read_text(encoding="utf-8")):
            raise SystemExit(f"{file.name} loads {found[0]!r} from the network; keep a copy in docs/ instead")
