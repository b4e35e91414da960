"Pairs of a sentence and its function: what is read, what is left out, and a split that keeps modules whole."
import subprocess
import sys

import pytest

from tl_nb.pairs import Pairs, PairsError, code_pairs, first_sentence

CODE = '''
"""A module."""
import os

open("it-was-run", "w")

def splitext(path):
    """Split a path in two parts. The second one
    may be empty.

    More of it."""
    # a remark that says: extension
    return os.path.splitext(path)

class Box:
    """No function."""
    async def fetch_all(self, fetch_all=None):
        "Wait for everything that is in the box"
        return await self.fetch_all(self.fetch_all_now)

    def nothing(self):
        """Only words are in here."""

    def short(self):
        """Helper method."""
        return 1

    def signature(self, x):
        """signature(x) -> whatever that may be"""
        return 1

    def without(self): return 2
'''


@pytest.fixture
def folder(tmp_path):
    "Two modules, a package, a file that is no Python, and folders that are left out."
    files = {"one.py": CODE, "two.py": CODE, "broken.py": "def (", "latin.py": b"# \xff\xfe", "zero.py": "\0",
             "old.py": "def warn():\n    'An escape that newer Pythons warn of.'\n    return '\\d'\n",
             "package/inner/deep.py": "def far():\n    '''Find what is far away.'''\n    return 3\n"}
    for left_out in ("test", "tests", ".hidden", "__pycache__", "site-packages", "package/tests"):
        files[f"{left_out}/other.py"] = "def other():\n    'This should not be found.'\n    return 0\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return tmp_path


def test_what_is_read(folder, recwarn):
    found = code_pairs(folder)
    assert list(zip(found.groups, found.names, found.queries)) == [
        ("old", "warn", "An escape that newer Pythons warn of."),
        ("one", "splitext", "Split a path in two parts."),
        ("one", "fetch_all", "Wait for everything that is in the box"),
        ("package", "far", "Find what is far away.")]  # nothing of two.py: it is one.py again
    assert found.documents[1] == "def splitext(path):\n    return os.path.splitext(path)"
    assert not recwarn.list and not list(folder.rglob("it-was-run"))
    assert code_pairs(folder).queries == found.queries


def test_equal_sentences_or_codes_stay_once(tmp_path):
    (tmp_path / "a.py").write_text("def f(x):\n  'Give the first one.'\n  return x\ndef g(x):\n  'GIVE the first one.'\n  return 1\n"
                                   "def f(x):\n  'Something else is said.'\n  return x\n")
    assert code_pairs(tmp_path).names == ["f"]


def test_min_words(folder):
    assert "short" in code_pairs(folder, min_words=2).names
    with pytest.raises(PairsError, match="docstring of 90 words"): code_pairs(folder, min_words=90)


@pytest.mark.parametrize("doc,sentence", [
    ("One.  Two.", "One."), ("Open e.g. files. Then\nclose", "Open e.g. files."), ("Is it\n   open? No.", "Is it open?"),
    ("First part\n\nSecond.", "First part"), ("", ""), ("v1.2 is fine", "v1.2 is fine")])
def test_first_sentence(doc, sentence): assert first_sentence(doc) == sentence


def test_hidden_names(folder):
    found = code_pairs(folder)
    assert found.hide_names().documents[1] == "def function(path):\n    return os.path.function(path)"
    assert "self.function(self.fetch_all_now)" in found.hide_names().documents[2]  # only whole words
    assert found.hide_names().queries == found.queries and "splitext" in found.documents[1]
    odd = Pairs(["q"], ["a.b(a1b)"], ["a.b"], ["g"])  # a name is no pattern
    assert odd.hide_names().documents == ["function(a1b)"]


def test_standard_library():
    found = code_pairs()
    assert len(found) > 2000 and len(set(found.groups)) > 80
    assert len({q.lower() for q in found.queries}) == len(set(found.documents)) == len(found)
    assert not {"test", "idlelib", "lib2to3", "distutils"} & set(found.groups)
    assert all(len(q.split()) >= 3 and "\n" not in q for q in found.queries)


def test_indexing():
    pairs = Pairs(list("abc"), list("ABC"), list("xyz"), [1, 2, 3])
    assert len(pairs) == 3 and pairs[[2, 0]].queries == ["c", "a"] and pairs[:2].groups == [1, 2]
    assert "Pairs: 3 from 3 modules" in repr(pairs) and "<b>Pairs</b>" in pairs._repr_html_()


def many(n=300):
    names = [f"g{i % n}" for i in range(3 * n)]
    return Pairs(names, names, names, names)


def test_split_keeps_groups_whole_and_covers_all():
    parts = many().split(valid=0.3, test=0.2)
    groups = [set(part.groups) for part in parts]
    assert sum(map(len, parts)) == 900 and sum(map(len, groups)) == len(set().union(*groups)) == 300
    assert [round(len(g) / 300, 1) for g in groups] == [0.5, 0.3, 0.2]


def test_a_group_never_changes_sides():
    pairs = many()
    where = [set(part.groups) for part in pairs.split(seed=3)]
    fewer = pairs[[i for i, g in enumerate(pairs.groups) if g != "g7"][::-1]].split(seed=3)
    assert [set(part.groups) for part in fewer] == [g - {"g7"} for g in where]
    assert set(pairs.split(seed=4)[2].groups) != where[2]
    code = "from tl_nb.pairs import Pairs; n = [f'g{i}' for i in range(300)]; print(sorted(Pairs(n, n, n, n).split(seed=3)[2].groups))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sorted(where[2]))


def test_bad_folders_and_shares(tmp_path):
    with pytest.raises(PairsError, match="no folder"): code_pairs(tmp_path / "nowhere")
    with pytest.raises(PairsError, match="No function"): code_pairs(tmp_path)
    for bad in (dict(valid=-0.1), dict(test=1.0), dict(valid=0.6, test=0.6), dict(valid=float("nan"))):
        with pytest.raises(PairsError, match="shares"): many().split(**bad)
    with pytest.raises(PairsError, match="No group falls into"): many(1).split()
    train, valid, test = many().split(valid=0, test=0)
    assert len(train) == 900 and not len(valid) and not len(test)
