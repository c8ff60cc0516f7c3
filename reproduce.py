"""Reproduce the paper's tables and figures: run the rows of experiments.toml.

    python reproduce.py --list                     # what has been run, what is left, how long it takes
    python reproduce.py esvae-cifar10              # one row, to its full budget
    python reproduce.py --minutes 600              # all rows in order, as far as ten hours go
    python reproduce.py esvae-mnist --epochs 2     # a reduced run, labelled reduced everywhere
    python reproduce.py --evaluate esvae-mnist     # measure the released weights again, after a change to a metric

Each row trains in runs/<name> (going on where it stopped), is evaluated, and leaves results/<name>.json and
pretrained/<name>.safetensors with its card.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from analysis.formats import as_text
from analysis.release import remeasure
from analysis.reproduction import reproduce
from analysis.row_results import read_done
from analysis.rows import Places, Plan, Row, read_plan
from analysis.status import status_table
from cli import parse_arguments, run_program
from errors import UserError, check_at_least
from training.config import PrecisionChoice
from training.device import resolve_device


@dataclass(frozen=True)
class Arguments:
    """Run rows of experiments.toml."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """rows to run"""
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """show every row with its status and an estimate of the hours left"""
    evaluate: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """measure released weights again (all that are there, if no row is named) and train nothing"""
    inception_weights: Path | None = None
    """with --evaluate: the Inception network of 2015, to measure FID too"""
    minutes: float | None = None
    """run rows in order (all, if none is named) and stop after so many minutes; the state is saved, and epochs that
    are finished are released"""
    epochs: int | None = None
    """a reduced budget, labelled so"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA if there is one"""
    precision: PrecisionChoice = "auto"
    """of training, as train.py has it"""
    keep_every: int | None = None
    """as train.py has it: epochs between weights that stay in the run folder"""


def main(argv: list[str]) -> None:
    """List or run."""
    arguments = parse_arguments(Arguments, argv, __doc__)
    plan, places = read_plan(), Places()
    if arguments.list:
        if arguments != Arguments(list=True):
            raise UserError("--list shows every row and runs nothing: give it alone")
        print(as_text(status_table(plan, places)))
        return
    if arguments.evaluate:
        _evaluate(arguments, plan, places)
        return
    if arguments.inception_weights:
        raise UserError("--inception-weights is for --evaluate: give both")
    if not arguments.names and arguments.minutes is None:
        raise UserError("name the rows to run, or give --minutes to run all in order; --list shows them")
    if arguments.minutes is not None and not arguments.minutes > 0:
        raise UserError(f"--minutes must be positive, got {arguments.minutes}")
    check_at_least(1, epochs=arguments.epochs, keep_every=arguments.keep_every)
    resolve_device(arguments.device)  # what is wrong with all rows is no row's failure
    minutes = math.inf if arguments.minutes is None else arguments.minutes
    rows = plan.select(arguments.names)
    _check_budget(arguments.epochs, rows)
    runtime = {"precision": arguments.precision, "keep_every": arguments.keep_every}
    failed = reproduce(rows, places, minutes, arguments.epochs, arguments.device, **runtime)
    if failed:
        raise UserError(f"rows failed: {', '.join(failed)}; results/<name>.json says why")


def _check_budget(epochs: int | None, rows: tuple[Row, ...]) -> None:
    """UserError where a reduced budget is no reduced one."""
    for row in rows:
        if epochs is not None and epochs > row.epochs:
            raise UserError(
                f"--epochs {epochs} is more than the {row.epochs} of {row.name}: it makes reduced runs, whole budgets "
                "stand in experiments.toml"
            )


def _evaluate(a: Arguments, plan: Plan, places: Places) -> None:
    if a != Arguments(a.names, evaluate=True, inception_weights=a.inception_weights, device=a.device):
        raise UserError("--evaluate trains nothing: give it with --device, --inception-weights and names of rows alone")
    rows = plan.select(a.names)
    for row in rows if a.names else [r for r in rows if read_done(r, places) and places.weights(r).exists()]:
        print(f"== {row.name}", flush=True)
        remeasure(row, places, a.device, a.inception_weights)


if __name__ == "__main__":
    sys.exit(run_program(main))
