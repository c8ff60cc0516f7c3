"""The recorded step trains as the step does: on a CPU with a graph that runs its function again, on a GPU for real."""

import copy
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

import training.step
from errors import UserError
from training import graph
from training.config import preset
from training.evaluation import ReconstructionTest, evaluate_reconstruction
from training.graph import WARM_UP_STEPS, Graphed, capture, resolve_graph
from training.run import Run, prepare
from training.schedule import set_learning_rates

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class FakeGraph:
    """Stands in for CUDA: recording leaves every number as it was, and each replay overwrites the same memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.replays = 0
        self.test_replays = 0
        self.recorded: list[bool] = []  # whether the optimizer might be recorded, once per recording
        self.step = training.step.training_step
        monkeypatch.setattr("training.step.training_step", self.training_step)
        monkeypatch.setattr(graph, "capture", self.capture)
        monkeypatch.setattr(graph, "on_side_stream", lambda function, device: function())
        monkeypatch.setattr("training.step.resolve_graph", lambda *_: True)

    def training_step(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, noise: Generator, precision: str
    ) -> dict[str, Tensor]:
        self.trained = model, optimizer
        return self.step(model, optimizer, x, noise, precision)

    def capture(self, function: Callable[[], Tensor], noise: Generator) -> tuple[Callable[[], None], Tensor]:
        return self.capture_step(function, noise) if torch.is_grad_enabled() else self.capture_test(function, noise)

    def capture_test(self, function: Callable[[], Tensor], noise: Generator) -> tuple[Callable[[], None], Tensor]:
        drawn = noise.get_state()
        result = function()
        noise.set_state(drawn)

        def replay() -> None:
            self.test_replays += 1
            result.copy_(function())

        return replay, result

    def capture_step(self, function: Callable[[], Tensor], noise: Generator) -> tuple[Callable[[], None], Tensor]:
        model, optimizer = self.trained
        before = copy.deepcopy((model.state_dict(), optimizer.state_dict())), noise.get_state()
        result = function()
        self.recorded.append(all(group["capturable"] for group in optimizer.param_groups))
        (weights, moments), drawn = before
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
        noise.set_state(drawn)

        def replay() -> None:
            self.replays += 1
            result.copy_(function())

        return replay, result


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeGraph:
    return FakeGraph(monkeypatch)


def test_a_recorded_run_is_the_same_run(
    fake: FakeGraph, train: Callable, results: Callable, uninterrupted: Path, run_dir: Path
) -> None:
    # Epochs of six batches of 5 and one of 3; losses are fetched once per epoch, when all its steps are done.
    assert train("--epochs", "3") == 0
    assert results(run_dir) == results(uninterrupted)
    assert fake.replays == 3 * 6 - WARM_UP_STEPS and fake.recorded == [True]
    groups = torch.load(run_dir / "last.pt", weights_only=True)["optimizer"]["param_groups"]
    assert not any(group["capturable"] for group in groups)


def test_a_recorded_run_of_fsvae_draws_as_one_that_is_not(
    train: Callable, results: Callable, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluation.evaluation_batch", lambda _: 12)  # 40 images: three, and one of 4
    flags = ("--model", "fsvae", "--n-steps", "8", "--n-candidates", "3", "--epochs", "2")
    assert train(*flags) == 0
    plain = results(run_dir)
    fake = FakeGraph(monkeypatch)
    assert train(*flags, "--fresh") == 0
    assert fake.replays == 2 * 6 - WARM_UP_STEPS and fake.test_replays == 2 + 3
    assert results(run_dir) == plain


@pytest.mark.parametrize("stop", [2, WARM_UP_STEPS + 1, 8], ids=["warming up", "recording", "small batch"])
def test_a_recorded_run_goes_on_recorded_or_not(
    fake: FakeGraph,
    train: Callable,
    after_step: Callable,
    results: Callable,
    uninterrupted: Path,
    run_dir: Path,
    stop: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Recording calls the step once more than is trained: the small batch, step 7, is its eighth call.
    after_step(stop, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert train("--epochs", "1") == 130
    assert train("--epochs", "2") == 0
    monkeypatch.setattr("training.step.resolve_graph", lambda *_: False)
    assert train("--epochs", "3") == 0
    assert results(run_dir) == results(uninterrupted)


def test_a_recorded_run_with_changing_rates_goes_on_as_if_it_had_not_stopped(
    fake: FakeGraph, train: Callable, after_step: Callable, results: Callable, run_dir: Path
) -> None:
    flags = ("--schedule", "cosine", "--warmup", "0.3", "--epochs", "3")
    assert train(*flags) == 0
    undisturbed = results(run_dir)
    after_step(10, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert train(*flags, "--fresh") == 130
    assert train(*flags) == 0
    assert len(fake.recorded) == 3 and results(run_dir) == undisturbed


class Counter:
    """A step without a model: returns the sum of its batch and the number of its call, and remembers the batch."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, x: Tensor) -> dict:
        self.seen.append(x)
        return {"sum": x.sum(), "call": torch.tensor(float(len(self.seen)))}


def record_nothing(function: Callable[[], Tensor], _noise: Generator) -> tuple[Callable[[], None], Tensor]:
    """A graph whose output is static memory, in which its function is called once more than it is replayed."""
    result = function()
    return lambda: result.copy_(function()), result


def test_batches_go_through_one_buffer_and_results_have_their_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "capture", record_nothing)
    monkeypatch.setattr(graph, "on_side_stream", lambda function, device: function())
    step = Counter()
    graphed = Graphed(step, 4, Generator(), WARM_UP_STEPS)
    batches = [torch.full((4, 1), float(i)) for i in range(WARM_UP_STEPS + 3)]
    metrics = [graphed(x) for x in batches]
    assert [m["sum"].item() for m in metrics] == [4.0 * i for i in range(WARM_UP_STEPS + 3)]
    static = step.seen[WARM_UP_STEPS]
    assert all(x is static for x in step.seen[WARM_UP_STEPS:]) and not any(x is static for x in batches)
    assert all(x[0, 0] == i for i, x in enumerate(batches))


def test_a_smaller_batch_runs_the_step_itself_and_warms_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    warmed_up: list[torch.device] = []
    monkeypatch.setattr(graph, "on_side_stream", lambda function, device: warmed_up.append(device) or function())
    graphed, small = Graphed(Counter(), 4, Generator(), WARM_UP_STEPS), torch.ones(3, 1)
    for call in range(WARM_UP_STEPS + 2):  # would record, which a CPU cannot
        assert graphed(small)["call"] == call + 1
    assert not warmed_up
    graphed(torch.ones(4, 1))
    assert warmed_up == [CPU]


def test_everything_of_a_graph_is_made_on_the_device_of_its_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    current, made_on = ["cuda:0"], {}

    @contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        current.append(str(chosen))
        yield
        current.pop()

    @contextmanager
    def record(*_: Any, stream: str) -> Iterator[None]:
        made_on.update(stream=stream, work=current[-1])
        yield

    def registers(noise: Any) -> None:
        made_on["noise"] = current[-1]

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: current[-1])
    fake_graph = SimpleNamespace(register_generator_state=registers, replay=lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: fake_graph)
    _, result = capture(lambda: current[-1], SimpleNamespace(device=torch.device("cuda:1")))
    assert made_on == {"noise": "cuda:1", "stream": "cuda:1", "work": "cuda:1"} and result == "cuda:1"


def test_a_recorded_pass_answers_for_each_batch_and_a_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "capture", record_nothing)
    monkeypatch.setattr(graph, "on_side_stream", lambda function, device: function())
    seen: list[Tensor] = []
    answer = Graphed(lambda x: seen.append(x) or {"sum": x.sum()}, 4, Generator())
    batches = [torch.full((n, 1), float(i)) for i, n in enumerate((4, 4, 3, 4, 2))]
    assert [value["sum"].item() for value in [answer(x) for x in batches]] == [0.0, 4.0, 6.0, 12.0, 8.0]
    static = seen[1]
    assert [any(x is y for y in (*batches, static)) for x in seen] == [True] * len(seen)
    assert static is not batches[1] and sum(x is static for x in seen) == 3  # recorded once, replayed twice


@pytest.mark.parametrize(
    ("backend", "device", "message"),
    [
        ("native", CPU, "--cuda-graph on needs an NVIDIA GPU; use --device cuda, or --cuda-graph auto"),
        ("cupy", CUDA, "--cuda-graph on cannot record backend 'cupy'.*use --backend triton or scan"),
    ],
)
def test_what_cannot_be_recorded_is_refused(backend: str, device: torch.device, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_graph("on", backend, device)
    assert not resolve_graph("auto", backend, device) and not resolve_graph("off", backend, device)


@pytest.mark.parametrize("backend", ["triton", "scan", "torch"])
def test_what_can_be_recorded_is_recorded_unless_it_shall_not(backend: str) -> None:
    assert [resolve_graph(name, backend, CUDA) for name in ("auto", "on", "off")] == [True, True, False]


def test_deterministic_kernels_are_not_recorded() -> None:
    assert not resolve_graph("auto", "triton", CUDA, deterministic=True)
    with pytest.raises(UserError, match="--cuda-graph on cannot record the kernels of --deterministic"):
        resolve_graph("on", "triton", CUDA, deterministic=True)


def test_a_refusal_comes_before_anything_is_written(
    train: Callable, run_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train("--cuda-graph", "on") == 2
    assert capsys.readouterr().err.startswith("error: --cuda-graph on needs an NVIDIA GPU")
    assert not run_dir.exists()


def check_recorded_test(run: Run, rel: float) -> None:
    """Recorded once and asked again, with other weights and noise, it says what one that is not recorded does."""
    run.model.eval()
    n_batch = 12  # of 40 images: the first time one batch warms up, two are replayed, 4 images are left
    recorded = ReconstructionTest(run.model, run.test.images, n_batch, records=True)
    found = []
    for seed in (0, 0, 1):
        found.append(recorded(seed))
        assert found[-1] == pytest.approx(evaluate_reconstruction(run.model, run.test.images, n_batch, seed), rel=rel)
        for p in run.model.parameters():
            p.data.mul_(1.1)
    assert recorded.error.replay and len(set(found)) == 3


def test_a_recorded_test_is_the_eager_one(fake: FakeGraph) -> None:
    check_recorded_test(prepare(replace(preset("digits"), n_steps=8, latent_dim=8, device="cpu")), rel=0)
    assert fake.test_replays == 2 + 3 + 3


@pytest.fixture
def same_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let cuDNN sum in the same order every time."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def gpu_run(model: str, backend: str, precision: str, cuda_graph: str) -> tuple[list[dict[str, Tensor]], Any, Any]:
    """Eight steps on eight batches, the sixth a smaller one, at falling rates: metrics, weights, state of the noise."""
    config = replace(preset("digits", model), batch_size=10, n_steps=8, latent_dim=8, lr=1e-4, train_images=20)
    config = replace(config, schedule="cosine")
    ways = {"device": "cuda", "backend": backend, "precision": precision, "cuda_graph": cuda_graph}
    run = prepare(replace(config, **ways))
    run.model.train()
    draw = Generator().manual_seed(0)
    sizes = (10, 10, 10, 10, 10, 7, 10, 10)
    batches = [(torch.rand((n, 1, 32, 32), generator=draw) * 2 - 1).cuda() for n in sizes]
    metrics = []
    for k, x in enumerate(batches):
        set_learning_rates(run.optimizer, tuple(rate * (1 - k / 8) for rate in run.config.learning_rates))
        if hasattr(run.model, "scheduled_sampling"):  # steps 5 and 6 draw, and the graph sees what changes
            run.model.scheduled_sampling.fill_(k / 8)
        metrics.append(run.training_step(x))
    return metrics, run.model.state_dict(), run.noise.get_state()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("model", "backend"),
    [
        *((name, "triton") for name in ("esvae", "fsvae", "taid")),
        *((name, "scan") for name in ("esvae", "ann_vae")),
        ("esvae", "torch"),
    ],
)
def test_on_a_gpu_replayed_steps_are_the_eager_ones(
    model: str, backend: str, precision: str, same_algorithms: None
) -> None:
    metrics, weights, noise = gpu_run(model, backend, precision, cuda_graph="on")
    eager_metrics, eager_weights, eager_noise = gpu_run(model, backend, precision, cuda_graph="off")
    assert noise.equal(eager_noise)  # the same draws, and as many
    for ours, theirs in zip(metrics, eager_metrics, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    for name, value in weights.items():
        # A weight whose gradient is nearly nothing may go either way, by one learning rate per step.
        torch.testing.assert_close(value, eager_weights[name], rtol=1e-3, atol=2e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "backend"), [*((name, "triton") for name in ("esvae", "fsvae", "taid", "ann_vae")), ("esvae", "scan")]
)
def test_on_a_gpu_a_recorded_test_is_the_eager_one(name: str, backend: str, same_algorithms: None) -> None:
    run = prepare(replace(preset("digits", name), n_steps=8, latent_dim=8, device="cuda", backend=backend))
    check_recorded_test(run, rel=1e-5)


@pytest.mark.gpu
def test_on_a_gpu_a_recorded_run_goes_on(
    train: Callable, results: Callable, after_step: Callable, run_dir: Path, same_algorithms: None
) -> None:
    flags = ("--device", "cuda", "--lr", "1e-4")
    assert train("--epochs", "2", "--cuda-graph", "off", *flags) == 0
    expected = results(run_dir)["metrics"]
    after_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert train("--epochs", "1", "--fresh", *flags) == 130
    assert train("--epochs", "2", *flags) == 0
    for ours, theirs in zip(results(run_dir)["metrics"], expected, strict=True):
        assert float(ours["train_loss"]) == pytest.approx(float(theirs["train_loss"]), rel=1e-2)
        assert float(ours["test_reconstruction"]) == pytest.approx(float(theirs["test_reconstruction"]), rel=1e-2)
