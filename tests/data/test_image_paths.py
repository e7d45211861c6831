"""Names of images: none leads out of its folder."""

import pytest

from laid.data.image_names import resolve_under


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x.jpg", "a/../../x.jpg", "C:\\x.jpg", "..\\x.jpg", "", ".", "a\0b", 7],
)
def test_names_that_leave_the_root_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="does not stay below"):
        resolve_under(tmp_path, name)


def test_names_below_the_root_are_found(tmp_path):
    for name in ("val2017/1.jpg", "./val2017//1.jpg", "x/../val2017/1.jpg", "val2017\\1.jpg"):
        assert resolve_under(tmp_path, name) == tmp_path / "val2017" / "1.jpg"
