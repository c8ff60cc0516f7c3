"""Recompute the statistics that FAD compares with, and check the published ones.

    python -m metrics.reference --dataset mnist --data-dir datasets
    python -m metrics.reference --dataset cifar10 --fad-weights cifar10_128.pth

Prints the Frechet distance between the statistics recomputed from the test split and the stored ones (`official`:
the authors' published file, `eval`: ours), which is at most 1e-6 where weights, data and protocol are the authors',
and what real training images score. MNIST: 1e-10 in a minute on a CPU.
"""

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cli import parse_arguments, run_program
from errors import UserError
from files import write_atomically, write_json
from metrics.fad import (
    PROTOCOLS,
    PUBLISHED,
    TRAINING_IMAGES,
    FeatureNetwork,
    load_feature_network,
    measured_reference,
    measured_training_images,
    stored_file,
    stored_reference,
)
from metrics.frechet import Statistics, frechet_distance
from provenance import git_commit
from training.config import Dataset


@dataclass(frozen=True)
class Arguments:
    """Recompute FAD's statistics."""

    dataset: Dataset
    """data set whose test split is looked at"""
    data_dir: Path | None = None
    """where the data sets are or go; $ESVAE_DATA_DIR or ./datasets if None"""
    fad_weights: Path | None = None
    """autoencoder; the one that comes with the project if None"""
    write: bool = False
    """store the `eval` statistics and the scores of training images in metrics/fad_data, for the project's weights"""


def main(argv: list[str]) -> None:
    """Parse, recompute, compare and print."""
    a = parse_arguments(Arguments, argv, __doc__)
    network = load_feature_network(a.dataset, a.fad_weights)
    if a.write and network.origin != "shipped":
        raise UserError(f"--write stores numbers of the project's own weights only, not of {network.file}")
    print(network.description)
    for protocol, meaning in PROTOCOLS.items():
        measured = measured_reference(network, protocol, a.data_dir)
        if a.write and protocol != "official":  # never over the authors' statistics
            store_statistics(network, protocol, measured)
        stored = stored_reference(network, protocol)
        print(f"{protocol}: {meaning}")
        print(f"  {compare(network, protocol, measured, stored)}")
        real = measured_training_images(network, protocol, stored or measured, a.data_dir)
        print(f"  {real['n_images']} training images score {real['value']:.4f}")
        if a.write:
            store_score(network, protocol, real)


def compare(network: FeatureNetwork, protocol: str, measured: Statistics, stored: Statistics | None) -> str:
    """A line with the Frechet distance of recomputed to stored statistics."""
    if stored is None:
        return "no stored statistics to compare with"
    whose = "published" if protocol == "official" else "stored"
    distance = frechet_distance(*measured, *stored)
    return f"Frechet distance to the {whose} statistics ({stored_file(network, protocol).name}): {distance:.3g}"


def store_statistics(network: FeatureNetwork, protocol: str, measured: Statistics) -> None:
    """Write the test split's statistics to where `stored_reference` looks for them."""
    content = io.BytesIO()
    np.savez_compressed(content, mu=measured[0].numpy(), sigma=measured[1].numpy())
    write_atomically(stored_file(network, protocol), content.getvalue())


def store_score(network: FeatureNetwork, protocol: str, real: dict[str, Any]) -> None:
    """Write what `measured_training_images` found, with the command and commit that it comes from."""
    file = PUBLISHED / TRAINING_IMAGES
    scores: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    command = f"python -m metrics.reference --dataset {network.dataset} --write"
    source = f"stored: {real['source']} by `{command}` at commit {git_commit()}"
    scores.setdefault(network.dataset, {})[protocol] = real | {"source": source}
    write_json(file, scores)


if __name__ == "__main__":
    sys.exit(run_program(main))
