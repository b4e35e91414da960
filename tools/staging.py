"""nbdev's processing of a page for the site, but for one thing: of a lesson only imports and what it exports is run.

nbdev runs every cell that imports something, whatever else it does, to show documentation. Here a cell that also computes
is shown as it was stored: it may need cells before it, files beside it, and minutes."""
import ast

from nbdev.processors import FilterDefaults, exec_show_docs

RUN = {"export", "exports", "exporti", "exec_doc"}  # nbdev's directives for what must run
DEFINE = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


def as_stored(cell):
    "Tell nbdev to leave a cell alone that is not exported and does more than import and define."
    if cell.cell_type != "code" or cell.directives_.keys() & RUN or "show_doc(" in cell.source: return
    if any(not isinstance(node, DEFINE) for node in cell.parsed_() or ()): cell.directives_["eval"] = "false"


class Pages(FilterDefaults):
    def base_procs(self):
        procs = super().base_procs()
        at = procs.index(exec_show_docs)
        return [*procs[:at], as_stored, *procs[at:]]


def install():
    "Make nbdev process pages so, whoever asks it to."
    import nbdev.serve

    nbdev.serve.FilterDefaults = Pages
