"""Images, metrics and results that evaluate.py refuses."""

import os

import numpy as np
import torch

from tests.reliability import spoil as s
from tests.reliability.spoil import Case

EVALUATE = "evaluate --device cpu --checkpoint"
SCORE = "evaluate --device cpu --dataset mnist --images"
FAD = "evaluate --device cpu --checkpoint model.safetensors --dataset mnist --metrics fad --n-samples 80 --fad-weights"
EVALUATE_CASES = [
    Case("model and images", f"{EVALUATE} model.safetensors --images images.npz", "give one of --checkpoint"),
    Case("neither", "evaluate", "give one of --checkpoint"),
    Case("images of nothing", "evaluate --images images.npz", "--images needs --dataset"),
    Case("images: no file", f"{SCORE} absent.npz", "no file absent.npz"),
    Case("images: a name too long", f"{SCORE} {'x' * 300}", "File name too long"),
    Case("model: a name too long", f"{EVALUATE} {'x' * 300}", "File name too long"),
    Case("images: a folder", f"{SCORE} runs", "no file runs"),
    Case("images: cut", f"{SCORE} images.npz", "damaged or no .npz archive", s.cut("images.npz")),
    Case("images: empty file", f"{SCORE} images.npz", "damaged or no .npz archive", s.cut("images.npz", 0)),
    Case(
        "images: one array without archive",
        f"{SCORE} images.npy",
        "damaged or no .npz archive",
        lambda: np.save("images.npy", s.floats(0)),
    ),
    Case("images: larger than memory", f"{SCORE} images.npz", "more than fits in memory", s.lying_archive),
    Case("images: two arrays", f"{SCORE} images.npz", "holds 2 arrays", s.images(s.floats(0), s.floats(0))),
    Case("images: none", f"{SCORE} images.npz", "holds an array [0, 28, 28]", s.images(s.floats(0)[:0])),
    Case("images: a number", f"{SCORE} images.npz", "holds an array []", s.images(np.float32(3))),
    Case(
        "images: three channels for one",
        f"{SCORE} images.npz",
        "images of mnist are [N, 28, 28]",
        s.images(np.zeros((9, 28, 28, 3), np.uint8)),
    ),
    Case(
        "images: channels first",
        f"{SCORE} images.npz --dataset cifar10",
        "images of cifar10 are [N, 32, 32, 3]",
        s.images(np.zeros((9, 3, 32, 32), np.uint8)),
    ),
    Case(
        "images: another size",
        f"{SCORE} images.npz",
        "holds an array [9, 30, 30]",
        s.images(np.zeros((9, 30, 30), np.uint8)),
    ),
    Case("images: int64", f"{SCORE} images.npz", "holds int64: save uint8", s.images(s.floats(0, np.int64))),
    Case("images: complex", f"{SCORE} images.npz", "holds complex64: save uint8", s.images(s.floats(0, np.complex64))),
    Case("images: text", f"{SCORE} images.npz", "save uint8", s.images(np.full((9, 28, 28), "x"))),
    Case("images: beyond [-1, 1]", f"{SCORE} images.npz", "these go from 255 to 255", s.images(s.floats(255))),
    Case("images: NaN", f"{SCORE} images.npz", "go from nan to nan", s.images(s.floats(np.nan))),
    Case("images: infinite", f"{SCORE} images.npz", "go from -inf to -inf", s.images(s.floats(-np.inf))),
    Case("images: too few", f"{SCORE} images.npz --n-images 60", "60 images are too few"),
    Case(
        "fewer images for samples",
        f"{EVALUATE} model.safetensors --metrics fad --n-images 60",
        "--n-images is of the test images that are reconstructed",
    ),
    Case(
        "a network that nothing reads",
        f"{EVALUATE} model.safetensors --metrics reconstruction --fad-weights fad.safetensors",
        "--fad-weights: none of --metrics reconstruction reads it",
    ),
    Case(
        "the network of another score",
        f"{SCORE} images.npz --metrics fad,fid --imagenet-inception-weights fad.safetensors",
        "--imagenet-inception-weights: none of --metrics fad,fid reads it",
    ),
    Case("no image", f"{EVALUATE} model.safetensors --n-images 0", "--n-images must be at least 1, got 0"),
    Case("a seed below 0", f"{EVALUATE} model.safetensors --seed -1", "--seed must be at least 0"),
    Case("no such device", f"{EVALUATE} model.safetensors --device tpu", "unknown device 'tpu'"),
    Case("one sample", f"{EVALUATE} model.safetensors --metrics fad --n-samples 1", "--n-samples must be at least 2"),
    Case("samples for no metric", f"{EVALUATE} model.safetensors --n-samples 64", "--n-samples is for metrics that"),
    Case("images: to reconstruct", f"{SCORE} images.npz --metrics fad,reconstruction", "reconstruction needs a model"),
    *(
        Case(f"images: with {flag}", f"{SCORE} images.npz {flag}", "--n-samples, --seed and --backend are of a model")
        for flag in ("--seed 5", "--backend scan", "--n-samples 70")
    ),
    Case("features: none", f"{EVALUATE} model.safetensors --metrics fad", "no autoencoder for digits comes with"),
    Case("a metric that is none", f"{EVALUATE} model.safetensors --metrics beauty", "unknown metric 'beauty'"),
    Case("no metric", f"{EVALUATE} model.safetensors", "unknown metric ''", arguments=("--metrics", ",")),
    Case("features: another model", f"{FAD} model.safetensors", "holds a esvae, not an autoencoder"),
    Case(
        "features: no file",
        f"{FAD} fad.safetensors --dataset mnist",
        "no checkpoint at",
        lambda: os.unlink("fad.safetensors"),
    ),
    Case(
        "Inception: another network",
        f"{EVALUATE} model.safetensors --metrics fid --inception-weights w.pth",
        "holds other weights than the Inception network",
        lambda: torch.save({"a": torch.zeros(1)}, "w.pth"),
    ),
    Case(
        "Inception: cut",
        f"{EVALUATE} model.safetensors --metrics fid --inception-weights w.pth",
        "is damaged",
        s.put("w.pth", "PK\3\4"),
    ),
    Case(
        "ImageNet: a list",
        f"{EVALUATE} model.safetensors --metrics inception_score --imagenet-inception-weights w.pth",
        "holds other weights than torchvision's",
        lambda: torch.save([1], "w.pth"),
    ),
    Case("result: a folder", f"{EVALUATE} model.safetensors --n-images 2 --json runs", "cannot write runs"),
    Case(
        "result: below a file",
        f"{EVALUATE} model.safetensors --n-images 2 --json images.npz/a.json",
        "cannot write images.npz/a.json",
    ),
]
