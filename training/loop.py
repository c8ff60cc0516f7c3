"""The training loop: Algorithm 1 with AdamW, a log, and a state that can be picked up at any step."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from data import load_split, n_batches, training_batches
from errors import UserError
from metrics import evaluate_reconstruction
from models import build_model, save_model
from models.checkpoint import MODEL_FILE
from neurons import LIF, set_backend
from provenance import provenance
from training.config import Config, Precision
from training.device import (
    describe_backend,
    peak_memory_bytes,
    reproducible_kernels,
    resolve_backend,
    resolve_device,
)
from training.folder import previous_starts, run_lock, start_run
from training.graph import GraphedStep, Step, resolve_graph
from training.log import RunLog, check_log
from training.precision import autocast, set_precision
from training.schedule import learning_rate_factor, rates_as_tensors, set_learning_rates
from training.state import STATE_FILE, RunState, load_state, save_state
from training.stop import Stopped, StopRequest, stop_request

RATES = ("posterior_rate", "prior_rate")
NOISE = -1  # the stream behind all training noise; those from 0 on are the epochs' orders
NOISE_STATE_BYTES = {"cpu": 5056, "cuda": 16}  # of a generator's state
FETCH_EVERY = 20  # steps between fetching losses from the device, which waits for it


@dataclass
class Run:
    """What a run holds in memory. `epoch`, `step`, `sums` and `seconds` are those of RunState."""

    config: Config
    folder: Path
    device: torch.device
    train_images: Tensor
    test_images: Tensor
    model: nn.Module
    optimizer: torch.optim.Optimizer
    noise: Generator
    training_step: Step
    epoch: int = 0
    step: int = 0
    sums: dict[str, float] | None = None
    seconds: float = 0.0

    @property
    def steps_per_epoch(self) -> int:
        return n_batches(len(self.train_images), self.config.batch_size, self.config.drop_last)


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
        UserError: bad input, a folder with another run, or a loss that is no longer finite.
        Stopped: Ctrl-C, SIGTERM or the deadline asked for it; the state is saved.
    """
    previous_starts(config, fresh)
    run = prepare(config)
    if not fresh:
        resume(run)
    if run.epoch >= config.epochs:
        print(f"nothing to do: {run.folder} has {run.epoch} epochs; --epochs for more, --fresh to start over")
        return run.folder
    if any(isinstance(module, LIF) for module in run.model.modules()):
        print(describe_backend(config.backend, run.device), flush=True)
    with run_lock(run.folder), stop_request(deadline) as request, reproducible_kernels(config.deterministic):
        starts = previous_starts(config, fresh)  # again, as the state: a process that was ending may have saved since
        if not fresh and resume(run):
            print("the state is of another kind of device: noise goes on with another stream", flush=True)
        start_run(config, [*starts, _start(run)], fresh)
        log = RunLog(run.folder, run.epoch, config.tensorboard)
        while run.epoch < config.epochs:
            train_epoch(run, request)
            finish_epoch(run, log, request)
            if request and run.epoch < config.epochs:
                raise _stopped(run, request)
    return run.folder


def _start(run: Run) -> dict[str, Any]:
    """What config.json keeps of a start: where it went on, with what, how and when."""
    identity = run.config.identity()
    runtime = {name: value for name, value in run.config.to_dict().items() if name not in identity}
    backend = resolve_backend(run.config.backend, run.device)
    return {"runtime": runtime, "lif_backend": backend, "epoch": run.epoch} | provenance(run.device)


def prepare(config: Config) -> Run:
    """Data, model and optimizer of a run that has not started; writes nothing to the run folder."""
    device = resolve_device(config.device)
    train = load_split(config.dataset, "train", config.data_dir, limit=config.train_images, device=device)
    if len(train.images) < config.batch_size:
        raise UserError(f"--batch-size {config.batch_size} is more than the {len(train.images)} training images")
    test = load_split(config.dataset, "test", config.data_dir, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(config.model_config())
    records = set_runtime(model.to(device), config, device)
    optimizer, noise = make_optimizer(model, config), _stream(config, device, NOISE)
    if records and config.rates_change:
        rates_as_tensors(optimizer, device)
    learning = model, optimizer, noise, make_training_step(config, records)
    return Run(config, config.run_dir, device, train.images, test.images, *learning)


def set_runtime(model: nn.Module, config: Config, device: torch.device) -> bool:
    """Let a model on `device` run as the configuration says: its backend, its precision, its graph.

    Returns:
        whether its training step is to be recorded as a CUDA graph.

    Raises:
        UserError: something that cannot run here, or not together.
    """
    backend = resolve_backend(config.backend, device)
    set_backend(model, backend)
    set_precision(model, config.precision, backend, device)
    if records := resolve_graph(config.cuda_graph, backend, device, config.deterministic):
        model.prepare_for_graph()
    return records


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW (Sec. IV-B2), the bottleneck with its own learning rate. Fused: each value is read and written once."""
    fast = list(model.bottleneck.parameters()) if hasattr(model, "bottleneck") else []
    slow = [p for p in model.parameters() if not any(p is other for other in fast)]
    groups = [{"params": p, "lr": rate} for p, rate in zip((slow, fast), config.learning_rates, strict=True)]
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), weight_decay=config.weight_decay, fused=True)


def make_training_step(config: Config, records: bool) -> Step:
    """`training_step` at the configured precision, `records` as a CUDA graph."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, noise: Generator) -> dict[str, Tensor]:
        return training_step(model, optimizer, x, noise, config.precision)

    return GraphedStep(step, config.batch_size) if records else step


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, noise: Generator, precision: Precision = "fp32"
) -> dict[str, Tensor]:
    """One step of Algorithm 1, lines 6 to 12, on images x [N, C, H, W] in [-1, 1].

    The model must have been told of the precision by `set_precision`. The loss is taken in float32 at any.

    Returns:
        scalars on the model's device: the loss, its terms, and the mean firing rates of posterior and prior where
        the model has such.
    """
    with autocast(x.device, precision):
        output = model(x, generator=noise)
    terms = model.loss(output, x)
    optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()
    optimizer.step()
    rates = {f"{name}_mean": getattr(output, name).mean() for name in RATES if hasattr(output, name)}
    return {name: value.detach() for name, value in (terms | rates).items()}


def train_epoch(run: Run, request: StopRequest) -> None:
    """Train to the end of the epoch under way.

    Raises:
        Stopped: asked for between two steps.
        UserError: a loss that is not finite; names the step.
    """
    run.model.train()
    if hasattr(run.model, "start_epoch"):
        run.model.start_epoch(run.epoch, run.config.epochs, run.steps_per_epoch)
    run.sums = run.sums or {}
    started = saved = time.monotonic()
    before = run.seconds
    pending: list[tuple[dict[str, Tensor], int]] = []
    for x in _progress(run):
        set_learning_rates(run.optimizer, _learning_rates(run))
        pending.append((run.training_step(run.model, run.optimizer, x, run.noise), len(x)))
        run.step += 1
        due = time.monotonic() - saved > 60 * run.config.checkpoint_every
        stop = bool(request)  # asked once: a request between two looks would save sums without the pending steps
        if due or stop or len(pending) == FETCH_EVERY or run.step == run.steps_per_epoch:
            _fetch(run, pending)
        run.seconds = before + time.monotonic() - started  # fetching waits for a GPU to finish the steps
        if stop and run.step < run.steps_per_epoch:
            raise _stopped(run, request)
        if due:
            _save(run)
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
        UserError: a test loss that is not finite; nothing is logged or saved.
    """
    config, n_trained = run.config, run.sums["images"]
    run.model.eval()
    give_up = partial(_stop_if_signalled, run, request)
    test_reconstruction = evaluate_reconstruction(run.model, run.test_images, before_batch=give_up)
    if not math.isfinite(test_reconstruction):
        raise _diverged(run, f"the test loss became {test_reconstruction}", run.step)
    if not (run.folder / STATE_FILE).exists():
        _save(run)  # before the first model: one without a state has lost it, which not even a kill may look like
    log.pictures(run.epoch + 1, run.model, run.test_images, give_up)
    means = {name: total / n_trained for name, total in run.sums.items() if name != "images"}
    rates = {f"{name}_mean": means.pop(f"{name}_mean", None) for name in RATES}
    run.epoch, run.step, run.sums = run.epoch + 1, 0, {}
    log.epoch(
        {"epoch": run.epoch, "step": run.epoch * run.steps_per_epoch}
        | {f"train_{term}": mean for term, mean in means.items()}
        | {"test_reconstruction": test_reconstruction}
        | rates
        | {
            "images_per_second": n_trained / run.seconds,
            "seconds": run.seconds,
            "peak_memory_bytes": peak_memory_bytes(run.device),
        }
    )
    run.seconds = 0.0
    record = {"config": config.to_dict(), "epochs": run.epoch, "test_reconstruction": test_reconstruction}
    save_model(run.model, run.folder / MODEL_FILE, record)
    _save(run)


def resume(run: Run) -> bool:
    """Take over the folder's last state, if there is one. Returns whether noise goes on with another stream."""
    file = run.folder / STATE_FILE
    if not file.exists():
        return False
    state = load_state(file)
    try:
        run.model.load_state_dict(state.model)
        run.optimizer.load_state_dict(_computed_as(run.optimizer, state.optimizer))
        is_moved = _go_on_drawing(run, state)
        if not 0 <= state.step <= run.steps_per_epoch or (state.step and "images" not in state.sums):
            raise ValueError(f"step {state.step} of {run.steps_per_epoch}")
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]  # PyTorch lists every tensor
        raise UserError(f"{file} does not fit this run ({reason}); --fresh starts the run over") from error
    check_log(run.folder)
    run.epoch, run.step, run.sums, run.seconds = state.epoch, state.step, state.sums, state.seconds
    return is_moved


def _computed_as(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A saved state whose updates this optimizer computes in its own way, whichever way the one had that saved it."""
    names = ("fused", "foreach", "capturable", "lr")
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    return state | {"param_groups": [saved | {name: own[name] for name in names} for saved, own in groups]}


def _go_on_drawing(run: Run, state: RunState) -> bool:
    """Noise goes on where the state left it; on another kind of device, which it returns, with a stream of its own."""
    n_bytes = state.noise.numel()
    is_moved = n_bytes != NOISE_STATE_BYTES[run.device.type] and n_bytes in NOISE_STATE_BYTES.values()
    if is_moved:
        finished_steps = state.epoch * run.steps_per_epoch + state.step
        run.noise.manual_seed(_stream_seed(run.config, NOISE - 1 - finished_steps))
    else:
        run.noise.set_state(state.noise)
    return is_moved


def _stream(config: Config, device: torch.device, index: int) -> Generator:
    """One of a run's streams of random numbers. The seed itself made the weights: noise must not repeat them."""
    return Generator(device).manual_seed(_stream_seed(config, index))


def _stream_seed(config: Config, index: int) -> int:
    return config.seed * 1_000_003 + index


def _progress(run: Run) -> Iterator[Tensor]:
    """The rest of the epoch's batches, behind a bar that is quiet when nobody watches."""
    # The order of an epoch depends on seed and epoch alone, so that a resumed run finds its place in it.
    batches = training_batches(
        run.train_images,
        run.config.batch_size,
        generator=_stream(run.config, run.device, run.epoch),
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
        UserError: a loss or a weight that is not finite, so that no such state is ever saved.
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


def _diverged(run: Run, what: str, step: int) -> UserError:
    has_state = (run.folder / STATE_FILE).exists()
    kept = f"{run.folder} keeps the last good checkpoint" if has_state else "no checkpoint was written yet"
    return UserError(f"{what} in step {step} of epoch {run.epoch + 1}; try a lower --lr. {kept}")


def _save(run: Run) -> None:
    state = RunState(
        run.model.state_dict(),
        run.optimizer.state_dict(),
        run.noise.get_state(),
        run.epoch,
        run.step,
        run.sums,
        run.seconds,
    )
    save_state(state, run.folder / STATE_FILE)


def _stop_if_signalled(run: Run, request: StopRequest) -> None:
    if request.signal_number:  # a deadline can wait for the test
        raise _stopped(run, request)


def _stopped(run: Run, request: StopRequest) -> Stopped:
    _save(run)
    where = f"epoch {run.epoch + 1}, step {run.step}" if run.step else f"the end of epoch {run.epoch}"
    return Stopped(f"stopped at {where}; the same command goes on from there", request.signal_number)
