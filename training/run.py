"""A run in memory: made from its configuration, taken up from its folder's state, saved to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from data import DATASETS, load_split, n_batches
from errors import UserError, reason_of
from models import build_model
from training.config import Config
from training.device import resolve_device
from training.evaluation import ReconstructionTest
from training.graph import Step
from training.log import check_log
from training.schedule import learning_rates_as_tensors
from training.state import STATE_FILE, RunState, load_state, save_state
from training.step import Runtime, make_optimizer, make_training_step, set_runtime

NOISE = -1  # the stream behind all training noise; those from 0 on are the epochs' orders
NOISE_STATE_BYTES = {"cpu": 5056, "cuda": 16}  # of a generator's state


@dataclass
class Run:
    """What a run holds in memory. `epoch`, `step`, `sums` and `seconds` are those of RunState."""

    config: Config
    folder: Path
    device: torch.device
    train_images: Tensor
    model: nn.Module
    optimizer: torch.optim.Optimizer
    noise: Generator
    runtime: Runtime
    training_step: Step
    test: ReconstructionTest
    epoch: int = 0
    step: int = 0
    sums: dict[str, float] | None = None
    seconds: float = 0.0

    @property
    def steps_per_epoch(self) -> int:
        return n_batches(len(self.train_images), self.config.batch_size, self.config.drop_last)


def prepare(config: Config) -> Run:
    """Data, model and optimizer of a run that has not started; writes nothing to the run folder.

    Raises:
        UserError: data that are not to be had or not whole, fewer images than a batch, or as `model_of`.
    """
    device = resolve_device(config.device)
    train = load_split(config.dataset, "train", config.data_dir, limit=config.train_images, device=device).images
    _check_training_images(len(train), config)
    test = load_split(config.dataset, "test", config.data_dir, device=device).images
    model, runtime = model_of(config, device)
    optimizer, noise = make_optimizer(model, config), stream(config, device, NOISE)
    if runtime.records and config.learning_rates_change:
        learning_rates_as_tensors(optimizer, device)
    step = make_training_step(model, optimizer, noise, config.batch_size, runtime)
    scoring = ReconstructionTest(model, test, records=runtime.records)
    return Run(config, config.run_dir, device, train, model, optimizer, noise, runtime, step, scoring)


def _check_training_images(found: int, config: Config) -> None:
    """UserError for part of a data set that would pass for the whole of it, or for fewer images than a batch."""
    whole = DATASETS[config.dataset].n_train
    if config.train_images is None and found != whole:
        raise UserError(
            f"{config.dataset} has {found:,} of {whole:,} training images here: give --train-images "
            f"{min(found, whole)} to train on these (rows of experiments.toml want all)"
        )
    if found < config.batch_size:
        raise UserError(f"--batch-size {config.batch_size} is more than the {found} training images")


def model_of(config: Config, device: torch.device) -> tuple[nn.Module, Runtime]:
    """The run's model as it is initialised, on the device, and how it will compute there.

    Raises:
        UserError: sizes that no model has, or a backend, precision or graph that is not to be had on the device.
    """
    model = build_model(config.model_config(), config.seed).to(device)
    return model, set_runtime(model, config, device)


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
        has_trained = state.sums.get("images", 0) > 0 and state.seconds > 0
        if state.step > run.steps_per_epoch or (state.step and not has_trained):
            raise ValueError(f"step {state.step} of {run.steps_per_epoch}")
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = reason_of(error)[:200]  # PyTorch lists every tensor
        raise UserError(f"{file} does not fit this run ({reason}); --fresh starts the run over") from error
    check_log(run.folder, state.epoch)
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
        run.noise.manual_seed(stream_seed(run.config.seed, NOISE - 1 - finished_steps))
    else:
        run.noise.set_state(state.noise)
    return is_moved


def stream(config: Config, device: torch.device, index: int) -> Generator:
    """One of a run's streams of random numbers. The seed itself made the weights: noise must not repeat them."""
    return Generator(device).manual_seed(stream_seed(config.seed, index))


def stream_seed(seed: int, index: int) -> int:
    """Seed of a stream of random numbers: another for each index, and, but for index 0 of seed 0, not `seed` itself."""
    return seed * 1_000_003 + index


def save(run: Run) -> None:
    """Write where the run stands to its folder."""
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
