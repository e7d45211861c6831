"""The example notebook runs from top to bottom."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "miniature.ipynb"


def test_it_is_kept_without_output():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    reason = "needs nbclient and ipykernel, of the extra docs"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    nbformat = pytest.importorskip("nbformat", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (given,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    given.source = given.source.replace('"200"', '"2"').replace('"40"', '"2"')
    given.source = given.source.replace("[1, 10, 50, 100]", "[1, 2]")
    # The real sources; everything that is written lies elsewhere.
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    shown = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert sum("image/png" in out.get("data", {}) for out in shown) == 3
    texts = "".join(out.get("data", {}).get("text/markdown", "") for out in shown)
    assert "Accuracy by haystack size" in texts
    assert {path.name for path in tmp_path.iterdir()} == {"configs", "runs"}
