"""Ways to spoil what programs read, in the folder that a test works in."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from models import read_metadata
from tests.records import done_result

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    """`prepare` spoils something in the folder that the program runs in; `phrase` is part of the line it must say.

    command: module and arguments, separated by spaces; `arguments` are more that may have spaces in them.
    """

    name: str
    command: str
    phrase: str
    prepare: Callable[[], Any] | None = None
    arguments: tuple[str, ...] = ()
    as_process: bool = False


def cut(file: str, keep: float = 0.5) -> Callable[[], Any]:
    def prepare() -> None:
        content = Path(file).read_bytes()
        Path(file).write_bytes(content[: int(len(content) * keep)])

    return prepare


def put(file: str, content: bytes | str) -> Callable[[], Any]:
    def prepare() -> None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def swap(a: str, b: str) -> Callable[[], Any]:
    return lambda: [os.rename(source, target) for source, target in ((a, "between"), (b, a), ("between", b))]


def state(**changes: Any) -> Callable[[], Any]:
    """Change entries of the finished run's state."""
    file = "runs/finished/last.pt"
    return lambda: torch.save(torch.load(file, weights_only=True) | changes, file)


def metadata(part: str, **changes: Any) -> Callable[[], Any]:
    """Change what model.safetensors says of its `model` or its `run`."""

    def prepare() -> None:
        known = read_metadata("model.safetensors")
        known[part] |= changes
        rewrite({name: json.dumps(value) for name, value in known.items()})

    return prepare


def rewrite(known: dict[str, str], change: Callable[[dict], Any] = lambda _: None, form: str = "spiking-vae-1") -> None:
    tensors = load_file("model.safetensors")
    change(tensors)
    save_file(tensors, "model.safetensors", {"format": form, **known})


def weights(change: Callable[[dict], Any]) -> Callable[[], Any]:
    """Change the tensors of model.safetensors."""
    return lambda: rewrite({k: json.dumps(v) for k, v in read_metadata("model.safetensors").items()}, change)


def published(change: Callable[[dict], Any]) -> Callable[[], Any]:
    """Put a changed copy of the authors' autoencoder for MNIST into fad.pth."""

    def prepare() -> None:
        tensors = torch.load(ROOT / "metrics/fad_data/mnist_64.pth", map_location="cpu", weights_only=True)
        change(tensors.get("net", tensors))
        torch.save(tensors, "fad.pth")

    return prepare


def images(*arrays: Any, **named: Any) -> Callable[[], Any]:
    return lambda: np.savez("images.npz", *arrays, **named)


def floats(value: float, dtype: type = np.float32) -> np.ndarray:
    return np.full((100, 28, 28), value, dtype)


def mnist(n_images: int, n_bytes: int | None = None) -> Callable[[], Any]:
    """A folder `data` with an MNIST of `n_images`, whose files of images are cut after so many bytes."""

    def prepare() -> None:
        for split in ("train", "t10k"):
            content = (
                b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (n_images, 28, 28)) + bytes(n_images * 784)
            )
            put(f"data/MNIST/raw/{split}-images-idx3-ubyte", content[:n_bytes])()
            put(
                f"data/MNIST/raw/{split}-labels-idx1-ubyte",
                b"\0\0\x08\x01" + n_images.to_bytes(4, "big") + bytes(n_images),
            )()

    return prepare


def cifar10() -> None:
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"):
        put(f"data/cifar-10-batches-py/{name}", b"not a batch")()


def celeba(content: bytes) -> Callable[[], Any]:
    return put("data/celeba/img_align_celeba/000001.jpg", content)


def picture(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def lying_archive() -> None:
    """An .npz whose array says to be far larger than the memory."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**45, 28, 28)})
    with zipfile.ZipFile("images.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())


def result(**changes: Any) -> Callable[[], Any]:
    """A row's result with these entries changed."""
    return put("results/finished.json", json.dumps(done_result(epochs=1) | changes))


DEEP = "[" * 100_000  # JSON that Python's parser gives up on
