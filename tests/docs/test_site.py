"""The documentation builds as a site, without a broken link."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def named(nav):
    """The pages of a navigation, which has sections in it, and pages with a title of their own."""
    for item in nav:
        if isinstance(item, str):
            yield item
        else:
            (inside,) = item.values()
            yield from named([inside] if isinstance(inside, str) else inside)


def test_every_page_can_be_found_in_the_sites_navigation():
    pages = list(named(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert len(pages) == len(set(pages))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= set(pages)


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    words = ["-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    built = tmp_path / "site"
    for page in pages:
        name = page.replace("README.md", "index.md")
        assert (built / name).with_suffix(".html").exists()
    assert "SizeCell" in (built / "api.html").read_text()
    # Nothing is loaded from elsewhere.
    index = (built / "index.html").read_text()
    assert 'src="http' not in index
    assert "fonts.g" not in index
