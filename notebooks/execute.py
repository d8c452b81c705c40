"""Execute notebooks from a clean kernel, and store them as a page without a kernel shows them.

    python notebooks/execute.py                  # all of this directory, in place
    python notebooks/execute.py 04-skew.ipynb

Stored are text, tables and pictures. What only a running kernel can use (plotly's data where there
is a picture, widget state, times) is left out, so that files stay small and differ only where
results do. Needs ``pip install -e ".[notebook,figures]"`` and a Chrome or Chromium.

As a page, with words for whoever cannot see the pictures (lab's own template leaves them out):

    jupyter nbconvert --to html notebooks/01-tour.ipynb --template page \\
        --TemplateExporter.extra_template_basedirs=notebooks/templates
"""

from __future__ import annotations

import html
import re
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"


def notebooks() -> list[Path]:
    """Return the notebooks of this directory."""
    return sorted(HERE.glob("*.ipynb"))


def execute(path: Path, directory: str | Path, timeout_s: int = 120):
    """Return a notebook executed in ``directory``; ``CellExecutionError`` when a cell fails."""
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(
        notebook,
        timeout=timeout_s,
        kernel_name="python3",
        resources={"metadata": {"path": str(directory)}},
        record_timing=False,
    )
    return client.execute()


def alt(data) -> str:
    """Return what an output's picture shows, for whoever cannot see it: title and subtitle."""
    title = data.get(PLOTLY, {}).get("layout", {}).get("title", {})
    said = [title.get("text", ""), title.get("subtitle", {}).get("text", "")]
    words = ". ".join(part for part in said if part) or data.get("text/plain", "")
    return html.unescape(re.sub(r"<[^>]*>", " ", words)).strip()


def readable(notebook):
    """Return an executed notebook without what a page cannot show."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            words = alt(data)
            if "image/png" in data:
                data.pop(PLOTLY, None)
            data.pop(WIDGET, None)
            output.pop("metadata", None)
            if output.output_type in ("display_data", "execute_result"):
                output.metadata = {"image/png": {"alt": words}} if "image/png" in data else {}
    return notebook


def main() -> None:
    """Execute the notebooks named on the command line, or all."""
    import nbformat

    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else notebooks():
        path = path if path.exists() else HERE / path
        with tempfile.TemporaryDirectory() as directory:
            done = readable(execute(path, directory))
        nbformat.write(done, path)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
