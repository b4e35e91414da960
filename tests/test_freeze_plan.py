"A plan of what trains: it says what the learner is, freezes to the last bit, looks without touching, and trains in a thread."
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from small_models import IMAGE, TEXT, everything, images, small_backbones, texts
from tl_nb.evaluate import interval
from tl_nb.finetune import image_learner, text_learner
from tl_nb.freeze_plan import FreezePlan, PlanError, Trainer, layers_of
from tl_nb.stages import is_frozen

FAMILIES = [*TEXT, *IMAGE, "hf-vit", "hf-resnet"]
FEW = ["bert", "xlnet", "resnet18", "efficientnet_lite0", "vit_tiny_patch16_224"]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory): return small_backbones(tmp_path_factory.mktemp("small"))


@pytest.fixture
def new(backbones):
    def made(family, **kwargs):
        kind = backbones[family].kind
        return (text_learner if kind == "text" else image_learner)(backbones[family], texts() if kind == "text" else images(), bs=4, seed=0, **kwargs)
    return made


def masked(plan, seed):
    "Freeze layers at random; returns {(stage, layer): frozen}."
    rng = np.random.default_rng(seed)
    wanted = {(i, name): bool(rng.random() < 0.5) for i, layers in enumerate(plan.layers) for name in layers}
    for (i, name), on in wanted.items(): plan.freeze(i, name, on)
    return wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_deal_out_the_parameters_of_a_stage(new, family):
    for stage in new(family).stages:
        dealt = [p for layer in layers_of(stage).values() for p in layer.parameters()]
        assert len(dealt) == len(set(dealt)) and set(dealt) == set(stage.parameters())


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("seed", range(2))
def test_what_is_frozen_stays_to_the_last_bit_and_the_rest_moves(new, family, seed):
    plan = FreezePlan(new(family))
    wanted = masked(plan, seed)
    head = list(plan.layers[-1])[-1]
    plan.freeze(len(plan.stages) - 1, head, False)
    before = {key: everything_of(plan.layers[key[0]][key[1]]) for key in wanted}
    Trainer(plan).start(2, 1e-2).wait()
    for (i, name), on in (wanted | {(len(plan.stages) - 1, head): False}).items():
        now = everything_of(plan.layers[i][name])
        same = all(torch.equal(a, b) for a, b in zip(before[i, name], now))
        unused = name == "mask_emb"  # a parameter of XLNet that only its pretraining uses
        assert same == (on or unused), (plan.stages[i].name, name, on)
        assert is_frozen(plan.layers[i][name]) == on


def everything_of(layer):
    tops = [t for m in layer.modules.values() for t in everything(m).values()]
    return tops + [p.detach().clone() for p in layer.loose.values()]


@pytest.mark.parametrize("family", FEW)
def test_the_plan_is_read_from_the_learner(new, family):
    learner = new(family)
    plan = FreezePlan(learner)
    assert plan.depth == plan.prefix == 0
    for n in (2, 1, len(learner.stages) - 1):
        learner.freeze_to(n)
        assert (plan.depth, plan.prefix) == (n, n) and plan.counts()["trainable"] == learner.model.n_trainable
        assert [all(f.values()) for f in plan.frozen()] == [i < n for i in range(len(learner.stages))]


@pytest.mark.parametrize("family", FEW)
def test_freezing_and_opening_leaves_no_trace(new, family):
    learner = new(family)
    plan, model = FreezePlan(learner), learner.model
    look = lambda: ([p.requires_grad for p in model.parameters()], [m.training for m in model.modules()])
    before = look()
    plan.freeze(1), plan.freeze(2, list(plan.layers[2])[0])
    assert look() != before
    plan.freeze(2, list(plan.layers[2])[0], False), plan.freeze(1, on=False)
    assert look() == before


def test_a_gap_is_no_depth(new):
    plan = FreezePlan(new("bert"))
    plan.freeze_to(1), plan.freeze("block 2")
    assert plan.prefix == 1 and plan.depth is None
    plan.freeze("block 1")
    assert plan.depth == plan.prefix == 3
    plan.freeze("head")
    assert plan.prefix == 4 and plan.depth is None and plan.counts()["trainable"] == 0


def test_a_stage_with_all_layers_frozen_rests_as_a_whole(new):
    plan = FreezePlan(new("bert"))
    for name in plan.layers[1]: plan.freeze(1, name)
    assert is_frozen(plan.stages[1])  # its dropout too, which is in no layer


@pytest.mark.parametrize("method", ["bitfit", "lora"])
def test_a_few_trainable_parameters_stay_few(new, method):
    learner = new("resnet18", method=method)
    plan, few = FreezePlan(learner), learner.model.n_trainable
    plan.freeze(2), plan.freeze(2, on=False)
    assert learner.model.n_trainable == few
    before = {k: v for k, v in everything(learner.model).items() if k.endswith(("running_mean", "running_var"))}
    Trainer(plan).start(1).wait()
    assert all(torch.equal(v, everything(learner.model)[k]) for k, v in before.items())


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("seed", range(2))
def test_the_code_gives_the_same_plan_to_a_new_learner(new, family, seed):
    plan = FreezePlan(new(family))
    masked(plan, seed)
    code = plan.code(3, 2e-4)
    assert code.endswith("learner.fit_one_cycle(3, 0.0002)")
    other = new(family)
    other.freeze_to(1)
    exec(code.rsplit("\n", 1)[0], {"learner": other})
    assert FreezePlan(other).frozen() == plan.frozen()


def test_the_code_of_a_depth_is_one_line(new):
    plan = FreezePlan(new("bert"))
    plan.freeze_to(2)
    assert plan.code(1, 0.001) == "learner.freeze_to(2)\nlearner.fit_one_cycle(1, 0.001)"


# --- the price --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_deeper_is_cheaper_estimated_and_measured(new, family):
    plan = FreezePlan(new(family))
    for measured in (False, True):
        assert plan.cost.measured == measured
        found = []
        for n in range(len(plan.stages)):
            plan.freeze_to(n)
            found.append((plan.seconds(), plan.memory()))
        assert all(a > b > 0 for now in zip(*found) for a, b in zip(now, now[1:]))
        plan.freeze_to(0)
        if not measured: assert plan.measure() == plan.seconds() > 0


def test_the_price_is_the_formula(new):
    plan = FreezePlan(new("bert"))
    cost = plan.cost
    for table, each in ((cost.seconds, 1.0), (cost.bytes, 100.0)):
        for i, layers in enumerate(plan.layers): table[i] = dict.fromkeys(layers, each)
    cost.rest, cost.back, cost.each, cost.factor = 0.5, 2.0, 0.0, 1.0
    n = sum(map(len, plan.layers))
    plan.freeze_to(0)
    assert plan.seconds() == n + 0.5 + 2.0 * (n - 1 + n)  # all but the first layer pass a gradient on
    behind = len(plan.layers[-1])
    plan.freeze_to(3)
    assert plan.seconds() == n + 0.5 + 2.0 * (behind - 1 + behind)
    assert plan.memory() == 4 * plan.counts()["all"] + 12 * plan.counts()["trainable"] + 100 * behind
    plan.freeze(3)
    assert plan.seconds() == n + 0.5 and plan.memory() == 4 * plan.counts()["all"]
    plan.freeze_to(0), plan.freeze("block 2"), plan.freeze("head")
    assert plan.seconds() == n + 0.5 + 2.0 * (n - 1 + n - len(plan.layers[2]) - behind), "a gap saves its own weights only"


@pytest.mark.parametrize("family", ["bert", "resnet18", "efficientnet_lite0"])
def test_to_measure_changes_nothing_that_follows(new, family):
    one, other = new(family), new(family)
    plan = FreezePlan(one)
    plan.freeze_to(1), other.freeze_to(1)
    before, modes = everything(one.model), [m.training for m in one.model.modules()]
    plan.measure()
    assert all(torch.equal(v, before[k]) for k, v in everything(one.model).items())
    assert modes == [m.training for m in one.model.modules()] and all(p.grad is None for p in one.model.parameters())
    for learner in (one, other):
        with learner.no_bar(), learner.no_logging(): learner.fit(1, 1e-3)
    assert all(torch.equal(a, b) for a, b in zip(everything(one.model).values(), everything(other.model).values()))


def test_a_training_teaches_the_plan_its_real_price(new):
    plan = FreezePlan(new("bert"))
    trainer = Trainer(plan).start(1).wait()
    assert plan.cost.measured and plan.seconds() == pytest.approx(float(np.median(trainer._took[1:])))


def test_the_sweep_is_known_at_its_depths(new):
    table = pd.DataFrame(dict(depth=[0, 2], accuracy=[0.8, 0.7], low=[0.7, 0.6], high=[0.9, 0.8], seconds=[2.0, 1.0]))
    plan = FreezePlan(new("bert"), table)
    assert plan.known().accuracy == 0.8
    plan.freeze_to(1)
    assert plan.known() is None
    plan.freeze_to(2)
    assert plan.known().low == 0.6
    plan.freeze("head")
    assert plan.known() is None, "no depth, so nothing is known"


def test_what_freeze_sweep_gives_becomes_a_table(new):
    seeds = {0: np.array([0.8, 0.9, 0.7]), 4: np.array([0.6])}
    learner = new("bert")
    names = [stage.name for stage in learner.stages]
    plan = FreezePlan(learner, SimpleNamespace(single=False, stages=names, scores=lambda value: seeds))
    with pytest.raises(PlanError, match="of a network with the stages stem, head"):
        FreezePlan(learner, SimpleNamespace(single=False, stages=["stem", "head"], scores=lambda value: seeds))
    found = interval(seeds[0])
    assert tuple(plan.known()[["accuracy", "low", "high"]]) == (found.mean, found.low, found.high)
    for i in range(4): plan.freeze(i)
    assert tuple(plan.known()) == (0.6, 0.6, 0.6), "everything frozen: the head by regression"


# --- training ---------------------------------------------------------------------------------------------------------

def test_train_stop_and_train_again(new):
    plan = FreezePlan(new("bert"))
    trainer = Trainer(plan)
    trainer.on_change = lambda: trainer.stop() if len(trainer.losses) == 2 else None
    trainer.start(3)
    assert trainer.wait().state == "stopped" and len(trainer.losses) == len(trainer.hits) == 2 and not trainer.scores
    weights = everything(plan.learner.model)
    trainer.on_change = lambda: None
    assert trainer.start(1).wait().state == "finished" and len(trainer.losses) == 6
    assert [s[0] for s in trainer.scores] == [6] and not all(torch.equal(v, weights[k]) for k, v in everything(plan.learner.model).items())


def test_reset_gives_the_same_training_again(new):
    learner = new("resnet18")
    before, trainer = everything(learner.model), Trainer(FreezePlan(learner))
    first = trainer.start(1, 1e-2).wait().losses.copy()
    trainer.reset()
    assert trainer.state == "ready" and not trainer.losses
    assert all(torch.equal(v, before[k]) for k, v in everything(learner.model).items())
    assert trainer.start(1, 1e-2).wait().losses == first


def test_it_trains_as_the_learner_does(new):
    one, other = new("bert"), new("bert")
    one.freeze_to(1), other.freeze_to(1)
    trainer = Trainer(FreezePlan(one)).start(1, 1e-3).wait()
    with other.no_bar(), other.no_logging(): other.fit_one_cycle(1, 1e-3)
    assert all(torch.equal(a, b) for a, b in zip(everything(one.model).values(), everything(other.model).values()))
    assert trainer.scores[0][1:] == pytest.approx(tuple(other.recorder.values[-1][1:]))


def test_while_it_trains_the_plan_is_locked(new):
    plan, go = FreezePlan(new("bert")), threading.Event()
    trainer = Trainer(plan, lambda: go.wait(20)).start(1)
    try:
        for refused in (lambda: plan.freeze_to(1), lambda: plan.freeze(0), plan.measure, trainer.start, trainer.reset):
            with pytest.raises(PlanError, match="[Ss]top"): refused()
        trainer.stop()
    finally: go.set()
    trainer.wait()
    plan.freeze_to(1)
    assert plan.depth == 1


def test_what_goes_wrong_in_the_thread_is_told(new):
    learner = new("bert")
    plan = FreezePlan(learner)
    trainer = Trainer(plan)
    def broken(*args): raise RuntimeError("out of luck")
    learner.loss_func = broken
    trainer.start(1)
    with pytest.raises(RuntimeError, match="out of luck"): trainer.wait()
    assert trainer.state == "failed" and not plan.locked


# --- bad input --------------------------------------------------------------------------------------------------------

def test_bad_input_is_named(new):
    plan = FreezePlan(new("bert"))
    for call, said in (
            (lambda: FreezePlan(torch.nn.Linear(2, 2)), "Linear"),
            (lambda: plan.freeze("block 9"), "block 9.*embeddings, block 1"), (lambda: plan.freeze(9), "9"),
            (lambda: plan.freeze(1, "query"), "query.*attention.self.query"), (lambda: Trainer(plan).start(0), "epochs = 0"),
            (lambda: Trainer(plan).start(1, -1.0), "lr = -1"),
            (lambda: FreezePlan(plan.learner, pd.DataFrame(dict(depth=[0]))), "accuracy"),
            (lambda: FreezePlan(plan.learner, pd.DataFrame(dict(depth=[7], accuracy=1, low=1, high=1))), "4 stages"),
            (lambda: FreezePlan(plan.learner, pd.DataFrame(dict(depth=[1, 1], accuracy=1, low=1, high=1))), "depth 1 twice"),
            (lambda: FreezePlan(plan.learner, 5), "sweep: a int"),
            (lambda: FreezePlan(plan.learner, SimpleNamespace(scores=None, single=True, stages=[s.name for s in plan.stages])), "single")):
        with pytest.raises(PlanError, match=said): call()
    for i in range(4): plan.freeze(i)
    with pytest.raises(PlanError, match="Everything is frozen"): Trainer(plan).start()
    assert Trainer(plan).state == "ready"


def test_two_plans_of_one_learner_share_its_lock(new):
    learner, go = new("bert"), threading.Event()
    one, other = FreezePlan(learner), FreezePlan(learner)
    second = Trainer(other)
    first = Trainer(one, on_change=lambda: go.wait(30))
    first.start(1)
    for call in (lambda: FreezePlan(learner), lambda: other.freeze(0), second.start, second.reset, other.measure):
        with pytest.raises(PlanError, match="is being trained"): call()
    go.set()
    assert first.wait().state == "finished" and not other.locked and second.start(1).wait().state == "finished"


# --- exercises --------------------------------------------------------------------------------------------------------

def dearest(plan, pick=min, apart=True, tidy=True):
    "The answer of the lesson, with chosen faults."
    found = {}
    for i, stage in enumerate(plan.stages):
        if apart: plan.freeze_to(0)
        plan.freeze(i)
        found[stage.name] = plan.seconds()
    if tidy: plan.freeze_to(0)
    return pick(found, key=found.get)


def test_the_check_of_the_dearest_stage_sees_each_fault():
    from tl_nb.exercises_methods import check_dearest_stage

    assert check_dearest_stage(dearest).passed
    for fault, said in ((dict(pick=max), "least"), (dict(apart=False), "alone"), (dict(tidy=False), "still frozen")):
        verdict = check_dearest_stage(lambda plan: dearest(plan, **fault))
        assert verdict.passed is False and said in verdict.message, fault


def test_the_check_of_a_plan_sees_each_fault():
    from tl_nb.exercises_methods import check_plan_code
    from tl_nb.stages import freeze

    def answer(learner, n=2, last=freeze):
        if n is not None: learner.freeze_to(n)
        last(learner.stages[-1])
    assert check_plan_code(answer).passed
    nothing, soft = lambda stage: None, lambda stage: stage.requires_grad_(False)
    for fault, said in (
            (dict(n=None), "frozen before"), (dict(n=1), "first two"), (dict(n=3), "third"), (dict(last=nothing), "still open"),
            (dict(last=soft), "statistics")):
        verdict = check_plan_code(lambda learner: answer(learner, **fault))
        assert verdict.passed is False and said in verdict.message, fault


def test_a_trainer_of_what_is_no_plan_is_refused():
    with pytest.raises(PlanError, match="NoneType.*FreezePlan"): Trainer(None)
