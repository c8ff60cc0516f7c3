"""How fast the latent firing rates of long runs settle, as the paper reads from Fig. 7: a table for docs/."""

from collections.abc import Iterator, Mapping

from analysis.formats import markdown_table
from analysis.published import DATASET_NAMES
from analysis.rate_histograms import Histogram, intersection
from analysis.rate_log import STAGES, Epochs, read_rates
from analysis.row_results import read_result
from analysis.rows import Places, Plan
from training.config import Config
from training.log import RATES_FILE

GOALS = (10, 30)  # epochs towards which rates settle, beside the last; a run of fewer says nothing of convergence
SETTLED = 0.95  # of the mass of a histogram
SHOWN = (1, 5)  # epochs whose overlap is shown, beside the last
NOT_RUN = f"No run of {max(GOALS)} epochs or more by a published recipe has recorded its rates yet.\n"


def convergence_table(plan: Plan, places: Places) -> str:
    """A line a run by a published recipe as Markdown; those of a data set up to the epoch that all of them have.

    Raises:
        UserError: a damaged result or record of rates.
    """
    rows = []
    for dataset, name in DATASET_NAMES.items():
        runs = dict(_records(plan, places, dataset))
        if runs:
            last = min(max(epochs) for stages in runs.values() for epochs in stages.values())
            rows += [[name, f"`{run}`", *_numbers(stages, last)] for run, stages in runs.items()]
    goals, overlaps = ([*(f"epoch {epoch}" for epoch in epochs), "the last"] for epochs in (GOALS, SHOWN))
    heads = ["data set", "run", "epochs", f"settles: towards {goals[0]}", *goals[1:]]
    heads += [f"overlap: in {overlaps[0]}", *overlaps[1:]]
    return markdown_table(heads, rows, left=2) + "\n" if rows else NOT_RUN


def _records(plan: Plan, places: Places, dataset: str) -> Iterator[tuple[str, Epochs]]:
    """The rates that long runs on a data set recorded, by name."""
    for row in (row for row in plan.rows if row.dataset == dataset and row.recipe == "paper"):
        file, result = places.results / f"{row.name}-{RATES_FILE}", read_result(row, places)
        if file.exists() and result and result["epochs"] >= max(GOALS):
            n_steps = (Config().to_dict() | result["config"])["n_steps"]
            yield row.name, read_rates(file, n_steps, result["epochs"])


def _numbers(stages: Epochs, last: int) -> list[str]:
    training, generation = (stages[name] for name in STAGES.values())
    overlaps = [f"{intersection(training[epoch], generation[epoch]):.2f}" for epoch in (*SHOWN, last)]
    return [str(last), *(str(settled(training, goal)) for goal in (*GOALS, last)), *overlaps]


def settled(epochs: Mapping[int, Histogram], goal: int) -> int:
    """The epoch from which on, up to epoch `goal`, histograms share SETTLED of their mass with that of `goal`."""
    moving = [e for e in epochs if e <= goal and intersection(epochs[e], epochs[goal]) < SETTLED]
    return max(moving, default=0) + 1
