"""The commit that a number carries."""

import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

import provenance

IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@b")


def module_in(folder: Path) -> ModuleType:
    """A copy of provenance.py that lives in another folder."""
    file = folder / "provenance.py"
    file.write_text(Path(provenance.__file__).read_text())
    spec = spec_from_file_location("provenance_copy", file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> tuple[Path, ModuleType]:
    module = module_in(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text("1")
    for command in (("init", "-q"), ("add", "."), (*IDENTITY, "commit", "-qm", "all")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path, module


def test_a_result_leaves_the_commit_clean_and_code_does_not(checkout: tuple[Path, ModuleType]) -> None:
    folder, module = checkout
    clean = module.git_commit()
    assert len(clean) == 40
    (folder / "results" / "a.json").write_text("2")
    (folder / "untracked").write_text("")
    assert module.git_commit() == clean
    (folder / "provenance.py").write_text("# changed\n")
    assert module.git_commit() == f"{clean}-dirty"


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert module_in(tmp_path).git_commit() is None


def test_the_commit_is_of_this_folder_whatever_repository_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = provenance.git_commit()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert provenance.git_commit() == here


def test_hardware_tells_the_kind_of_device() -> None:
    here = provenance.hardware(torch.device("cpu"))
    assert provenance.device_types(here) == {"cpu"}
    assert provenance.device_types("NVIDIA H100 80GB HBM3") == {"cuda"}
    assert provenance.device_types(provenance.in_turn(["NVIDIA H100 80GB HBM3", here])) == {"cuda", "cpu"}


def test_work_of_several_starts_names_what_changed_between_them() -> None:
    first = {"commit": "a", "hardware": "GPU", "versions": {"python": "3.12", "numpy": None}, "date": "monday"}
    moved = first | {"hardware": "CPU, 2 of 2 cores", "versions": {"python": "3.11", "numpy": None}, "date": "tuesday"}
    assert provenance.combine([first]) == first
    assert provenance.combine([first, first | {"date": "tuesday"}]) == first | {"date": "tuesday"}
    both = provenance.combine([first, first, moved, first])
    assert both["hardware"] == "GPU then CPU, 2 of 2 cores then GPU"
    assert both["versions"] == {"python": "3.12 then 3.11 then 3.12", "numpy": None}
    assert (both["commit"], both["date"]) == ("a", "monday")
    with pytest.raises(LookupError):
        provenance.combine([])
