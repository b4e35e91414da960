"""How long the Freeze Lab takes to redraw after a click, with a network of 96 blocks: in a real JupyterLab, seen by a real Chromium."""
import statistics
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from benchmarks.interleave import verdict

CELLS = ["""import sys, tempfile
sys.path.insert(0, "../tests")
import transformers
from small_models import SMALL, texts, tokenizer
from tl_nb.backbones import load_backbone
from tl_nb.finetune import text_learner
from tl_nb.widgets import FreezeLab
folder = tempfile.mkdtemp()
transformers.BertModel(transformers.BertConfig(**SMALL | dict(num_hidden_layers=96))).save_pretrained(folder)
tokenizer().save_pretrained(folder)
learner = text_learner(load_backbone(folder), texts(), bs=4, seed=0)""", "lab = FreezeLab(learner)\nlab"]

# From a change in the page to the frame in which the numbers under the rows are others: there and back to Python.
REDRAW = """(panel, [change, at]) => new Promise(done => {
  const said = () => panel.querySelector('.tl-facts').textContent, old = said(), start = performance.now();
  new MutationObserver((_, observer) => {
    if (said() === old) return;
    observer.disconnect();
    requestAnimationFrame(() => done((performance.now() - start) / 1000));
  }).observe(panel, {subtree: true, childList: true, characterData: true});
  if (change === 'tick') return panel.querySelectorAll('input[type=checkbox]')[at].click();
  const depth = panel.querySelector('input[type=number]');
  depth.value = at;
  depth.dispatchEvent(new Event('change', {bubbles: true}));
})"""


def seconds_of(panel, change, places):
    "Seconds of each redraw, after one that is not counted."
    return [panel.evaluate(REDRAW, [change, at]) for at in places][1:]


def measure(page):
    "{what: seconds of each} in a page with an open notebook."
    start = time.perf_counter()
    page.run_all()
    panel = page.notebook.locator(".tl-panel.widget-vbox")
    panel.get_by_role("checkbox", name="block 96", exact=True).wait_for()
    print(f"  the notebook ran, 98 rows drawn: {time.perf_counter() - start:.1f} s")
    return {"a block ticked": seconds_of(panel, "tick", range(10, 21)), "the depth moved by 1": seconds_of(panel, "depth", range(40, 51)),
            "the depth moved by 40": seconds_of(panel, "depth", [10, 50] * 4)}


def main():
    sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
    import browser
    import screen

    print("widget: redraw after a click, 96 blocks")
    if browser.find() is None:
        print("  no Chromium here: not measured")
        return 0
    with tempfile.TemporaryDirectory() as folder, screen.chrome() as chrome:
        lab = screen.Lab(folder)
        kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
        nbformat.write(new_notebook(cells=[new_code_cell(c) for c in CELLS], metadata=kernel), lab.project / "nbs" / "redraw.ipynb")
        lab.start()
        try: found = measure(screen.open_page(lab, chrome, "nbs/redraw.ipynb"))
        finally: lab.stop()
    for name, s in found.items(): print(f"  {name:<24}{1000 * statistics.median(s):6.0f} ms   [{1000 * min(s):.0f}, {1000 * max(s):.0f}]")
    one = statistics.median(found["a block ticked"])
    return 0 if verdict(f"a click is answered within 0.2 s: {one:.3f} s", one <= 0.2) else 1


if __name__ == "__main__":
    sys.exit(main())
