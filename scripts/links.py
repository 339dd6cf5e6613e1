"""Find dead links in a built site: files and anchors that are not there, and what is loaded from elsewhere.

python scripts/links.py site
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_SCHEMES = {"gh-light-mode-only", "gh-dark-mode-only"}
_LOADS = {"script": "src", "link": "href", "img": "src", "source": "src", "iframe": "src"}


class Page(HTMLParser):
    """The anchors of a page, the links on it, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag names and where it leads."""
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        if tag in _LOADS and (place := given.get(_LOADS[tag])) and given.get("rel") != "canonical":
            self.loads.add(place)


def anchors(pages: dict[Path, Page], place: Path) -> set[str]:
    """Return the anchors of a page; of a picture its schemes, of which the style sheet knows."""
    return pages[place].anchors if place in pages else _SCHEMES


def dead(root: Path) -> list[str]:
    """List what is wrong in the pages below `root`, a line each."""
    pages = {file: Page(file.read_text()) for file in sorted(root.rglob("*.html"))}
    found = []
    for file, page in pages.items():
        if file.name == "404.html":  # its links begin at the root of a server
            continue
        for link in sorted(page.links | page.loads):
            parts = urlsplit(unquote(link))
            if parts.scheme or parts.netloc:
                if link in page.loads and parts.scheme != "data":
                    found.append(f"{file.relative_to(root)}: loads {link} from elsewhere")
                continue
            place = (file.parent / parts.path).resolve() if parts.path else file
            if place.is_dir():
                place /= "index.html"
            if not place.is_file() or not place.is_relative_to(root):
                found.append(f"{file.relative_to(root)}: {link}: no such file")
            elif parts.fragment and parts.fragment not in anchors(pages, place):
                found.append(f"{file.relative_to(root)}: {link}: no such anchor")
    return found


if __name__ == "__main__":
    lines = dead(Path(sys.argv[1]).resolve())
    print("\n".join(lines) or "no dead links")
    sys.exit(bool(lines))
