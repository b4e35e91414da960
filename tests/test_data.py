"Data from names, folders, CSV files and image files; every bad input is a clear error, and no file is changed."
import socket
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import tl_nb.data as data
import tl_nb.sources as sources
from tl_nb.assets import OfflineError
from tl_nb.data import DataError, Dataset, from_csv, from_folder, load_data, open_image, pixels


def picture(path, seed=0, size=(24, 16), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path, **options)
    return path


@pytest.fixture
def pets(tmp_path):
    "Two classes with three pictures each, and the clutter that real folders have."
    root = tmp_path / "pets"
    for c, name in enumerate(("cat", "dog")):
        for i in range(3): picture(root / name / f"{i}.png", seed=10 * c + i)
    for clutter in (".DS_Store", "cat/.hidden.png", ".git/config", "dog/Thumbs.db", "__MACOSX/cat/0.png"):
        (root / clutter).parent.mkdir(exist_ok=True, parents=True)
        (root / clutter).write_bytes(b"x")
    return root


def snapshot(root): return {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}


# folders

def test_folder_of_images(pets):
    before = snapshot(pets)
    ds = from_folder(pets)
    assert (ds.kind, ds.classes, ds.domain, ds.skipped) == ("image", ["cat", "dog"], "pets", [])
    names = [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(3)]
    assert [p.relative_to(pets).as_posix() for p in ds.items] == names
    assert ds.labels.tolist() == [0, 0, 0, 1, 1, 1] and snapshot(pets) == before


def test_folder_of_texts(tmp_path):
    for name, text in (("ja/1.txt", "schön\n"), ("nein/1.txt", "häßlich"), ("nein/deep/2.txt", "schlecht")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    ds = from_folder(str(tmp_path))
    assert ds.kind == "text" and ds.items == ["schön", "häßlich", "schlecht"]
    assert ds.label_names == ["ja", "nein", "nein"]


def test_folder_with_parts_inside(tmp_path):
    for part, n in (("train", 3), ("val", 1), ("test", 2)):
        for c in ("a", "b"):
            for i in range(n): picture(tmp_path / part / c / f"{i}.png", seed=1000 * ord(part[1]) + 10 * ord(c) + i)
    ds = from_folder(tmp_path)
    assert ds.classes == ["a", "b"] and (len(ds.train), len(ds.valid), len(ds.test)) == (6, 2, 4)


@pytest.mark.parametrize("damage", [lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b"no image at all",
                                    lambda b: b[:40] + bytes(30) + b[70:]])
def test_damaged_image_is_named_and_can_be_skipped(pets, damage):
    bad = pets / "cat" / "1.png"
    bad.write_bytes(damage(bad.read_bytes()))
    before = snapshot(pets)
    with pytest.raises(DataError, match=r"1 cannot be used:\n  cat/1.png: not .*\nRepair or remove them, or pass "
                                        r"on_error='skip'"):
        from_folder(pets)
    ds = from_folder(pets, on_error="skip")
    assert len(ds) == 5 and [name for name, _ in ds.skipped] == ["cat/1.png"] and "1 skipped" in repr(ds)
    assert snapshot(pets) == before


def test_all_bad_items_are_in_one_report(pets):
    for i in range(12): (pets / "dog" / f"bad{i:02}.jpg").write_bytes(b"?")
    with pytest.raises(DataError, match=r"12 cannot be used:(\n  dog/bad\d\d.jpg: .*){10}\n  and 2 more\n"):
        from_folder(pets)


def test_other_files_among_images(pets):
    (pets / "cat" / "notes.txt").write_text("taken in May")
    (pets / "stray.png").write_bytes((pets / "cat" / "0.png").read_bytes())
    with pytest.raises(DataError, match="2 cannot be used:\n  stray.png: outside of the class folders\n"
                                        "  cat/notes.txt: not an image file"):
        from_folder(pets)
    assert len(from_folder(pets, on_error="skip")) == 6


def test_as_many_images_as_texts(pets):
    for i in range(6): (pets / "cat" / f"{i}.txt").write_text("a caption")
    with pytest.raises(DataError, match="6 images and 6 .txt files: say kind='image' or kind='text'"): from_folder(pets)
    assert len(from_folder(pets, kind="image", on_error="skip")) == 6


def parts(root, *files):
    for i, file in enumerate(files): picture(root / file, seed=i)
    return root


@pytest.mark.parametrize("files, found", [
    (("train/a/1.png", "val/a/2.png", "validation/a/3.png"), "train/ .*, val/ .*, validation/ with class folders"),
    (("train/a/1.png", "test/a/2.png", "extra/3.png"), "extra/, test/ .*, train/ with class folders"),
    (("train/a/1.png", "test/2.png"), "test/, train/ with class folders"),
    (("val/a/1.png", "test/a/2.png"), "test/ with class folders, val/ with class folders"),
    (("train/a/1.png", "train/b/2.png"), "train/ with class folders")])
def test_parts_that_are_not_clear(tmp_path, files, found):
    with pytest.raises(DataError, match=f"it has {found}. Parts are train/ and test/"):
        from_folder(parts(tmp_path, *files), on_error="skip")


def test_a_class_may_be_called_like_a_part(tmp_path):
    assert from_folder(parts(tmp_path, "train/1.png", "bus/2.png", "bus/front/3.png")).classes == ["bus", "train"]


def test_file_beside_the_class_folders_of_a_part(tmp_path):
    parts(tmp_path, "train/a/1.png", "train/2.png", "test/a/3.png")
    with pytest.raises(DataError, match="1 cannot be used:\n  train/2.png: outside of the class folders"):
        from_folder(tmp_path)


def test_copies_across_the_parts_of_a_folder(tmp_path):
    parts(tmp_path, "train/a/0.png", "train/a/1.png", "valid/a/2.png", "valid/a/3.png", "test/a/4.png")
    for copy, of in (("train/a/copy", "test/a/4"), ("valid/a/other", "test/a/4"), ("train/a/third", "valid/a/2")):
        (tmp_path / f"{copy}.png").write_bytes((tmp_path / f"{of}.png").read_bytes())
    with pytest.raises(DataError, match="3 cannot be used:\n  train/a/copy.png: the same as test/a/4.png\n  train/a/"
                                        "third.png: the same as valid/a/2.png\n  valid/a/other.png: the "
                                        "same as test/a/4.png"):
        from_folder(tmp_path)
    ds = from_folder(tmp_path, on_error="skip")
    assert [len(x) for x in (ds.train, ds.valid, ds.test)] == [2, 2, 1] and len(ds.skipped) == 3


def test_copies_of_texts_across_parts(tmp_path):
    for file, text in (("train/a/1.txt", "same\n"), ("train/a/2.txt", "two"), ("test/a/3.txt", "same")):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match="train/a/1.txt: the same as test/a/3.txt"): from_folder(tmp_path)
    assert from_folder(tmp_path, on_error="skip").train.items == ["two"]


def test_links_that_are_not_followed(tmp_path, pets):
    parts(tmp_path, "far/1.png")
    (pets / "cat" / "more").symlink_to(tmp_path / "far")
    (pets / "dog" / "gone.png").symlink_to(tmp_path / "gone.png")
    (pets / "fox").symlink_to(tmp_path / "gone")
    (pets / "dog" / "linked.png").symlink_to(tmp_path / "far" / "1.png")
    with pytest.raises(DataError, match="3 cannot be used:\n  fox: a link that leads nowhere\n  cat/more: a link to a "
                                        "folder, which is not followed\n  dog/gone.png: a link that leads nowhere"):
        from_folder(pets)
    assert len(from_folder(pets, on_error="skip")) == 7
    for link in ("cat/more", "dog/gone.png", "fox"): (pets / link).unlink()
    (pets / "fox").symlink_to(tmp_path / "far")  # a class folder may be a link
    assert from_folder(pets).counts() == {"cat": 3, "dog": 4, "fox": 1}


def test_folders_that_hold_no_data(tmp_path, pets):
    with pytest.raises(DataError, match="nowhere: no such folder"): from_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: the folder is empty. Make a folder for each class"):
        from_folder(tmp_path / "empty")
    with pytest.raises(DataError, match="cat: it has files, but no folder for each class"): from_folder(pets / "cat")
    with pytest.raises(DataError, match="0.png: a file, not a folder. For a CSV there is from_csv"):
        from_folder(pets / "cat" / "0.png")
    (tmp_path / "hollow" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="no images and no .txt files in the class folders"):
        from_folder(tmp_path / "hollow")


def test_class_without_items(pets):
    (pets / "bird").mkdir()
    with pytest.raises(DataError, match="bird/: a class without a usable item"): from_folder(pets)
    assert from_folder(pets, on_error="skip").classes == ["cat", "dog"]


def test_nothing_left_after_skipping(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"?")
    with pytest.raises(DataError, match="none of the files can be used. The first: a/1.png: not an image"):
        from_folder(tmp_path, on_error="skip")


def test_class_with_one_item(pets):
    picture(pets / "fish" / "0.png", seed=99)
    with pytest.raises(DataError, match="class 'fish' has 1 different item"): from_folder(pets).split()


def test_empty_and_wrongly_encoded_text_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").write_text("fine")
    (tmp_path / "a" / "2.txt").write_text(" \n")
    (tmp_path / "a" / "3.txt").write_bytes("Größe".encode("cp1252"))
    with pytest.raises(DataError, match=r"a/2.txt: empty text\n  a/3.txt: not utf-8: byte 2 \(f6\) cannot be read. It "
                                        "can be read with encoding='cp1252'"):
        from_folder(tmp_path)
    assert from_folder(tmp_path, on_error="skip").items == ["fine"]


@pytest.mark.parametrize("options, message", [({"on_error": "ignore"}, "on_error = 'ignore': 'raise' or 'skip'"),
                                              ({"kind": "sound"}, "kind = 'sound': 'image' or 'text'")])
def test_options_that_do_not_exist(pets, options, message):
    with pytest.raises(DataError, match=message): from_folder(pets, **options)


# CSV

def table(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_csv_of_texts(tmp_path):
    text = 'id,text,label,who\n1,"a, quoted",spam,x\n2,"two\nlines", ham ,y\n3,c,spam,x\n'
    path = table(tmp_path / "mails.csv", text)
    ds = from_csv(path, group="who")
    assert ds.items == ["a, quoted", "two\nlines", "c"] and ds.label_names == ["spam", "ham", "spam"]
    assert ds.groups.tolist() == ["x", "y", "x"] and (ds.kind, ds.domain) == ("text", "mails")


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_csv_delimiters_and_byte_order_mark(tmp_path, sign):
    path = table(tmp_path / "t.csv", "text,label\r\na b,x\r\nc d,y\r\n".replace(",", sign), "utf-8-sig")
    assert from_csv(path).items == ["a b", "c d"] and from_csv(path, delimiter=sign).classes == ["x", "y"]


def test_csv_of_images(tmp_path):
    picture(tmp_path / "img" / "1.png")
    path = table(tmp_path / "t.csv", "file,label\nimg/1.png,10\nimg/gone.png,2\n")
    with pytest.raises(DataError, match="line 3: img/gone.png: no such file"): from_csv(path, image="file")
    ds = from_csv(path, image="file", on_error="skip")
    assert ds.kind == "image" and ds.items == [tmp_path / "img" / "1.png"] and ds.classes == ["10"]


def test_csv_missing_column_names_those_there_are(tmp_path):
    path = table(tmp_path / "t.csv", "review,stars\ngood,5\n")
    with pytest.raises(DataError, match="no column 'text'. Its columns: 'review', 'stars'. Name yours with text="):
        from_csv(path)
    with pytest.raises(DataError, match="no column 'label'"): from_csv(path, text="review")
    with pytest.raises(DataError, match="no column 'site'"): from_csv(path, text="review", label="stars", group="site")


def test_csv_bad_rows_are_reported_by_line(tmp_path):
    path = table(tmp_path / "t.csv", "text,label\ngood,pos\n ,neg\nbad,\nso,so,so\nfine,pos\nalas,neg\n")
    with pytest.raises(DataError, match="3 cannot be used:\n  line 3: empty text in the column 'text'\n  line 4: no "
                                        "label in the column 'label'\n  line 5: more fields than the header"):
        from_csv(path)
    ds = from_csv(path, on_error="skip")
    assert ds.items == ["good", "fine", "alas"] and [name for name, _ in ds.skipped] == ["line 3", "line 4", "line 5"]


def test_csv_labels_in_two_spellings(tmp_path):
    path = table(tmp_path / "t.csv", "text,label\na,1\nb,1.0\nc,2\n")
    with pytest.raises(DataError, match=r"the labels '1' \(line 2\) and '1.0' \(line 3\) look like the same class"):
        from_csv(path)


@pytest.mark.parametrize("content, message", [
    ("", "the file is empty"), ("\n\n", "the file is empty"), ("text,label\n", "a header, and no rows"),
    ("text,label\n,x\n", "none of the rows can be used. The first: line 2: empty text")])
def test_csv_without_data(tmp_path, content, message):
    with pytest.raises(DataError, match=message): from_csv(table(tmp_path / "t.csv", content), on_error="skip")


def test_csv_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="t.csv: no such file"): from_csv(tmp_path / "t.csv")
    with pytest.raises(DataError, match="a folder, not a CSV file. For class folders there is from_folder"):
        from_csv(tmp_path)
    with pytest.raises(DataError, match="one or the other"): from_csv(tmp_path, text="a", image="b")


@pytest.mark.parametrize("encoding, at, fits", [("cp1252", 15, "cp1252"), ("utf-16", 0, "utf-16")])
def test_csv_wrong_encoding_says_where_and_which_fits(tmp_path, encoding, at, fits):
    path = table(tmp_path / "t.csv", "text,label\ncaf\u00e9,x\nb,y\n".replace("caf", "the "), encoding)
    with pytest.raises(DataError, match=rf"t.csv: not utf-8: byte {at} .*encoding='{fits}'"): from_csv(path)
    assert from_csv(path, encoding=fits).items[0] == "the é"
    with pytest.raises(DataError, match="no encoding 'utf-9' is known"): from_csv(path, encoding="utf-9")


def test_csv_other_way_round_suggests_utf8(tmp_path):
    path = table(tmp_path / "t.csv", "text,label\né,x\n")
    with pytest.raises(DataError, match="not ascii: byte 11 .*encoding='utf-8'"): from_csv(path, encoding="ascii")


def test_csv_with_a_quote_that_never_ends(tmp_path):
    path = table(tmp_path / "t.csv", 'text,label\n"' + "a" * 200_000 + ",x\n")
    with pytest.raises(DataError, match="line .* is not CSV"): from_csv(path)


def test_csv_header_with_a_column_twice(tmp_path):
    path = table(tmp_path / "t.csv", "text,label,text,,\na,x,b,,\n")
    with pytest.raises(DataError, match="the header names the column 'text' more than once"): from_csv(path)


def test_csv_with_a_long_field(tmp_path):
    import csv
    limit, long = csv.field_size_limit(), "a" * 200_000
    path = table(tmp_path / "t.csv", f"text,label\n{long},x\nb,y\n")
    assert from_csv(path).items == [long, "b"] and csv.field_size_limit() == limit


@pytest.mark.parametrize("start, what", [(b"PK\x03\x04", "a zip or xlsx file"), (b"\x1f\x8b\x08", "a gzip file")])
def test_csv_that_is_packed(tmp_path, start, what):
    (tmp_path / "t.csv").write_bytes(start + bytes(range(256)))
    with pytest.raises(DataError, match=f"t.csv: {what}, not a CSV. Export or unpack it"): from_csv(tmp_path / "t.csv")


@pytest.mark.parametrize("options, message", [
    ({"delimiter": ";;"}, "delimiter = ';;': one character"), ({"delimiter": ""}, "delimiter = ''"),
    ({"encoding": None}, "encoding = None: a name such as"), ({"label": None}, "label = None: name the column")])
def test_csv_options_that_make_no_sense(tmp_path, options, message):
    with pytest.raises(DataError, match=message): from_csv(table(tmp_path / "t.csv", "text,label\na,b\n"), **options)


@pytest.mark.parametrize("read", [from_csv, from_folder, load_data])
def test_path_that_is_too_long(read):
    with pytest.raises(DataError, match="'aaaa.*' cannot be used as a path: File name too long"): read("a" * 5000)


# images

def test_camera_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    a = np.zeros((20, 40, 3), np.uint8)
    a[:, :20] = 255
    Image.fromarray(a).save(tmp_path / "p.jpg", exif=exif, quality=100)
    im = np.asarray(open_image(tmp_path / "p.jpg"))
    assert im.shape == (40, 20, 3) and im[:15].min() > 240 and im[25:].max() < 15


def test_transparency_is_on_white():
    a = np.zeros((4, 4, 4), np.uint8)
    a[0, 0] = (255, 0, 0, 255)
    for item in (a, Image.fromarray(a)):
        im = np.asarray(open_image(item))
        assert im[0, 0].tolist() == [255, 0, 0] and im[2, 2].tolist() == [255] * 3
    grey = Image.fromarray(np.full((2, 2), 100, np.uint8)).convert("LA")
    palette = Image.new("P", (2, 2))
    palette.info["transparency"] = 0
    assert np.asarray(open_image(grey)).max() == 100 and np.asarray(open_image(palette)).min() == 255


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_keeps_its_order(tmp_path, suffix):
    a = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(a).save(tmp_path / f"scan.{suffix}")
    for item in (tmp_path / f"scan.{suffix}", a):
        im = np.asarray(open_image(item)).astype(int)
        assert im[0, 0, 0] == 0 and im[-1, -1, 0] == 255 and abs(im[32, 0, 0] - 128) <= 1
        assert (np.diff(im[:, :, 0].ravel()) >= 0).all()
    dark = np.asarray(open_image(a // 4 + 1))  # one rule for all scans: a dark one stays dark
    assert dark.max() == 63 and np.asarray(open_image(a * 0)).max() == 0


def test_cmyk_looks_as_it_is_meant(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    im = np.asarray(open_image(tmp_path / "print.jpg"))
    assert im[4, 4, 0] > 230 and im[4, 4, 1:].max() < 40


@pytest.mark.parametrize("array", [np.eye(5, dtype=bool), np.eye(5), np.eye(5, dtype=np.float32)[:, :, None],
                                   np.eye(5, dtype=np.uint8) * 255, np.stack([np.eye(5) * 255] * 3, 2).astype(int)])
def test_arrays(array):
    im = np.asarray(open_image(array))
    assert im.shape == (5, 5, 3) and im[1, 1].tolist() == [255] * 3 and im[0, 1].tolist() == [0] * 3


@pytest.mark.parametrize("array, message", [
    (np.zeros((2, 3, 4, 5)), r"shape \(2, 3, 4, 5\) is not an image"), (np.zeros((5, 5, 2)), "is not an image"),
    (np.zeros((0, 5)), "is not an image"), (np.full((2, 2), -1), "pixels from -1 to -1"),
    (np.full((2, 2), np.nan), "pixels from nan"), (np.full((2, 2), 1e6), "expected 0 to 1, 0 to 255, or 0 to 65535")])
def test_arrays_that_are_no_images(array, message):
    with pytest.raises(DataError, match=message): open_image(array)


@pytest.mark.parametrize("array", [np.full((4, 4), 4095, np.uint16), np.full((4, 4), 255, np.uint16),
                                   np.full((4, 4), 256, int), np.full((4, 4, 3), 16383.0)])
def test_few_of_16_bits_are_not_shown_black(array, tmp_path):
    with pytest.raises(DataError, match=f"pixels up to {array.max():g} only, in 16 bits: scale them"): open_image(array)


def test_few_of_16_bits_in_a_file_are_named(tmp_path):
    Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(tmp_path / "scan.png")
    with pytest.raises(DataError, match="scan.png: pixels up to 4095 only"): open_image(tmp_path / "scan.png")


@pytest.mark.parametrize("item, kind", [(np.ones((4, 4), complex), "complex128"), (np.full((4, 4), None), "object"),
                                        (np.full((4, 4), "a"), "<U1"), (None, "NoneType"), ([[1, 2]], "list"),
                                        (bytearray(b"x"), "bytearray"), (7, "int")])
def test_what_is_no_image_is_named_by_its_type(item, kind):
    with pytest.raises(DataError, match=f"an (array of|item of type) {kind} is not an image"): open_image(item)


def test_bytes_and_paths_are_the_same_image(tmp_path):
    path = picture(tmp_path / "a.png")
    same = [open_image(x) for x in (path, str(path), path.read_bytes(), Image.open(path), np.asarray(Image.open(path)))]
    assert all(x.mode == "RGB" and x.tobytes() == same[0].tobytes() for x in same)
    with pytest.raises(DataError, match="an image in memory: not an image that PIL can read"): open_image(b"?")
    with pytest.raises(DataError, match="b.png: no such file"): open_image(tmp_path / "b.png")


def test_decompression_bomb_is_refused(monkeypatch, pets):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 16 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="cat/0.png: .*24 × 16 pixels, above PIL's safety limit"): from_folder(pets)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # above twice the limit PIL itself refuses
    with pytest.raises(DataError, match="cat/0.png: .*decompression bomb"): from_folder(pets)


def test_pixels(tmp_path):
    black, white = np.zeros((8, 8), np.uint8), np.full((20, 10, 3), 255, np.uint8)
    ds = Dataset.from_items([black, white, picture(tmp_path / "a.png")], ["a", "b", "a"])
    x = pixels(ds, 4)
    assert x.shape == (3, 48) and x.dtype == np.float32
    assert x[0].max() == 0 and x[1].min() == 1 and 0 <= x.min() <= x.max() <= 1
    assert pixels(ds.items, 4, grey=True).shape == (3, 16)


# by name

def test_load_data_by_name():
    ds = load_data("uci-digits", seed=0)
    assert (ds.kind, ds.domain, len(ds)) == ("image", "uci-digits", 1797) and ds.card.leakage
    assert len(ds.test) == pytest.approx(0.2 * 1797, abs=6) and ds.test.label_names[:1][0] in ds.classes
    assert (load_data("uci-digits", seed=0).splits["test"] == ds.splits["test"]).all()


def test_official_parts():
    news = load_data("newsgroups", official=True, seed=0)
    assert len(news.test) == 7528 and len(news.train) + len(news.valid) == 11293
    assert set(load_data("textures", official=True).splits) == {"train", "valid", "test"}
    with pytest.raises(DataError, match="faces has no official split; its card says to split by class"):
        load_data("faces", official=True)


def test_unknown_names_and_options():
    with pytest.raises(DataError, match="Did you mean 'newsgroups'"): load_data("newsgroup")
    with pytest.raises(DataError, match="label: only for data of the hub, not for 'faces'"):
        load_data("faces", label="x")


def test_hub_profile_gives_the_twin(monkeypatch):
    asked = []
    def read_hub(repo, **columns):
        asked.append(repo)
        raw = sources.RawData([f"t{i}" for i in range(40)], np.arange(40) % 2, ("neg", "pos"))
        return raw, replace(sources.CARDS["sentiment-movie"], name=repo)
    monkeypatch.setattr(data, "read_hub", read_hub)
    monkeypatch.setattr(data, "settings", replace(data.settings, profile="hub"))
    assert load_data("sentiment-movie").domain == "stanfordnlp/imdb" and len(load_data("owner/name").test) == 8
    assert load_data("sst2").domain == "stanfordnlp/sst2" and load_data("faces").domain == "faces"
    assert load_data("sentiment-movie", profile="embedded").domain == "sentiment-movie"
    assert asked == ["stanfordnlp/imdb", "owner/name", "stanfordnlp/sst2"]


def test_local_hub_folder_end_to_end_without_network(monkeypatch, tmp_path):
    def cut(*_, **__): raise OSError("network is unreachable")
    monkeypatch.setattr(socket, "getaddrinfo", cut)
    monkeypatch.setattr(sources, "settings", replace(sources.settings, cache=tmp_path / "cache"))
    for part, n in (("train", 20), ("test", 6)):
        rows = "".join(f"{part} {i},{'yes' if i % 2 else 'no'}\n" for i in range(n))
        table(tmp_path / f"{part}.csv", "utterance,intent\n" + rows)
    ds = load_data(tmp_path, official=True, seed=0)
    assert len(ds.test) == 6 and len(ds.train) == 16
    assert all(x.startswith("train") for x in ds.train.items + ds.valid.items)
    assert not any((tmp_path / "cache").iterdir())  # what was prepared is gone
    with pytest.raises(OfflineError, match="'owner/name' is no folder here.*not in the cache"): load_data("owner/name")


@pytest.mark.parametrize("name, here", [("stanfordnlp/imdb", "sentiment-movie"), ("imdb", "sentiment-movie"),
                                        ("mnist", "mnist-5k"), ("owner/name", "faces")])
def test_embedded_profile_asks_nobody(monkeypatch, tmp_path, name, here):
    asked = []
    def cut(*args, **_):
        asked.append(args)
        raise OSError("network is unreachable")
    monkeypatch.setattr(socket, "getaddrinfo", cut)
    monkeypatch.setattr(sources, "settings", replace(sources.settings, cache=tmp_path, profile="hub"))
    monkeypatch.setattr(data, "settings", replace(data.settings, profile="hub"))
    with pytest.raises(OfflineError, match=rf"the profile is embedded.*profile = hub in settings.ini.*{here}"):
        load_data(name, profile="embedded")
    assert not asked
    with pytest.raises(OfflineError, match="the Hugging Face hub could not be reached. Two ways out"): load_data(name)
    assert asked


def test_embedded_profile_reads_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "settings", replace(sources.settings, cache=tmp_path, profile="embedded"))
    kept = tmp_path / "hub" / "datasets--owner--name"
    (kept / "snapshots" / "a1").mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("a1")
    table(kept / "snapshots" / "a1" / "train.csv", "text,label\n" + "".join(f"t {i},{i % 2}\n" for i in range(20)))
    assert len(load_data("owner/name", seed=0)) == 20


@pytest.mark.parametrize("name", ["/home/me/data", "./nope", "../nope", "~/x-y-z", "a/b/c", "C:\\data"])
def test_mistyped_path_is_a_missing_folder(name):
    with pytest.raises(DataError, match="no such folder. Check the path"): load_data(name)


def test_name_of_a_file_and_profile_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match="t.csv: a file, not a folder. For a CSV there is from_csv"):
        load_data(table(tmp_path / "t.csv", "text,label\na,b\n"))
    for name in ("faces", "owner/name"):
        with pytest.raises(DataError, match="profile = 'x': 'embedded' or 'hub'"): load_data(name, profile="x")


def test_copies_across_the_parts_of_a_hub_set(tmp_path):
    for part, texts in (("train", "abcdefgh"), ("validation", "ijcd"), ("test", "klmna")):
        table(tmp_path / f"{part}.csv", "text,label\n" + "".join(f"text {t},{i % 2}\n" for i, t in enumerate(texts)))
    with pytest.raises(DataError, match="3 cannot be used:\n  train item 0: the same as test item 4\n  train item 2: "
                                        "the same as valid item 2\n"):
        load_data(tmp_path, official=True)
    ds = load_data(tmp_path, official=True, on_error="skip")
    assert [len(x) for x in (ds.train, ds.valid, ds.test)] == [5, 4, 5] and len(ds.skipped) == 3
    assert ds.train.items == [f"text {t}" for t in "befgh"] and len(load_data(tmp_path, seed=0)) == 17
