"""What a wheel has that a checkout has not: the configs, as mmada/configs, and a long description.

The description is README.md with links that also work on a package index. A relative link leads nowhere there. With `Source` among
[project.urls] it becomes an absolute one; without, its text stays and its target goes, and so does a picture. scripts/check_package.py
refuses a description with a relative link.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_CAPTION = re.compile(r"\n\*`[^\n]*\*\n")


def long_description(text: str, source: str | None) -> str:
    """Markdown without relative links. source: address of the repository, such as https://host/owner/name; None if there is none."""
    if source is None:  # a caption goes with its picture
        text = _CAPTION.sub("\n", text)

    def absolute(match: re.Match[str]) -> str:
        if re.match(r"https?://|mailto:|#", match["target"]):
            return match[0]
        if source is None:
            return "" if match["image"] else match["text"]
        kind = "raw" if match["image"] else "blob"
        return f"{match['image']}[{match['text']}]({source.rstrip('/')}/{kind}/main/{match['target']})"

    return re.sub(r"\n{3,}", "\n\n", _LINK.sub(absolute, text))


class LongDescription(MetadataHookInterface):
    """Fills `readme`, which pyproject.toml names as dynamic."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {"content-type": "text/markdown", "text": long_description(text, source)}


class Configs(BuildHookInterface):  # type: ignore[type-arg]
    """Puts configs/ into a wheel; `pip install -e` finds them in the checkout (mmada/data/paths.py)."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            build_data["force_include"]["configs"] = "mmada/configs"
