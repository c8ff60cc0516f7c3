"""The presets are the specification's, and every field is a flag."""

import dataclasses
from typing import Any

import pytest

import train
from data import DATASETS
from errors import UserError
from training.config import Config, preset

SAME_IN_EVERY_RUN = {
    "model": "esvae",
    "recipe": "paper",
    "seed": 42,
    "schedule": "constant",
    "warmup": 0.0,
    "bottleneck_lr_factor": 10.0,
    "weight_decay": 0.001,
    "mmd_weight": 0.001,
    "n_steps": 16,
    "v_threshold": 0.2,
    "decay": 0.25,
    "train_images": None,
    "distance": "mmd",
    "n_candidates": 20,
}
PAPER = {
    "epochs": 300,
    "lr": 6e-4,
    "latent_dim": 128,
    "lif_surrogate": "paper",
    "strict_threshold": False,
    "sampler_surrogate": "paper",
}
CODE = {
    "epochs": 300,
    "lif_surrogate": "code",
    "strict_threshold": True,
    "sampler_surrogate": "code",
}
DATA = {
    "mnist": {"batch_size": 256, "horizontal_flip": False, "drop_last": False},
    "fashion_mnist": {"batch_size": 256, "horizontal_flip": False, "drop_last": True},
    "cifar10": {"batch_size": 256, "horizontal_flip": True, "drop_last": True},
    "celeba": {"batch_size": 64, "horizontal_flip": True, "drop_last": False},
}
CODE_RATES = {
    "mnist": {"lr": 3.072e-3, "latent_dim": 32},
    "fashion_mnist": {"lr": 3.072e-3, "latent_dim": 32},
    "cifar10": {"lr": 6.144e-4, "latent_dim": 128},
    "celeba": {"lr": 2.56e-4, "latent_dim": 128},
}
RUNTIME = {
    "data_dir",
    "runs_dir",
    "name",
    "device",
    "backend",
    "precision",
    "cuda_graph",
    "deterministic",
    "checkpoint_every",
    "keep_every",
    "tensorboard",
}


def identity(config: Config) -> dict[str, Any]:
    return config.identity() | {"epochs": config.epochs}


@pytest.mark.parametrize("dataset", DATA)
def test_paper_presets(dataset: str) -> None:
    expected = SAME_IN_EVERY_RUN | PAPER | DATA[dataset] | {"dataset": dataset, "variant": "paper"}
    assert identity(preset(dataset)) == expected


@pytest.mark.parametrize("dataset", DATA)
def test_code_presets(dataset: str) -> None:
    expected = SAME_IN_EVERY_RUN | CODE | DATA[dataset] | CODE_RATES[dataset] | {"dataset": dataset, "variant": "code"}
    actual = identity(preset(dataset, variant="code"))
    assert actual.pop("lr") == pytest.approx(expected.pop("lr"), rel=1e-12)
    assert actual == expected


# Reference, sections 4 and 5: the other models as their authors trained them, FSVAE and TAID as ESVAE's did again.
OTHERS = {
    ("fsvae", "mnist"): {"batch_size": 250, "lr": 1e-3, "epochs": 150, "mmd_weight": 1.0, "weight_decay": 0.001},
    ("fsvae", "cifar10"): {"batch_size": 250, "lr": 1e-3, "epochs": 300, "horizontal_flip": True},
    ("fsvae", "celeba"): {"batch_size": 64, "lr": 2.56e-4, "epochs": 150, "latent_dim": 128},
    ("taid", "fashion_mnist"): {"batch_size": 250, "lr": 1e-3, "epochs": 150, "n_candidates": 20},
    ("ann_vae", "cifar10"): {"batch_size": 250, "lr": 1e-3, "weight_decay": 0.01, "horizontal_flip": False},
    ("ann_vae", "celeba"): {"batch_size": 250, "lr": 1e-3, "epochs": 150, "horizontal_flip": True},
}


@pytest.mark.parametrize(("model", "dataset"), OTHERS)
def test_presets_of_the_other_models(model: str, dataset: str) -> None:
    actual = identity(preset(dataset, model))
    assert {name: actual[name] for name in OTHERS[model, dataset]} == OTHERS[model, dataset]


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("fsvae", {"lif_surrogate", "strict_threshold"}),
        ("taid", {"lif_surrogate", "strict_threshold"}),
        ("ann_vae", set()),
    ],
)
def test_of_the_other_models_the_variant_changes_only_the_lif(model: str, dataset: str, fields: set[str]) -> None:
    paper, code = identity(preset(dataset, model)), identity(preset(dataset, model, "code"))
    assert {name for name in paper if paper[name] != code[name]} == fields | {"variant"}


def test_the_number_of_epochs_is_identity_where_the_schedule_depends_on_it() -> None:
    assert "epochs" in preset(model="fsvae").identity()
    assert "epochs" not in preset(model="esvae").identity()


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_variant_changes_the_documented_fields_only(dataset: str) -> None:
    paper, code = identity(preset(dataset)), identity(preset(dataset, variant="code"))
    documented = {"variant", "lif_surrogate", "strict_threshold", "sampler_surrogate"}
    if dataset != "digits":
        documented |= {"lr"}
    if "mnist" in dataset:
        documented |= {"latent_dim"}
    assert {name for name in paper if paper[name] != code[name]} == documented


def test_digits_is_small_enough_for_a_demo() -> None:
    config = preset("digits")
    assert (config.batch_size, config.horizontal_flip, config.drop_last) == (25, False, True)
    assert 0 < config.epochs <= 60


def test_the_default_is_the_papers_cifar10_run() -> None:
    assert Config() == preset() == preset("cifar10", "esvae", "paper") == train.parse([]).config


def test_runtime_fields_and_epochs_are_not_part_of_the_identity() -> None:
    names = {field.name for field in dataclasses.fields(Config)}
    assert names - Config().identity().keys() == RUNTIME | {"epochs"}


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_model_has_the_configured_shape(dataset: str) -> None:
    config = preset(dataset, variant="code")
    model, spec = config.model_config(), DATASETS[dataset]
    assert (model.image_channels, model.image_size) == (spec.channels, spec.image_size)
    for name in ("latent_dim", "n_steps", "lif_surrogate", "strict_threshold", "sampler_surrogate", "mmd_weight"):
        assert getattr(model, name) == getattr(config, name)
    assert (model.v_threshold, model.decay) == (0.2, 0.25)


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        ("--lr 0.5", {"lr": 0.5}),
        ("--mmd-weight=0", {"mmd_weight": 0.0}),
        ("--no-horizontal-flip", {"horizontal_flip": False}),
        ("--no-drop-last", {"drop_last": False}),
        ("--strict-threshold --seed 3", {"strict_threshold": True, "seed": 3}),
        ("--train-images 300 --latent-dim 7", {"train_images": 300, "latent_dim": 7}),
        ("--lif-surrogate code", {"lif_surrogate": "code"}),
        ("--epochs 2 --n-steps 1 --batch-size 2", {"epochs": 2, "n_steps": 1, "batch_size": 2}),
        ("--name a --device cpu --backend torch", {"name": "a", "device": "cpu", "backend": "torch"}),
        ("--checkpoint-every 0.5 --tensorboard", {"checkpoint_every": 0.5, "tensorboard": True}),
    ],
)
@pytest.mark.parametrize("order", ["before", "after"])
def test_one_flag_changes_one_field_of_the_preset(flags: str, changed: dict[str, Any], order: str) -> None:
    chosen = ["--dataset=cifar10", "--variant", "code"]
    parts = [flags.split(), chosen] if order == "before" else [chosen, flags.split()]
    config = train.parse([*parts[0], *parts[1]]).config
    assert config == dataclasses.replace(preset("cifar10", variant="code"), **changed)


def test_every_field_is_a_flag_with_a_help_text(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        train.parse(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in text, field.name
    assert "--fresh" in text and "--dry-run" in text


@pytest.mark.parametrize("flag", ["--learning-rate", "--batchsize", "--lambda"])
def test_an_unknown_flag_is_refused_by_name(flag: str) -> None:
    with pytest.raises(UserError, match=f"Unrecognized options: {flag}"):
        train.parse([flag, "1"])


@pytest.mark.parametrize(
    "flags",
    ["--n-steps two", "--lif-surrogate triangle", "--backend numpy", "--epochs 1.5", "--model"],
)
def test_a_value_of_another_kind_is_refused_by_name(flags: str) -> None:
    with pytest.raises(UserError, match=flags.split()[0]):
        train.parse(flags.split())


def test_a_variant_that_there_is_not_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="unknown variant 'original'"):
        train.parse(["--variant", "original"])


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"name": ""}, "--name"),
        ({"epochs": 0}, "--epochs"),
        ({"batch_size": 0}, "--batch-size"),
        ({"batch_size": 1}, "--batch-size"),
        ({"latent_dim": 0}, "--latent-dim"),
        ({"latent_dim": 5000}, "--latent-dim must be at most 4096, got 5000"),
        ({"n_steps": -1}, "--n-steps"),
        ({"n_candidates": 4097}, "--n-candidates"),
        ({"v_threshold": float("inf")}, "--v-threshold"),
        ({"lif_surrogate": "box"}, "--lif-surrogate must be one of paper, code"),
        ({"train_images": 255}, "--train-images 255"),
        ({"decay": 1.0}, "--decay"),
        ({"decay": 1e-17}, "--decay"),
        ({"lr": 0.0}, "--lr"),
        ({"lr": float("nan")}, "--lr"),
        ({"lr": float("inf")}, r"--lr must be at most 1e\+06, got inf"),
        ({"bottleneck_lr_factor": 0.0}, "--bottleneck-lr-factor"),
        ({"weight_decay": -0.1}, "--weight-decay"),
        ({"weight_decay": float("inf")}, "--weight-decay"),
        ({"mmd_weight": float("nan")}, "--mmd-weight"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**32}, "--seed"),
        ({"checkpoint_every": -1.0}, "--checkpoint-every"),
        ({"checkpoint_every": float("nan")}, "--checkpoint-every"),
        ({"keep_every": 0}, "--keep-every"),
    ],
)
def test_values_out_of_range_are_refused_by_flag(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError, match=part):
        Config(**changes)


UNUSED = {
    "--distance kl --n-candidates 7": "--distance, --n-candidates: without effect with --model esvae;",
    "--model fsvae --bottleneck-lr-factor 3": "--bottleneck-lr-factor: without effect with --model fsvae",
    "--model taid --sampler-surrogate code": "--sampler-surrogate: without effect with --model taid",
    "--model fsvae --distance kl --mmd-weight 0.5": "--mmd-weight: without effect with --model fsvae --distance kl;",
    "--model ann_vae --v-threshold 3 --n-steps 99": "--n-steps, --v-threshold: without effect with --model ann_vae;",
}


@pytest.mark.parametrize("flags", UNUSED)
def test_flags_that_the_model_does_not_use_are_refused(flags: str) -> None:
    with pytest.raises(UserError, match=f"^{UNUSED[flags]}"):
        train.parse(flags.split())


@pytest.mark.parametrize(
    "flags",
    [
        "--n-candidates 20",
        "--model fsvae --distance kl",
        "--model fsvae --mmd-weight 0.5",
        "--model ann_vae --variant code",
        "--model ann_vae --recipe fast --n-steps 16",
    ],
)
def test_flags_that_say_what_the_preset_says_are_taken(flags: str) -> None:
    train.parse(flags.split())


def test_an_infinite_time_between_checkpoints_is_never() -> None:
    assert Config(checkpoint_every=float("inf")).checkpoint_every == float("inf")


@pytest.mark.parametrize("names", [("imagenet",), ("mnist", "gan"), ("mnist", "esvae", "original")])
def test_unknown_names_of_presets_are_refused_with_the_known_ones(names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=f"{names[-1]!r}; choose one of"):
        preset(*names)


def test_the_run_folder_is_named_after_the_run() -> None:
    config = Config(dataset="mnist", variant="code", seed=7)
    assert str(config.run_dir) == "runs/mnist-esvae-code-seed7"
    assert str(dataclasses.replace(config, name="x").run_dir) == "runs/x"
    assert str(dataclasses.replace(config, runs_dir="mine").run_dir) == "mine/mnist-esvae-code-seed7"  # from Python


@pytest.mark.parametrize(
    ("name", "value"), [("dataset", "digit"), ("variant", "codes"), ("backend", "nativ"), ("recipe", None)]
)
def test_a_choice_that_there_is_not_is_refused_from_python_too(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"--{name} must be one of .*, got {value!r}"):
        Config(**{name: value})
