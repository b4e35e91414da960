"The data sets of the course and of the hub: what the cards say is what is read."
import socket
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import tl_nb.sources as sources
from tl_nb.assets import OfflineError
from tl_nb.sources import CARDS, DataCard, DataError, find_columns, read_hub, read_source, strip_boxes


@pytest.fixture
def offline(monkeypatch, tmp_path):
    "No address resolves, and the cache is empty."
    def cut(*_, **__): raise OSError("network is unreachable")
    monkeypatch.setattr(socket, "getaddrinfo", cut)
    monkeypatch.setattr(socket.socket, "connect", cut)
    monkeypatch.setattr(sources, "settings", replace(sources.settings, cache=tmp_path / "cache"))


@pytest.mark.parametrize("name", CARDS)
def test_the_card_tells_what_is_read(name):
    card, raw = CARDS[name], read_source(name)
    assert len(raw.items) == len(raw.labels) == card.n_items
    assert raw.classes == card.classes and set(raw.labels) == set(range(len(card.classes)))
    assert all(getattr(card, f) for f in ("title", "licence", "source", "citation", "leakage", "split_by"))
    assert (raw.groups is not None) == card.split_by.startswith("group")
    if card.kind == "text": assert all(isinstance(x, str) and x.strip() for x in raw.items)
    else: assert all(x.dtype == np.uint8 and x.ndim in (2, 3) for x in raw.items)


def test_reading_twice_gives_the_same():
    a, b = read_source("font-digits"), read_source("font-digits")
    assert all((x == y).all() for x, y in zip(a.items, b.items)) and (a.groups == b.groups).all()


def test_sentiment_is_the_sign_of_a_clear_rating():
    rows = sources._rated("tweets")
    raw = read_source("sentiment-tweets")
    assert min(abs(v) for _, v, _ in rows) >= 0.5
    assert [v > 0 for _, v, _ in rows] == (raw.labels == 1).tolist()
    assert "VADER" in CARDS["sentiment-tweets"].leakage and not any("&amp;" in x for x in raw.items)


def test_a_document_is_the_prefix_of_the_id():
    raw, rows = read_source("sentiment-amazon"), sources._rated("amazonReviewSnippets")
    assert raw.groups.tolist() == [i.split("_")[0] for i, _, _ in rows]
    assert len(set(raw.groups)) == 298


def test_patches_of_different_strips_share_no_pixel():
    for width in (400, 515, 640):
        boxes = strip_boxes(width)
        for s, x, y in boxes: assert 0 <= x and x + 64 <= width and 0 <= y and y + 64 <= 400
        for s, x, _ in boxes:
            for t, u, _ in boxes: assert s == t or x + 64 <= u or u + 64 <= x


def test_official_textures_go_from_left_to_right():
    raw = read_source("textures")
    strip = np.array([int(g[-1]) for g in raw.groups])
    assert strip[raw.official == "train"].max() < strip[raw.official == "valid"].min()
    assert strip[raw.official == "valid"].max() < strip[raw.official == "test"].min()


def test_every_font_draws_ten_different_digits():
    raw = read_source("font-digits")
    for font in set(raw.groups):
        mean = [np.mean([x for x, g, y in zip(raw.items, raw.groups, raw.labels) if g == font and y == d], axis=0)
                for d in range(10)]
        apart = [np.abs(mean[a] - mean[b]).mean() for a in range(10) for b in range(a)]
        assert min(apart) > 4, font  # grey levels; a font without digits draws one box ten times
        assert all(m[0].max() < 128 and m[-1].max() < 128 for m in mean), font  # nothing is cut off


def test_unknown_name_suggests_one():
    with pytest.raises(DataError, match="no data set 'mnist-5'. Did you mean 'mnist-5k'.*owner/name"):
        read_source("mnist-5")


def test_card_html_is_escaped():
    card = replace(CARDS["faces"], title="<script>", classes=("<b>", "x"))
    shown = card._repr_html_()
    assert "<script>" not in shown and "<b>" not in shown and "&lt;script&gt;" in shown
    assert "leakage" in repr(card) and isinstance(card, DataCard)


def _csv(folder, header="text,label", rows=("good,pos", "bad,neg", "fine,pos"), name="train.csv"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_hub_csv_folder(offline, tmp_path):
    folder = _csv(tmp_path / "reviews")
    _csv(folder, rows=("poor,neg",), name="test.csv")
    raw, card = read_hub(folder)
    assert raw.items == ["good", "bad", "fine", "poor"] and raw.classes == ("neg", "pos")
    assert raw.labels.tolist() == [1, 0, 1, 0] and raw.official.tolist() == ["train"] * 3 + ["test"]
    assert card.name == "reviews" and card.n_items == 4 and card.kind == "text"


def test_hub_parquet_with_class_labels_and_an_unlabelled_part(offline, tmp_path):
    import datasets
    features = datasets.Features({"sentence": datasets.Value("string"), "idx": datasets.Value("int32"),
                                  "label": datasets.ClassLabel(names=["negative", "positive"])})
    made = {"train": [1, 0, 1], "validation": [0, 1], "test": [-1, -1]}
    for split, y in made.items():
        ds = datasets.Dataset.from_dict({"sentence": [f"{split} {i}" for i in y], "idx": y, "label": y}, features)
        (tmp_path / "sst").mkdir(exist_ok=True)
        ds.to_parquet(tmp_path / "sst" / f"{split}.parquet")
    raw, card = read_hub(str(tmp_path / "sst"))
    assert raw.classes == ("negative", "positive") and raw.labels.tolist() == [1, 0, 1, 0, 1]
    assert raw.official.tolist() == ["train"] * 3 + ["valid"] * 2 and "without labels: test" in card.title


def test_hub_saved_to_disk_and_limit(offline, tmp_path):
    import datasets
    y = [i % 3 for i in range(60)]
    datasets.Dataset.from_dict({"text": [f"t{i}" for i in y], "label": y}).save_to_disk(str(tmp_path / "saved"))
    raw, _ = read_hub(tmp_path / "saved", limit=20)
    assert len(raw.items) == 20 and raw.official is None and raw.items == [f"t{i}" for i in raw.labels]
    assert read_hub(tmp_path / "saved", limit=20)[0].items == raw.items


def test_hub_image_folder(offline, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(2): Image.new("RGB", (8, 8), (i * 100, 0, 0)).save(tmp_path / "pets" / name / f"{i}.png")
    raw, card = read_hub(tmp_path / "pets")
    assert card.kind == "image" and raw.classes == ("cat", "dog") and np.bincount(raw.labels).tolist() == [2, 2]
    from tl_nb.data import open_image
    assert open_image(raw.items[0]).size == (8, 8)


def test_hub_columns_that_are_not_clear(offline, tmp_path):
    with pytest.raises(DataError, match="no column is recognised as the label. Its columns: words, mood. Say which: "):
        read_hub(_csv(tmp_path / "a", "words,mood"))
    with pytest.raises(DataError, match="more than one column could be the text. Its columns: one, two, label"):
        read_hub(_csv(tmp_path / "b", "one,two,label", ("a,b,c",)))
    with pytest.raises(DataError, match="no column 'mod'. Its columns: words, mood"):
        read_hub(_csv(tmp_path / "a", "words,mood"), label="mod")
    raw, _ = read_hub(_csv(tmp_path / "a", "words,mood"), label="mood")
    assert raw.items == ["good", "bad", "fine"]


def test_columns_by_type():
    class Image: dtype = "dict"
    class ClassLabel: dtype = "int64"
    class Value:
        def __init__(self, dtype): self.dtype = dtype
    assert find_columns({"img": Image(), "fine": ClassLabel()}) == ("image", "img", "fine")
    assert find_columns({"review": Value("string"), "stars": Value("string"), "label": Value("int64")}) == (
        "text", "review", "label")


def test_hub_missing_label(offline, tmp_path):
    with pytest.raises(DataError, match="1 items have no label in the column 'label'; the first is item 1"):
        read_hub(_csv(tmp_path / "gap", rows=("good,pos", "bad,", "fine,neg")))


def test_hub_folder_that_is_not_a_data_set(offline, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="nothing: cannot be read as a Hugging Face data set"):
        read_hub(tmp_path / "nothing")


def test_hub_without_network_names_the_repository_and_two_ways_out(offline):
    with pytest.raises(OfflineError, match="'owner/unknown' is no folder here.*not in the cache.*Two ways out: "
                                           "load it once with a network and profile = hub.*faces"):
        read_hub("owner/unknown")


def test_hub_name_that_cannot_exist(offline):
    with pytest.raises(DataError, match="no data set 'a b/c' on the Hugging Face hub"):
        read_hub("a b/c")
    with pytest.raises(DataError, match="a/b/c: no such folder"): read_hub("a/b/c")
    with pytest.raises(DataError, match="profile = 'x'"): read_hub("a/b", profile="x")


def test_local_folder_leaves_nothing_behind(offline, tmp_path):
    import datasets
    datasets.Dataset.from_dict({"text": list("abcdef"), "label": [0, 1] * 3}).save_to_disk(str(tmp_path / "saved"))
    before = sorted((tmp_path / "saved").rglob("*"))
    read_hub(tmp_path / "saved", limit=3)
    read_hub(_csv(tmp_path / "reviews"))
    assert sorted((tmp_path / "saved").rglob("*")) == before and list((tmp_path / "cache").rglob("*")) == []
