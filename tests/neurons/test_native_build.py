"""Building the C code of backend `native`, and what happens where that fails."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from errors import UserError
from neurons import LIF, library, lif_surrogate
from neurons.library import native_obstacle
from neurons.native import channel_statistics
from training.device import describe_backend, resolve_backend

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, library.COMPILERS)), reason="no C compiler")


def forget() -> None:
    native_obstacle.cache_clear()
    library._library.cache_clear()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine on which nothing was built yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    forget()
    yield tmp_path / "spiking-vae"
    forget()


def set_failure(kind: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "no compiler":
        monkeypatch.setenv("PATH", "")
    elif kind == "unfinished CC":
        monkeypatch.setenv("CC", "'")
    elif kind == "unknown CC":
        monkeypatch.setenv("CC", "no-such-compiler -O2")
    elif kind == "failing build":
        monkeypatch.setattr(library, "FLAGS", ("--no-such-flag",))
    elif kind == "no cache folder":
        cache.write_text("a file where the folder should be")


FAILURES = {
    "no compiler": "there is no C compiler",
    "unfinished CC": r"which is no command \(No closing quotation\)",
    "unknown CC": r"\$CC is 'no-such-compiler', which is not a program",
    "failing build": "no-such-flag",
    "no cache folder": "cannot write to ",
}


@pytest.mark.parametrize("kind", FAILURES)
def test_where_it_cannot_be_built_auto_takes_scan_and_native_is_an_error(
    kind: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind in ("failing build", "no cache folder") and not any(map(shutil.which, library.COMPILERS)):
        pytest.skip("no C compiler")
    set_failure(kind, cache, monkeypatch)
    assert native_obstacle()
    assert resolve_backend("auto", CPU) == "scan"
    with pytest.raises(UserError, match=f"'native' cannot be built: .*{FAILURES[kind]}") as error:
        LIF(lif_surrogate("paper", 0.2, strict=False), backend=resolve_backend("native", CPU))
    assert "\n" not in str(error.value)
    line = describe_backend("auto", CPU)
    assert line.startswith("LIF backend: scan (no compiled C: ") and native_obstacle() in line
    assert not cache.is_dir() or not list(cache.iterdir())


@needs_compiler
def test_it_is_built_once_per_machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not native_obstacle() and resolve_backend("auto", CPU) == "native"
    assert describe_backend("auto", CPU).startswith("LIF backend: native")
    (library,) = cache.glob("*.so")
    built = library.stat().st_mtime_ns
    forget()
    assert not native_obstacle() and library.stat().st_mtime_ns == built


@needs_compiler
def test_the_library_is_complete_on_disk_and_has_the_permissions_of_a_new_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), fsync(descriptor)))
    assert not native_obstacle()
    (built,) = cache.glob("*.so")
    (cache / "plain").touch()
    assert built.stat().st_mode == (cache / "plain").stat().st_mode and built.stat().st_ino in synced


@needs_compiler
@pytest.mark.parametrize("what", ["_processor", "source"])
def test_another_processor_or_source_has_its_own_library(
    what: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not native_obstacle()
    if what == "source":
        for path in (*library.HEADERS, *library.SOURCES):
            (tmp_path / path.name).write_text(path.read_text() + "\n")
        monkeypatch.setattr(library, "SOURCES", tuple(tmp_path / path.name for path in library.SOURCES))
    else:
        monkeypatch.setattr(library, what, lambda: "another processor")
    forget()
    assert not native_obstacle() and len(list(cache.glob("*.so"))) == 2


DAMAGES = {
    "another file": lambda _: b"half a file",
    "cut short": lambda content: content[:4096],
    "a bit": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
}


@needs_compiler
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_library_is_built_again(
    damage: Callable[[bytes], bytes], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not native_obstacle()
    (built,) = cache.glob("*.so")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    forget()
    shutil.copytree(cache, tmp_path / "other" / cache.name)
    file = tmp_path / "other" / cache.name / built.name
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)
    assert not native_obstacle() and file.read_bytes() != damaged


@needs_compiler
def test_a_library_that_was_cut_short_does_not_kill_the_program(cache: Path) -> None:
    """With SIGBUS, as loading it does: in a process of its own."""
    assert not native_obstacle()
    (built,) = cache.glob("*.so")
    content = built.read_bytes()
    built.unlink()  # it is loaded here
    built.write_bytes(content[:4096])
    ended = run_python("from neurons.library import native_obstacle; print(native_obstacle())")
    assert (ended.returncode, ended.stdout) == (0, "\n")


def run_python(code: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)


def knows_openmp(folder: Path) -> bool:
    command = [*library._compiler(), "-fopenmp", "-shared", "-x", "c", os.devnull, "-o", str(folder / "empty")]
    return subprocess.run(command, capture_output=True).returncode == 0


@needs_compiler
def test_it_shares_pytorchs_threads_or_starts_its_own_and_computes_the_same(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same division of the work, and so the same sums bit by bit, whoever's threads do it."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    x = torch.randn(16 * 64, 32, 16, 16).contiguous(memory_format=torch.channels_last).unflatten(0, (16, 64))
    assert library.n_threads(x.numel()) == 3
    shared = channel_statistics(x)
    forget()
    is_shared = bool(library._openmp_runtime()) and knows_openmp(tmp_path)
    monkeypatch.setattr(library, "_openmp_runtime", lambda: "")
    own = channel_statistics(x)
    assert len(list(cache.glob("*.so"))) == 1 + is_shared
    assert all(torch.equal(a, b) for a, b in zip(shared, own, strict=True))


def test_the_openmp_library_is_pytorchs_whoever_loaded_one_first(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(torch.__file__).parent
    ours = {folder / "lib" / "libgomp-1.so.1", folder.with_name("torch.libs") / "a b" / "libgomp-1.so.1"}
    others = [folder.with_name(name) / "libgomp-2.so.1" for name in ("scikit_learn.libs", "torchvision.libs")]
    lines = [f"7f00-7f01 r-xp 00000000 00:00 0 {path}" for path in others]
    for own in ours:
        maps = "\n".join(["7e00-7e01 rw-p 00000000 00:00 0", *lines, f"7f02-7f03 r-xp 0 00:00 0   {own}"])
        monkeypatch.setattr(Path, "read_text", lambda _, maps=maps: maps)
        assert library._openmp_runtime() == str(own)
    monkeypatch.setattr(Path, "read_text", lambda _: "")
    assert library._openmp_runtime() == ""


@needs_compiler
def test_a_compiler_with_options_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (compiler,) = library._compiler()
    monkeypatch.setenv("CC", f"{compiler} -DUNUSED=1")
    assert not native_obstacle()
    forget()
    monkeypatch.setenv("CC", f"{compiler} --no-such-option")
    assert "no-such-option" in native_obstacle()


def test_it_is_refused_on_another_device_than_a_cpu() -> None:
    with pytest.raises(UserError, match="runs on a CPU only"):
        resolve_backend("native", CUDA)


def test_importing_builds_nothing(cache: Path) -> None:
    assert run_python("import evaluate, neurons.native, neurons.spike_convolution, train").returncode == 0
    assert not cache.exists()
