"""Metrics: a model or images in, a number out."""

from metrics.baselines import EIGHT_BIT, MEAN_IMAGE, eight_bit_loss, mean_image_loss
from metrics.frechet import frechet_distance, statistics
from training.evaluation import evaluate_reconstruction

__all__ = [
    "EIGHT_BIT",
    "MEAN_IMAGE",
    "eight_bit_loss",
    "evaluate_reconstruction",
    "frechet_distance",
    "mean_image_loss",
    "statistics",
]
