"""Send SIGTERM to training, as a cluster's scheduler does, and measure how long it takes to save and to end.

    python -m benchmarks.termination --after 5 20 60 -- --dataset celeba --train-images 640

Each time a process of train.py, with the flags after `--`, is asked to stop so many seconds after it has begun to
train; the next one goes on from there. Prints its exit code, the seconds until it had ended and, for a machine that has
other work to do, the seconds of processor time that this took, and what it said. Runs go into a temporary folder.
"""

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from cli import parse_arguments, run_program, split_flags
from errors import UserError
from training.folder import CONFIG_FILE

ALLOWED_SECONDS = 10.0
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Arguments:
    """Stop training by SIGTERM. Flags of train.py after `--`."""

    after: tuple[float, ...] = (5.0, 20.0)
    """seconds of training before each signal"""

    def __post_init__(self) -> None:
        if not self.after or not all(0 <= seconds < math.inf for seconds in self.after):
            raise UserError(f"--after takes seconds, one for each signal, got {self.after}")


@dataclass(frozen=True)
class Ending:
    """How a process ended: exit code, last line, seconds since the signal, and processor time of these."""

    code: int
    said: str
    seconds: float
    processor_seconds: float


def terminate(flags: list[str], folder: Path, after: float) -> Ending:
    """Train in a run folder below `folder`, wait, send SIGTERM, wait.

    Raises:
        UserError: training ended by itself.
    """
    before = started(folder)
    command = [sys.executable, str(ROOT / "train.py"), *flags, "--runs-dir", str(folder)]
    running = subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while started(folder) == before:
            if running.poll() is not None:
                raise UserError(f"training did not start: {running.stderr.read().strip() or 'it had been finished'}")
            time.sleep(0.01)
        return _terminated(running, after)
    finally:
        if running.poll() is None:  # something went wrong here: it must not go on alone
            running.kill()
            running.wait()


def started(folder: Path) -> list[int]:
    """When the runs below `folder` were started last: each then writes its configuration, and takes its first step."""
    return [file.stat().st_mtime_ns for file in folder.glob(f"*/{CONFIG_FILE}")]


def _terminated(running: subprocess.Popen, after: float) -> Ending:
    time.sleep(after)
    if running.poll() is not None:
        raise UserError(f"training ended before the signal, with exit code {running.returncode}: train longer")
    used, asked = processor_seconds(running.pid), time.monotonic()
    running.send_signal(signal.SIGTERM)
    _, status, usage = os.wait4(running.pid, 0)
    seconds = time.monotonic() - asked
    running.returncode = os.waitstatus_to_exitcode(status)  # it was waited for here, for its usage
    said = running.stderr.read().strip()
    return Ending(running.returncode, said, seconds, usage.ru_utime + usage.ru_stime - used)


def processor_seconds(pid: int) -> float:
    """User and system time that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(argv: list[str]) -> None:
    """Parse, stop training again and again, and print."""
    own, of_training = split_flags(argv)
    a = parse_arguments(Arguments, own, __doc__)
    with tempfile.TemporaryDirectory() as folder:
        endings = []
        for after in a.after:
            endings.append(terminate(of_training, Path(folder), after))
            ending = endings[-1]
            print(
                f"exit code {ending.code} after {ending.seconds:.2f} s, {ending.processor_seconds:.2f} s of processor "
                f"time: {ending.said}",
                flush=True,
            )
    if any(ending.code != 128 + signal.SIGTERM for ending in endings):
        raise UserError("a process that was asked to stop did not end with 143")
    # Seconds count others' work, processor time counts all threads of our own: too long is what is so by both.
    if max(min(ending.seconds, ending.processor_seconds) for ending in endings) > ALLOWED_SECONDS:
        raise UserError(f"a process took more than {ALLOWED_SECONDS:g} s to end")


if __name__ == "__main__":
    sys.exit(run_program(main))
