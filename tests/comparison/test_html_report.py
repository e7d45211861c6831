"""``report.html``: one file that opens offline, in a real browser where there is one."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from laid.cli.main import main

SIZES = (1, 20, 50)
HOSTILE = 'a</script><b>"$x$'


class Page(HTMLParser):
    """The tables of a page, and what it would load."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.cells: list[dict[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag in ("script", "img", "link", "iframe"):
            self.loads += [found[key] for key in ("src", "href") if key in found]
        if tag == "td":
            self.cells.append(found)


@pytest.fixture
def report(made, tmp_path):
    for name, many in {"base": 20, "laid-seed0": 30, "laid-seed1": 32}.items():
        made(name, {size: [index < many for index in range(40)] for size in SIZES})
    made("hostile", {size: [index < 9 for index in range(40)] for size in SIZES}, name=HOSTILE)
    look = tmp_path / "look at 1"
    look.mkdir()
    (look / "look.json").write_text(json.dumps({"entry": "test-20-000025"}))
    (look / "look.html").write_text("a page")
    out = tmp_path / "report"
    files = sorted(str(file) for file in made.root.glob("*/results.json"))
    main(["compare", *files, "--base", "base", "--look", str(look), "--out", str(out)])
    return out / "report.html"


def browser():
    """Debian's name, and others'."""
    found = [shutil.which(name) for name in ("chromium", "google-chrome", "chromium-browser")]
    return next(filter(None, found), None)


@pytest.fixture
def opened(report):
    """Opens a wrapper page that has the report in a frame of a phone's width: what a script in it
    finds, and what the browser's console said."""
    if browser() is None:
        pytest.skip("needs chromium")

    def call(script):
        wrapper = report.parent.parent / "wrapper.html"
        wrapper.write_text(
            f"""<iframe id=f width=390 height=900 src="{report.as_uri()}"></iframe><script>
            f.onload = () => {{ const w = f.contentWindow, d = w.document; {script}
            document.body.append("FOUND" + JSON.stringify(found) + "END"); }};</script>"""
        )
        done = subprocess.run(
            [
                *(browser(), "--headless", "--no-sandbox", "--disable-gpu"),
                *("--allow-file-access-from-files", "--enable-logging=stderr"),
                *("--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000"),
                f"--user-data-dir={report.parent.parent / 'browser'}",
                *("--dump-dom", wrapper.as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=240,
        )
        (found,) = re.findall("FOUND(.*?)END", done.stdout.split("</script>")[-1])
        return json.loads(found), [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return call


def test_nothing_is_loaded_and_no_name_is_taken_for_html(report):
    text = report.read_text()
    page = Page(text)
    assert page.loads == ["data:,"]
    assert "<b>" + HOSTILE[-4:] not in text
    assert "<script" in text
    # plotly's script, the two figures, and the sorting of tables.
    assert text.count("<script>") == text.count("</script>") == 4
    assert '<a href="../look%20at%201/look.html">test-20-000025</a>' in text


def test_every_number_has_the_value_that_it_is_sorted_by(report):
    page = Page(report.read_text())
    values = [cell["data-value"] for cell in page.cells]
    assert "77.5" in values
    assert "laid test --results base" in report.read_text()


def test_entries_that_methods_differ_on_are_listed_the_clearest_first(report):
    text = report.read_text()
    listed = re.findall(r'<td data-value="test-\d+-\d+">(test-\d+-\d+)</td>', text)
    assert len(listed) == 40
    # 20 to 29 are right for both seeds of laid alone, 9 to 19 for all but one; 30, 31 for one seed.
    numbers = [int(name.rsplit("-", 1)[1]) for name in listed]
    assert set(numbers) <= set(range(9, 30))
    assert "of 69 entries on which the methods differ" in text


def test_a_browser_draws_it_sorts_it_and_fits_it_to_a_phone(opened):
    script = """
      const table = d.querySelector("table.sortable"), head = table.querySelectorAll("th");
      const column = () => [...table.tBodies[0].rows].map(r => r.children[1].dataset.value);
      head[1].click(); const up = column(); head[1].click();
      const found = {
        plots: d.querySelectorAll(".js-plotly-plot .scatterlayer .trace").length,
        up: up, down: column(), sorted: head[1].getAttribute("aria-sort"),
        wide: d.documentElement.scrollWidth, frame: d.documentElement.clientWidth,
        loaded: w.performance.getEntriesByType("resource").map(e => e.name),
      };"""
    found, console = opened(script)
    assert console == []
    assert found["loaded"] == []
    # Three methods, and two against the base.
    assert found["plots"] == 3 + 2
    assert found["up"] == sorted(found["up"], key=float)
    assert found["down"] == found["up"][::-1]
    assert found["sorted"] == "descending"
    assert found["wide"] <= found["frame"]


def test_a_folder_that_is_no_look_is_refused_and_no_report_is_written(made, tmp_path, capsys):
    file = made("base", {1: [True, False]})
    with pytest.raises(SystemExit):
        main(["compare", file, "--look", str(tmp_path), "--out", str(tmp_path / "report")])
    assert not (tmp_path / "report").exists()
