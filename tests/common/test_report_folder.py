"""A report's folder: made whole, and never in place of something else."""

import re

import pytest

from laid.common.errors import UserError
from laid.common.report_folder import report_folder


def test_a_file_is_no_folder_for_a_report(tmp_path):
    file = tmp_path / "out"
    file.write_text("mine")
    with pytest.raises(UserError, match="is a file"), report_folder(str(file), re.compile("x")):
        raise AssertionError("refused before anything is computed")
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]
