"""The training loop: Algorithm 1 with AdamW, a log, and a state that can be picked up at any step."""

import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from data import training_batches
from errors import DivergedError
from models import save_model
from models.checkpoint import MODEL_FILE
from neurons import backend_of
from provenance import provenance
from training.config import Config
from training.device import describe_backend, peak_memory_bytes, reproducible_kernels
from training.folder import epoch_file, previous_starts, run_lock, start_run
from training.log import METRICS_FILE, RunLog
from training.run import Run, prepare, resume, save, stream
from training.schedule import learning_rate_factor, set_learning_rates
from training.state import STATE_FILE
from training.step import RATES
from training.stop import Stopped, StopRequest, stop_request

FETCH_EVERY = 20  # steps between fetching losses from the device, which waits for it


def fit(config: Config, fresh: bool = False, deadline: float = math.inf) -> Path:
    """Train a model to `config.epochs`, going on from the run folder's last state if there is one.

    On a CPU the result does not depend on where a run was stopped: weights, log and grids are bit-identical.

    Args:
        config: the run.
        fresh: start over, replacing the run in the folder.
        deadline: time.monotonic() at which to save and stop.

    Returns:
        the run folder.

    Raises:
        BusyError: another process trains in the folder.
        DivergedError: a loss or a weight that is no longer finite.
        UserError: bad input, or a folder with another run.
        Stopped: Ctrl-C, SIGTERM or the deadline asked for it; the state is saved.
    """
    previous_starts(config, fresh)
    run = prepare(config)
    if not fresh:
        resume(run)
    if run.epoch >= config.epochs:
        _replace_lost_model(run)
        print(f"nothing to do: {run.folder} has {run.epoch} epochs; --epochs for more, --fresh to start over")
        return run.folder
    with run_lock(run.folder), stop_request(deadline) as request, reproducible_kernels(config.deterministic):
        starts = previous_starts(config, fresh)  # again, as the state: a process that was ending may have saved since
        if not fresh and resume(run):
            print("the state is of another kind of device: noise and orders go on with other streams", flush=True)
        if run.epoch and not (run.folder / METRICS_FILE).exists():
            print(f"{METRICS_FILE} is gone: it starts anew at epoch {run.epoch + 1}", flush=True)
        start_run(config, [*starts, _start(run)], fresh)
        if backend_of(run.model):
            print(describe_backend(config.backend, run.device), flush=True)
        if config.precision == "auto" and run.runtime.precision == "bf16":
            print("precision: bf16 (--precision fp32 for float32)", flush=True)
        log = RunLog(run.folder, run.epoch, config.tensorboard)
        while run.epoch < config.epochs:
            train_epoch(run, request)
            finish_epoch(run, log, request)
            if request and run.epoch < config.epochs:
                raise _stopped(run, request)
    return run.folder


def _replace_lost_model(run: Run) -> None:
    """Write the weights of a finished run again, where they have been removed: the state has them too."""
    if run.step or run.epoch > run.config.epochs or (run.folder / MODEL_FILE).exists():
        return
    with run_lock(run.folder):
        run.model.eval()
        _save_model(run, run.test())
    print(f"{MODEL_FILE} was gone: it is written again, from {STATE_FILE}", flush=True)


def _start(run: Run) -> dict[str, Any]:
    """What config.json keeps of a start: where it went on, with what, how and when."""
    identity = run.config.identity()
    runtime = {name: value for name, value in run.config.to_dict().items() if name not in identity}
    resolved = {"lif_backend": backend_of(run.model), "precision": run.runtime.precision}
    return {"runtime": runtime} | resolved | {"epoch": run.epoch} | provenance(run.device)


def train_epoch(run: Run, request: StopRequest) -> None:
    """Train to the end of the epoch under way.

    Raises:
        Stopped: asked for between two steps.
        DivergedError: a loss that is not finite; names the step.
    """
    run.model.train()
    run.model.start_epoch(run.epoch, run.config.epochs, run.steps_per_epoch)
    run.sums = run.sums or {}
    started = saved = time.monotonic()
    before = run.seconds
    pending: list[tuple[dict[str, Tensor], int]] = []
    for x in _progress(run):
        set_learning_rates(run.optimizer, _learning_rates(run))
        pending.append((run.training_step(x), len(x)))
        run.step += 1
        due = time.monotonic() - saved > 60 * run.config.checkpoint_every
        stop = bool(request)  # asked once: a request between two looks would save sums without the pending steps
        if due or stop or len(pending) == FETCH_EVERY or run.step == run.steps_per_epoch:
            _fetch(run, pending)
        run.seconds = before + time.monotonic() - started  # fetching waits for a GPU to finish the steps
        if stop and run.step < run.steps_per_epoch:
            raise _stopped(run, request)
        if due:
            save(run)
            saved = time.monotonic()


def _learning_rates(run: Run) -> tuple[float, ...]:
    """Those of the step to come."""
    config, finished = run.config, run.epoch * run.steps_per_epoch + run.step
    progress = (finished + 0.5) / (config.epochs * run.steps_per_epoch)  # its middle: no step is lost to a rate of 0
    factor = learning_rate_factor(progress, config.schedule, config.warmup)
    return tuple(rate * factor for rate in config.learning_rates)


def finish_epoch(run: Run, log: RunLog, request: StopRequest) -> None:
    """Test, draw, log, save; then the run stands at the start of the next epoch.

    Raises:
        Stopped: a signal asked for it before there was anything to log; test and pictures are made again.
        DivergedError: a test loss that is not finite; nothing is logged or saved.
        UserError: something cannot be written.
    """
    run.model.eval()
    give_up = partial(_stop_if_signalled, run, request)
    test_reconstruction = run.test(before_batch=give_up)
    if not math.isfinite(test_reconstruction):
        raise _diverged(run, f"the test loss became {test_reconstruction}", run.step)
    if not (run.folder / STATE_FILE).exists():
        save(run)  # before the first model: one without a state has lost it, which not even a kill may look like
    log.pictures(run.epoch + 1, run.model, run.test.images, give_up)
    log.epoch(_row(run, test_reconstruction))
    run.epoch, run.step, run.sums, run.seconds = run.epoch + 1, 0, {}, 0.0
    _save_model(run, test_reconstruction)
    save(run)


def _save_model(run: Run, test_reconstruction: float) -> None:
    """Write the weights that the run has after its last epoch, under a name of their own too where they are to stay."""
    record = {"config": run.config.to_dict(), "epochs": run.epoch, "test_reconstruction": test_reconstruction}
    save_model(run.model, run.folder / MODEL_FILE, record)
    if run.config.keep_every and run.epoch % run.config.keep_every == 0:
        save_model(run.model, epoch_file(run.folder, run.epoch), record | {"epoch_rule": "an epoch kept in training"})


def _row(run: Run, test_reconstruction: float) -> dict[str, Any]:
    """What metrics.csv says of the epoch whose last step was just taken."""
    n_trained = run.sums["images"]
    means = {name: total / n_trained for name, total in run.sums.items() if name != "images"}
    rates = {f"{name}_mean": means.pop(f"{name}_mean", None) for name in RATES}
    return (
        {"epoch": run.epoch + 1, "step": (run.epoch + 1) * run.steps_per_epoch}
        | {f"train_{term}": mean for term, mean in means.items()}
        | {"test_reconstruction": test_reconstruction}
        | rates
        | {
            "images_per_second": n_trained / run.seconds,
            "seconds": run.seconds,
            "peak_memory_bytes": peak_memory_bytes(run.device),
        }
    )


def _progress(run: Run) -> Iterator[Tensor]:
    """The rest of the epoch's batches, behind a bar that is quiet when nobody watches."""
    # The order of an epoch depends on seed, epoch and kind of device alone: a resumed run finds its place in it.
    batches = training_batches(
        run.train_images,
        run.config.batch_size,
        generator=stream(run.config, run.device, run.epoch),
        drop_last=run.config.drop_last,
        horizontal_flip=run.config.horizontal_flip,
        start=run.step,
    )
    bar = tqdm(
        desc=f"epoch {run.epoch + 1}/{run.config.epochs}",
        total=run.steps_per_epoch * run.config.batch_size,
        initial=run.step * run.config.batch_size,
        unit="img",
        disable=None,  # off unless standard error is a terminal
        leave=False,
    )
    with bar:
        for x in batches:
            yield x
            bar.update(len(x))


def _fetch(run: Run, pending: list[tuple[dict[str, Tensor], int]]) -> None:
    """Add the pending steps to the epoch's sums.

    Raises:
        DivergedError: a loss or a weight that is not finite, so that no such state is ever saved.
    """
    for index, (metrics, n_images) in enumerate(pending):
        values = {name: value.item() for name, value in metrics.items()}
        if not math.isfinite(values["loss"]):
            raise _diverged(run, f"the loss became {values['loss']}", run.step - len(pending) + index + 1)
        for name, value in values.items():
            run.sums[name] = run.sums.get(name, 0.0) + value * n_images
        run.sums["images"] = run.sums.get("images", 0) + n_images
    pending.clear()
    floats = [tensor for tensor in run.model.state_dict().values() if tensor.is_floating_point()]
    if not torch.stack([tensor.isfinite().all() for tensor in floats]).all():
        raise _diverged(run, "the weights became infinite", run.step)  # the loss of their step came before them


def _diverged(run: Run, what: str, step: int) -> DivergedError:
    has_state = (run.folder / STATE_FILE).exists()
    kept = f"{run.folder} keeps the last good checkpoint" if has_state else "no checkpoint was written yet"
    return DivergedError(f"{what} in step {step} of epoch {run.epoch + 1}; try a lower --lr. {kept}")


def _stop_if_signalled(run: Run, request: StopRequest) -> None:
    if request.signal_number:  # a deadline can wait for the test
        raise _stopped(run, request)


def _stopped(run: Run, request: StopRequest) -> Stopped:
    save(run)
    where = f"epoch {run.epoch + 1}, step {run.step}" if run.step else f"the end of epoch {run.epoch}"
    return Stopped(f"stopped at {where}; the same command goes on from there", request.signal_number)
