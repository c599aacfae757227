"""The example notebook runs as it stands: results, a plot, and refusals as lists of reasons."""

import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="requirements-dev.lock holds it")
nbclient = pytest.importorskip("nbclient", reason="requirements-dev.lock holds it")
pytest.importorskip("ipykernel", reason="requirements-dev.lock holds it")

slow = pytest.mark.slow  # a broker, two owners and five jobs, from a kernel of its own
PLACE = Path(__file__).resolve().parents[2] / "examples" / "notebook"


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The executed cells of code, by their order."""
    notebook = nbformat.read(PLACE / "delays.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    notebook.metadata.kernelspec.name = "python3"
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(PLACE)}})
    client.km = client.create_kernel_manager()
    client.km.kernel_spec.argv[0] = sys.executable
    client.execute()
    kept = tmp_path_factory.mktemp("notebook") / "delays.ipynb"
    nbformat.write(notebook, kept)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell, kind):
    return "".join(output.data[kind] for output in cell.outputs if kind in output.get("data", {}))


@slow
def test_session_says_whose_it_is_and_that_it_is_simulated(cells):
    assert "analyst:" in shown(cells[0], "text/html")
    assert "protects nothing" in shown(cells[0], "text/html")


@slow
def test_query_comes_back_as_a_table_and_a_data_frame_that_is_plotted(cells):
    assert "<table" in shown(cells[2], "text/html")
    assert "visib" in shown(cells[2], "text/html")
    assert shown(cells[3], "image/png")
    assert "flights" in shown(cells[4], "text/html")
    assert "flights: int64" in shown(cells[5], "text/plain")


@slow
def test_refusals_list_every_reason_and_no_stack_trace(cells):
    withheld, program = cells[6], cells[7]
    assert "column &#x27;flight&#x27; is withheld by the owner" in shown(withheld, "text/html")
    reasons = shown(program, "text/html")
    assert reasons.count("the python program has digest") == 2, "each owner's reason is told"
    assert "on the owner&#x27;s list, which is empty" in reasons
    for cell in (withheld, program):
        errors = [output for output in cell.outputs if output.output_type == "error"]
        assert [error.ename for error in errors] == ["CellStoppedError"]
        assert not any(error.traceback for error in errors)


def test_values_in_results_are_not_html():
    import pyarrow as pa

    from strongroom.notebook.display import show_refusal, show_table

    table = pa.table({"<b>": ["<script>alert(1)</script>", None], "n": [1234567, 2]})
    card = show_table(table, title="<i>", facts=("&",), simulated=False)
    assert "<script>" not in card
    assert "<b>" not in card.replace("<b>&lt;i&gt;</b>", "")
    assert "1,234,567" in card
    assert "<script>" not in show_refusal("<script>", reasons=("<script>",), hint="<script>")


def test_reasons_are_told_once_and_with_what_to_do():
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    from strongroom.errors import RefusedError
    from strongroom.notebook.session import Session

    class Refusing(Session):
        def __init__(self):
            """Be of no broker: every query is refused, as a driver says it."""

        def run(self, text, *, kind="sql"):
            told = "the query is refused for 2 reasons:\n  1. single rows\n  2. MAX is one reading"
            raise RefusedError(told, reasons=("single rows", "MAX is one reading"), hint="change the query")

    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "strongroom.notebook")
    shell.user_ns["session"] = Refusing()
    with capture_output() as seen:
        assert not shell.run_cell("%%strongroom worst\nSELECT max(load) FROM plant").success
    (card,) = seen.outputs
    assert all(card.data[kind].count("MAX is one reading") == 1 for kind in ("text/html", "text/plain"))
    assert card.data["text/plain"].endswith("- MAX is one reading\nhint: change the query")
