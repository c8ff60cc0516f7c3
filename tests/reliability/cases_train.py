"""What train.py refuses."""

import os

from tests.reliability import spoil as s
from tests.reliability.spoil import Case

RUN = "train --dataset digits --train-images 50 --batch-size 25 --n-steps 2 --latent-dim 8 --epochs 2 --device cpu"
GO_ON = f"{RUN} --name finished"
TRAIN_CASES = [
    Case(
        "more images a batch than images",
        f"{RUN} --name new --batch-size 60",
        "--train-images 50 is less than one batch",
    ),
    Case(
        "more images than there are, dry",
        "train --dataset digits --train-images 5000 --dry-run",
        "--train-images 5000 is more than digits has: 1500",
    ),
    Case(
        "bf16 where nothing computes in it",
        f"{RUN} --name new --precision bf16",
        "--precision bf16 is for a GPU",
    ),
    Case(
        "time steps for an ANN", f"{RUN} --name new --model ann_vae", "--n-steps: without effect with --model ann_vae"
    ),
    Case("no such GPU", f"{GO_ON} --device cuda:99", "device 'cuda:99' was asked for, but PyTorch finds"),
    Case("a device that is none", f"{GO_ON} --device meta", "device 'meta' is not supported; use cpu or cuda"),
    Case("no such device, afresh", f"{GO_ON} --fresh --device tpu", "unknown device 'tpu'; use cpu, cuda"),
    Case("no such device, dry", f"{RUN} --name new --dry-run --device tpu", "unknown device 'tpu'"),
    Case("bf16 on a CPU, dry", f"{RUN} --dry-run --precision bf16", "--precision bf16 is for a GPU"),
    Case("a GPU's backend on a CPU, dry", f"{RUN} --dry-run --backend cupy", "NVIDIA GPU"),
    Case("a CUDA graph on a CPU, dry", f"{RUN} --dry-run --cuda-graph on", "--cuda-graph on needs an NVIDIA GPU"),
    Case("a CUDA graph on a CPU", f"{RUN} --name new --cuda-graph on", "--cuda-graph on needs an NVIDIA GPU"),
    Case("more time steps than memory", f"{RUN} --name new --n-steps 1000000", "--n-steps must be at most 4096"),
    Case("more latent units than memory, dry", f"{RUN} --name new --dry-run --latent-dim 5000", "--latent-dim must be"),
    Case("another run in the folder", f"{GO_ON} --seed 7", "holds another run (seed 42 -> 7)", as_process=True),
    Case("the folder above", f"{RUN} --name ..", "is not a run folder"),
    Case("state: cut", GO_ON, "last.pt is damaged", s.cut("runs/finished/last.pt")),
    Case("state: a model", GO_ON, "last.pt is damaged", s.swap("runs/finished/last.pt", "model.safetensors")),
    Case("state: beyond the epoch", GO_ON, "does not fit this run (step 99 of 2)", s.state(step=99)),
    Case("state: no sums in an epoch", GO_ON, "does not fit this run (step 1 of 2)", s.state(step=1)),
    Case(
        "state: an epoch of no images",
        GO_ON,
        "does not fit this run (step 2 of 2)",
        s.state(step=2, sums={"images": 0, "loss": 0.0}, seconds=1.0),
    ),
    Case(
        "state: an epoch of no time",
        GO_ON,
        "does not fit this run (step 2 of 2)",
        s.state(step=2, sums={"images": 50, "loss": 0.0}, seconds=0.0),
    ),
    Case("state: no optimizer", GO_ON, "does not fit this run", s.state(optimizer={"param_groups": [3, 4]})),
    Case("config.json: deep", GO_ON, "config.json is damaged", s.put("runs/finished/config.json", s.DEEP)),
    Case("metrics.csv: no text", GO_ON, "metrics.csv is damaged", s.put("runs/finished/metrics.csv", b"\xff\xfe\0")),
    Case(
        "metrics.csv: lacks an epoch", GO_ON, "damaged or lacks epochs", s.put("runs/finished/metrics.csv", "epoch,x\n")
    ),
    Case("metrics.csv: no header", GO_ON, "metrics.csv is damaged", s.put("runs/finished/metrics.csv", "1,2,3\n")),
    Case(
        "firing_rates.csv: no text",
        GO_ON,
        "firing_rates.csv is damaged",
        s.put("runs/finished/firing_rates.csv", b"\xff"),
    ),
    Case(
        "runs: below a file, with accents and spaces",
        RUN,
        "läufe und ähnliches",
        s.put("läufe und ähnliches", ""),
        ("--runs-dir", "läufe und ähnliches/runs"),
    ),
    Case(
        "runs: below a file whose name is not Unicode",
        RUN,
        "cannot be a run folder",
        s.put(os.fsdecode(b"l\xe4ufe"), ""),
        ("--runs-dir", os.fsdecode(b"l\xe4ufe/runs")),
        as_process=True,
    ),
    Case("data: MNIST cut", f"{RUN} --name new --dataset mnist --data-dir data", "is damaged", s.mnist(200, 1000)),
    Case("data: too few of MNIST", f"{RUN} --name new --dataset mnist --data-dir data", "[200, 28, 28]", s.mnist(200)),
    Case(
        "data: not CIFAR-10",
        f"{RUN} --name new --dataset cifar10 --data-dir data",
        "wrong checksum: data_batch_1",
        s.cifar10,
    ),
    Case("data: no faces", f"{RUN} --name new --dataset celeba --data-dir data", "no images in data/celeba"),
    Case(
        "data: half a face",
        f"{RUN} --name new --dataset celeba --data-dir data",
        "no sound aligned image",
        s.celeba(s.picture(178, 218)[:60]),
    ),
    Case(
        "data: a face of a gigapixel",
        f"{RUN} --name new --dataset celeba --data-dir data",
        "no sound aligned image",
        s.celeba(s.picture(30_000, 36_000)),
    ),
    Case(
        "data: below a file",
        f"{RUN} --name new --dataset celeba --data-dir file",
        "no images in file/celeba",
        s.put("file", ""),
    ),
]
