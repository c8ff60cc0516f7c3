"""What the commands of analysis/ refuse."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from analysis.tables import PAGES
from tests.reliability import spoil as s
from tests.reliability.spoil import Case

EXPERIMENTS = (
    *("time_shuffle", "noise_robustness", "encoder_classification", "firing_rates", "latent_raster", "image_grids"),
    *("spike_operations", "fad_parts"),
)
SPIKING = EXPERIMENTS[:5]
COMMANDS = {name: f"analysis.{name} --device cpu --out out" for name in EXPERIMENTS}
MODEL = "--checkpoint model.safetensors"
SHUFFLE = COMMANDS["time_shuffle"]
EXPERIMENT_CASES = [
    # Of all experiments alike; one stands for the others where `experiment_main` refuses it.
    Case("no such model", f"{SHUFFLE} --checkpoint absent", "no checkpoint at absent"),
    Case("cut", f"{SHUFFLE} {MODEL}", "is damaged", s.cut("model.safetensors")),
    Case("state for model", f"{SHUFFLE} --checkpoint runs/finished/last.pt", "holds no state_dict"),
    Case("twice the same", f"{SHUFFLE} {MODEL} {MODEL}", "two models are called model"),
    Case("other images", f"{SHUFFLE} {MODEL} --dataset celeba", "1x32x32 images, but celeba has 3x64x64"),
    Case("no image", f"{SHUFFLE} {MODEL} --n-images 0", "--n-images must be at least 1"),
    Case("no such device", f"{SHUFFLE} {MODEL} --device tpu", "unknown device 'tpu'"),
    *(
        case
        for command in COMMANDS.values()
        for case in (
            Case("no model", command, "give at least one model"),
            Case("more images than there are", f"{command} {MODEL} --n-images 2000", "has only"),
            Case("no data", f"{command} {MODEL} --dataset mnist --data-dir data", "is damaged", s.mnist(200, 1000)),
            Case("a seed below 0", f"{command} {MODEL} --seed -1", "--seed must be at least 0"),
        )
    ),
]
SPIKING_CASES = [
    Case("nothing spikes", f"{COMMANDS[name]} --checkpoint fad.safetensors --dataset digits", "no spiking latent")
    for name in SPIKING
]
FIGURES, RATES = f"{COMMANDS['image_grids']} {MODEL} --n-images 30", f"{COMMANDS['firing_rates']} --n-images 8"
CLASSIFY = f"{COMMANDS['encoder_classification']} {MODEL}"
OWN_CASES = [
    Case(
        "nothing generates", f"{COMMANDS['fad_parts']} --checkpoint fad.safetensors --dataset digits", "has no sample"
    ),
    Case("one shuffle", f"{SHUFFLE} {MODEL} --n-shuffles 1", "--n-shuffles must be at least 2"),
    Case("never and always", f"{COMMANDS['noise_robustness']} {MODEL} --probabilities 0 2", "numbers from 0 to 1"),
    Case("NaN", f"{COMMANDS['noise_robustness']} {MODEL} --probabilities nan", "numbers from 0 to 1"),
    Case("no classifier", f"{CLASSIFY} --n-classifiers 0", "--n-classifiers must be at least 1"),
    Case("no rate", f"{CLASSIFY} --lr 0", "need --lr above 0"),
    Case("no epoch", f"{CLASSIFY} --epochs 0", "--epochs must be"),
    Case("no batch", f"{CLASSIFY} --batch-size 0", "--batch-size must be"),
    Case("momentum without loss", f"{CLASSIFY} --momentum 1", "--momentum in [0, 1)"),
    Case("one draw", f"{COMMANDS['firing_rates']} {MODEL} --n-draws 1", "--n-draws must be at least 2"),
    Case(
        "a damaged log of rates",
        f"{RATES} --checkpoint runs/finished",
        "firing_rates.csv",
        s.put("runs/finished/firing_rates.csv", b"\xff\xfe\0"),
    ),
    Case(
        "a log of rates with its first line only",
        f"{RATES} --checkpoint runs/finished",
        "it lacks",
        lambda: Path("runs/finished/firing_rates.csv").write_text(
            Path("runs/finished/firing_rates.csv").read_text().splitlines()[0] + "\n"
        ),
    ),
    Case(
        "probabilities of one name",
        f"{COMMANDS['noise_robustness']} {MODEL} --probabilities 0.1234567 0.12345671",
        "must be different numbers",
    ),
    Case("no column", f"{FIGURES} --n-columns 0", "--n-columns and --n-rows must be at least 1"),
    Case("a result below a file", f"{FIGURES} --n-columns 2 --out images.npz", "cannot write images.npz"),
    Case(
        "the authors' file of something else",
        f"{COMMANDS['latent_raster']} --checkpoint w.pth",
        "is not a published ESVAE",
        lambda: torch.save({"a": torch.zeros(1)}, "w.pth"),
    ),
]


def published(then: Callable[[], Any] = lambda: None) -> Callable[[], Any]:
    """Put the project's own results, rows and page into the folder, then spoil something."""

    def prepare() -> None:
        shutil.copytree(s.ROOT / "results", "results", ignore=shutil.ignore_patterns("*.png", "*.pdf"))
        shutil.copy(s.ROOT / "experiments.toml", "experiments.toml")
        Path("docs").mkdir()
        for page in PAGES:
            shutil.copy(s.ROOT / page, page)
        then()

    return prepare


TABLES, RECORD = "analysis.tables", "results/analysis/time_shuffle-mnist.json"
TABLES_CASES = [
    Case("no results, no rows and no page", TABLES, "cannot read README.md"),
    Case("no experiments", TABLES, "cannot read experiments.toml", lambda: os.unlink("experiments.toml")),
    Case("no folder of results", f"{TABLES} --results typo", "no folder typo"),
    Case("a damaged result", TABLES, "is damaged", published(s.cut("results/esvae-mnist-fast.json"))),
    Case("a record that is none", TABLES, "no record of", published(s.put(RECORD, "[1]"))),
    Case("a damaged table", TABLES, "damaged", published(s.cut(RECORD))),
    Case("a page that is no text", TABLES, "no text", published(s.put("docs/results.md", b"\xff\xfe\0"))),
    Case("no notebooks", "analysis.report --notebooks runs", "no notebooks in runs"),
    Case(
        "a notebook that is none",
        "analysis.report --notebooks notebooks",
        "notebooks/a.ipynb is damaged or no notebook",
        s.put("notebooks/a.ipynb", "not JSON"),
    ),
]
SEARCH = "analysis.variant_switches --dataset digits --train-images 300"
SEARCH_CASES = [
    Case("no seed", f"{SEARCH} --out t.csv --seeds", "there is no trial to run"),
    Case("trials below a file", f"{SEARCH} --out images.npz/t.csv", "cannot write images.npz/t.csv"),
    Case("trials in a folder", f"{SEARCH} --out runs", "runs is no table of trials"),
    Case("bf16 on a CPU", "analysis.precisions --device cpu", "nothing is computed in bfloat16 on a CPU"),
]
NO_TRIALS = {"empty": "", "no text": b"\xff\xfe\0", "of something else": "loss\n1\n"}
TRIALS_CASES = [
    *(
        Case(
            f"trials: {what}",
            f"analysis.{name} --dataset digits --train-images 300 --out t.csv",
            "t.csv is no",
            s.put("t.csv", content),
        )
        for name in ("recipe_search", "variant_switches")
        for what, content in NO_TRIALS.items()
    ),
    Case(
        "trials of something else", TABLES, "precisions.csv is no", published(s.put("results/precisions.csv", "a\n1\n"))
    ),
]
ANALYSIS_CASES = [*EXPERIMENT_CASES, *SPIKING_CASES, *OWN_CASES, *TABLES_CASES, *SEARCH_CASES, *TRIALS_CASES]
