"Data sets in memory: labels, subsets, and splits that are stratified, grouped and reproducible."
import numpy as np
import pytest
from PIL import Image

from tl_nb.data import DataError, Dataset, load_data


def made(counts, groups=None, start=0):
    "A data set with counts[c] items of class c, each text different."
    names = [c for c, n in counts.items() for _ in range(n)]
    return Dataset.from_items([f"text {start + i}" for i in range(len(names))], names, groups=groups)


def test_split_is_stratified_and_whole():
    ds = made({"a": 100, "b": 50, "c": 10}).split(0.2, 0.3, seed=1)
    assert sorted(np.concatenate(list(ds.splits.values())).tolist()) == list(range(160))
    assert ds.train.counts() == {"a": 50, "b": 25, "c": 5}
    assert ds.valid.counts() == {"a": 20, "b": 10, "c": 2}
    assert ds.test.counts() == {"a": 30, "b": 15, "c": 3}


def test_split_depends_on_the_seed_only():
    ds = made({"a": 40, "b": 30}, groups=[i // 3 for i in range(70)])
    first, again, other = ds.split(seed=3), ds.split(seed=3), ds.split(seed=4)
    assert all((first.splits[p] == again.splits[p]).all() for p in first.splits)
    assert first.splits["test"].tolist() != other.splits["test"].tolist()
    assert ds.splits == {}  # nothing is changed in place


def test_split_is_the_same_on_every_machine():
    assert made({"a": 6, "b": 4}).split(0.2, 0.2, seed=0).splits["test"].tolist() == [1, 8]
    ds = made({"a": 8, "b": 8}, groups=[i // 2 for i in range(16)]).split(0, 0.25, seed=0)
    assert ds.splits["test"].tolist() == [6, 7, 12, 13]


@pytest.mark.parametrize("name", ["sentiment-amazon", "sentiment-nyt", "font-digits", "textures"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_group_is_on_two_sides(name, seed):
    ds = load_data(name, seed=seed)
    parts = [set(ds.groups[at]) for at in ds.splits.values()]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(set(ds.groups))
    share = {p: np.array(list(ds[at].counts().values())) / np.array(list(ds.counts().values()))
             for p, at in ds.splits.items()}
    assert all(np.abs(share[p] - want).max() < 0.05 for p, want in (("train", 0.6), ("valid", 0.2), ("test", 0.2)))


def test_large_groups_are_not_kept_for_training():
    "A dealing that favours one part would make its groups larger than the others', whatever the seed."
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(120), rng.integers(1, 20, 120))
    labels = rng.integers(0, 2, len(groups)).tolist()
    ds = Dataset.from_items([str(i) for i in range(len(groups))], labels, groups=groups)
    sizes = [[np.bincount(groups[at])[np.unique(groups[at])].mean() for at in ds.split(seed=s).splits.values()]
             for s in range(12)]
    train, valid, test = np.mean(sizes, axis=0)
    assert abs(train - test) < 1.5 and abs(train - valid) < 1.5


def test_identical_items_stay_together():
    ds = Dataset.from_items(["same"] * 4 + [f"x{i}" for i in range(26)], ["a", "b"] * 15)
    assert ds.duplicates() == [[0, 1, 2, 3]]
    for seed in range(5):
        assert sum(bool(set(at) & {0, 1, 2, 3}) for at in ds.split(seed=seed).splits.values()) == 1


def test_identical_images_are_found_by_content(tmp_path):
    a = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for name in ("one.png", "two.png"): Image.fromarray(a).save(tmp_path / name)
    paths = Dataset.from_items([tmp_path / "one.png", tmp_path / "two.png"], ["x", "y"])
    assert paths.kind == "image" and paths.duplicates() == [[0, 1]]
    assert Dataset.from_items([a, a.copy(), a + 1], [0, 0, 1]).duplicates() == [[0, 1]]


def test_class_with_one_item_is_refused_with_the_way_out():
    with pytest.raises(DataError, match=r"class 'rare' has 1 different item, and a split into train, valid, test needs "
                                        r"at least 3. Add some, leave the class out \(ds.only\), or ask for"):
        made({"often": 20, "rare": 1}).split()


def test_more_parts_than_items():
    with pytest.raises(DataError, match="class 'a' has 2 different items.*needs at least 3"):
        made({"a": 2}).split()
    assert len(made({"a": 2}).split(0, 0.5, seed=0).test) == 1


def test_groups_too_few_for_the_parts():
    with pytest.raises(DataError, match="class 'b' has 2 groups, and a split into train, valid, test needs at least 3"):
        made({"a": 9, "b": 6}, groups=list("xxxyyyzzz") + list("xxxyyy")).split()


def test_groups_that_cannot_be_dealt():
    # a is in groups 1, 2, 3 and b in 3, 4: of two parts, one holds 3; the other needs b from 4 and a from 1 or 2
    assert made({"a": 3, "b": 2}, groups=[1, 2, 3, 3, 4]).split(0, 0.5, seed=0).splits
    # a is in 1 and 2, b in 2 and 3, c in 3 and 1: each part needs two of the three groups
    with pytest.raises(DataError, match="the 3 groups cannot be dealt so that every part has every.*finer groups"):
        made({"a": 2, "b": 2, "c": 2}, groups=[1, 2, 2, 3, 3, 1]).split(0, 0.5)


@pytest.mark.parametrize("shares, message", [((1.2, 0.1), "valid = 1.2: a share is at least 0 and below 1"),
                                             ((0.2, -0.1), "test = -0.1"), ((0.5, 0.5), "nothing is left to train on")])
def test_shares_that_make_no_sense(shares, message):
    with pytest.raises(DataError, match=message): made({"a": 20}).split(*shares)


def test_a_part_that_is_not_there():
    with pytest.raises(DataError, match="no test part. Split first"): made({"a": 5}).test
    with pytest.raises(DataError, match="no valid part. There are: train, test"): made({"a": 5}).split(0, 0.4).valid


def test_few_shot_is_nested_balanced_and_from_training():
    ds = load_data("sentiment-amazon", seed=0)
    five, ten = ds.few_shot(5, seed=7), ds.few_shot(10, seed=7)
    assert five.counts() == {"negative": 5, "positive": 5} and five.items == ten.items[:10]
    test = set(ds.splits["test"]) | set(ds.splits["valid"])
    outside = {ds.items[i] for i in test} - set(ds.train.items)
    assert not outside & set(ten.items) and ds.few_shot(5, seed=8).items != five.items


def test_few_shot_larger_than_the_smallest_class():
    with pytest.raises(DataError, match=r"few_shot\(5\): class 'b' has only 3\."): made({"a": 9, "b": 3}).few_shot(5)
    with pytest.raises(DataError, match="in the training part"): made({"a": 9, "b": 5}).split(0, 0.4).few_shot(4)
    with pytest.raises(DataError, match="ask for 1 or more"): made({"a": 9}).few_shot(0)


def test_indexing():
    ds = made({"a": 3, "b": 2}, groups=list("pqrst"))
    assert ds[1] == ("text 1", "a") and ds[-1] == ("text 4", "b")
    assert ds[1:3].items == ds[[1, 2]].items == ds[np.array([0, 1, 1, 0, 0], bool)].items == ["text 1", "text 2"]
    assert ds[[]].items == [] and ds[[4, 0]].label_names == ["b", "a"] and ds[[4, 0]].groups.tolist() == ["t", "p"]


def test_only_keeps_the_parts_and_renumbers():
    ds = made({"a": 10, "b": 10, "c": 10}).split(seed=0)
    two = ds.only(["c", "a"])
    assert two.classes == ["c", "a"] and len(two) == 20 and set(two.label_names) == {"a", "c"}
    assert set(two.test.items) == {x for x, y in zip(ds.test.items, ds.test.label_names) if y != "b"}
    with pytest.raises(DataError, match="no class 'z'. There are: a, b, c"): ds.only(["z"])


def test_two_domains_as_one():
    a, b = load_data("sentiment-amazon", seed=0), load_data("sentiment-nyt", seed=0)
    both = a + b
    assert len(both) == len(a) + len(b) and len(both.test) == len(a.test) + len(b.test)
    assert both.items[both.splits["test"][-1]] == b.test.items[-1] and both.domain == "sentiment-amazon + sentiment-nyt"
    assert len(set(both.groups)) == len(set(a.groups)) + len(set(b.groups))
    with pytest.raises(DataError, match="do not add up"): a + load_data("mnist-5k", seed=0)


@pytest.mark.parametrize("labels, message", [
    ([1, "1", 2], r"the labels 1 \(item 0\) and '1' \(item 1\) look like the same class in two spellings or types"),
    (["pos", "Pos ", "neg"], r"'pos' \(item 0\) and 'Pos ' \(item 1\)"),
    ([1, "pos", "neg"], r"mixed types: 'pos' \(str, item 1\) and 1 \(int, item 0\)"),
    (["a", float("nan"), None], "2 labels are missing: item 1, item 2"),
    (["a", "", "b"], "1 labels are missing: item 1"),
    ([0.5, 1.5, 2.0], "the label 0.5 is a number with a fraction"),
    ([True, 1, 0], r"mixed types: 1 \(int, item 1\) and True \(bool, item 0\)"),
])
def test_labels_that_are_not_clean(labels, message):
    with pytest.raises(DataError, match=message): Dataset.from_items(["x", "y", "z"], labels)


def test_labels_keep_their_type_and_order():
    assert Dataset.from_items(list("xyz"), [10, 2, 10]).classes == [2, 10]
    assert Dataset.from_items(list("xyz"), np.array([1.0, 0.0, 1.0])).classes == [0, 1]  # pandas, after a merge
    assert Dataset.from_items(list("xyz"), ["10", "9", "x"]).classes == ["9", "10", "x"]


@pytest.mark.parametrize("args, message", [
    (([], []), "no items"), ((["a"], ["x", "y"]), "1 items, but 2 labels"),
    ((["a", " "], ["x", "y"]), "1 texts are empty: item 1"),
    ((["a", np.zeros((2, 2), np.uint8)], ["x", "y"]), "texts and images are mixed"),
])
def test_items_that_cannot_be_used(args, message):
    with pytest.raises(DataError, match=message): Dataset.from_items(*args)


def test_lengths_and_label_range_are_checked():
    with pytest.raises(DataError, match=r"2 items, labels of shape \(1,\)"): Dataset(["a", "b"], [0], ["x"])
    with pytest.raises(DataError, match="labels go from 0 to 3, but there are 2 classes"):
        Dataset(["a", "b"], [0, 3], ["x", "y"])
    with pytest.raises(DataError, match="1 groups"): Dataset(["a", "b"], [0, 1], ["x", "y"], groups=["g"])


def test_shown_as_text_and_as_html():
    ds = Dataset.from_items([str(i) for i in range(9)], ["<b>", "y", "y"] * 3, domain="<i>").split(seed=0)
    lines = repr(ds).splitlines()
    assert lines[0] == "<i>: 9 texts, 2 classes" and lines[1].split() == ["class", "train", "valid", "test", "all"]
    assert lines[-1].split()[-1] == "9" and len({len(line) for line in lines[1:]}) == 1
    assert "<b>" not in ds._repr_html_() and "&lt;b&gt;" in ds._repr_html_() and "<i>" not in ds._repr_html_()


@pytest.mark.parametrize("groups, message", [(["a", None], "1 items have no group: item 1"),
                                             ([float("nan"), 1.0], "1 items have no group: item 0"),
                                             (["a", float("nan")], "item 1"),
                                             ([[1], [2]], r"groups of shape \(2, 1\)")])
def test_groups_that_are_missing(groups, message):
    with pytest.raises(DataError, match=message): Dataset(["a", "b"], [0, 1], ["x", "y"], groups=groups)
    with pytest.raises(DataError, match=message): Dataset.from_items(["a", "b"], ["x", "y"], groups=groups)


def test_labels_that_are_no_names():
    pd = pytest.importorskip("pandas")
    for labels, kind in (([["x"], ["y"]], "list"), (np.eye(2), "ndarray"), ([("x",), ("y",)], "tuple")):
        with pytest.raises(DataError, match=f"the label of item 0 is a {kind}: .*argmax"):
            Dataset.from_items(["a", "b"], labels)
    with pytest.raises(DataError, match="1 labels are missing: item 1"): Dataset.from_items(["a", "b"], ["x", pd.NA])


@pytest.mark.parametrize("labels, classes, message", [
    ([0.5, 1], ["x", "y"], "labels are whole numbers"), ([0, float("nan")], ["x", "y"], "labels are whole numbers"),
    (["0", "1"], ["x", "y"], "labels are whole numbers"), ([0, 1], ["x", "x"], "class 'x' is in `classes` more than")])
def test_labels_that_are_no_positions(labels, classes, message):
    with pytest.raises(DataError, match=message): Dataset(["a", "b"], labels, classes)
    assert Dataset(["a", "b"], [0.0, 1.0], ["x", "y"]).labels.tolist() == [0, 1]


def test_numbers_that_make_no_sense():
    ds = made({"a": 9, "b": 9})
    with pytest.raises(DataError, match="no items: there is nothing to split"): ds[[]].split()
    with pytest.raises(DataError, match=r"few_shot\(1.5\): a whole number"): ds.few_shot(1.5)
    for use in (ds.split, lambda seed: ds.few_shot(2, seed)):
        with pytest.raises(DataError, match="seed = -1: a whole number, 0 or larger"): use(seed=-1)


def test_empty_texts_can_be_skipped():
    ds = Dataset.from_items(["a", " ", "c", None], ["x", None, "y", "z"], kind="text", groups=list("pqrs"),
                            on_error="skip")
    assert (ds.items, ds.classes, ds.groups.tolist()) == (["a", "c"], ["x", "y"], ["p", "r"])
    assert ds.skipped == [("item 1", "empty text"), ("item 3", "empty text")]
    with pytest.raises(DataError, match="2 texts are empty: item 1, 3. Leave them out, or pass"):
        Dataset.from_items(["a", " ", "c", None], list("xxyy"), kind="text")
    with pytest.raises(DataError, match="all texts are empty"): Dataset.from_items([""], ["x"], on_error="skip")
    with pytest.raises(DataError, match="item 2"): Dataset.from_items(["a", "", "c"], ["x", "y", None], on_error="skip")
    with pytest.raises(DataError, match="on_error = 'no'"): Dataset.from_items(["a"], ["x"], on_error="no")
