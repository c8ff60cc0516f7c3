"""Metrics: a model or images in, a number out."""

from metrics.reconstruction import evaluate_reconstruction

__all__ = ["evaluate_reconstruction"]
