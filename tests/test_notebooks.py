"""The notebooks run from a clean kernel, and the copies in the repository can be read without one.

Both are looked at in a browser, at both widths and in both themes: the copies as pages, and the
figures that a run draws.
"""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from browser import FIGURES, PLAIN, page_of_figures, probed

from costmodel.figures import static

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"
NAMES = [p.stem for p in PATHS]


def load(path):
    spec = importlib.util.spec_from_file_location(f"_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outputs(notebook):
    return [o for c in notebook["cells"] if c["cell_type"] == "code" for o in c["outputs"]]


def figures(notebook):
    return [o for o in outputs(notebook) if {"image/png", PLOTLY} & set(o.get("data", {}))]


def test_there_are_five():
    assert NAMES == [
        "01-tour", "02-gpt-oss-2880", "03-your-machine", "04-skew", "05-kernels-and-fabrics",
    ]  # fmt: skip


needs_browser = pytest.mark.skipif(static.browser() is None, reason="no Chrome or Chromium here")


@pytest.mark.campaign
@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_runs_from_a_clean_kernel(path, tmp_path):
    for name in ("nbformat", "ipykernel", "ipywidgets", "pandas"):
        pytest.importorskip(name)
    pytest.importorskip("nbclient", reason="nbclient executes notebooks: xgmi-costmodel[notebook]")
    execute = load(NOTEBOOKS / "execute.py")
    done = execute.execute(path, tmp_path)  # raises CellExecutionError
    committed = json.loads(path.read_text(encoding="utf-8"))
    assert len(figures(done)) == len(figures(committed)) >= 2
    assert not list(tmp_path.iterdir()), "a notebook leaves files in the reader's directory"
    for cell in done.cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output.text
    if static.browser() is None:
        return
    drawn = {}
    for i, output in enumerate(figures(done)):
        record = json.loads(json.dumps(output["data"][PLOTLY]))
        record["layout"].pop("template", None)
        drawn[f"figure-{i + 1}"] = (execute.alt(output["data"]), record)
    page = page_of_figures(drawn, tmp_path / "figures.html")
    for width in (700, 1400):
        seen = probed(page, width, tmp_path, FIGURES)
        # No label on another, none cut off, and a text for whoever cannot see it; in both themes.
        assert seen["found"] == []
        assert (seen["errors"], seen["left"], seen["console"]) == ("0", [], [])
        assert seen["figures"] == len(drawn)


@needs_browser
@pytest.mark.campaign
@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_the_copy_is_a_page_that_anybody_can_read(path, tmp_path):
    nbconvert = pytest.importorskip("nbconvert", reason="nbconvert makes pages of notebooks")
    committed = json.loads(path.read_text(encoding="utf-8"))
    for theme in ("light", "dark"):
        exporter = nbconvert.HTMLExporter(
            theme=theme, template_name="page",
            extra_template_basedirs=[str(NOTEBOOKS / "templates")],
        )  # fmt: skip
        # What the page would load from elsewhere, and none of it is needed without a kernel.
        for name in ("mathjax_url", "jquery_url", "require_js_url", "mermaid_js_url",
                     "widget_renderer_url"):  # fmt: skip
            setattr(exporter, name, "")
        text, _ = exporter.from_filename(str(path))
        page = tmp_path / f"{theme}.html"
        page.write_text(text)
        for width in (700, 1400):
            seen = probed(page, width, tmp_path, PLAIN)
            # Nothing overflows, and each picture has its words.
            assert seen["found"] == []
            assert (seen["errors"], seen["console"]) == ("0", [])
            assert [name for name in seen["left"] if not name.startswith("data:")] == []
            assert seen["pictures"] == len(figures(committed))


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_can_be_read_without_a_kernel(path):
    committed = json.loads(path.read_text(encoding="utf-8"))
    code = [c for c in committed["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1)), "run execute.py"
    shown = figures(committed)
    assert shown
    for output in shown:
        assert "image/png" in output["data"], "a figure that GitHub does not draw"
        assert len(output["metadata"]["image/png"]["alt"]) > 40, "run execute.py"
    for output in outputs(committed):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output["text"]
        assert {"text/plain", "text/html", "image/png"} & set(output.get("data", {"text/plain": 0}))
    assert any("sliders(" in "".join(c["source"]) for c in code)


def test_names_no_machine():
    for path in PATHS:
        text = re.sub(r'"image/png": "[^"]*"', "", path.read_text(encoding="utf-8"))
        assert not re.search(r"/(work|root|home|tmp)/", text), path.name


def test_small_enough_for_a_repository():
    assert sum(p.stat().st_size for p in PATHS) < 4_000_000


def test_without_a_browser_figures_are_plotly_alone(monkeypatch):
    import plotly.io as pio

    from costmodel.figures.notebook import PLOTLY as RENDERER
    from costmodel.figures.notebook import inline

    before = pio.renderers.default
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chromium")
    try:
        assert inline() == RENDERER
        assert pio.renderers.default == RENDERER
    finally:
        pio.renderers.default = before


def test_sliders_leave_a_line_of_text_without_a_kernel(monkeypatch):
    pytest.importorskip("ipywidgets")
    import IPython.display as shown
    import plotly.graph_objects as go

    from costmodel.figures.notebook import sliders

    said = []
    monkeypatch.setattr(shown, "display", lambda bundle, raw: said.append(bundle))
    sliders(lambda ranks, hidden: go.Figure(), ranks=[2, 4], hidden=(10, 20, 10))
    assert "[sliders over ranks, hidden" in said[-1]["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in said[-1]
