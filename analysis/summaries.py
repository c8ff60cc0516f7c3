"""What the experiments in results/analysis found: a table each, a line per data set and model, for docs/."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from analysis.encoder_classification import PIXELS, TRAINED, UNTRAINED
from analysis.experiment_result import read_experiment
from analysis.formats import markdown_table
from analysis.published import DATASET_NAMES
from data import DATASETS
from errors import UserError

NOT_MEASURED = "Not measured yet.\n"


@dataclass(frozen=True)
class Measured:
    """An experiment's record and table, and what the table calls the model that is asked for."""

    record: Mapping[str, Any]
    table: pd.DataFrame
    label: str

    def number(self, column: str, of_model: bool = True, **where: Any) -> float:
        """The number in `column` of the row that has these values: of the model's, or of all if not `of_model`."""
        rows = self.table[self.table["model"] == self.label] if of_model else self.table
        for name, value in where.items():
            rows = rows[rows[name] == value]
        return float(rows[column].iloc[0]) if len(rows) and column in rows else float("nan")


Columns = Mapping[str, Callable[[Measured], str]]


def summary(experiment: str, columns: Columns, results: Path) -> str:
    """The experiment's results as Markdown; `columns` are its headings with what to write below them.

    Raises:
        UserError: a damaged result.
    """
    folder, rows = results / "analysis", []
    for dataset in DATASETS:
        if (folder / f"{experiment}-{dataset}.json").exists():
            rows += _rows(folder, f"{experiment}-{dataset}", DATASET_NAMES.get(dataset, dataset), columns)
    return markdown_table(["data set", "model", *columns], rows, left=2) + "\n" if rows else NOT_MEASURED


def _rows(folder: Path, name: str, dataset: str, columns: Columns) -> list[list[str]]:
    record, table = read_experiment(folder, name)
    rows = []
    try:
        for subject in record["subjects"]:
            measured = Measured(record, table, subject["label"])
            rows.append([dataset, measured.label, *(text(measured) for text in columns.values())])
    except (LookupError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{folder / name}.json or .csv is damaged ({reason}); make them again") from error
    return rows


def _images(m: Measured) -> str:
    return "all" if m.record["n_images"] is None else f"{m.record['n_images']:,}"


def _loss(column: str, **where: Any) -> Callable[[Measured], str]:
    return lambda m: f"{m.number(column, **where):.4f}"


def _share(column: str, **where: Any) -> Callable[[Measured], str]:
    return lambda m: f"{100 * m.number(column, **where):.2g}"


def _accuracy(features: str, column: str = "test_accuracy") -> Callable[[Measured], str]:
    def text(m: Measured) -> str:
        where = {"features": features, "of_model": features != PIXELS}  # pixels are of none
        accuracy, deviation = m.number(column, **where), m.number("deviation", **where)
        spread = f" ± {deviation:.1f}" if column == "test_accuracy" and not pd.isna(deviation) else ""
        return "-" if pd.isna(accuracy) else f"{accuracy:.1f}{spread}"

    return text


def _of_measure(name: str, form: str) -> Callable[[Measured], str]:
    return lambda m: form.format(float(m.table.set_index("measure").loc[name, m.label]))


def _tenths(column: str, **where: Any) -> Callable[[Measured], str]:
    return lambda m: f"{m.number(column, **where):.1f}"


def _energy(stage: str) -> Callable[[Measured], str]:
    return _tenths("energy_microjoule", stage=stage, layer="sum")


def _parameters(m: Measured) -> str:
    return f"{m.record['parameters_of_both_stages'][m.label] / 1e6:.2f} million"


SHUFFLED, LENGTH = "time-shuffled", "length-shuffled"
SUMMARIES: Mapping[str, Columns] = MappingProxyType(
    {
        "time_shuffle": {
            "images": _images,
            "against the original: vanilla": _loss("loss_vs_original", latent="vanilla"),
            SHUFFLED: _loss("loss_vs_original", latent=SHUFFLED),
            LENGTH: _loss("loss_vs_original", latent=LENGTH),
            f"against vanilla: {SHUFFLED}": _loss("loss_vs_vanilla", latent=SHUFFLED),
            f"against vanilla: {LENGTH}": _loss("loss_vs_vanilla", latent=LENGTH),
            "redrawn": _loss("loss_vs_vanilla", latent="redrawn"),
        },
        "noise_robustness": {
            "images": _images,
            "against the original: a = 0": _loss("loss_vs_original", a=0.0),
            "a = 0.25": _loss("loss_vs_original", a=0.25),
            "a = 0.5": _loss("loss_vs_original", a=0.5),
            "against vanilla: a = 0.5": _loss("loss_vs_vanilla", a=0.5),
        },
        "latent_raster": {
            "images": _images,
            "training: never [%]": _share("never", stage="training"),
            "always [%]": _share("always", stage="training"),
            "generation: never [%]": _share("never", stage="generation"),
            "generation: always [%]": _share("always", stage="generation"),
        },
        "encoder_classification": {
            "images": _images,
            "classifiers": lambda m: str(m.record["settings"]["n_classifiers"]),
            "epochs": lambda m: str(m.record["settings"]["epochs"]),
            "trained encoder [%]": _accuracy(TRAINED),
            "at its best epoch": _accuracy(TRAINED, "best_epoch_accuracy"),
            "untrained": _accuracy(UNTRAINED),
            "PCA of pixels": _accuracy(PIXELS),
        },
        "firing_rates": {
            "overlap: unit means": _of_measure("unit_means, intersection", "{:.2f}"),
            "all rates": _of_measure("pooled, intersection", "{:.2f}"),
            "single image to unit means": _of_measure("single to unit means, generation", "{:.2f}"),
            "single image to all rates": _of_measure("single to pooled, generation", "{:.2f}"),
            "variance of a rate": _of_measure("rate variance", "{:.4f}"),
            "units that vary": _of_measure("varying units", "{:.2f}"),
        },
        "spike_operations": {
            "images": _images,
            "reconstruction [µJ]": _energy("reconstruction"),
            "generation [µJ]": _energy("generation"),
            "parameters of both": _parameters,
        },
        "fad_parts": {
            "images": lambda m: f"{m.number('n_images'):,.0f}",
            "FAD of real images": _tenths("real"),
            "reconstructed": _tenths("reconstructed"),
            "generated": _tenths("generated"),
        },
    }
)


def summaries(results: Path) -> dict[str, str]:
    """The table of every experiment, by its name."""
    return {experiment: summary(experiment, columns, results) for experiment, columns in SUMMARIES.items()}
