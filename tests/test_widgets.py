"Panels without a browser: what they show is what the learner is; nothing is sent twice; they say what they need."
import base64
import os
import re
import subprocess
import sys

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from small_models import SMALL, everything, save_text, small_backbones, texts, tokenizer
from tl_nb.backbones import load_backbone
from tl_nb.finetune import text_learner
from tl_nb.prefix import PrefixCache
from tl_nb.stages import is_frozen
from tl_nb.what_if import curves, sweep_curve
from tl_nb.widgets import DomainExplorer, EnsembleMixer, FreezeLab

SWEEP = pd.DataFrame(dict(depth=[0, 2, 3], accuracy=[0.8, 0.85, 0.7], low=[0.75, 0.8, 0.65], high=[0.85, 0.9, 0.75]))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory): return load_backbone(save_text("bert", tmp_path_factory.mktemp("bert")))


@pytest.fixture
def learner(backbone): return text_learner(backbone, texts(), bs=4, seed=0)


@pytest.fixture
def lab(learner): return FreezeLab(learner, SWEEP)


def all_of(widget):
    "A widget and all that is in it."
    return [widget] + [w for child in getattr(widget, "children", ()) for w in all_of(child)]


def agree(lab):
    "Assert that every control shows what the learner is."
    plan = lab.plan
    assert [r.box.value for r in lab.rows] == [all(f.values()) for f in plan.frozen()]
    for row, frozen in zip(lab.rows, plan.frozen()):
        assert {name: layer.box.value for name, layer in row.layers.items()} in ({}, frozen)
    assert lab.depth.number.value == lab.depth.slider.value == min(plan.prefix, len(plan.stages) - 1)
    assert f"{lab.plan.learner.model.n_trainable:,} of" in lab.facts.value
    assert lab.code.value == plan.code(lab.epochs.value, lab.lr.value)


def test_every_click_freezes_the_learner(lab, learner):
    agree(lab)
    lab.depth.slider.value = 2
    agree(lab)
    assert lab.plan.depth == 2 and learner.model.n_trainable == sum(s.n_parameters for s in learner.stages[2:])
    lab.rows[0].box.value = False
    agree(lab)
    assert lab.plan.prefix == 0 and lab.plan.depth is None
    lab.rows[2].more.value = True
    lab.rows[2].layers["output.dense"].box.value = True
    agree(lab)
    assert lab.plan.frozen(2)["output.dense"] and "1 of 8 layers frozen" in lab.rows[2].info.value
    lab.depth.number.value = 3
    agree(lab)
    assert lab.plan.depth == 3


def test_what_was_changed_elsewhere_is_shown_after_refresh(lab, learner):
    learner.freeze_to(-1)
    lab.refresh()
    agree(lab)
    assert lab.depth.slider.value == 3


def test_rows_are_built_on_first_opening_and_kept(lab):
    few = len(all_of(lab.box))
    lab.rows[1].more.value = True
    inner, more = lab.rows[1].inner, len(all_of(lab.box))
    lab.rows[1].more.value = False
    assert more > few == len(all_of(lab.box))
    lab.rows[1].more.value = True
    assert lab.rows[1].inner is inner and lab.rows[2].inner is None


def test_only_what_has_changed_is_sent(lab, monkeypatch):
    lab.depth.slider.value = 1
    sent = []
    monkeypatch.setattr(ipywidgets.Widget, "send_state", lambda self, key=None: sent.append((self, key)))
    lab.refresh()
    assert not sent
    lab.rows[2].box.value = True
    touched = {id(w) for w, _ in sent}
    assert id(lab.rows[2].info) in touched and not touched & {id(lab.rows[i].info) for i in (0, 1, 3)}
    assert len(sent) < 12


def test_train_stop_train_again(lab, learner):
    lab.depth.slider.value = 2
    before = {k: v for s in learner.stages[:2] for m in s.modules.values() for k, v in everything(m).items()}
    lab.trainer.on_change = lambda: (lab._tick(), lab.trainer.stop() if len(lab.trainer.losses) == 2 else None)
    lab.train.click()
    assert lab.train.disabled and lab.rows[0].box.disabled and not lab.stop.disabled
    lab.trainer.wait()
    assert "Stopped after 2 steps" in lab.status.value and not lab.train.disabled and lab.stop.disabled
    lab.trainer.on_change = lab._tick
    lab.train.click()
    lab.trainer.wait()
    accuracy = lab.trainer.scores[-1][2]
    assert "Finished after 6 steps" in lab.status.value and f"accuracy {accuracy:.3f}" in lab.status.value
    assert "from a measured step" in lab.facts.value
    now = {k: v for s in learner.stages[:2] for m in s.modules.values() for k, v in everything(m).items()}
    assert all(torch.equal(v, before[k]) for k, v in now.items())
    lab.again.click()
    assert "Ready" in lab.status.value and "steps" not in lab.chart.value
    agree(lab)


def test_numbers_are_estimates_until_a_step_was_measured(lab):
    assert lab.facts.value.count("an estimate; nothing measured yet") == 2
    lab.measure.click()
    assert "estimate" not in lab.facts.value and lab.facts.value.count("from a measured step") == 2


def test_the_sweep_is_shown_at_its_depths(lab):
    assert "accuracy 0.800 [0.750, 0.850] with 0 frozen stages" in lab.facts.value
    lab.depth.slider.value = 1
    assert "nothing known of 1 frozen stages" in lab.facts.value
    lab.rows[3].box.value = True
    assert "nothing known of this choice of layers" in lab.facts.value


def test_a_refusal_is_said_and_nothing_breaks(lab):
    for row in lab.rows: row.box.value = True
    lab.train.click()
    assert "Everything is frozen" in lab.status.value and not lab.trainer.running
    agree(lab)


def test_controls_have_names_of_their_own(lab):
    lab.rows[1].more.value = True
    kinds = [getattr(ipywidgets, k) for k in "Checkbox Button ToggleButton Textarea BoundedIntText BoundedFloatText".split()]
    named = [w for w in all_of(lab.box) if isinstance(w, tuple(kinds))]
    names = [(type(w), w.description) for w in named]
    assert all(name for _, name in names) and len(set(names)) == len(names)
    for picture in (sweep_curve(lab.plan), curves(lab.trainer)): assert re.search(r"role='img' aria-label='[^']{10,}'", picture)


def test_a_deep_network_stays_small_until_opened(tmp_path):
    config = transformers.BertConfig(**SMALL | dict(num_hidden_layers=96))
    transformers.BertModel(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    lab = FreezeLab(text_learner(load_backbone(tmp_path), texts(), bs=4, seed=0))
    assert len(lab.rows) == 98 and len(all_of(lab.box)) < 98 * 5 + 40
    lab.depth.slider.value = 90
    agree(lab)


def domains():
    rng = np.random.default_rng(0)
    y, t = rng.integers(0, 2, 80), rng.integers(0, 2, 80)
    return rng.normal(size=(80, 3)) + 2 * y[:, None], y, rng.normal(size=(80, 3)) + 2 * t[:, None] + 3, t


def test_the_explorer_shows_its_shift():
    explorer = DomainExplorer(*domains())
    first = explorer.image.value
    explorer.strength.number.value = 0.5
    assert explorer.shift.strength == explorer.strength.slider.value == 0.5 and explorer.image.value != first
    explorer.method.value = "mean shift"
    score = explorer.shift.score()
    assert explorer.shift.method == "mean shift" and f"{score['target']:.3f} after" in explorer.facts.value
    assert explorer.code.value == explorer.shift.code()
    assert "not known" in DomainExplorer(*domains()[:3]).facts.value


def test_the_mixer_shows_its_mixture():
    rng = np.random.default_rng(0)
    P, y = {n: rng.dirichlet([1, 1], 50) for n in ("one", "two", "three")}, rng.integers(0, 2, 50)
    mixer = EnsembleMixer(P, y)
    mixer.dials["one"].slider.value = 0.0
    assert mixer.mixture.shares()["one"] == 0 and mixer.dials["one"].number.value == 0
    mixer.buttons["log loss"].click()
    assert f"{mixer.mixture.score()['log loss']:.3f}" in mixer.table.value and mixer.code.value == mixer.mixture.code()
    for dial in mixer.dials.values(): dial.number.value = 0.0
    assert "must be above 0" in mixer.status.value and max(mixer.mixture.weights.values()) > 0
    mixer.how.value = "geometric"
    assert mixer.mixture.how == "geometric" and not mixer.status.value


def test_a_dial_sets_what_it_shows():
    P, y = {name: np.full((8, 2), 0.5) for name in "ab"}, np.arange(8) % 2
    mixer = EnsembleMixer(P, y, weights={"a": 4.0, "b": 1.0})
    assert mixer.dials["b"].number.value == 0.25
    mixer.dials["b"].number.value = 0.5
    assert mixer.dials["b"].number.value == 0.5 and mixer.mixture.shares()["b"] == pytest.approx(1 / 3)


def test_a_learner_that_refuses_is_quoted(learner):
    learner = PrefixCache(learner, [2], progress=False).learner(2)
    lab = FreezeLab(learner)
    lab.depth.slider.value = 0
    assert "not computed" in lab.status.value and lab.depth.slider.value == 2 and is_frozen(learner.stages[1])


def test_each_has_a_picture_for_a_saved_notebook(lab):
    rng = np.random.default_rng(0)
    panels = lab, DomainExplorer(*domains()), EnsembleMixer({"a": rng.dirichlet([1, 1], 40), "b": rng.dirichlet([1, 1], 40)}, rng.integers(0, 2, 40))
    for panel in panels:
        data, more = panel._repr_mimebundle_()
        assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG") and data["text/plain"].startswith(type(panel).__name__)
        assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.box.model_id and more["image/png"]["alt"]


def test_without_ipywidgets_the_library_says_what_to_install():
    code = """
import sys
for name in ("ipywidgets", "IPython"): sys.modules[name] = None
from tl_nb.widgets import DomainExplorer, EnsembleMixer, FreezeLab
for panel, n in ((FreezeLab, 1), (DomainExplorer, 3), (EnsembleMixer, 2)):
    try: panel(*[None] * n)
    except ImportError as e: print(e)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 3 and all("pip install 'tl_nb[widgets]'" in line for line in said)
    without = [re.search(r"tl_nb\.(\w+\.\w+)", line)[1] for line in said]
    assert without == ["freeze_plan.FreezePlan", "what_if.DomainShift", "what_if.Mixture"]
