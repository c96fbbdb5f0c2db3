"""Checks of the built documentation: no page loads anything from another host."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

# What a browser loads by itself, by tag and attribute. Links that a reader follows are fine.
_LOADED = {
    ("audio", "src"),
    ("embed", "src"),
    ("iframe", "src"),
    ("image", "href"),
    ("img", "src"),
    ("img", "srcset"),
    ("input", "src"),
    ("link", "href"),
    ("object", "data"),
    ("script", "src"),
    ("source", "src"),
    ("source", "srcset"),
    ("track", "src"),
    ("use", "href"),
    ("video", "poster"),
    ("video", "src"),
}
# Relations that the browser does not load.
_UNLOADED = {"alternate", "author", "canonical", "help", "license", "next", "prev", "search"}
_ADDRESS = re.compile(r"(?:https?:)?//[^\s\"'),]+", re.IGNORECASE)
_STYLE = re.compile(r"(?:url\(\s*[\"']?|@import\s+[\"'])((?:https?:)?//[^\s\"')]+)", re.IGNORECASE)


class _Page(HTMLParser):
    """Collects the addresses on other hosts that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.foreign: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        self.foreign += _STYLE.findall(attributes.get("style", ""))
        # The theme fetches the library that draws these diagrams from a public host.
        if "mermaid" in attributes.get("class", "").split():
            self.foreign.append("a Mermaid diagram")
        if tag == "link" and _UNLOADED.intersection(attributes.get("rel", "").split()):
            return
        for name, value in attributes.items():
            if (tag, name.removeprefix("xlink:")) in _LOADED:
                # A srcset lists several, separated by commas.
                for address in value.split(",") if name == "srcset" else [value]:
                    if match := _ADDRESS.match(address.strip()):
                        self.foreign.append(match[0])

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.foreign += _STYLE.findall(data)


def foreign_references(site: Path) -> Iterator[str]:
    """Yield a line for each thing that a page or a style sheet of the site loads from elsewhere."""
    for path in sorted(site.rglob("*.html")):
        page = _Page()
        page.feed(path.read_text("utf-8"))
        yield from (f"{path.relative_to(site)}: {address}" for address in page.foreign)
    for path in sorted(site.rglob("*.css")):
        addresses = _STYLE.findall(path.read_text("utf-8"))
        yield from (f"{path.relative_to(site)}: {address}" for address in addresses)


def check_site(site: Path) -> None:
    """Check that the site was built and loads nothing from other hosts.

    Raises:
        AssertionError: If it has few pages, or if a page loads something from another host.
    """
    pages = list(site.rglob("index.html"))
    assert len(pages) > 20, f"The site has {len(pages)} pages."
    foreign = list(foreign_references(site))
    assert not foreign, "The site loads from other hosts:\n" + "\n".join(foreign)
