"""What a run records: metrics.csv, firing_rates.csv, image grids, TensorBoard events."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from data import batches, to_unit_range
from errors import UserError
from files import write_atomically
from training.evaluation import evaluation_batch

METRICS_FILE = "metrics.csv"
RATES_FILE = "firing_rates.csv"
IMAGES_FOLDER = "images"


def check_log(folder: Path, n_epochs: int) -> None:
    """Whether a run can go on with its logs, where it has any.

    Raises:
        UserError: they cannot be read, are no text, or lack an epoch between their first and the run's last.
    """
    for path in (folder / METRICS_FILE, folder / RATES_FILE):
        try:
            is_log = not path.exists() or _reaches(path.read_text(), n_epochs)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError:
            is_log = False
        if not is_log:
            raise UserError(
                f"{path} is damaged or lacks epochs: restore it, or remove it and it starts anew at epoch "
                f"{n_epochs + 1}, or --fresh starts the run over"
            )


def _reaches(text: str, n_epochs: int) -> bool:
    """Whether a log has every epoch from its first one on: it may have begun late, where one was removed."""
    epochs = sorted({epoch for epoch, _ in _rows(text) if epoch <= n_epochs})
    return text.startswith("epoch,") and epochs == list(range(epochs[0] if epochs else 1, n_epochs + 1))


def _rows(text: str) -> list[tuple[int, str]]:
    """Epoch and line of every row but those with too few commas, the torn end of a killed run: 1 may have been 12."""
    header, *rows = text.splitlines() or [""]
    whole = [(row.split(",")[0], row) for row in rows if row.count(",") == header.count(",")]
    return [(int(epoch), row) for epoch, row in whole if epoch.isdigit()]


class CsvLog:
    """Append-only CSV: one flushed line per row. Opening it drops rows of epochs after `last_epoch`.

    A run that died between logging an epoch and saving its state trains that epoch again.
    """

    def __init__(self, path: Path, last_epoch: int) -> None:
        self.path = path
        if path.exists():
            self._truncate(last_epoch)

    def append(self, row: dict[str, object]) -> None:
        """Write one row; the first row's keys are the header.

        Raises:
            UserError: the file cannot be written, or another version of this program began it with other columns.
        """
        try:
            before = self.path.read_text() if self.path.exists() else ""
            if before and before.splitlines()[0] != ",".join(row):
                raise UserError(f"{self.path} has other columns than {', '.join(row)}: --fresh starts the run over")
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, list(row))
                if not before:
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error

    def _truncate(self, last_epoch: int) -> None:
        text = self.path.read_text()
        kept = [row for epoch, row in _rows(text) if epoch <= last_epoch]
        content = "".join(f"{line}\n" for line in [*text.splitlines()[:1], *kept])
        if content != text:  # the last line may lack its end, which the next row would be written behind
            write_atomically(self.path, content.encode())
        if not kept:
            self.path.unlink()


def rate_histogram(z: Tensor) -> list[int]:
    """How many latent units fired k times, k = 0 .. T. z [T, N, D] -> T + 1 counts over all N * D."""
    counts = z.sum(0).round().long().flatten()
    return torch.bincount(counts, minlength=len(z) + 1).tolist()


def save_grid(images: Tensor, path: Path, columns: int = 8) -> None:
    """Images [N, C, H, W] in [-1, 1] as one PNG.

    Raises:
        UserError: the file cannot be written.
    """
    content = io.BytesIO()
    grid = make_grid(images, nrow=columns, value_range=(-1, 1), normalize=True, pad_value=1.0)
    save_image(grid, content, format="png")
    write_atomically(path, content.getvalue())


def interleave_rows(originals: Tensor, reconstructions: Tensor, columns: int = 8) -> Tensor:
    """A row of originals above the row of their reconstructions, and so on: [N, ...] twice -> [2N, ...]."""
    pairs = zip(originals.split(columns), reconstructions.split(columns), strict=True)
    return torch.cat([torch.cat(pair) for pair in pairs])


@torch.no_grad()
def picture_grids(model: nn.Module, images: Tensor, n_samples: int, generator: torch.Generator) -> dict[str, Tensor]:
    """`reconstructions` in rows below their originals, and `samples` of the prior if the model has one.

    Args:
        model: in evaluation mode.
        images: uint8 [N, C, H, W].
        n_samples: from the prior.
        generator: of the posterior's noise, then the prior's.

    Returns:
        floats in [-1, 1], [2N, C, H, W] and [n_samples, C, H, W].
    """
    x = to_unit_range(images)
    grids = {"reconstructions": interleave_rows(x, model(x, generator=generator).reconstruction)}
    return grids | ({"samples": model.sample(n_samples, generator)} if hasattr(model, "sample") else {})


class RunLog:
    """Everything a run records at the end of an epoch.

    Grids and histograms come from the same test images and the same noise every time. A numbered pair of grids
    is kept for epochs 1 to 10 and every tenth after them.
    """

    N_SHOWN, N_HISTOGRAM, SEED = 32, 512, 1

    def __init__(self, folder: Path, last_epoch: int, tensorboard: bool) -> None:
        self.folder = folder
        self.metrics = CsvLog(folder / METRICS_FILE, last_epoch)
        self.rates = CsvLog(folder / RATES_FILE, last_epoch)
        self.writer = _tensorboard_writer(folder, last_epoch) if tensorboard else None

    def epoch(self, row: dict[str, float]) -> None:
        """Log one epoch's numbers and print the headline.

        Raises:
            UserError: metrics.csv cannot be written.
        """
        self.metrics.append(row)
        distances = "".join(f"  {n} {row[f'train_{n}']:.4f}" for n in ("mmd", "kl") if f"train_{n}" in row)
        print(
            f"epoch {row['epoch']:4d}  train {row['train_reconstruction']:.5f}  test {row['test_reconstruction']:.5f}"
            f"{distances}  {row['images_per_second']:.0f} img/s",
            flush=True,
        )
        for name, value in row.items():
            if self.writer and value is not None and name not in ("epoch", "step"):
                self.writer.add_scalar(name, value, row["epoch"])

    @torch.no_grad()
    def pictures(
        self, epoch: int, model: nn.Module, images: Tensor, before_batch: Callable[[], None] | None = None
    ) -> None:
        """Draw grids with fixed noise, and count how often latent units fire; what the model can do of both.

        `before_batch` is called before each batch that is counted, and may raise to give up.

        Raises:
            UserError: a picture or firing_rates.csv cannot be written.
        """
        generator = torch.Generator(images.device).manual_seed(self.SEED)
        for name, grid in picture_grids(model, images[: self.N_SHOWN], self.N_SHOWN, generator).items():
            save_grid(grid, self.folder / IMAGES_FOLDER / f"{name}.png")
            if epoch <= 10 or epoch % 10 == 0:
                save_grid(grid, self.folder / IMAGES_FOLDER / f"{name}-{epoch:04d}.png")
        if hasattr(model, "sample_latent"):
            self._firing_rates(epoch, model, images[: self.N_HISTOGRAM], generator, before_batch)

    def _firing_rates(
        self,
        epoch: int,
        model: nn.Module,
        images: Tensor,
        generator: torch.Generator,
        before_batch: Callable[[], None] | None,
    ) -> None:
        posterior = []
        for x in batches(images, evaluation_batch(images)):
            if before_batch:
                before_batch()
            posterior.append(rate_histogram(model(x, generator=generator).z))
        prior = [rate_histogram(model.sample_latent(len(images), generator))]
        for stage, histograms in (("posterior", posterior), ("prior", prior)):
            counts = {f"fired_{k}": sum(count) for k, count in enumerate(zip(*histograms, strict=True))}
            self.rates.append({"epoch": epoch, "stage": stage} | counts)


def _tensorboard_writer(folder: Path, last_epoch: int):
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and used on request only

    return SummaryWriter(folder, purge_step=last_epoch + 1)
