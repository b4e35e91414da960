"Rendered signs: the same seed gives the same picture, severity means something, and no background is on both sides."
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

import tl_nb.signs as S
from tl_nb.data import DataError
from tl_nb.exercises_applications import check_least_harm, check_visibility
from tl_nb.signs import CLASSES, SETTINGS, SEVERITIES, SIDE, WEATHER, SignError, contrast_kept, draw_sign, photo_parts, photographed, picture, risk, scene, scene_of, scenes

EVERY = [("clear", 1)] + [(w, level) for w in WEATHER for level in SEVERITIES]
every = pytest.mark.parametrize("weather, level", EVERY, ids=[f"{w} {n}" for w, n in EVERY])


@pytest.fixture(scope="module")
def some(): return scenes(2, ["brick", "rocket"], 3)


@pytest.fixture
def plain():
    "A chequered sheet, 20 metres away, all of it sign."
    y, x = np.mgrid[:SIDE, :SIDE]
    light = np.where((x // 12 + y // 12) % 2, 0.8, 0.2)[..., None] * np.ones(3, np.float32)
    return S.Scene(light, np.ones((SIDE, SIDE)), np.full((SIDE, SIDE), 20.0), 20.0, SIDE, 0, "mine", (1,))


def pixels(image): return np.asarray(image, float)


# --- the signs --------------------------------------------------------------------------------------------------------

def test_there_are_at_least_twelve_signs_and_no_two_look_alike():
    drawn = {name: np.asarray(draw_sign(name).convert("RGB"), float) for name in CLASSES}
    assert len(CLASSES) >= 12
    for a in CLASSES:
        for b in CLASSES:
            if a != b: assert np.abs(drawn[a] - drawn[b]).mean() > 1, (a, b)


def test_left_and_right_are_mirror_images():
    for kind in ("bend", "turn"):
        left, right = (np.asarray(draw_sign(f"{kind} {way}"), float) for way in ("left", "right"))
        assert np.abs(left[:, ::-1] - right).mean() < 4 < np.abs(left - right).mean()


@pytest.mark.parametrize("side", [20, 64, 301])
def test_a_sign_has_the_size_asked_for_smooth_edges_and_transparent_corners(side):
    alpha = np.asarray(draw_sign("stop", side))[..., 3]
    assert alpha.shape == (side, side) and alpha[0, 0] == 0 and alpha[side // 2, side // 2] == 255
    assert ((alpha > 0) & (alpha < 255)).any()


# --- the scenes -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(20))
def test_no_two_parts_share_a_photograph(seed):
    parts = photo_parts(seed)
    names = [name for part in parts.values() for name in part]
    assert sorted(names) == sorted(S.PHOTOS) and list(parts) == ["train", "valid", "unlabelled", "test"] and all(parts.values())
    assert parts == photo_parts(seed)


def test_another_seed_deals_other_photographs():
    assert len({tuple(photo_parts(seed)["test"]) for seed in range(10)}) > 5


def test_data_sets_of_two_parts_have_no_group_in_common():
    parts = photo_parts(4)
    train, test = (photographed(scenes(3, parts[p], 4)) for p in ("train", "test"))
    assert not set(train.groups) & set(test.groups) and set(train.groups) <= set(parts["train"])


def test_every_class_has_every_photograph_equally_often(some):
    assert [s.label for s in some] == list(range(len(CLASSES))) * 2
    assert {(s.label, s.photo) for s in some} == {(k, p) for k in range(len(CLASSES)) for p in ("brick", "rocket")}


def test_a_scene_holds_together(some):
    for s in some:
        assert s.light.shape == (SIDE, SIDE, 3) and s.light.dtype == np.float32 and s.light.min() >= 0 and np.isfinite(s.light).all()
        assert s.mask.shape == s.depth.shape == (SIDE, SIDE) and 0 <= s.mask.min() and s.mask.max() <= 1 and s.mask.mean() > 0.05
        assert 8 <= s.distance <= 28 and 10 <= s.pixels <= SIDE
        assert np.allclose(s.depth[s.mask > 0.999], s.distance, rtol=0.01) and s.depth.min() > 0.99 * s.distance


def test_a_farther_sign_has_fewer_pixels():
    found = [scene("stop", "brick", (0, i)) for i in range(60)]
    far, near = ([s.pixels for s in found if d(s.distance)] for d in (lambda m: m > 20, lambda m: m < 11))
    assert np.mean(far) < 0.7 * np.mean(near)


# --- determinism ------------------------------------------------------------------------------------------------------

@every
def test_the_same_seed_gives_the_same_picture(weather, level):
    first, again, other = (picture(scene("limit 30", "palace", (5, i)), weather, level) for i in (0, 0, 1))
    assert first.size == (SIDE, SIDE) and first.mode == "RGB"
    assert first.tobytes() == again.tobytes() != other.tobytes()


def digest(): return sha256(b"".join(x.tobytes() for w, n in EVERY for x in photographed(scenes(1, ["grass"], 2), w, n).items)).hexdigest()


def test_a_new_process_renders_the_same_bytes():
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_signs import digest; print(digest())"
    ran = subprocess.run([sys.executable, "-c", code, str(__import__("pathlib").Path(__file__).parent)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[-1] == digest()


def test_rendering_neither_reads_nor_moves_the_global_random_state(some):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = picture(some[0], "rain", 3).tobytes()
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(1)
    assert picture(some[0], "rain", 3).tobytes() == first


@every
def test_a_picture_leaves_the_scene_as_it_was(some, weather, level):
    s = some[0]
    before = s.light.tobytes(), s.mask.tobytes(), s.depth.tobytes()
    picture(s, weather, level)
    assert before == (s.light.tobytes(), s.mask.tobytes(), s.depth.tobytes())


# --- weather ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("weather", WEATHER)
def test_each_severity_keeps_less_of_the_contrast_of_the_sign(some, weather):
    kept = [np.mean([contrast_kept(picture(s, weather, level), picture(s), s.mask) for s in some]) for level in SEVERITIES]
    assert 1 > kept[0] > kept[1] > kept[2] >= 0, kept


@pytest.mark.parametrize("weather", WEATHER)
def test_the_table_of_severities_goes_one_way(weather):
    for name, values in SETTINGS[weather].items():
        steps = np.sign(np.diff(values))
        assert len(values) == len(SEVERITIES) and (len(set(steps)) == 1), name


@pytest.mark.parametrize("weather, level", EVERY[1:], ids=[f"{w} {n}" for w, n in EVERY[1:]])
def test_weather_is_more_than_a_global_change_of_intensity(some, weather, level):
    "No curve from old to new brightness explains the picture: the best one is the mean of the new for each old value."
    unexplained = []
    for s in some[:14]:
        old, new = (np.asarray(picture(s, *how).convert("L"), float).ravel() for how in (("clear",), (weather, level)))
        bins = np.digitize(old, np.quantile(old, np.linspace(0, 1, 33)[1:-1]))
        curve = np.array([new[bins == b].mean() if (bins == b).any() else 0 for b in range(32)])
        unexplained.append(((new - curve[bins]) ** 2).mean() / new.var())
    assert np.mean(unexplained) > 0.05


def test_fog_hides_what_is_far_more_than_what_is_near(plain):
    two = replace(plain, depth=np.where(np.arange(SIDE)[None, :] < SIDE // 2, 10.0, 60.0) * np.ones((SIDE, 1)))
    seen = pixels(picture(two, "fog", 1))
    assert seen[:, 4:SIDE // 2 - 8].std() > 2 * seen[:, SIDE // 2 + 8:-4].std()


def test_fog_follows_koschmieder():
    light, depth = np.full((SIDE, SIDE, 3), 0.2), np.full((SIDE, SIDE), 50.0)
    seen, t = S._veiled(light, depth, 50.0, 0.8)
    assert np.allclose(t, np.exp(-3)) and np.allclose(seen, np.exp(-3) * 0.2 + (1 - np.exp(-3)) * 0.8)


def test_more_rain_adds_to_the_streaks_that_are_there():
    few, many = (S._streaks(n, np.random.default_rng(0)) for n in (60, 220))
    assert (many >= few - 0.12).all() and many.sum() > 1.5 * few.sum() > 0


def test_a_drop_shows_what_is_beside_it_upside_down(plain):
    light = np.linspace(0, 1, SIDE)[:, None, None] * np.ones((SIDE, SIDE, 3))
    inside = S._drops(light, 14, np.random.default_rng(0)) - light
    assert (np.abs(inside) > 0.05).mean() > 0.01


def test_smear_keeps_the_mean_and_lowers_the_contrast(plain):
    smeared = S._smeared(plain.light, 8, 0.0)
    assert abs(smeared.mean() - plain.light.mean()) < 0.02 and smeared.std() < 0.9 * plain.light.std()


def test_at_night_the_sign_comes_out_of_the_dark(plain):
    half = replace(plain, light=np.full((SIDE, SIDE, 3), 0.5, np.float32), mask=(np.arange(SIDE) < SIDE // 2) * np.ones((SIDE, 1)))
    light = S._night(half, np.random.default_rng(0), 0.01, 0.3, 0.0, 1, 100)
    assert light[:, 5:SIDE // 2 - 5].mean() > 2 * light[:, SIDE // 2 + 5:-5].mean()


def test_fewer_photons_more_noise():
    flat = np.full((SIDE, SIDE, 3), 0.3)
    noise = [pixels(S._camera(flat, SIDE, n, np.random.default_rng(0))).std() for n in (3000, 400, 60)]
    assert noise[0] < noise[1] < noise[2]


@pytest.mark.parametrize("photons", [3000, 60])
def test_the_camera_cuts_off_what_is_too_bright_and_bears_the_dark(photons):
    for light in (0.0, 1e3):
        seen = pixels(S._camera(np.full((SIDE, SIDE, 3), light), 12, photons, np.random.default_rng(0)))
        assert abs(seen.mean() - (255 if light else 0)) < 40


# --- measures ---------------------------------------------------------------------------------------------------------

def test_contrast_kept_is_a_slope():
    rng = np.random.default_rng(0)
    clear, mask = rng.uniform(0, 200, (SIDE, SIDE, 3)), np.ones((SIDE, SIDE))
    assert contrast_kept(0.25 * clear + 100, clear, mask) == pytest.approx(0.25)
    assert contrast_kept(clear + rng.normal(0, 20, clear.shape), clear, mask) == pytest.approx(1, abs=0.03)
    assert contrast_kept(np.full_like(clear, 7), clear, mask) == 0


def test_contrast_of_nothing_is_refused():
    for clear, mask in ((np.full((SIDE, SIDE, 3), 9.0), np.ones((SIDE, SIDE))), (np.eye(SIDE)[..., None] * np.ones(3), np.zeros((SIDE, SIDE)))):
        with pytest.raises(SignError, match="Nothing of the sign"): contrast_kept(clear, clear, mask)


def test_risk_names_every_pair_once():
    assert all(risk(a, a) == "right" for a in CLASSES)
    assert {risk(a, b) for a in CLASSES for b in CLASSES if a != b} == {"dangerous", "over-cautious", "minor"}
    assert risk("stop", "priority road") == risk("turn left", "turn right") == risk("limit 30", "limit 80") == "dangerous"
    assert risk("priority road", "stop") == "over-cautious" and risk("limit 30", "limit 50") == "minor"
    for a in CLASSES:
        for b in CLASSES:
            if risk(a, b) == "dangerous": assert risk(b, a) in ("over-cautious", "dangerous")


# --- bad input --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("call, hint", [
    (lambda: draw_sign("stopp"), "name = 'stopp': there are stop"),
    (lambda: scene("stop", "paris", (0,)), "photo = 'paris': there are astronaut"),
    (lambda: scene("halt", "brick", (0,)), "name = 'halt'"),
    (lambda: picture(scene("stop", "brick", (0,)), "snow"), "weather = 'snow': there are clear, fog, rain, night"),
    (lambda: picture(scene("stop", "brick", (0,)), "fog", 4), "level = 4: there are 1, 2, 3"),
    (lambda: picture(scene("stop", "brick", (0,)), "clear", 2), "level = 2: there are 1"),
    (lambda: scenes(0, ["brick"], 0), "per_class = 0"),
    (lambda: scenes(1, [], 0), "0 photographs"),
    (lambda: risk("stop", "go"), "said = 'go'"),
    (lambda: picture(scene("stop", "brick", (0,)), ["fog"]), "weather = ['fog']"),
    (lambda: scene_of(np.zeros((9, 9, 3), np.uint8), depth=0), "a number of metres above 0"),
    (lambda: scene_of(np.zeros((9, 9, 3), np.uint8), depth=np.ones((9, 9))), "depth of shape (9, 9)"),
    (lambda: replace(scene("stop", "brick", (0,)), light=np.zeros((9, 9, 3))), "light has the shape (9, 9, 3)"),
    (lambda: contrast_kept(np.zeros((9, 9, 3)), np.zeros((8, 9, 3)), np.ones((9, 9))), "the same size"),
])
def test_what_there_is_not_is_said_with_what_there_is(call, hint):
    with pytest.raises(SignError) as caught: call()
    assert hint in str(caught.value)


def test_pictures_make_a_data_set_that_splits_by_photograph(some):
    data = photographed(some, "night", 3)
    assert data.kind == "image" and data.classes == list(CLASSES) and len(data) == 2 * len(CLASSES)
    assert all(isinstance(x, Image.Image) and x.size == (SIDE, SIDE) for x in data.items)
    halves = data.split(0, 0.5, 0)
    assert not set(halves.train.groups) & set(halves.test.groups)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "16 bits"])
@pytest.mark.parametrize("size", [(300, 61), (7, 9)])
def test_any_picture_of_ones_own_makes_a_scene(mode, size, tmp_path):
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, size[::-1], np.uint8))
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "16 bits" else grey.convert(mode)
    image.save(tmp_path / "mine.png")
    found = scene_of(tmp_path / "mine.png", 30.0)
    assert found.light.shape == (SIDE, SIDE, 3) and found.distance == 30
    assert np.abs(pixels(picture(found)).mean() - np.asarray(grey, float).mean()) < 12
    assert picture(found, "fog", 3).size == (SIDE, SIDE)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "mine.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="mine.png"): scene_of(tmp_path / "mine.png")


# --- the exercises ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("wrong, hint", [
    (lambda P, harm: P.argmax(1), "most probable"),
    (lambda P, harm: (P @ harm.T).argmin(1), "wrong side"),
    (lambda P, harm: (P @ harm).argmax(1), "greatest"),
    (lambda P, harm: np.zeros(4, int), "should be"),
    (lambda P, harm: 0, "One class for each"),
], ids=["likeliest", "transposed", "greatest", "constant", "one number"])
def test_least_harm_wants_the_table_the_right_way_round(wrong, hint):
    assert check_least_harm(lambda P, harm: (P @ harm).argmin(1)).passed
    verdict = check_least_harm(wrong)
    assert verdict.passed is False and hint in verdict.message


@pytest.mark.parametrize("wrong, hint", [
    (lambda contrast, distance: 3 * distance / np.log(contrast), "a sign is missing"),
    (lambda contrast, distance: -distance / np.log(contrast), "the visibility is"),
    (lambda contrast, distance: distance / contrast, "the visibility is"),
], ids=["sign", "three", "no logarithm"])
def test_visibility_wants_the_logarithm_and_its_sign(wrong, hint):
    assert check_visibility(lambda contrast, distance: -3 * distance / np.log(contrast)).passed
    verdict = check_visibility(wrong)
    assert verdict.passed is False and hint in verdict.message
