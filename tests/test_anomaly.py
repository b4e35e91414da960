"Anomaly detectors: distances and left-out distances against oracles, the line, drift, patches, files, and bad input."
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist
from scipy.stats import ortho_group
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import tl_nb.anomaly as A
from small_models import image_backbone, save_hf_image
from tl_nb.anomaly import AnomalyDetector, AnomalyError, PatchMemory, alarms, coreset
from tl_nb.backbones import load_backbone

METHODS = ("knn", "mahalanobis")
each = pytest.mark.parametrize("method", METHODS)
rows = lambda n=60, d=8, seed=0: np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1) ** -0.5


@parametrize_with_checks([AnomalyDetector(), AnomalyDetector("mahalanobis"), AnomalyDetector(k=4, false_positives=0.2)])
@pytest.mark.filterwarnings("ignore:false_positives")  # the checks fit few rows
def test_scikit_learn_accepts_it(estimator, check): check(estimator)


# --- distances --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n, m, d, k", [(1, 9, 3, 9), (40, 30, 2, 1), (50, 400, 96, 5), (30, 70, 500, 20)])
def test_nearest_is_what_all_distances_say(n, m, d, k):
    X, Y = rows(n, d), rows(m, d, 1)
    np.testing.assert_allclose(A._nearest(X, Y, k), np.sort(cdist(X, Y), 1)[:, :k], atol=1e-12)
    far = cdist(Y, Y)
    np.fill_diagonal(far, np.inf)
    k = min(k, m - 1)
    np.testing.assert_allclose(A._nearest(Y, Y, k, own=True), np.sort(far, 1)[:, :k], atol=1e-12)


@pytest.mark.parametrize("shift, scale", [(1e6, 1.0), (0.0, 1e-12), (0.0, 1e30), (3e4, 1e-3)])
def test_nearest_is_exact_where_single_precision_sees_nothing(shift, scale):
    X, Y = (shift + scale * rows(n, 20, s) for n, s in ((30, 0), (200, 1)))
    found, right = A._nearest(X, Y, 4), np.sort(cdist(X, Y), 1)[:, :4]
    np.testing.assert_allclose(found, right, rtol=1e-9, atol=1e-9 * shift)


def test_nearest_of_repeated_rows_and_in_any_blocks():
    Y = np.repeat(rows(12, 6), 30, axis=0)
    assert A._nearest(Y, Y, 25, own=True).max() == 0  # thirty copies: 29 others at distance 0
    assert A._nearest(Y, Y, 31, own=True)[:, -1].min() > 0.1
    X = rows(70, 33)
    whole = A._nearest(X, X, 7, own=True)
    np.testing.assert_allclose(A._nearest(X, X, 7, own=True, room=500), whole, atol=1e-14)


def test_nearest_takes_a_row_again_when_its_shortlist_is_not_sure(monkeypatch):
    "Forty rows of Y are nearer to each other than single precision tells apart."
    seen, real = [], A._shortlist
    monkeypatch.setattr(A, "_shortlist", lambda X, *rest: (seen.append((X.dtype, len(X))), real(X, *rest))[1])
    Y = np.concatenate([10 + 1e-5 * rows(40, 5), rows(100, 5, 1)])
    X = np.concatenate([10 + 1e-5 * rows(3, 5, 2), rows(4, 5, 3)])
    np.testing.assert_allclose(A._nearest(X, Y, 5), np.sort(cdist(X, Y), 1)[:, :5], rtol=1e-6)
    assert (torch.float32, 7) in seen and any(dtype == torch.float64 and n >= 3 for dtype, n in seen)


def test_knn_leaves_a_row_out_of_its_own_neighbours():
    X = rows()
    found = AnomalyDetector(k=3).fit(X)
    for i in (0, 7): assert found.distances_[i] == pytest.approx(np.sort(cdist(X[i:i + 1], np.delete(X, i, 0)))[0, :3].mean())
    assert (-found.score_samples(X) < found.distances_).all(), "seen rows look closer than they are"


@pytest.mark.parametrize("n, d", [(200, 5), (30, 80)])
def test_mahalanobis_is_that_of_ledoit_and_wolf(n, d):
    X, new = rows(n, d), rows(20, d, 1)
    oracle = LedoitWolf().fit(X)
    np.testing.assert_allclose(-AnomalyDetector("mahalanobis").fit(X).score_samples(new), np.sqrt(oracle.mahalanobis(new)), rtol=1e-8)


@pytest.mark.parametrize("n, d", [(40, 5), (20, 30)])
def test_left_out_mahalanobis_is_a_fit_without_the_row(n, d):
    X = rows(n, d) + 3
    detector, S = AnomalyDetector("mahalanobis").fit(X), np.cov(X, rowvar=False, bias=True)
    share = LedoitWolf().fit(X).shrinkage_
    for i in range(n):
        rest = np.delete(X, i, 0)
        C = (1 - share) * np.cov(rest, rowvar=False, bias=True) + share * np.trace(S) / d * np.eye(d)
        z = X[i] - rest.mean(0)
        assert detector.distances_[i] == pytest.approx(np.sqrt(z @ np.linalg.solve(C, z)), rel=1e-8)


@each
def test_turning_moving_and_order_do_not_matter(method):
    X, new = rows(), rows(15, seed=1)
    first = AnomalyDetector(method).fit(X)
    turn = ortho_group.rvs(8, random_state=0)
    for change in (lambda Z: Z @ turn, lambda Z: Z + 100):
        again = AnomalyDetector(method).fit(change(X))
        np.testing.assert_allclose(again.score_samples(change(new)), first.score_samples(new), rtol=1e-8)
        assert again.offset_ == pytest.approx(first.offset_)
    order = np.random.default_rng(0).permutation(60)
    np.testing.assert_allclose(AnomalyDetector(method).fit(X[order]).distances_, first.distances_[order], rtol=1e-8)


@each
def test_what_the_caller_does_to_the_rows_later_does_not_matter(method):
    X, new = rows(), rows(5, seed=1)
    found = AnomalyDetector(method).fit(X)
    before = found.score_samples(new)
    X += 5
    assert np.array_equal(found.score_samples(new), before)


def test_it_works_in_a_pipeline_and_is_cloned():
    model = make_pipeline(StandardScaler(), AnomalyDetector(k=4)).fit(rows())
    far = np.full((1, 8), 9.0)
    assert model.predict(far) == [-1] and model.decision_function(far)[0] < 0
    assert clone(AnomalyDetector("mahalanobis", k=2)).get_params() == dict(method="mahalanobis", k=2, false_positives=0.05)


# --- the line ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n, wanted, rank, rate", [(19, 0.05, 19, 0.05), (99, 0.05, 95, 0.05), (150, 0.05, 144, 7 / 151), (40, 0.1, 37, 4 / 41), (3, 0.5, 2, 0.5)])
def test_the_line_is_at_its_rank(n, wanted, rank, rate):
    d = np.random.default_rng(0).permutation(n).astype(float)
    found = alarms(d, wanted)
    assert (found.threshold, found.rank, found.n) == (rank - 1, rank, n)
    assert found.rate == pytest.approx(rate) and found.rate <= wanted + 1e-12 and found.low < found.rate < found.high


def test_the_rate_and_its_interval_hold_for_exchangeable_distances():
    "The share beyond the line is known for uniform distances: one minus the line."
    rng = np.random.default_rng(0)
    lines = [alarms(rng.random(60), 0.1) for _ in range(4000)]
    beyond = np.array([1 - line.threshold for line in lines])
    assert beyond.mean() == pytest.approx(lines[0].rate, abs=0.003)
    assert np.mean((beyond >= lines[0].low) & (beyond <= lines[0].high)) == pytest.approx(0.95, abs=0.015)


def test_too_few_items_for_a_rate_are_told():
    with pytest.warns(UserWarning, match="10 items can tell no share below 0.091.*Give 19 normal items"): found = alarms(np.arange(10.0))
    assert found.threshold == 9 and found.rate == pytest.approx(1 / 11)


@each
@pytest.mark.parametrize("d", [5, 120])
def test_the_wanted_rate_is_kept_also_where_rows_are_fewer_than_columns(method, d):
    rates = []
    for seed in range(30):
        found = AnomalyDetector(method, false_positives=0.1).fit(rows(80, d, seed))
        rates.append((found.predict(rows(400, d, 1000 + seed)) == -1).mean())
    assert np.mean(rates) == pytest.approx(0.1, abs=0.03)


# --- drift ------------------------------------------------------------------------------------------------------------

def test_drift_warns_no_more_often_than_it_says_and_sees_a_change():
    warned = {"same": 0, "moved": 0, "few strange": 0, "one row again and again": 0}
    for seed in range(150):
        found = AnomalyDetector(false_positives=0.1).fit(rows(100, 6, seed))
        new = rows(40, 6, 5000 + seed)
        batches = (new, new + 0.7, np.r_[new[:30], new[:10] + 4], np.repeat(new[:1], 40, 0))
        for name, batch in zip(warned, batches): warned[name] += found.drift(batch, 0.1).warns
    assert warned["same"] <= 150 * 0.1 + 3 * (150 * 0.09) ** 0.5
    assert min(warned[name] for name in list(warned)[1:]) >= 140


def test_drift_counts_and_reads_as_a_sentence():
    found = AnomalyDetector(false_positives=0.1).fit(rows(99))
    seen = found.drift(np.full((4, 8), 9.0))
    assert (seen.n, seen.flagged, seen.apart) == (4, 4, 1.0) and seen.expected == pytest.approx(0.4) and seen.warns
    assert repr(seen).startswith("drift: 4 of 4 beyond the line, 0.4 expected")
    assert repr(found.drift(rows(20, seed=3))).startswith("no drift seen")


# --- patches ----------------------------------------------------------------------------------------------------------

def test_the_coreset_is_farthest_first_and_covers():
    X = rows(80, 3).astype(np.float32)
    at = coreset(X, 9, seed=3)
    far = cdist(X, X)
    for i in range(1, 9): assert far[at[i], at[:i]].min() == pytest.approx(far[:, at[:i]].min(1).max(), rel=1e-4)
    assert len(set(at)) == 9 and far[:, at].min(1).max() < far[:, at[:4]].min(1).max()
    assert sorted(coreset(X, 500)) == list(range(80))


def test_the_coreset_stops_where_rows_repeat():
    X = np.repeat(rows(5, 4), 20, axis=0)
    assert len({i // 20 for i in coreset(X, 60)}) == len(coreset(X, 60)) == 5
    assert len(coreset(np.ones((30, 2)), 10)) == 1


@pytest.fixture(scope="module")
def net(): return image_backbone("resnet18")


def stripes(n, seed=0, size=48):
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(size) / 3)[None, :, None, None] * 60 + 120
    return list(np.clip(wave + rng.normal(0, 8, (n, size, size, 3)), 0, 255).astype(np.uint8))


def spoiled(images):
    images = [x.copy() for x in images]
    for x in images: x[10:26, 28:44] = 255 - x[10:26, 28:44]
    return images


@pytest.fixture(scope="module")
def memory(net): return PatchMemory(net, patches=60, side=64, false_positives=0.1, seed=0).fit(stripes(20))


def test_a_memory_finds_the_spoiled_image_and_the_place(memory):
    good, bad = stripes(6, 1), spoiled(stripes(6, 2))
    assert memory.score_samples(bad).max() < memory.score_samples(good).min()
    assert (memory.predict(bad) == -1).all()
    heat = memory.maps(bad)
    assert heat.shape == (6, 48, 48) and heat.dtype == np.float32
    assert heat[:, 10:26, 28:44].mean() > 1.3 * heat[:, 30:, :20].mean()


def test_the_distance_of_an_image_is_that_of_its_strangest_places(memory):
    images = stripes(3, 4)
    maps, widths = memory._maps(images)
    assert maps.shape[1:3] == (8, 8) and sum(widths) == maps.shape[3]
    places = maps / np.linalg.norm(maps, axis=3, keepdims=True)
    far = np.sort(cdist(places.reshape(-1, maps.shape[3]), memory.memory_).min(1).reshape(3, 64), 1)
    np.testing.assert_allclose(-memory.score_samples(images), far[:, -2:].mean(1), rtol=1e-5)  # 3% of 64 places are two
    strangest = clone(memory).set_params(top=0, unit=False).fit(stripes(20))
    far = cdist((maps / strangest.scale_).reshape(-1, maps.shape[3]), strangest.memory_).min(1).reshape(3, 64)
    np.testing.assert_allclose(-strangest.score_samples(images), far.max(1), rtol=1e-5)


def test_the_stage_is_the_last_with_an_eighth_and_several_are_put_side_by_side(net, memory):
    sizes = {n: h.shape[-1] for n, h in net.activations(torch.zeros(1, 3, 64, 64), [s.name for s in net.body]).items()}
    assert memory.stages_ == [n for n, size in sizes.items() if size == 8][-1:]
    two = PatchMemory(net, stages=["block 2", "block 3"], patches=40, side=64, false_positives=0.1).fit(stripes(12))
    maps, widths = two._maps(stripes(1))
    assert maps.shape[1:3] == (max(sizes[n] for n in two.stages_),) * 2 and sum(widths) == maps.shape[3] and len(widths) == 2
    np.testing.assert_allclose(np.linalg.norm(two.memory_, axis=1), 2 ** 0.5, rtol=1e-5)
    assert (two.predict(spoiled(stripes(3, 1))) == -1).all()


def test_an_image_is_left_out_of_the_memory_it_is_measured_by(net, memory):
    "One image of another kind among normal ones: its own patches are in the memory, and do not help it."
    found = PatchMemory(net, patches=60, side=64, false_positives=0.1, seed=0).fit(stripes(19) + spoiled(stripes(1, 7)))
    assert found.distances_.argmax() == 19 and found.distances_[19] > 1.5 * np.median(found.distances_)
    assert -found.score_samples(spoiled(stripes(1, 7)))[0] < found.distances_[19]


def test_grey_rgba_sixteen_bits_and_files_are_seen_alike(net, memory, tmp_path):
    grey = np.rint(np.asarray(stripes(1, 5)[0]).mean(2)).astype(np.uint8)
    rgba = np.dstack([grey] * 3 + [np.full_like(grey, 255)])
    Image.fromarray(grey).save(tmp_path / "x.png")
    kinds = [grey, Image.fromarray(grey), np.dstack([grey] * 3), rgba, grey.astype(np.uint16) * 257, str(tmp_path / "x.png"), tmp_path / "x.png", grey / 255.0]
    found = memory.score_samples(kinds)
    np.testing.assert_allclose(found, found[0], rtol=1e-4)


# --- files ------------------------------------------------------------------------------------------------------------

def in_a_new_process(code, *args):
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@each
def test_a_saved_detector_gives_the_same_answers_in_a_new_process(method, tmp_path):
    new = rows(30, seed=1)
    np.save(tmp_path / "new.npy", new)
    detector = AnomalyDetector(method, k=3, false_positives=0.1).fit(rows())
    mark = detector.save(tmp_path / "d.safetensors")
    assert [p.name for p in tmp_path.iterdir() if p.name[0] == "."] == []
    code = ("import sys, numpy as np; from tl_nb.anomaly import AnomalyDetector as D; d = D.load(sys.argv[1] + '/d.safetensors', sha256=sys.argv[2]); X = np.load(sys.argv[1] + '/new.npy'); "
            "print(d.decision_function(X).tobytes().hex(), d.get_params(), d.drift(X))")
    shown = f"{detector.decision_function(new).tobytes().hex()} {detector.get_params()} {detector.drift(new)}"
    assert in_a_new_process(code, tmp_path, mark) == shown


def test_names_of_columns_are_kept(tmp_path):
    import pandas as pd

    X = pd.DataFrame(rows(), columns=list("abcdefgh"))
    AnomalyDetector().fit(X).save(tmp_path / "d")
    found = AnomalyDetector.load(tmp_path / "d")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found.predict(X)
    with pytest.raises(ValueError, match="feature names"): found.predict(X[list("hgfedcba")])


def save_net(net, folder):
    from timm.models import save_for_hf

    save_for_hf(net.model, folder, safe_serialization=True)
    return load_backbone(folder)


def test_a_saved_memory_gives_the_same_answers_in_a_new_process(net, tmp_path):
    (tmp_path / "net").mkdir()
    backbone = save_net(net, tmp_path / "net")
    memory = PatchMemory(backbone, patches=40, side=64, false_positives=0.2, seed=0).fit(stripes(8))
    memory.save(tmp_path / "m")
    np.save(tmp_path / "new.npy", np.stack(spoiled(stripes(3, 3))))
    code = ("import sys, numpy as np; from tl_nb.anomaly import PatchMemory as M; from tl_nb.backbones import load_backbone as b; "
            "m = M.load(sys.argv[1] + '/m', backbone=b(sys.argv[1] + '/net')); X = list(np.load(sys.argv[1] + '/new.npy')); print(m.decision_function(X).tolist(), m.predict(X).tolist())")
    answers, labels = in_a_new_process(code, tmp_path).split("] [")
    images = spoiled(stripes(3, 3))
    np.testing.assert_allclose(np.array(answers[1:].split(", "), float), memory.decision_function(images), rtol=1e-6, atol=1e-6)
    assert f"[{labels}" == str(memory.predict(images).tolist())
    with torch.no_grad(): next(backbone.model.parameters()).add_(0.01)
    with pytest.raises(AnomalyError, match="other weights than the network of the fit"): PatchMemory.load(tmp_path / "m", backbone=backbone)


def test_a_changed_file_is_refused_wherever_it_was_changed(tmp_path):
    path = tmp_path / "d.safetensors"
    mark = AnomalyDetector(k=3, false_positives=0.1).fit(rows(20, 4)).save(path)
    data = path.read_bytes()
    for at in np.unique(np.linspace(0, len(data) - 1, 150).astype(int)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
        with pytest.raises(AnomalyError, match="d.safetensors"): AnomalyDetector.load(path)
    for broken in (b"", data[:50], data[:-1], data + b"\0", b"PK" + data):
        path.write_bytes(broken)
        with pytest.raises(AnomalyError, match="damaged|changed"): AnomalyDetector.load(path)
    path.write_bytes(data)
    with pytest.raises(AnomalyError, match="changed"): AnomalyDetector.load(path, sha256="0" * 64)
    assert len(mark) == 64 and AnomalyDetector.load(path, sha256=mark).k == 3


def test_files_of_something_else_are_refused(tmp_path):
    AnomalyDetector().fit(rows()).save(tmp_path / "d")
    with pytest.raises(AnomalyError, match="holds a AnomalyDetector.*AnomalyDetector.load"): PatchMemory.load(tmp_path / "d")
    with pytest.raises(AnomalyError, match="no such file"): AnomalyDetector.load(tmp_path / "e")
    from safetensors.numpy import save_file

    save_file({"x": np.ones(3)}, tmp_path / "other")
    with pytest.raises(AnomalyError, match="no saved detector"): AnomalyDetector.load(tmp_path / "other")


# --- bad input --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, said", [
    (dict(k=60), "k = 60 neighbours, but with n_samples = 60 each item has 59 others. Take k = 59"), (dict(k=0), "k = 0: a whole number"),
    (dict(k=2.5), "k = 2.5: a whole number"), (dict(method="lof"), "'lof': allowed are 'knn' and 'mahalanobis'"),
    (dict(false_positives=0), "false_positives = 0: a share between 0 and 1"), (dict(false_positives=5), "such as 0.05")])
def test_settings_out_of_range_are_named(change, said):
    with pytest.raises(AnomalyError, match=said): AnomalyDetector(**change).fit(rows())


@each
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_found_in_its_row_and_column(method, bad):
    X = rows()
    X[[7, 9], 2] = bad
    with pytest.raises(AnomalyError, match="in 2 of 60 rows, first in row 7, column 2.*SimpleImputer"): AnomalyDetector(method).fit(X)
    with pytest.raises(AnomalyError, match="row 7, column 2"): AnomalyDetector(method).fit(rows()).predict(X)


@each
def test_one_item_none_and_another_width(method):
    with pytest.raises(ValueError, match="minimum of 2"): AnomalyDetector(method).fit(rows(1))
    with pytest.raises(ValueError, match="0 sample"): AnomalyDetector(method).fit(np.empty((0, 3)))
    with pytest.raises(ValueError, match="expecting 8 features"): AnomalyDetector(method).fit(rows()).predict(rows(3, 5))
    assert AnomalyDetector(method).fit(rows()).predict(rows(1, seed=1)).shape == (1,)
    with pytest.raises(ValueError): AnomalyDetector(method).fit(rows()).drift(np.empty((0, 8)))


@each
def test_constant_columns(method):
    X = np.c_[rows(60, 3), np.full((60, 2), 4.0)]
    found, new = AnomalyDetector(method).fit(X), np.c_[rows(1, 3), [[4.0, 4.0]]]
    assert np.isfinite(found.distances_).all()
    moved = new + [0, 0, 0, 3, 0]
    assert found.score_samples(moved)[0] < found.score_samples(new)[0] and found.predict(moved)[0] == -1


def test_rows_that_are_all_the_same():
    same = np.ones((30, 4))
    with pytest.raises(AnomalyError, match="n_samples = 30 rows are the same.*method='knn'"): AnomalyDetector("mahalanobis").fit(same)
    found = AnomalyDetector().fit(same)
    assert found.predict(same).tolist() == [1] * 30 and found.predict(same[:1] + 1e-6) == [-1]


def test_distances_that_are_none():
    for bad in ([], [np.nan], [[1.0, 2.0]]):
        with pytest.raises(AnomalyError, match="a list of finite numbers"): alarms(bad)
    for bad in (np.ones(3), np.empty((0, 2))):
        with pytest.raises(AnomalyError, match="at least one row"): coreset(bad, 2)


def test_wrong_images_are_named(net, memory, tmp_path):
    good = stripes(3, 1)
    for bad, said in ((good[0][:40], "Image 2 of 3 is 48 × 40 pixels, and those of the fit are 48 × 48"), (np.ones((48, 48), np.uint16), "Image 2 of 3 .*16 bits"),
                      (np.ones((4, 48, 48, 3)), "Image 2 of 3 .*not an image"), ("nothing.png", "Image 2 of 3"), (7, "Image 2 of 3 is a int, not an image")):
        with pytest.raises(AnomalyError, match=said): memory.predict([*good[:2], bad])
        with pytest.raises(AnomalyError): PatchMemory(net, side=64).fit([bad, *good])
    with pytest.raises(AnomalyError, match="top = 2: a share"): PatchMemory(net, side=64, top=2).fit(good)
    with pytest.raises(AnomalyError, match="at least 2 normal images"): PatchMemory(net, side=64).fit(good[:1])
    with pytest.raises(ValueError, match="put it in"): memory.predict(Image.fromarray(good[0]))
    with pytest.raises(AnomalyError, match="empty"): memory.drift([])
    assert memory.score_samples([]).shape == (0,)


@pytest.mark.filterwarnings("ignore:false_positives")
def test_images_that_are_all_the_same_or_of_one_colour(net):
    found = PatchMemory(net, patches=100, side=64, seed=0).fit([np.full((48, 48), 90, np.uint8)] * 4)
    assert np.allclose(found.distances_, 0, atol=1e-3)
    assert found.predict(stripes(1)) == [-1]


def test_networks_without_maps_are_refused(tmp_path):
    with pytest.raises(AnomalyError, match="is a network of transformers. Give a convolutional one"): PatchMemory(load_backbone(save_hf_image("vit", tmp_path))).fit(stripes(3))
    with pytest.raises(AnomalyError, match="has no maps"): PatchMemory(image_backbone("vit_tiny_patch16_224")).fit(stripes(3, size=32))


def test_before_a_fit_there_is_no_answer(net):
    from sklearn.exceptions import NotFittedError

    for call in (AnomalyDetector().predict, AnomalyDetector().drift, PatchMemory(net).predict, PatchMemory(net).maps):
        with pytest.raises(NotFittedError): call(stripes(2))
    with pytest.raises(NotFittedError): AnomalyDetector().save("x")


# --- the exercise -----------------------------------------------------------------------------------------------------

def cheapest(normal, bad, share, alarm, missed):
    price = lambda t: (1 - share) * alarm * (normal > t).mean() + share * missed * (bad <= t).mean()
    return min([-np.inf, *normal, *bad, np.inf], key=price)


@pytest.mark.parametrize("wrong, said", [
    (lambda normal, bad, share, alarm, missed: cheapest(normal, bad, 0.5, alarm, missed), "99 of 100"),  # without the base rate
    (lambda normal, bad, share, alarm, missed: np.quantile(normal, 0.95), "false alarms are paid"),
    (lambda normal, bad, share, alarm, missed: cheapest(normal, bad, share, 1, 1), "."),  # without the prices
    (lambda *args: float("inf"), "both prices"), (lambda *args: 10.0, "count alike"), (lambda *args: float("nan"), "number is asked"),
    (lambda normal, bad, share, alarm, missed: np.nextafter(cheapest(normal, bad, share, alarm, missed), -np.inf), ".")])  # rings at the line too
def test_the_exercise_refuses_short_cuts(wrong, said):
    from tl_nb.exercises_applications import check_alarm_price

    assert check_alarm_price(cheapest).passed
    verdict = check_alarm_price(wrong)
    assert verdict.passed is False
    assert re.search(said, verdict.message)
