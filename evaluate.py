"""Evaluate a trained model on its test split.

    python evaluate.py --checkpoint runs/mnist-esvae-paper-seed42
    python evaluate.py --checkpoint pretrained/esvae-digits.safetensors --json result.json

Prints the reconstruction loss beside the paper's rows and two baselines; writes evaluation.json and picture
grids into the run folder (for a model file: into runs/evaluation-<name>/).
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from analysis.evaluation import Evaluation, evaluate, save_pictures
from analysis.tables import as_text, comparison
from cli import parse_arguments, run_program
from files import write_json
from training.config import Backend, Dataset
from training.device import keep_freed_memory


@dataclass(frozen=True)
class Arguments:
    """Evaluate a trained model."""

    checkpoint: Path
    """run folder, or model file"""
    dataset: Dataset | None = None
    """test images; the data set that the model was trained on if None"""
    data_dir: Path | None = None
    """where the data sets are or go; $ESVAE_DATA_DIR or ./datasets if None"""
    n_images: int | None = None
    """score the first so many test images only"""
    seed: int = 0
    """of the posterior's and the prior's noise"""
    json: Path | None = None
    """file for the numbers; evaluation.json beside the pictures if None"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA if there is one"""
    backend: Backend = "auto"
    """what runs the LIF neurons; auto takes native on a CPU and triton on a GPU if they can run there, else scan"""


def main(argv: list[str]) -> None:
    """Parse, evaluate, print and write."""
    a = parse_arguments(Arguments, argv, __doc__)
    keep_freed_memory()
    request = Evaluation(a.checkpoint, a.dataset, a.data_dir, a.n_images, a.seed, a.device, a.backend)
    record, pictures = evaluate(request)
    print(as_text(comparison(record)))
    measured = record["reconstruction_loss"]
    print(
        f"\nreconstruction_loss {measured['value']:.6f}: {measured['protocol']}, {record['epoch_rule']}; "
        f"LIF backend {record['lif_backend']}"
    )
    file = a.json or request.output / "evaluation.json"
    write_json(file, record)
    for path in [file, *save_pictures(pictures, request.output)]:
        print(path)


if __name__ == "__main__":
    sys.exit(run_program(main))
