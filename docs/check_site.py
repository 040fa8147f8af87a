"""Checks the built documentation: `python docs/check_site.py [FOLDER]`, which `make docs` runs.

Every `src`, `href` and `srcset` of every page, and every `url()` of every style sheet, must lead to a file of the site,
and every `#name` to an element of that page. Pages may link to other sites; they may load nothing from them. A fence in
the text of a page is a code block that was not understood.
"""

import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What loads when the page is opened, beside every `src`: these `rel` words of <link>.
LOADING = {"stylesheet", "icon", "preload", "modulepreload", "manifest", "prefetch"}
STYLE_URL = re.compile(r"""url\(\s*['"]?([^'")]+)""")


@dataclass
class Page(HTMLParser):
    """The names in a page that can be linked to, its links, and what it loads."""

    names: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    has_fence: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        if "href" in given:
            loads = tag == "link" and LOADING & set(given.get("rel", "").split())
            (self.loads if loads else self.links).append(given["href"])
        self.loads += [given[name] for name in ("src", "poster", "data") if name in given]
        self.loads += [part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()]
        self.loads += STYLE_URL.findall(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        self.has_fence |= "```" in data


def problems(site: Path) -> list[str]:
    """One line for each link that leads nowhere and each thing that is loaded from elsewhere."""
    site = site.resolve()
    pages = {path: _read(path) for path in sorted(site.rglob("*.html"))}
    if not pages:
        return [f"{site}: no page; build the documentation first"]
    found = []
    for path, page in pages.items():
        wrong = [_wrong(site, path, target, pages, loads=False) for target in page.links]
        wrong += [_wrong(site, path, target, pages, loads=True) for target in page.loads]
        wrong += ["a code block that was not understood" if page.has_fence else None]
        found += [f"{path.relative_to(site)}: {text}" for text in wrong if text]
    for path in sorted(site.rglob("*.css")):
        targets = STYLE_URL.findall(path.read_text(encoding="utf-8"))
        wrong = [_wrong(site, path, target, pages, loads=True) for target in targets]
        found += [f"{path.relative_to(site)}: {text}" for text in wrong if text]
    return sorted(set(found))


def _read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _wrong(site: Path, path: Path, target: str, pages: dict[Path, Page], loads: bool) -> str | None:
    """What is wrong with a target found in the file `path`, or None."""
    parts = urlsplit(target)
    if parts.scheme in ("data", "mailto", "javascript"):
        return None
    if parts.scheme or parts.netloc:
        return f"loads {target}" if loads else None
    # An address from the root is that of a site at the root of a host, as the page for unknown addresses has it.
    start = site if parts.path.startswith("/") else path.parent
    aim = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
    aim = aim / "index.html" if aim.is_dir() else aim
    if not aim.is_file() or not aim.is_relative_to(site):
        return f"{target} is not there"
    if parts.fragment and aim in pages and unquote(parts.fragment) not in pages[aim].names:
        return f"{target} names nothing in its page"
    return None


def main() -> None:
    found = problems(Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
    if found:
        raise SystemExit("\n".join([*found, f"{len(found)} things in the documentation are wrong"]))


if __name__ == "__main__":
    main()
