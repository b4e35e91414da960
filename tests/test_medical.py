"Clinical figures: thresholds against brute force, intervals that know their groups, maps that find the one spot that counts."
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_auc_score

import domain_medical
from tl_nb.clinical import ClinicalError, OperatingPoint, grouped_interval, occlusion, operating_point, threshold_at
from tl_nb.data import DataError, from_csv
from tl_nb.exercises_applications import check_per_patient

RNG = np.random.default_rng


def auroc(y, s):
    "By counting pairs; many times faster than scikit-learn's, to which it is compared below."
    a, b = s[y == 1][:, None], s[y == 0]
    return float((a > b).mean() + (a == b).mean() / 2)


def some(seed, n=60, ties=False):
    "Labels and scores that have to do with each other; with `ties`, few different scores."
    rng = RNG(seed)
    y = rng.integers(0, 2, n)
    y[:2] = 0, 1
    s = rng.normal(size=n) + y
    return y, np.round(s) if ties else s


# --- threshold and operating point ------------------------------------------------------------------------------------

@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("specificity", [0.0, 0.5, 0.8, 0.9, 0.95, 1.0])
def test_the_threshold_is_the_lowest_that_keeps_the_specificity(specificity, ties):
    for seed in range(20):
        y, s = some(seed, ties=ties)
        t = threshold_at(y, s, specificity)
        keeps = lambda t: np.mean(s[y == 0] < t) >= specificity - 1e-12
        assert keeps(t)
        lower = s[(y == 0) & (s < t)]  # one step lower, and one more negative is an alarm
        assert not len(lower) or not keeps(lower.max())
        found = [operating_point(y, s, c).sensitivity for c in [*s, np.inf] if keeps(c)]
        assert operating_point(y, s, t).sensitivity == max(found)


def test_no_false_alarm_allowed_and_all_allowed():
    y, s = some(0)
    assert threshold_at(y, s, 1.0) > s[y == 0].max() and threshold_at(y, s, 0.0) == -np.inf
    assert operating_point(y, s, -np.inf).sensitivity == 1


def test_rounding_does_not_cost_an_alarm():
    assert threshold_at([0] * 10 + [1], [*range(10), 5], 0.9) < 9, "(1 - 0.9) * 10 is a little less than 1 in floats"


def test_the_counts_are_those_of_scikit_learn():
    for seed in range(10):
        y, s = some(seed, ties=True)
        point = operating_point(y == 1, s, 1.0)
        (tn, _), (_, tp) = confusion_matrix(y, s >= 1.0)
        assert (point.spared, point.found, point.positives + point.negatives) == (tn, tp, len(y))
        assert point.sensitivity == tp / (y == 1).sum() and point.specificity == tn / (y == 0).sum()


def test_the_predictive_value_is_a_count_where_the_prevalence_is_that_of_the_sample():
    y, s = some(3)
    point = operating_point(y, s, 0.7)
    assert point.predictive_value(y.mean()) == pytest.approx(y[s >= 0.7].mean())
    assert point.predictive_value(0) == 0 and point.predictive_value(1) == 1
    assert point.predictive_value(0.01) < point.predictive_value(0.1)
    assert np.isnan(OperatingPoint(9.0, 0, 5, 5, 5).predictive_value(0.5)), "nobody is called ill"


def test_the_point_shows_its_counts():
    assert repr(OperatingPoint(0.5, 4, 5, 9, 10)) == "sensitivity 0.800 (4 of 5), specificity 0.900 (9 of 10) at 0.5"


# --- intervals over groups --------------------------------------------------------------------------------------------

def width(i): return i.high - i.low


def test_copies_of_an_item_are_no_further_witnesses():
    y, s = some(1, n=40)
    once = grouped_interval(auroc, y, s, np.arange(40), draws=300)
    copied = grouped_interval(auroc, np.repeat(y, 10), np.repeat(s, 10), np.repeat(np.arange(40), 10), draws=300)
    fooled = grouped_interval(auroc, np.repeat(y, 10), np.repeat(s, 10), np.arange(400), draws=300)
    assert (copied.mean, copied.low, copied.high, copied.n) == pytest.approx((once.mean, once.low, once.high, 40))
    assert width(fooled) < 0.5 * width(once)


def test_the_interval_does_not_depend_on_names_or_order():
    y, s = some(2)
    groups, mixed = np.arange(60) // 5, RNG(0).permutation(60)
    a = grouped_interval(auroc, y, s, groups, draws=200)
    b = grouped_interval(auroc, y[mixed], s[mixed], groups[mixed], draws=200)
    c = grouped_interval(auroc, y, s, [f"p{g:02}" for g in groups], draws=200)
    assert a.mean == pytest.approx(roc_auc_score(y, s)) and (a.low, a.high) == pytest.approx((b.low, b.high)) == (c.low, c.high)


def test_the_seed_decides_and_the_level_widens():
    y, s = some(4)
    of = lambda **kw: grouped_interval(auroc, y, s, np.arange(60) // 3, draws=200, **kw)
    assert of(seed=1) == of(seed=1) != of(seed=2)
    assert width(of(level=0.5)) < width(of(level=0.99))


def test_it_covers_the_truth_about_as_often_as_it_says():
    covered, truth = 0, 0.7602  # of two normal distributions one standard deviation apart: Phi(1 / sqrt 2)
    for seed in range(60):
        rng = RNG(seed)
        y = np.tile([0, 1], 60)
        s = rng.normal(size=120) + y
        covered += not grouped_interval(auroc, y, s, np.arange(120), draws=200).excludes(truth)
    assert covered >= 50


def test_a_class_in_one_group_alone_is_drawn_until_it_comes():
    y = np.array([1, 0, 0, 0, 0, 0])
    found = grouped_interval(auroc, y, np.arange(6.0), np.arange(6), draws=50)
    assert np.isfinite([found.low, found.high]).all()


# --- occlusion --------------------------------------------------------------------------------------------------------

def spot(images): return [x[20:24, 8:12].mean() / 255 for x in images]


def picture(h=32, w=40):
    image = np.zeros((h, w), np.uint8)
    image[20:24, 8:12] = 255
    return image


def test_the_map_finds_the_only_pixels_that_count():
    m = occlusion(spot, picture(), size=4, stride=2)
    assert m.shape == (32, 40) and np.argmax(m) in [y * 40 + x for y in range(20, 24) for x in range(8, 12)]
    far = np.ones((32, 40), bool)
    far[16:28, 4:16] = False
    assert (m[far] == 0).all()
    quarter_half_half_all = (0.25 + 0.5 + 0.5 + 1) / 4  # what the four squares on it cover of the spot
    assert m[21, 9] == pytest.approx(quarter_half_half_all * (1 - round(picture().mean()) / 255))


def test_one_square_by_hand():
    "Squares of half the image, side by side: each has the fall of its own half, exactly."
    image = np.zeros((4, 8), np.uint8)
    image[:, 4:] = 200
    m = occlusion(lambda images: [x[:, 4:].mean() for x in images], image, size=4, stride=4, fill=0)
    assert (m[:, :4] == 0).all() and (m[:, 4:] == 200).all()


def test_a_model_that_does_not_look_has_an_empty_map():
    assert (occlusion(lambda images: np.ones(len(images)), picture()) == 0).all()


@pytest.mark.parametrize("size, stride", [(5, 3), (7, 7), (32, 1), (1, 1)])
def test_every_pixel_is_covered_whatever_the_sizes(size, stride):
    seen = np.zeros((32, 40), bool)

    def predict(images):
        for x in images[1:]: seen[(x == 7).all(-1)] = True
        return np.zeros(len(images))
    occlusion(predict, picture(), size=size, stride=stride, fill=7)
    assert seen.all()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "16", "file"])
def test_the_map_is_the_same_for_every_mode_of_an_image(mode, tmp_path):
    image = domain_medical.as_mode(picture() / 255, "L" if mode == "file" else mode)
    if mode == "file":
        image.save(tmp_path / "scan.png")
        image = tmp_path / "scan.png"
    assert np.allclose(occlusion(spot, image, size=4, stride=2), occlusion(spot, picture(), size=4, stride=2), atol=0.01)


def test_the_image_given_stays_as_it_is():
    image = picture()
    occlusion(spot, image)
    assert (image == picture()).all()


# --- bad input --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("labels, scores, says", [
    ([0, 1], [0.1], "a label and a number for every item"), ([], [], "a label and a number for every item"),
    ([[0, 1]], [[0.1, 0.2]], "a label and a number for every item"), ([0, 1], ["a", "b"], "a label and a number for every item"),
    ([0, 1, 0], [0.1, np.nan, 0.2], "not finite, first at 1"), ([0, 2], [0.1, 0.2], "labels such as 2"),
    (["ill", "well"], [0.1, 0.2], "write labels == 'ill'")])
def test_labels_and_scores_are_checked_by_name(labels, scores, says):
    for use in (lambda: threshold_at(labels, scores), lambda: operating_point(labels, scores, 0.5),
                lambda: grouped_interval(roc_auc_score, labels, scores, np.arange(len(labels)))):
        with pytest.raises(ClinicalError, match=says): use()


@pytest.mark.parametrize("use, says", [
    (lambda: threshold_at([1, 1], [0.1, 0.2]), "no negatives"),
    (lambda: threshold_at([0, 1], [0.1, 0.2], specificity=90), "specificity = 90"),
    (lambda: operating_point([1, 1], [0.1, 0.2], 0.5), "all 2 are 1"),
    (lambda: operating_point([0, 1], [0.1, 0.2], np.nan), "threshold is not a number"),
    (lambda: operating_point([0, 1], [0.1, 0.2], 0.1).predictive_value(5), "prevalence = 5"),
    (lambda: grouped_interval(roc_auc_score, [0, 0], [0.1, 0.2], [0, 1]), "all 2 are 0"),
    (lambda: grouped_interval(roc_auc_score, [0, 1], [0.1, 0.2], [0]), "name the group of every item"),
    (lambda: grouped_interval(roc_auc_score, [0, 1], [0.1, 0.2], [7, 7]), "several patients"),
    (lambda: grouped_interval(roc_auc_score, [0, 1], [0.1, 0.2], [0, 1], draws=0), "draws = 0"),
    (lambda: grouped_interval(roc_auc_score, [0, 1], [0.1, 0.2], [0, 1], level=95), "level = 95"),
    (lambda: occlusion(spot, picture(), size=33), "size = 33"),
    (lambda: occlusion(spot, picture(), size=4, stride=5), "stride = 5"),
    (lambda: occlusion(spot, picture(), size=4, stride=0), "stride = 0"),
    (lambda: occlusion(lambda images: np.zeros((len(images), 2)), picture()), "one number per image"),
    (lambda: occlusion(lambda images: np.full(len(images), np.nan), picture()), "not finite")])
def test_what_cannot_be_judged_is_named_with_a_way_out(use, says):
    with pytest.raises(ClinicalError, match=says): use()


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "scan.png").write_bytes(b"not a scan")
    with pytest.raises(DataError, match="scan.png"): occlusion(spot, tmp_path / "scan.png")


# --- exercise and recipe ----------------------------------------------------------------------------------------------

def per_patient(pick_label, pick_score):
    def answer(labels, scores, patients):
        of = lambda values, pick: [pick(np.asarray(values)[np.asarray(patients) == p]) for p in sorted(set(np.asarray(patients).tolist()))]
        return roc_auc_score(of(labels, pick_label), of(scores, pick_score))
    return answer


@pytest.mark.parametrize("answer, hint", [
    (lambda y, s, who: roc_auc_score(y, s), "counts once"), (per_patient(np.max, np.mean), "not their mean"),
    (per_patient(lambda y: y[0], np.max), "not only the first"), (lambda *a: 1 - per_patient(np.max, np.max)(*a), "turned around"),
    (lambda *a: 0.9, "maximum of labels and of scores")])
def test_the_exercise_knows_the_usual_faults(answer, hint):
    verdict = check_per_patient(answer)
    assert verdict.passed is False and hint in verdict.message


def test_the_exercise_takes_the_right_answer(): assert check_per_patient(per_patient(np.max, np.max)).passed


def test_scans_of_a_patient_stay_together_in_a_split(tmp_path):
    data = from_csv(domain_medical.make(tmp_path), image="image", group="patient").split(0.25, 0.25)
    parts = [set(data.groups[rows]) for rows in data.splits.values()]
    assert len(data) == 48 and sum(map(len, parts)) == len(set.union(*parts)) == 24


def test_a_csv_without_patients_says_so(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "scans.csv").write_text("image,label\na.png,ill\n")
    with pytest.raises(DataError, match="no column 'patient'"): from_csv(tmp_path / "scans.csv", image="image", group="patient")
