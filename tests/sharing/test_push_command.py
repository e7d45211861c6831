"""Haystack files as a dataset on the hub: what would go up, and that it can be read again."""

import re

import pytest
from datasets import load_dataset
from huggingface_hub import metadata_load

from laid.data.build_command import build
from laid.data.entries import FEATURES
from laid.data.vhs_files import read_vhs
from laid.sharing import push_command
from laid.sharing.push_command import push_data


@pytest.fixture(scope="module")
def built(drawn, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "out"
    build(str(drawn), str(out), train_entries=4, max_size=3, test_per_size=2, sizes=[1, 3])
    return out


@pytest.fixture
def staged(tmp_path, monkeypatch):
    """The files that would go up, kept."""

    def keep(folder, names, *more):
        for name in names:
            (tmp_path / name).write_bytes((folder / name).read_bytes())

    monkeypatch.setattr(push_command, "push", keep)
    return tmp_path


def test_what_goes_up_is_read_as_the_same_entries(built, drawn, staged):
    push_data(str(built), "me/haystacks")
    found = load_dataset(str(staged), split="test", cache_dir=str(staged / "cache"))
    assert found.features == FEATURES
    files = [read_vhs(built / f"test_{size}.json", drawn) for size in (1, 3)]
    assert list(found) == [row for file in files for row in file]
    assert metadata_load(staged / "README.md")["configs"][0]["data_files"][0]["split"] == "train"


def test_a_dry_run_lists_the_files_and_sends_nothing(built, capsys):
    push_data(str(built), "me/haystacks", dry_run=True)
    listed = dict(re.findall(r"^(\S+) +([\d,]+)$", capsys.readouterr().out, re.M))
    assert listed.keys() == {"README.md", "test.parquet", "train.parquet"}


def test_a_broken_file_is_not_pushed(built, tmp_path):
    (tmp_path / "test_1.json").write_bytes((built / "test_1.json").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"test_1\.json"):
        push_data(str(tmp_path), "me/haystacks", dry_run=True)
    with pytest.raises(ValueError, match=r"no \.json files"):
        push_data(str(tmp_path / "none"), "me/haystacks", dry_run=True)
