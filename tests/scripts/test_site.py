"""The documentation site builds without a warning, no link in it is dead, and its pictures are the script's."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise

import browsing
import pytest
from folders import ROOT

import links
import pictures

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built without a warning."""
    root = tmp_path_factory.mktemp("built")
    shutil.copy(ROOT / "zensical.toml", root)
    shutil.copytree(DOCS, root / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "site"


@pytest.mark.slow
def test_no_link_of_the_site_is_dead(site):
    assert len([*site.rglob("*.html")]) > 40
    assert links.dead(site) == []


@pytest.mark.slow
@pytest.mark.timeout(1300)  # beside other work a page takes ten seconds
def test_axe_finds_no_barrier_in_light_or_dark(site):
    """On pages with what others have too (pictures, code, wide tables, a long table of contents), and
    on every fourth of the others: all would take minutes.
    """
    browsing.require()
    every = sorted(site.rglob("*.html"))
    named = [site / f"{name}.html" for name in ("index", "how-it-works", "paper", "settings")]
    pages = sorted(
        {*named, *every[::4]} - {site / "404.html"}
    )  # the theme's own: its toggles stand in no landmark
    assert len(pages) > 12
    command = [browsing.NODE, ROOT / "scripts/axe.mjs", browsing.HOME, browsing.CHROMIUM]
    assert json.loads(browsing.driven([*command, *pages], "", timeout=600)) == []


def test_every_column_of_a_table_has_a_name():
    """Screen readers name each cell by it."""
    rule = re.compile(r"^\|[-:| ]+\|$")
    for page in DOCS.rglob("*.md"):
        lines = page.read_text().splitlines()
        for head, line in pairwise(lines):
            if rule.match(line) and head.startswith("|"):
                cells = head.replace(r"\|", "").strip("|").split("|")
                assert all(cell.strip() for cell in cells), f"{page}: {head}"


def test_every_page_stands_in_the_navigation():
    config = tomllib.loads((ROOT / "zensical.toml").read_text())

    def pages(entries):
        for entry in entries:
            for place in entry.values():
                yield from pages(place) if isinstance(place, list) else [place]

    listed = [*pages(config["project"]["nav"])]
    assert len({*listed}) == len(listed)
    assert {*listed} == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ('<a href="b.html#x">', ["a.html: b.html#x: no such anchor"]),
        ('<a href="c.html">', ["a.html: c.html: no such file"]),
        ('<a href="../secret.txt">', ["a.html: ../secret.txt: no such file"]),
        ('<img src="d.png">', ["a.html: d.png: no such file"]),
        ('<script src="https://x.y/z.js">', ["a.html: loads https://x.y/z.js from elsewhere"]),
        ('<a href="b.html#here">', []),
        ('<a href="https://x.y">', []),
    ],
)
def test_a_dead_link_is_found(tmp_path, page, said):
    root = tmp_path / "site"
    root.mkdir()
    (tmp_path / "secret.txt").touch()
    (root / "a.html").write_text(page)
    (root / "b.html").write_text('<h1 id="here">')
    assert links.dead(root) == said


def test_the_pictures_are_what_the_script_draws():
    for name, svg in pictures.pictures().items():
        assert (DOCS / "pictures" / name).read_text() == svg, "python scripts/pictures.py"


def test_the_promises_name_tests_that_stand():
    named = re.findall(r"`(tests/\S+\.py)`", (DOCS / "promises.md").read_text())
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).is_file()] == []
