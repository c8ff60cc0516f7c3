"""Train a spiking VAE.

    python train.py --dataset mnist            # the paper's MNIST run, 300 epochs
    python train.py --dataset cifar10 --epochs 2 --dry-run
    python train.py --help                     # every field of the configuration is a flag

Leaves runs/<dataset>-<model>-<variant>-seed<seed>/ with metrics.csv, pictures, last.pt and model.safetensors,
with --keep-every also epochs/.
The same command again goes on where the run stopped.
"""

import argparse
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from cli import parse_arguments, run_program
from errors import UserError
from training.config import Config, check_used, preset
from training.device import resolve_device
from training.loop import fit
from training.run import model_of


@dataclass(frozen=True)
class Arguments:
    """Train a spiking VAE; see the top of train.py."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    fresh: bool = False
    """start over: replace the run in the folder"""
    dry_run: bool = False
    """print the configuration and stop"""


def parse(argv: list[str]) -> Arguments:
    """--dataset, --model, --variant and --recipe choose the preset; every other flag changes one field of it.

    Raises:
        UserError: an unknown flag, a value of the wrong type or out of range, or a flag that the model does not use.
    """
    choice = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag, default in (("dataset", "cifar10"), ("model", "esvae"), ("variant", "paper"), ("recipe", "paper")):
        choice.add_argument(f"--{flag}", default=default)
    try:
        chosen, _ = choice.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; --help shows every flag") from error
    default = Arguments(preset(chosen.dataset, chosen.model, chosen.variant, chosen.recipe))
    arguments = parse_arguments(Arguments, argv, __doc__, default=default)
    check_used(arguments.config)
    return arguments


def main(argv: list[str]) -> None:
    """Parse and train."""
    arguments = parse(argv)
    config = arguments.config
    if arguments.dry_run:
        model_of(config, resolve_device(config.device))  # refuses what training would
        print(f"would train in {config.run_dir}:")
        print("\n".join(f"  {name} = {value}" for name, value in config.to_dict().items()))
        return
    print(f"{config.model} ({config.variant}) on {config.dataset}: {config.run_dir}", flush=True)
    print(f"done: {fit(config, arguments.fresh)}")


if __name__ == "__main__":
    sys.exit(run_program(main))
