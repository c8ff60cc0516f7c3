"""Image data sets as uint8 tensors, and float batches of them. Knows files and nothing of models."""

from data.batches import batches, n_batches, training_batches
from data.cache import kept
from data.image_sets import read_image_set
from data.loading import data_folder, is_at_hand, load_original_images, load_split
from data.pixels import check_range, to_uint8, to_unit_range
from data.specs import DATASETS, DatasetSpec, Split

__all__ = [
    "DATASETS",
    "DatasetSpec",
    "Split",
    "batches",
    "check_range",
    "data_folder",
    "is_at_hand",
    "kept",
    "load_original_images",
    "load_split",
    "n_batches",
    "read_image_set",
    "to_uint8",
    "to_unit_range",
    "training_batches",
]
