"""The texts of --help, read once a process: five sixths of the time of making a parser."""

from functools import cache, partial

from docstring_parser.attrdoc import AttributeDocstrings


def read_once() -> None:
    """Keeps what jsonargparse reads from a class's source, anew for each parser."""
    read = partial(AttributeDocstrings.get_attr_docs, AttributeDocstrings())
    known = cache(lambda component: dict(read(component)))
    AttributeDocstrings.get_attr_docs = lambda self, component: known(component)  # type: ignore
