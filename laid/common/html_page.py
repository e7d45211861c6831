"""The frame of a report that is one HTML file."""

from html import escape

from laid.common.printable import one_line


def html_page(title: str, style: str, body: str, head: str = "") -> str:
    """A page that opens offline.

    Args:
        title: a text; ``style`` is CSS, ``body`` HTML.
        head: more HTML of the head.
    """
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(one_line(title))}</title>
<style>
{style}</style>
{head}</head>
<body>
{body}
</body>
</html>
"""
