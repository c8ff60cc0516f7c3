"""What a number needs to be believed: versions, hardware, commit, date."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

WRITTEN = ("results", "pretrained")  # folders of what programs write: a row's result makes no other row's code differ
PACKAGES = ("torch", "torchvision", "spikingjelly", "numpy")
PROVENANCE = ("hardware", "versions", "commit", "date")
THEN = " then "
GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set by git where it runs a hook


def provenance(device: torch.device | str) -> dict[str, Any]:
    """JSON-serialisable record of code, software, machine and time."""
    return {
        "commit": git_commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "hardware": hardware(torch.device(device)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def combine(starts: list[dict[str, Any]]) -> dict[str, Any]:
    """Provenance of work that several starts have done: what changed between them in turn, and the last date.

    Raises:
        LookupError: no starts, or one without an entry.
    """
    versions = {name: in_turn([start["versions"].get(name) for start in starts]) for name in starts[-1]["versions"]}
    changing = {key: in_turn([start[key] for start in starts]) for key in ("commit", "hardware")}
    return changing | {"versions": versions, "date": starts[-1]["date"]}


def card_lines(origin: dict[str, Any]) -> dict[str, str]:
    """Provenance as lines of a card."""
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    return {key: origin[key] for key in PROVENANCE} | {"versions": versions}


def in_turn(values: list[Any]) -> Any:
    """The value, or "one then another" where it changed."""
    changes = [value for value, before in zip(values, [..., *values], strict=False) if value != before]
    return changes[0] if len(changes) == 1 else THEN.join(map(str, changes))


def git_commit() -> str | None:
    """Commit of the working tree, with `-dirty` after it where files differ that no program writes, or None."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *(f":!{folder}" for folder in WRITTEN))
    return commit + ("-dirty" if changed else "")


def _git(*arguments: str) -> str | None:
    """What git answers of this folder, whatever repository the environment names; None where it has no answer."""
    options = {"cwd": Path(__file__).parent, "env": {k: v for k, v in os.environ.items() if k not in GIT_PLACES}}
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, **options)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def hardware(device: torch.device) -> str:
    """Name of the GPU, or of the processor with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def device_types(hardware: str) -> set[str]:
    """Kinds of device, cpu and cuda, that `hardware` told of, or that did the work in turn."""
    return {"cpu" if name.endswith(" cores") else "cuda" for name in hardware.split(THEN)}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
