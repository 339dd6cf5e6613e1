"""The pictures of scripts/shots.py: one a page and scheme."""

import browsing
import pytest
from PIL import Image

import shots


@pytest.mark.slow
def test_a_page_is_taken_in_light_and_in_dark(tmp_path):
    browsing.require()
    page = tmp_path / "page.html"
    page.write_text('<style>:root { color-scheme: light dark }</style><p style="height: 2000px">a')
    shots.take([("page", page.as_uri())], tmp_path)
    light, dark = (
        Image.open(tmp_path / f"page-{scheme}.png").convert("L") for scheme in ("light", "dark")
    )
    assert light.size == dark.size and light.size[1] > 2000  # the whole page
    assert light.getpixel((1, 1)) > 200 > 60 > dark.getpixel((1, 1))


def test_without_a_forest_the_report_is_of_made_numbers(tmp_path):
    assert "synthetic" in shots.report(None, tmp_path).read_text()
