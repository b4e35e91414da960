"Drawn leaves: the same bits for a seed, diseases that follow the tissue, plants that stay together, and nothing but the leaf that tells a class."
import hashlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import tl_nb.leaves as L
from tl_nb.data import from_folder
from tl_nb.exercises_applications import check_crossover, check_own_stream
from tl_nb.leaves import CROPS, DISEASES, LIGHTS, PLACES, LeafError, draw_leaf, leaf_photos
from tl_nb.splits import DataError

EVERY = tuple(L._PAINTERS)
SICK = tuple(d for d in EVERY if d != "healthy")
array = lambda im: np.asarray(im, dtype=float)


def blade(crop="apple", seed=0): return L._blade(CROPS[crop], np.random.default_rng(seed), 0.03)


def painted(disease, severity, crop="apple", seed=0):
    "A leaf, and how much each pixel of the blade has changed by a disease, 0 to 255."
    leaf = blade(crop, seed)
    rgb = L._tissue(leaf, CROPS[crop].colour)
    before = rgb.copy()
    L._PAINTERS[disease](leaf, rgb, severity)
    return leaf, np.abs(rgb - before).max(0) * leaf.inside


# --- the same for the same, other for other ---------------------------------------------------------------------------

def test_the_same_arguments_give_the_same_bits_in_another_process():
    code = "import hashlib; from tl_nb.leaves import draw_leaf as d; print(hashlib.sha256(d('grape', 'rust', plant=2, leaf=1, seed=5).tobytes()).hexdigest())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert hashlib.sha256(draw_leaf("grape", "rust", plant=2, leaf=1, seed=5).tobytes()).hexdigest() == other


def test_every_argument_matters():
    usual = dict(crop="bean", disease="blight", plant=0, leaf=0, place="yard", light="day", severity=0.5, seed=0)
    changes = dict(crop="apple", disease="rust", plant=1, leaf=1, place="field", light="dusk", severity=0.9, seed=1)
    found = [draw_leaf(**usual).tobytes()] + [draw_leaf(**usual | {k: v}).tobytes() for k, v in changes.items()]
    assert len(set(found)) == 1 + len(changes)


def test_more_plants_leave_the_first_as_they_were():
    few, many = leaf_photos("pepper", 1, 1, seed=3), leaf_photos("pepper", 2, 2, seed=3)
    for item, group in zip(few.items, few.groups):
        assert item.tobytes() == many.items[list(many.groups).index(group)].tobytes()


def test_other_classes_leave_a_class_as_it_was():
    alone, among = leaf_photos("maize", 1, 1, diseases=["rust"], seed=3), leaf_photos("maize", 1, 1, seed=3)
    assert alone.items[0].tobytes() == among.items[DISEASES.index("rust")].tobytes()


# --- what is drawn ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("crop", CROPS)
def test_every_crop_can_have_every_disease(crop):
    for disease in EVERY:
        im = draw_leaf(crop, disease)
        assert (im.mode, im.size) == ("RGB", (L.SIDE, L.SIDE)) and array(im).std() > 10


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("seed", range(4))
def test_a_leaf_fills_its_picture_and_its_middle_is_inside(crop, seed):
    leaf = blade(crop, seed)
    assert 0.12 < leaf.inside.mean() < 0.75 and leaf.vein.max() > 0.9 and not leaf.vein[leaf.inside == 0].any()
    rim = np.concatenate([leaf.inside[0], leaf.inside[-1], leaf.inside[:, 0], leaf.inside[:, -1]])
    assert (rim.mean() > 0.02) if CROPS[crop].form == "strap" else (rim.mean() < 0.1)


@pytest.mark.parametrize("crop", CROPS)
def test_pixels_find_their_way_back(crop):
    rng = np.random.default_rng(0)
    pose, points = L._pose(CROPS[crop], rng), rng.uniform(-0.2, 1.2, (50, 2))
    assert np.allclose(L._to_leaf(L._to_pixels(points, pose), pose), points)


def test_distances_are_those_of_a_square():
    mask = np.zeros((L.SIDE, L.SIDE), np.float32)
    mask[60:160, 60:160] = 1
    far = L._distance(mask)
    assert abs(far[110, 110] - 50) < 3 and far[110, 70] == pytest.approx(10, abs=3) and far[20, 20] == 0


def test_noise_has_no_mean_and_unit_variance_and_the_net_stays_in_bounds():
    for tiles in L._tiles().values():
        for t in tiles: assert abs(t.mean()) < 0.05 and abs(t.std() - 1) < 0.01
    assert 0 < L._net().min() and L._net().max() <= 1


# --- diseases follow the tissue ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("disease", SICK)
@pytest.mark.parametrize("crop", ["apple", "maize", "grape"])
def test_a_later_stage_changes_more(disease, crop):
    change = [np.mean([painted(disease, s, crop, seed)[1].mean() for seed in range(4)]) for s in (0.1, 0.9)]
    assert change[1] > 1.15 * change[0] > 0


def test_rust_sits_between_the_veins():
    for seed in range(4):
        leaf, change = painted("rust", 0.6, seed=seed)
        spots = change > 60
        assert spots[leaf.vein > 0.5].mean() < 0.6 * spots[(leaf.inside > 0.9) & (leaf.vein == 0)].mean()


def test_blight_comes_from_the_margin():
    near = []
    for seed in range(6):
        leaf, change = painted("blight", 0.2, seed=seed)
        near.append(leaf.edge[change > 60].mean() - leaf.edge[leaf.inside > 0.9].mean())
    assert np.mean(near) < 0


def test_mildew_hides_the_veins_and_makes_the_leaf_pale():
    leaf = blade()
    rgb = L._tissue(leaf, CROPS["apple"].colour)
    step = lambda: rgb[:, leaf.vein > 0.9].mean() - rgb[:, (leaf.gap > 6) & (leaf.inside > 0.9)].mean()
    before = step(), rgb.mean()
    L._mildew(leaf, rgb, 1.0)
    assert step() < 0.6 * before[0] and rgb.mean() > before[1] and leaf.matt.max() > 0.7


def test_along_the_leaf_is_along_the_leaf():
    leaf = blade("maize", 2)
    along, across = L._around(leaf, leaf.pose.middle)
    tip = L._to_pixels([[0.9, 0.0]], SimpleNamespace(**vars(leaf.pose) | {"bend": 0.0}))[0] - leaf.pose.middle
    inside = lambda v: abs(v) < L.SIDE // 2
    x, y = np.clip(leaf.pose.middle + 0.3 * tip, 0, L.SIDE - 1).round().astype(int)
    assert along[y, x] > 5 and abs(across[y, x]) < 2 and inside(across[y, x])


# --- plants, places, light --------------------------------------------------------------------------------------------

def test_a_data_set_has_labels_groups_and_domain():
    data = leaf_photos("grape", 2, 3, diseases=["rust", "healthy"], seed=1)
    assert (len(data), data.classes, data.domain, data.kind) == (12, ["rust", "healthy"], "grape", "image")
    assert set(np.unique(data.groups, return_counts=True)[1]) == {3}
    assert all(len(set(data.labels[data.groups == g])) == 1 for g in set(data.groups))
    parts = leaf_photos("grape", 4, 2, diseases=["rust", "healthy"], seed=1).split(0.25, 0.25, seed=0)
    assert not set(parts.train.groups) & set(parts.test.groups) and not parts.duplicates()


def test_leaves_of_a_plant_share_their_light_and_others_do_not():
    bright = np.array([[array(draw_leaf("bean", plant=p, leaf=i)).mean() for i in range(3)] for p in range(8)])
    assert bright.std(axis=1).mean() < 0.6 * bright.mean(axis=1).std()


def test_places_share_no_photograph(cache):
    yard, field = ({file for file, *_ in PLACES[p].values()} for p in ("yard", "field"))
    assert not yard & field
    for place, names in PLACES.items():
        for name in names: assert min(L._ground_photo(place, name).size) > 60


def test_dusk_is_dark_and_a_lamp_is_warm():
    colour = {light: np.mean([array(draw_leaf("apple", plant=p, light=light)).mean((0, 1)) for p in range(6)], 0) for light in LIGHTS}
    assert colour["dusk"].mean() < 0.7 * colour["day"].mean()
    assert colour["lamp"][0] / colour["lamp"][2] > 1.3 * colour["day"][0] / colour["day"][2]


def test_the_ground_does_not_tell_the_disease():
    "Corners, where there is hardly any leaf: the nearest class mean of one half of the plants is right by chance on the other."
    data = leaf_photos("apple", 24, 1, seed=0)
    corners = np.array([np.concatenate([array(im)[y, x].mean((0, 1)) for y in (slice(20), slice(-20, None)) for x in (slice(20), slice(-20, None))]) for im in data.items])
    first = np.arange(len(data)) < len(data) // 2
    means = np.stack([corners[first & (data.labels == c)].mean(0) for c in range(5)])
    guess = ((corners[~first][:, None] - means) ** 2).sum(2).argmin(1)
    assert np.mean(guess == data.labels[~first]) < 0.4


def test_saved_pictures_come_back_bit_by_bit(tmp_path):
    data = leaf_photos("tomato", 1, 1, diseases=["healthy", "rust"], seed=2)
    for im, name in zip(data.items, data.label_names):
        (tmp_path / name).mkdir()
        im.save(tmp_path / name / "0.png")
    back = from_folder(tmp_path)
    assert back.classes == ["healthy", "rust"]
    assert [Image.open(p).tobytes() for p in back.items] == [im.tobytes() for im in data.items]


# --- bad input --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, says", [
    (dict(crop="olive"), "crop = 'olive'.*'apple'"), (dict(disease="gout"), "disease = 'gout'.*'blight'"), (dict(place="moon"), "place = 'moon'.*'field'"),
    (dict(light="noon"), "light = 'noon'.*'dusk'"), (dict(severity=1.5), "severity = 1.5"), (dict(severity=float("nan")), "severity"), (dict(seed=-1), "seed = -1"),
    (dict(plant=0.5), "plant = 0.5"), (dict(leaf=-2), "leaf = -2")])
def test_what_is_unknown_is_named_with_what_there_is(change, says):
    with pytest.raises(LeafError, match=says): draw_leaf(**dict(crop="apple") | change)


@pytest.mark.parametrize("change, says", [(dict(plants=0), "plants = 0"), (dict(leaves=1.5), "leaves = 1.5"), (dict(diseases=[]), "diseases"),
                                          (dict(diseases=["rust", "gout"]), "gout"), (dict(crop="olive"), "olive")])
def test_a_data_set_that_cannot_be_drawn_is_refused(change, says):
    with pytest.raises(LeafError, match=says): leaf_photos(**dict(crop="apple", plants=1, leaves=1) | change)


def test_a_class_named_twice_is_refused():
    with pytest.raises(DataError, match="rust"): leaf_photos("apple", 1, 1, diseases=["rust", "rust"])


# --- the checks of the two lessons ------------------------------------------------------------------------------------

def crossing(ks, a, b):
    behind = np.flatnonzero((b - a).mean(0) <= 0)
    first = behind[-1] + 1 if len(behind) else 0
    return ks[first] if first < len(ks) else None


def first_ahead(ks, a, b):
    ahead = (b - a).mean(0) > 0
    return ks[int(ahead.argmax())] if ahead.any() else None


def in_every_run(ks, a, b):
    behind = np.flatnonzero(~((b - a) > 0).all(0))
    first = behind[-1] + 1 if len(behind) else 0
    return ks[first] if first < len(ks) else None


@pytest.mark.parametrize("answer, passes", [
    (crossing, True), (first_ahead, False), (in_every_run, False), (lambda ks, a, b: [1, 3, 10, 40].index(crossing(ks, a, b) or 1), False), (lambda *_: None, False)])
def test_the_check_of_a_crossing(answer, passes): assert check_crossover(answer).passed is passes


@pytest.mark.parametrize("answer, passes", [
    (lambda seed, plant: np.random.default_rng([seed, plant]), True), (lambda seed, plant: np.random.default_rng(seed + plant), False),
    (lambda seed, plant: np.random.default_rng(int(f"{seed}{plant}")), False), (lambda seed, plant: np.random.default_rng(1000 * seed + plant), False),
    (lambda seed, plant: np.random.default_rng(), False), (lambda seed, plant: plant, False)])
def test_the_check_of_a_stream(answer, passes): assert check_own_stream(answer).passed is passes
