"""What reproduce.py and the programs of metrics/ refuse."""

import os

from tests.reliability import spoil as s
from tests.reliability.spoil import Case

REPRODUCE_CASES = [
    Case("no row", "reproduce", "name the rows to run"),
    Case("an unknown row", "reproduce esvae-imagenet", "no row esvae-imagenet"),
    Case("no epoch", "reproduce finished --epochs 0", "--epochs must be at least 1"),
    Case("less than no time", "reproduce --minutes -5", "--minutes must be positive"),
    Case("no time", "reproduce --minutes 0", "--minutes must be positive"),
    Case("no number of minutes", "reproduce --minutes nan", "--minutes must be positive"),
    Case(
        "experiments: none", "reproduce --list", "cannot read experiments.toml", lambda: os.unlink("experiments.toml")
    ),
    Case(
        "experiments: no text",
        "reproduce --list",
        "cannot read experiments.toml",
        s.put("experiments.toml", b"\xff\xfe\0"),
    ),
    Case("experiments: one table", "reproduce --list", "rows are tables", s.put("experiments.toml", "[run]\n")),
    Case(
        "result: cut",
        "reproduce --list",
        "results/finished.json is damaged",
        s.put("results/finished.json", '{"epochs": 4'),
    ),
    Case(
        "result: a list", "reproduce --list", "results/finished.json is damaged", s.put("results/finished.json", "[]")
    ),
    Case(
        "result: a loss in words",
        "reproduce --list",
        "results/finished.json is damaged (value is 'low')",
        s.result(reconstruction_loss={"value": "low"}),
    ),
    Case(
        "result: without epochs",
        "reproduce finished",
        "results/finished.json is damaged",
        s.put("results/finished.json", '{"status": "done"}'),
    ),
    Case(
        "log: no text", "reproduce --list", "metrics.csv is damaged", s.put("runs/finished/metrics.csv", b"\xff\xfe\0")
    ),
    Case("no such device", "reproduce finished --device tpu", "unknown device 'tpu'"),
    Case(
        "log: a torn line",
        "reproduce --list",
        "metrics.csv is damaged",
        s.put("runs/finished/metrics.csv", "epoch,images_per_second\n1,2.0.0\n"),
    ),
]
METRICS_CASES = [
    Case("reference: of nothing", "metrics.reference", "--dataset"),
    Case("reference: of what is not known", "metrics.reference --dataset faces", "faces"),
    Case(
        "reference: no file",
        "metrics.reference --dataset celeba --fad-weights w.safetensors --data-dir data",
        "no checkpoint at w.safetensors",
    ),
    Case(
        "reference: of images of another size",
        "metrics.reference --dataset celeba --fad-weights fad.safetensors",
        "1x32x32 images, but celeba has 3x64x64",
    ),
    Case(
        "reference: another model",
        "metrics.reference --dataset digits --fad-weights model.safetensors",
        "not an autoencoder",
    ),
    Case("reference: no autoencoder", "metrics.reference --dataset digits", "no autoencoder for digits"),
    Case(
        "reference: damaged data", "metrics.reference --dataset mnist --data-dir data", "is damaged", s.mnist(200, 1000)
    ),
    Case("train_fad: no epoch", "metrics.train_fad --dataset digits --epochs 0", "--epochs must be at least 1"),
    Case(
        "train_fad: too few images", "metrics.train_fad --dataset digits --train-images 1", "less than one batch of 2"
    ),
    Case(
        "train_fad: another run",
        "metrics.train_fad --dataset digits",
        "holds another run",
        lambda: os.rename("runs/finished", "runs/fad-digits"),
    ),
    Case("train_fad: a seed below 0", "metrics.train_fad --dataset digits --seed -1", "--seed must be at least 0"),
    Case(
        "train_fad: nowhere to write",
        "metrics.train_fad --dataset digits --runs-dir images.npz",
        "cannot be a run folder",
    ),
]
