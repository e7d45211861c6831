"""A comparison as one HTML file that opens offline: figures to read values off, tables to sort, and
how each number was made.

plotly's script is in the file, once; nothing is loaded from elsewhere.
"""

from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import quote

import plotly.graph_objects as go
import yaml
from plotly.offline import get_plotlyjs

from laid.common.html_page import html_page
from laid.common.json_codec import to_json
from laid.common.printable import one_line, printable
from laid.common.tables import Table, html
from laid.comparison.methods import Method
from laid.comparison.study import Study
from laid.evaluation.accuracy_figures import COLOURS, place_of

_STYLE = """\
body { font: 15px/1.45 system-ui, sans-serif; margin: 1rem auto; max-width: 72rem; padding: 0 1rem;
       color: #1a1a1a; background: #fff }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
h1, h2, p, li, summary { overflow-wrap: anywhere }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 8rem;
                                 max-width: 20rem; overflow-wrap: anywhere }
th { cursor: pointer; border-bottom: 1px solid #888 } tr:nth-child(even) td { background: #f6f6f6 }
th[aria-sort=ascending]::after { content: " ▲" } th[aria-sort=descending]::after { content: " ▼" }
pre { background: #f6f6f6; padding: .6rem; overflow-x: auto }
"""
_SORT = """\
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th").forEach((header, column) => header.addEventListener("click", () => {
    const up = header.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => row.children[column]?.dataset.value ?? "";
    const body = table.tBodies[0];
    [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const [i, j] = [Number(x), Number(y)];
      const order = isNaN(i) || isNaN(j) ? x.localeCompare(y) : i - j;
      return up ? order : -order;
    }).forEach(row => body.append(row));
  }));
}
"""


def html_report(
    study: Study, made: Sequence[Table], lines: Sequence[str], pages: Mapping[str, str]
) -> str:
    """The page.

    Args:
        made: tables, in order.
        lines: what is said before them: methods, notes.
        pages: by entry, the page of ``laid look`` on it, relative to the report.
    """
    title = "Comparison of " + ", ".join(method.title for method in study.rows)
    figures = [("Accuracy by haystack size", accuracy_plot(study))]
    if study.tested:
        figures.append((f"Difference to {study.base.title}", difference_plot(study)))  # type: ignore[union-attr]
    parts = [
        f"<h1>{escape(one_line(title))}</h1>",
        "<ul>" + "".join(f"<li>{escape(one_line(line))}</li>" for line in lines) + "</ul>",
        *(_figure(at, name, figure) for at, (name, figure) in enumerate(figures)),
        "<p>A click on a column's name sorts a table by it.</p>",
        *map(html, made),
    ]
    if pages:
        links = (f'<li><a href="{quote(page)}">{escape(e)}</a></li>' for e, page in pages.items())
        parts.append(f'<h2 id="look">Where models look</h2><ul>{"".join(links)}</ul>')
    parts += ['<h2 id="made">How each number was made</h2>', *map(_made, study.rows)]
    parts.append(f"<script>\n{_SORT}</script>")
    return html_page(title, _STYLE, "\n".join(parts), f"<script>{get_plotlyjs()}</script>\n")


def accuracy_plot(study: Study) -> go.Figure:
    """Accuracy by haystack size with its 95% interval, a line a method."""
    figure = _by_size(study.sizes, "accuracy, %")
    for at, method in enumerate(study.rows):
        measured = study.accuracy(method)
        lower, upper = [], []
        for of in measured.values():
            low, high = of.interval or (of.value, of.value)
            lower.append(100 * (of.value - low))
            upper.append(100 * (high - of.value))
        accuracies = [100 * of.value for of in measured.values()]
        figure.add_trace(_line(at, method, list(measured), accuracies, upper, lower))
    if study.yes_no:
        figure.add_hline(50, line={"dash": "dash", "color": "#6F6F6F", "width": 1})
    return figure


def difference_plot(study: Study) -> go.Figure:
    """Each method less the base, paired, in points with its 95% interval."""
    figure = _by_size(study.sizes, "difference, points")
    for method in study.tested:
        tests = [(size, t) for size, t in study.tests[method.label].items() if t is not None]
        sizes = [size for size, _ in tests]
        differences = [100 * t.difference for _, t in tests]
        upper = [100 * (t.interval[1] - t.difference) for _, t in tests]
        lower = [100 * (t.difference - t.interval[0]) for _, t in tests]
        at = study.rows.index(method)
        figure.add_trace(_line(at, method, sizes, differences, upper, lower))
    figure.add_hline(0, line={"color": "#6F6F6F", "width": 1})
    return figure


def _by_size(sizes: Sequence[int], what: str) -> go.Figure:
    return go.Figure(
        layout={
            "xaxis": {
                "title": "images in the haystack",
                "type": "log",
                "tickvals": [place_of(size) for size in sizes],
                "ticktext": [str(size) for size in sizes],
            },
            "yaxis": {"title": what},
            "legend": {"orientation": "h", "y": -0.25},
            "margin": {"l": 55, "r": 10, "t": 10, "b": 40},
            "hovermode": "x unified",
            "template": "plotly_white",
        }
    )


def _line(
    at: int,
    method: Method,
    sizes: list[int],
    values: list[float],
    upper: list[float],
    lower: list[float],
) -> go.Scatter:
    spread = {"type": "data", "symmetric": False, "array": upper, "arrayminus": lower}
    return go.Scatter(
        x=[place_of(size) for size in sizes],
        y=values,
        error_y={**spread, "thickness": 1},
        # In names plotly takes some HTML, and text between dollars for a formula.
        name=escape(one_line(method.title)).replace("$", "&#36;"),
        mode="lines+markers",
        line={
            "color": COLOURS[at % len(COLOURS)],
            "dash": ("solid", "dash", "dot", "dashdot")[at // len(COLOURS) % 4],
        },
        hovertemplate="%{y:.1f}",
    )


def _figure(at: int, name: str, figure: go.Figure) -> str:
    height = 20 + 1.4 * len(figure.data)  # in the worst case each has a line of the legend
    # A "</script>" in a name would end the script.
    data = figure.to_json().replace("</", "<\\/")
    return (
        f"<h2>{escape(one_line(name))}</h2>\n"
        f'<div id="figure{at}" style="height: {height}rem"></div>\n<script>'
        f'{{ const f = {data}; Plotly.newPlot("figure{at}", f.data, f.layout, '
        "{responsive: true, displaylogo: false}); }</script>"
    )


def _made(method: Method) -> str:
    """The commands and settings behind one method's numbers."""
    parts = []
    for file, results in zip(method.files, method.results, strict=True):
        settings = {"tested": to_json(results.tested)}
        if results.training is not None:
            settings["training"] = to_json(results.training)
        dumped = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        parts.append(
            f"<p>{escape(one_line(str(file)))}: laid {escape(results.laid_version)}, "
            f"{escape(results.created)}</p><pre>{escape(printable(results.command))}</pre>"
            f"<details><summary>settings</summary><pre>{escape(printable(dumped))}</pre></details>"
        )
    return f"<details><summary>{escape(one_line(method.title))}</summary>{''.join(parts)}</details>"
