"Settings: merging, finding, and every way a file or a variable can be wrong."
import random
from pathlib import Path

import pytest

from tl_nb.settings import SECTIONS, SettingsError, find_settings, load_settings, seed_everything, single_threaded

ROOT = Path(__file__).parents[1]


@pytest.fixture
def ini(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "settings.ini"
        path.write_text(text, encoding=encoding)
        return path
    return write


def refused(path, env=None):
    with pytest.raises(SettingsError) as e: load_settings(path, env=env or {})
    return str(e.value)


def test_the_file_of_the_course_says_what_the_packaged_defaults_say(tmp_path, monkeypatch):
    ours = load_settings(ROOT / "settings.ini", env={})
    monkeypatch.chdir(tmp_path)
    assert load_settings(env={}) == ours
    assert set(load_settings(env={}).origin.values()) == {"packaged default"}


def test_every_setting_stands_in_the_file_of_the_course():
    text = (ROOT / "settings.ini").read_text()
    for section, keys in SECTIONS.items():
        body = text.split(f"[{section}]")[1].split("\n[")[0]
        assert [line.split("=")[0].strip() for line in body.splitlines() if " = " in line] == list(keys)


def test_file_overrides_default_and_variable_overrides_file(ini):
    path = ini("[tl_nb]\nseed = 3\nprofile = hub\n[tl_nb.hub]\ntext_backbone = roberta-base  # mine\n")
    s = load_settings(path, env={"TL_NB_SEED": "9", "TL_NB_PRICES_LABEL": "0.5", "TL_NB_FULL": "1"})
    assert (s.seed, s.text_backbone, s.prices.label, s.image_backbone) == (9, "roberta-base", 0.5, "resnet50")
    assert s.origin["seed"] == "environment variable TL_NB_SEED" and s.origin["text_backbone"] == f"{path}:5"
    assert s.origin["image_backbone"] == "packaged default"


def test_variable_chooses_the_profile_and_then_applies_to_it(ini):
    path = ini("[tl_nb]\nseed = 3\n")
    s = load_settings(path, env={"TL_NB_PROFILE": "hub", "TL_NB_TEXT_DATA": "a/b, c/d"})
    assert s.text_data == ("a/b", "c/d") and s.image_backbone == "resnet50"


def test_found_from_below_past_files_of_other_tools(tmp_path):
    (tmp_path / "settings.ini").write_text("[tl_nb]\nseed = 5\n")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "a" / "settings.ini").write_text("[DEFAULT]\nlib_name = other\n")
    assert find_settings(inner) == tmp_path / "settings.ini"


def test_relative_cache_is_relative_to_what_says_it(ini, tmp_path, monkeypatch):
    path = ini("[tl_nb]\ncache = here\n")
    monkeypatch.chdir(tmp_path.parent)
    assert load_settings(path, env={}).cache == tmp_path / "here"
    assert load_settings(path, env={"TL_NB_CACHE": "there"}).cache == tmp_path.parent / "there"


@pytest.mark.parametrize("text, line, said", [
    ("[tl_nb]\nsede = 3\n", 2, "Did you mean seed?"),
    ("[tl_nb]\n\nseed = -1\n", 3, "a whole number from 0"),
    ("[tl_nb]\nseed = 4294967296\n", 2, "to 4294967295"),
    ("[tl_nb]\nseed = 1.5\n", 2, "a whole number from 0"),
    ("[tl_nb]\nseed =\n", 2, "(empty)"),
    ("[tl_nb]\nprofile = Hub\n", 2, "embedded or hub"),
    ("[tl_nb]\ndevice = gpu\n", 2, "auto, cpu, cuda, cuda:N or mps"),
    ("[tl_nb]\nthreads = 0\n", 2, "auto, or a whole number, 1 or more"),
    ("[tl_nb]\nprecision = fp16\n", 2, "fp32, auto or bf16"),
    ("[tl_nb]\ncache =\n", 2, "the path of a folder"),
    ("[tl_nb]\ncache = ~nobody-is-called-so/x\n", 2, "must exist"),
    ("[tl_nb]\ncache = $NO_SUCH_VARIABLE/x\n", 2, "must exist"),
    ("[tl_nb]\ncache = a\n  b\n", 2, "the path of a folder"),
    ("[tl_nb\nseed = 1\n", 1, "cannot be read"),
    ("[tl_nb]\n[tl_nb.hub]\ntext_backbone = a, b\n", 3, "one name"),
    ("[tl_nb]\n[tl_nb.hub]\nensemble = ,\n", 3, "one or more names"),
    ("[tl_nb]\n[tl_nb.prices]\nlabel = nan\n", 3, "the price of one label"),
    ("[tl_nb]\n[tl_nb.embeded]\n", 2, "Did you mean tl_nb.embedded?"),
    ("[tl_nb]\nseed = 1\nseed = 2\n", 3, "cannot be read"),
    ("[tl_nb]\nseed = 1\nnonsense\n", 3, "cannot be read"),
    ("[tl-nb]\nseed = 1\n", 1, "misspelt [tl_nb]"),
])
def test_wrong_file_names_file_line_and_what_is_allowed(ini, text, line, said):
    path = ini(text)
    message = refused(path)
    assert message.startswith(f"{path}:{line}:") and said in message and "Allowed" in message


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_marks_that_windows_editors_write_are_understood(ini, encoding, monkeypatch):
    path = ini("[tl_nb]\nseed = 7\nprofile = hub  # für später\n", encoding=encoding)
    monkeypatch.chdir(path.parent)
    found = load_settings(env={})
    assert (found.seed, found.profile, found.origin["seed"]) == (7, "hub", f"{path}:2")


def test_files_that_are_no_settings(ini, tmp_path):
    assert "no such file" in refused(tmp_path / "none.ini")
    assert "no section [tl_nb]" in refused(ini("[other]\nx = 1\n"))
    assert "not UTF-8" in refused(ini("[tl_nb]\nseed = 1 # é\n", encoding="latin-1"))


def test_wrong_variable_is_named(ini):
    path = ini("[tl_nb]\n")
    assert "TL_NB_SEDE" in (said := refused(path, {"TL_NB_SEDE": "1"})) and "TL_NB_SEED" in said
    assert "environment variable TL_NB_THREADS" in refused(path, {"TL_NB_THREADS": "many"})


def test_the_wrong_profile_is_reported_even_when_the_other_is_active(ini):
    assert "one name" in refused(ini("[tl_nb]\nprofile = embedded\n[tl_nb.hub]\nimage_backbone =\n"))


def test_device(ini):
    assert load_settings(ini("[tl_nb]\ndevice = cpu\n"), env={}).torch_device() == "cpu"
    absent = load_settings(ini("[tl_nb]\ndevice = cuda:63\n"), env={})
    import torch
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="settings.ini:2.*no such device"): absent.torch_device()


def test_seed_everything_repeats_every_generator():
    import numpy as np
    import torch
    draw = lambda: (random.random(), np.random.rand(), torch.rand(1).item())
    assert seed_everything(11) == 11
    first = draw()
    seed_everything(11)
    assert draw() == first
    seed_everything(12)
    assert all(a != b for a, b in zip(draw(), first))
    with pytest.raises(ValueError, match="whole numbers"): seed_everything(-1)


def test_single_threaded_is_undone_after_an_error():
    import numpy as np  # noqa: F401  (loads a BLAS)
    from threadpoolctl import threadpool_info
    count = lambda: [p["num_threads"] for p in threadpool_info()]
    before = count()
    with pytest.raises(KeyError), single_threaded():
        assert set(count()) == {1}
        raise KeyError
    assert count() == before
