"""Checkpoints that evaluate.py refuses."""

import torch

from tests.reliability import spoil as s
from tests.reliability.spoil import Case

EVALUATE = "evaluate --device cpu --checkpoint"
FAD = "evaluate --device cpu --checkpoint model.safetensors --dataset mnist --metrics fad --n-samples 80 --fad-weights"
CHECKPOINT_CASES = [
    Case("no checkpoint", f"{EVALUATE} absent.safetensors", "no checkpoint at absent.safetensors"),
    Case("checkpoint: a state", f"{EVALUATE} runs/finished/last.pt", "holds no state_dict"),
    Case(
        "checkpoint: swapped with the state",
        f"{EVALUATE} runs/finished",
        "is damaged or no safetensors file",
        s.swap("runs/finished/last.pt", "runs/finished/model.safetensors"),
    ),
    Case("checkpoint: images", f"{EVALUATE} images.npz", "no safetensors file"),
    Case("checkpoint: a folder without", f"{EVALUATE} runs", "has no model.safetensors"),
    Case(
        "checkpoint: of another version",
        f"{EVALUATE} model.safetensors",
        "format 'spiking-vae-2'",
        lambda: s.rewrite({}, form="spiking-vae-2"),
    ),
    Case(
        "checkpoint: says nothing of itself", f"{EVALUATE} model.safetensors", "damaged metadata", lambda: s.rewrite({})
    ),
    Case(
        "checkpoint: says it deeply",
        f"{EVALUATE} model.safetensors",
        "damaged metadata",
        lambda: s.rewrite({"model": s.DEEP, "run": "{}"}),
    ),
    Case(
        "checkpoint: of an unknown model",
        f"{EVALUATE} model.safetensors",
        "unknown model 'gan'",
        s.metadata("model", model="gan"),
    ),
    Case(
        "checkpoint: of a list of models",
        f"{EVALUATE} model.safetensors",
        "wrong type: model",
        s.metadata("model", model=["esvae"]),
    ),
    Case(
        "checkpoint: half a unit",
        f"{EVALUATE} model.safetensors",
        "wrong type: latent_dim",
        s.metadata("model", latent_dim=8.5),
    ),
    Case(
        "checkpoint: more units than its weights",
        f"{EVALUATE} model.safetensors",
        "does not fit its own configuration",
        s.metadata("model", latent_dim=4096, widths=[4096] * 8),
    ),
    Case(
        "checkpoint: a million layers",
        f"{EVALUATE} model.safetensors",
        "widths must be",
        s.metadata("model", widths=[1] * 10**6),
    ),
    Case(
        "checkpoint: wrong data set",
        f"{EVALUATE} model.safetensors --dataset cifar10",
        "1x32x32 images, but cifar10 has 3x32x32",
    ),
    Case(
        "checkpoint: trained on what is not known",
        f"{EVALUATE} model.safetensors",
        "unknown data set 'faces'",
        s.metadata("run", config={"dataset": "faces"}),
    ),
    Case(
        "checkpoint: trained on a list",
        f"{EVALUATE} model.safetensors",
        "damaged metadata: dataset",
        s.metadata("run", config={"dataset": ["digits"]}),
    ),
    Case(
        "checkpoint: run is a list",
        f"{EVALUATE} model.safetensors",
        "damaged metadata: config",
        s.metadata("run", config=[]),
    ),
    Case(
        "checkpoint: epochs in words",
        f"{EVALUATE} model.safetensors",
        "damaged metadata: epochs",
        s.metadata("run", epochs="all"),
    ),
    Case(
        "checkpoint: a schedule in words",
        f"{EVALUATE} model.safetensors",
        "damaged metadata: epochs, warmup",
        s.metadata("run", config={"dataset": "digits", "epochs": "all", "warmup": "some"}),
    ),
    Case(
        "checkpoint: trained on nothing",
        f"{EVALUATE} model.safetensors",
        "give --dataset",
        s.metadata("run", config=None),
    ),
    Case(
        "weights: not finite",
        f"{EVALUATE} model.safetensors",
        "not finite in bottleneck.bias",
        s.weights(lambda tensors: tensors["bottleneck.bias"].fill_(float("nan"))),
    ),
    Case(
        "weights: whole numbers",
        f"{EVALUATE} model.safetensors",
        "bottleneck.bias is [8] torch.int64, not [8]",
        s.weights(lambda tensors: tensors.update({"bottleneck.bias": torch.zeros(8, dtype=torch.int64)})),
    ),
    Case(
        "published: layers without shape",
        f"{FAD} fad.pth",
        "tensors of other shapes",
        s.published(lambda t: t.update({"encoder.0.0.weight": torch.zeros(())})),
    ),
    Case(
        "published: no layers",
        f"{FAD} fad.pth",
        "no tensor encoder.0.0.weight",
        lambda: torch.save({"latent_layer.weight": torch.zeros(64, 1024)}, "fad.pth"),
    ),
    Case(
        "published: not finite",
        f"{FAD} fad.pth",
        "not finite",
        s.published(lambda t: t["latent_layer.bias"].fill_(float("inf"))),
    ),
    Case(
        "published: sparse",
        f"{FAD} fad.pth",
        "does not fit its own configuration",
        s.published(lambda t: t.update({"latent_layer.bias": t["latent_layer.bias"].to_sparse()})),
    ),
]
