"""``laid look`` as one HTML page that opens offline: no script, no file beside it."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from laid.common.html_page import html_page
from laid.evaluation.accuracy_figures import COLOURS
from laid.look.look_report import LookReport, ModelLook

_STYLE = """\
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.2rem auto; max-width: 75rem;
       padding: 0 1rem; color: #1a1a1a; background: #fff }
h1 { font-size: 1.3rem; margin: 0 0 .3rem }
table { border-collapse: collapse; margin: .8rem 0; display: block; overflow-x: auto }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .4em }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .7rem }
figure { margin: 0; border: 1px solid #ccc; border-radius: 4px; padding: .35rem }
figure.needle { border: 3px solid #c00000; padding: calc(.35rem - 2px) }
figure img { width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: #f4f4f4 }
figcaption { font-size: .75rem; overflow-wrap: anywhere }
.bar { background: #eee; font-size: .72rem; line-height: 1.15rem; margin-top: 2px;
       position: relative }
.bar i { display: block; height: 1.15rem }
.bar b { position: absolute; inset: 0; padding-left: .3rem; font-weight: normal }
img.wide { max-width: 100% }
code { overflow-wrap: anywhere }
"""


def look_page(report: LookReport, thumbnails: Sequence[Image.Image], layers_png: bytes) -> str:
    """The page.

    Args:
        thumbnails: of the haystack's images, in order.
        layers_png: the figure by layer.
    """
    expected = f"Expected answer: <b>{escape(report.expected)}</b>" if report.expected else ""
    rows = "".join(
        f"<tr><td>{_key(at)}{escape(model.name)}</td><td>{escape(model.answer) or '(nothing)'}</td>"
        f"{_needle_cell(report, model)}<td>{sum(model.sharp):.0%}</td><td>{escape(model.what)}</td>"
        "</tr>"
        for at, model in enumerate(report.models)
    )
    needles = "<th>on the needle</th>" if report.needles else ""
    count = len(thumbnails)
    images = "\n".join(_image(report, at, image) for at, image in enumerate(thumbnails))
    earlier = "\n".join(f"<p><b>{role}</b>: {escape(said)}</p>" for role, said in report.earlier)
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    body = f"""\
{earlier}
<h1>{escape(report.question)}</h1>
<p>{count} image{"s" * (count != 1)}, entry {escape(report.entry)}. {expected}</p>
<table>
<tr><th>model</th><th>answer</th>{needles}<th>on all images</th><th>what it is</th></tr>
{rows}
</table>
<p>Beneath each image: its share of the attention of each model's {report.heads} sharpest heads,
each from the word of the question from which it attends to one image most.
{"A red frame marks an image that the question is about." if report.needles else ""}</p>
<div class="images">
{images}
</div>
<h2>By layer</h2>
<p>Mean over all heads and words of the question.</p>
<img class="wide" alt="share of attention by layer and image"
 src="data:image/png;base64,{base64.b64encode(layers_png).decode()}">
{f"<ul>{notes}</ul>" if notes else ""}
<p>laid {escape(report.laid_version)}, {escape(report.created)}:
<code>{escape(report.command)}</code></p>"""
    return html_page(report.question, _STYLE, body)


def _image(report: LookReport, at: int, image: Image.Image) -> str:
    bars = "".join(
        f'<div class="bar" title="{escape(model.name)}"><i style="width:{model.sharp[at]:.1%};'
        f'background:{COLOURS[index % len(COLOURS)]}66"></i><b>{escape(model.name)} '
        f"{model.sharp[at]:.0%}</b></div>"
        for index, model in enumerate(report.models)
    )
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    needle = ' class="needle"' if at in report.needles else ""
    return (
        f'<figure{needle}><img alt="image {at + 1}" src="data:image/jpeg;base64,'
        f'{base64.b64encode(file.getvalue()).decode()}"><figcaption>{at + 1}: '
        f"{escape(report.images[at])}</figcaption>{bars}</figure>"
    )


def _key(at: int) -> str:
    return f'<span class="key" style="background:{COLOURS[at % len(COLOURS)]}"></span>'


def _needle_cell(report: LookReport, model: ModelLook) -> str:
    if not report.needles:
        return ""
    return f"<td>{sum(model.sharp[at] for at in report.needles):.0%}</td>"
