"""reproduce.py from a row to a result."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import reproduce as program
from analysis import generation
from analysis.comparison import comparison
from analysis.evaluation import Evaluation, evaluate
from analysis.published import paper_table1
from analysis.release import budget, card, release, remeasure, training_figures
from analysis.reproduction import reproduce
from analysis.rows import Places, Row
from cli import run_program
from errors import UserError
from metrics import inception
from models import load_model, read_metadata, save_model
from training.config import Config
from training.folder import epoch_file, run_lock
from training.loop import fit
from training.stop import Stopped

TINY = {"n_steps": 2, "train_images": 50, "latent_dim": 8}
ROW = Row("tiny", "digits", epochs=2, feeds="this test", label="tiny", overrides=TINY)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    folder = tmp_path_factory.mktemp("reproduce")
    places = Places(folder / "runs", folder / "results", folder / "pretrained")
    assert reproduce((ROW,), places, epochs=1, device="cpu") == []
    return places


def stored_types(places: Places) -> set[torch.dtype]:
    return {tensor.dtype for tensor in load_file(places.pretrained / "tiny.safetensors").values()}


def result(places: Places, name: str = "tiny") -> dict:
    return json.loads((places.results / f"{name}.json").read_text())


def test_a_reduced_run_says_so_everywhere(places: Places) -> None:
    record = result(places)
    assert record["budget"] == "tiny, REDUCED: 1 of 2 epochs"
    assert "REDUCED: 1 of 2 epochs" in (places.pretrained / "tiny.md").read_text()


def test_the_result_is_that_of_the_released_file(places: Places) -> None:
    file = places.pretrained / "tiny.safetensors"
    record, _ = evaluate(Evaluation(file, device="cpu"))
    assert record["reconstruction_loss"] == result(places)["reconstruction_loss"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert result(places)["checkpoint_sha256"] == digest
    assert f"| weights | sha256 {digest} |" in file.with_suffix(".md").read_text()


def test_a_result_carries_what_makes_it_believable(places: Places) -> None:
    record = result(places)
    for key in ("config", "commit", "versions", "hardware", "seed", "date", "epoch_rule", "epochs", "command"):
        assert key in record, key
    loss = record["reconstruction_loss"]
    assert (loss["n_images"], loss["split"]) == (297, "test")
    assert "whole test split" in loss["protocol"]


def test_what_a_result_lacks_is_said_in_it(places: Places) -> None:
    record = result(places)
    assert record["left_out"].keys() == {"fad", "fad_eval"}
    assert all("no autoencoder for digits comes with the project" in reason for reason in record["left_out"].values())


def test_a_card_has_fad_beside_real_images(places: Places) -> None:
    measured = {"value": 12.3456, "protocol": "official: by batch", "n_images": 5120, "feature_network": "a network"}
    text = card(result(places) | {"fad": measured | {"training_images": {"value": 4.607}}})
    wanted = "| fad | 12.346; real training images score 4.607 (official: by batch; n = 5120; a network) |"
    assert wanted in text.splitlines()
    assert "| fad | 12.346 (official" in card(result(places) | {"fad": measured | {"training_images": None}})


def test_released_weights_are_in_half_precision_where_the_number_survives(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, half = places.runs / "tiny", tmp_path / "half.safetensors"
    elsewhere = Places(places.runs, tmp_path / "results", tmp_path / "pretrained")
    save_model(load_model(folder), half, read_metadata(folder)["run"], torch.float16)
    ours, exact = (evaluate(Evaluation(file, device="cpu"))[0]["reconstruction_loss"] for file in (half, folder))
    change = abs(ours["value"] / exact["value"] - 1)
    assert change > 0
    for tolerance, dtype, expected in ((1.1 * change, torch.float16, ours), (0.9 * change, torch.float32, exact)):
        monkeypatch.setattr("analysis.release.HALF_PRECISION_TOLERANCE", tolerance)
        released = release(ROW, folder, elsewhere, device="cpu")
        assert stored_types(elsewhere) == {dtype}
        assert released["reconstruction_loss"] == expected


def test_pictures_lie_beside_the_result(places: Places) -> None:
    for name in ("tiny-reconstructions.png", "tiny-samples.png", "tiny-metrics.csv", "tiny-firing_rates.csv"):
        assert (places.results / name).stat().st_size > 0


def test_more_epochs_go_on_and_replace_the_result(places: Places) -> None:
    before = pd.read_csv(places.runs / "tiny" / "metrics.csv")
    assert reproduce((ROW,), places, device="cpu") == []
    after = pd.read_csv(places.runs / "tiny" / "metrics.csv")
    assert after["epoch"].tolist() == [1, 2]
    assert after.iloc[0].equals(before.iloc[0])
    assert result(places)["budget"] == "tiny, 2 epochs"


def test_a_finished_row_is_left_alone_with_a_word(places: Places, capsys: pytest.CaptureFixture) -> None:
    before = (places.results / "tiny.json").read_bytes()
    reproduce((ROW,), places, device="cpu")
    assert capsys.readouterr().out.startswith(f"== tiny: done, 2 epochs; remove {places.results / 'tiny.json'} to")
    assert (places.results / "tiny.json").read_bytes() == before


def test_a_log_that_lacks_an_epoch_is_no_record_of_the_training(places: Places, tmp_path: Path) -> None:
    folder = shutil.copytree(places.runs / "tiny", tmp_path / "tiny")
    lines = (folder / "metrics.csv").read_text().splitlines()
    (folder / "metrics.csv").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    with pytest.raises(UserError, match=r"metrics.csv has \d of \d epochs"):
        training_figures(folder)


def test_a_row_that_another_process_trains_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    places = Places(tmp_path / "runs", tmp_path / "results", tmp_path / "pretrained")
    fast = replace(ROW, recipe="fast")
    with run_lock(places.runs / "tiny"), run_lock(places.runs / "tiny-of-1-epochs"):
        assert reproduce((ROW,), places, device="cpu") == []
        assert reproduce((fast,), places, epochs=1, device="cpu") == []
    assert capsys.readouterr().out.count("another process is training in") == 2 and not places.results.exists()


def test_no_time_left_runs_nothing_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    places = Places(tmp_path / "runs", tmp_path / "results", tmp_path / "pretrained")
    assert reproduce((ROW,), places, minutes=1e-9, device="cpu") == []
    assert capsys.readouterr().out == "the time is up before tiny\n" and not places.results.exists()


def test_a_row_keeps_weights_of_its_epochs_where_asked(tmp_path: Path) -> None:
    places = Places(tmp_path / "runs", tmp_path / "results", tmp_path / "pretrained")
    assert reproduce((ROW,), places, epochs=1, device="cpu", keep_every=1) == []
    record, _ = evaluate(Evaluation(epoch_file(places.runs / "tiny", 1), metrics=("reconstruction",)))
    assert record["epoch_rule"] == "an epoch kept in training" and result(places)["epoch_rule"] == "last epoch"


def test_a_deadline_inside_a_run_saves_it_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(tmp_path / "runs", tmp_path / "results", tmp_path / "pretrained")
    clock = iter([0.0, 0.0])  # the deadline is set, the row is begun; all later looks are past it
    monkeypatch.setattr("analysis.reproduction.time.monotonic", lambda: next(clock, 1e9))
    assert reproduce((ROW,), places, minutes=1, device="cpu") == []
    assert (places.runs / "tiny" / "last.pt").exists()
    assert not places.results.exists()


def test_finished_epochs_of_an_interrupted_run_are_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(tmp_path / "runs", tmp_path / "results", tmp_path / "pretrained")

    def one_epoch_only(config: Config, deadline: float) -> Path:
        fit(replace(config, epochs=1))
        raise Stopped("time is up", 0)

    monkeypatch.setattr("analysis.reproduction.fit", one_epoch_only)
    assert reproduce((ROW,), places, device="cpu") == []
    assert result(places)["budget"] == "tiny, REDUCED: 1 of 2 epochs"


def test_a_failed_row_has_a_result_that_says_why_and_the_next_row_runs(tmp_path: Path) -> None:
    places = Places(tmp_path / "runs", tmp_path / "results", tmp_path / "pretrained")
    bad = Row("bad", "digits", 1, "", overrides={**TINY, "train_images": 100_000})
    assert reproduce((bad, ROW), places, epochs=1, device="cpu") == ["bad"]
    assert result(places, "bad")["status"] == "failed"
    assert "100000" in result(places, "bad")["error"].replace(",", "")
    assert result(places)["status"] == "done"


@pytest.mark.parametrize("damage", ["no log", "no start"])
def test_released_weights_stay_where_a_run_does_not_say_how_it_was_trained(
    places: Places, tmp_path: Path, damage: str
) -> None:
    folder, there = tmp_path / "run", Places(tmp_path / "runs", tmp_path / "results", tmp_path / "pretrained")
    shutil.copytree(places.runs / "tiny", folder)
    there.pretrained.mkdir()
    (there.pretrained / "tiny.safetensors").write_bytes(b"of an earlier run")
    if damage == "no log":
        (folder / "metrics.csv").unlink()
    else:
        record = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(record | {"starts": []}))
    with pytest.raises(UserError, match="does not say how it was trained"):
        release(ROW, folder, there, "cpu")
    assert (there.pretrained / "tiny.safetensors").read_bytes() == b"of an earlier run"
    assert not there.results.exists()


def test_the_speed_of_a_result_is_that_of_all_its_epochs(places: Places) -> None:
    log, record = pd.read_csv(places.runs / "tiny" / "metrics.csv"), result(places)
    n_images = 50 * record["epochs"]
    assert record["images_per_second"] == pytest.approx(n_images / log["seconds"].sum(), rel=0.02)


def test_pictures_of_people_stay_in_the_run_folder(places: Places, tmp_path: Path) -> None:
    """The row says celeba; the run itself is the digits run, so that no data set is needed."""
    elsewhere = Places(places.runs, tmp_path / "results", tmp_path / "pretrained")
    release(Row("tiny", "celeba", 2, ""), places.runs / "tiny", elsewhere, "cpu")
    assert not list(elsewhere.results.glob("*.png"))
    assert (elsewhere.results / "tiny.json").exists()


@pytest.fixture
def elsewhere(places: Places, tmp_path: Path) -> Places:
    """The released files alone, with a result that another machine measured wrongly."""
    copy = Places(tmp_path / "runs", tmp_path / "results", tmp_path / "pretrained")
    for folder in ("results", "pretrained"):
        shutil.copytree(getattr(places, folder), getattr(copy, folder))
    record = result(places) | {"hardware": "another machine", "training_seconds": 123.0, "left_out": {}}
    record["reconstruction_loss"]["value"] = 9.9
    record["trained"]["hardware"] = "the machine that trained"
    (copy.results / "tiny.json").write_text(json.dumps(record))
    return copy


def test_measuring_again_keeps_what_is_known_of_the_training(places: Places, elsewhere: Places) -> None:
    for _ in range(2):
        remeasure(ROW, elsewhere, "cpu")
        record = result(elsewhere)
        assert record["reconstruction_loss"] == result(places)["reconstruction_loss"]
        assert record["left_out"] == result(places)["left_out"]
        assert (record["training_seconds"], record["trained"]["hardware"]) == (123.0, "the machine that trained")
        assert record["hardware"] == result(places)["hardware"]
        assert {"training's hardware | the machine that trained", f"hardware | {record['hardware']}"} <= {
            line.strip("| ") for line in (elsewhere.pretrained / "tiny.md").read_text().splitlines()
        }
        assert (elsewhere.pretrained / "tiny.md").read_text() == card(record)
    assert not elsewhere.runs.exists()


def test_fid_is_measured_where_its_network_is_given_and_stays(
    elsewhere: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Here by a network whose features are the means of 13 strips of an image."""
    monkeypatch.setattr(
        generation, "load_inception", lambda file, _device: {Path("w.pth"): torch.nn.Linear(1, 1)}[file]
    )
    monkeypatch.setattr(inception, "N_FEATURES", 13)
    monkeypatch.setattr(inception, "pooled_features", lambda _, x: x.unflatten(2, (13, 23)).mean((1, 3, 4)))
    monkeypatch.setenv("ESVAE_DATA_DIR", str(tmp_path))
    measured = remeasure(ROW, elsewhere, "cpu", Path("w.pth"))
    assert measured["fid"]["value"] > 0 and measured["fid"]["n_images"] == 5000
    text = (elsewhere.pretrained / "tiny.md").read_text()
    real = measured["fid"]["training_images"]["value"]
    assert f"| fid | {measured['fid']['value']:.3f}; real training images score {real:.3f} (paper: floats" in text

    when = {"measured": {key: measured[key] for key in ("date", "commit")}}
    monkeypatch.setattr(inception, "N_FEATURES", 10_000)  # more than there are images: not available
    for weights in (None, Path("w.pth")):
        remeasure(ROW, elsewhere, "cpu", weights)
        assert result(elsewhere)["fid"] == measured["fid"] | when
        said = f"measured {measured['date']} at commit {measured['commit']}"
        assert f"fid kept, {said}" in capsys.readouterr().out
        assert f"{real:.3f}; {said} (paper" in (elsewhere.pretrained / "tiny.md").read_text()


def test_only_a_released_result_is_measured_again(places: Places, elsewhere: Places) -> None:
    with pytest.raises(UserError, match=r"other has no result to measure again: `python reproduce.py other` makes one"):
        remeasure(replace(ROW, name="other"), elsewhere, "cpu")
    record = result(elsewhere)
    save_model(load_model(places.pretrained / "tiny.safetensors"), elsewhere.pretrained / "tiny.safetensors", {})
    with pytest.raises(UserError, match=r"tiny\.safetensors are not the weights that .*tiny\.json is of: remove both"):
        remeasure(ROW, elsewhere, "cpu")
    assert result(elsewhere) == record
    places_without = replace(elsewhere, pretrained=elsewhere.pretrained / "none")
    with pytest.raises(UserError, match=r"tiny\.safetensors is not there, .*: remove .*tiny\.json, then"):
        remeasure(ROW, places_without, "cpu")


@pytest.mark.parametrize(
    ("flag", "value"), [("--minutes", "2"), ("--epochs", "2"), ("--precision", "bf16"), ("--keep-every", "2")]
)
def test_measuring_again_takes_nothing_of_training(flag: str, value: str, capsys: pytest.CaptureFixture) -> None:
    assert run_program(program.main, ["--evaluate", flag, value]) == 2
    said = "error: --evaluate trains nothing: give it with --device, --inception-weights and names of rows alone\n"
    assert capsys.readouterr().err == said


def test_the_network_of_fid_is_for_measuring_again(capsys: pytest.CaptureFixture) -> None:
    assert run_program(program.main, ["esvae-mnist-fast", "--inception-weights", "weights.pth"]) == 2
    assert capsys.readouterr().err == "error: --inception-weights is for --evaluate: give both\n"


def test_a_reduced_budget_is_not_more_than_the_whole(capsys: pytest.CaptureFixture) -> None:
    assert run_program(program.main, ["esvae-cifar10", "esvae-mnist-fast", "--epochs", "4"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: --epochs 4 is more than the 3 of esvae-mnist-fast: it")


@pytest.mark.parametrize("flags", [("esvae-mnist",), ("--minutes", "3"), ("--epochs", "1"), ("--evaluate",)])
def test_the_list_is_asked_for_alone(flags: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    assert run_program(program.main, ["--list", *flags]) == 2
    assert capsys.readouterr().err == "error: --list shows every row and runs nothing: give it alone\n"


@pytest.mark.parametrize(
    ("model", "epochs", "scheduled", "label"),
    [
        ("esvae", 2, 2, "tiny, 2 epochs"),
        ("esvae", 1, 1, "tiny, REDUCED: 1 of 2 epochs"),
        ("esvae", 1, 2, "tiny, REDUCED: 1 of 2 epochs"),  # its rate is constant: an epoch is an epoch
        ("fsvae", 1, 1, "tiny, REDUCED: 1 of 2 epochs"),
        ("fsvae", 1, 2, "tiny, REDUCED: 1 of 2 epochs by the schedule of 2"),
    ],
)
def test_a_budget_label_names_the_recipe_and_what_is_missing(
    model: str, epochs: int, scheduled: int, label: str
) -> None:
    row = replace(ROW, model=model)
    assert budget(row, {"epochs": epochs, "config": {"model": model, "epochs": scheduled}}) == label


def test_the_table_holds_the_papers_rows_and_baselines(places: Places) -> None:
    table = comparison(result(places) | {"dataset": "cifar10"})
    assert set(table["model"]) >= {"ESVAE", "FSVAE", "TAID", "ANN VAE", "SGAD", "SWGAN", "mean training image"}
    row = table[table["source"] == "ESVAE Table I"].iloc[0]
    assert (row["reconstruction_loss"], row["fad"]) == (0.045, 14.74)


def test_the_paper_has_no_digits() -> None:
    assert paper_table1("digits").empty


def test_the_precision_of_training_stands_in_result_card_and_command(tmp_path: Path) -> None:
    places = Places(tmp_path / "runs", tmp_path / "results", tmp_path / "pretrained")
    assert reproduce((ROW,), places, epochs=1, device="cpu", precision="fp32") == []
    (folder,) = places.runs.iterdir()
    written = (folder / "config.json").read_text()
    (folder / "config.json").write_text(written.replace('"precision": "fp32"', '"precision": "bf16"'))  # as on a GPU
    release(ROW, folder, places, "cpu")
    record, text = result(places), (places.pretrained / "tiny.md").read_text()
    assert record["trained"]["precision"] == "bf16"
    assert "images/s in bf16 |" in text and "`python reproduce.py tiny --epochs 1 --precision bf16`" in text
    assert reproduce((ROW,), places, epochs=2, device="cpu") == []
    record, text = result(places), (places.pretrained / "tiny.md").read_text()
    assert record["trained"]["precision"] == "bf16 then fp32"
    assert "images/s in bf16 then fp32 |" in text and "`python reproduce.py tiny`" in text


def test_a_run_that_went_on_elsewhere_names_both_machines(tmp_path: Path) -> None:
    places = Places(tmp_path / "runs", tmp_path / "results", tmp_path / "pretrained")
    reproduce((ROW,), places, epochs=1, device="cpu")
    record = next(places.runs.glob("*/config.json"))
    here = json.loads(record.read_text())["starts"][0]["hardware"]
    record.write_text(record.read_text().replace(here, "a GPU"))
    reproduce((ROW,), places, epochs=2, device="cpu")
    assert result(places)["trained"]["hardware"] == f"a GPU then {here}"
    assert f"| training's hardware | a GPU then {here} |" in (places.pretrained / "tiny.md").read_text()


def test_a_start_that_finished_no_epoch_has_not_trained_what_is_released(tmp_path: Path) -> None:
    places = Places(tmp_path / "runs", tmp_path / "results", tmp_path / "pretrained")
    reproduce((ROW,), places, epochs=1, device="cpu")
    (record,) = places.runs.glob("*/config.json")
    here = json.loads(record.read_text())["starts"][0]["hardware"]
    record.write_text(record.read_text().replace(here, "a GPU"))
    with pytest.raises(Stopped):
        fit(ROW.config(2, runs_dir=places.runs, device="cpu"), deadline=0.0)
    assert [start["epoch"] for start in json.loads(record.read_text())["starts"]] == [0, 1]
    assert training_figures(record.parent)["trained"]["hardware"] == "a GPU"
