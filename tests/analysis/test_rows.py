"""experiments.toml and where its rows stand."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.row_results import read_done
from analysis.rows import EXPERIMENTS_FILE, Places, read_plan
from analysis.status import status_table
from errors import UserError
from provenance import PROVENANCE
from tests.records import done_result, number
from training.config import Config
from training.folder import run_lock

ROOT = Path(__file__).parent.parent.parent
TOML = """
[assumed_images_per_second]
cpu = { 32 = 50 }
cuda = { 32 = 5000 }
[[run]]
name = "a"
dataset = "digits"
epochs = 4
label = "a test's"
feeds = "nothing"
overrides = { lr = 0.01 }
"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "runs", tmp_path / "results", tmp_path / "pretrained")


@pytest.fixture
def plan(tmp_path: Path):
    (tmp_path / "e.toml").write_text(TOML)
    return read_plan(tmp_path / "e.toml")


def line(plan, places: Places) -> dict:
    return status_table(plan, places, "cpu").iloc[0].to_dict()


def write_log(places: Places, epochs: int, *hardware: str) -> None:
    folder = places.runs / "a"
    folder.mkdir(parents=True)
    rows = [f"{epoch},{0.1},{25.0}" for epoch in range(1, epochs + 1)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,train_loss,images_per_second", *rows]) + "\n")
    starts = [{"hardware": name, "epoch": 0} for name in hardware or ("a processor, 1 of 2 cores",)]
    (folder / "config.json").write_text(json.dumps({"config": {}, "starts": starts}))


def write_result(places: Places, **record) -> None:
    places.results.mkdir(parents=True)
    (places.results / "a.json").write_text(json.dumps(done_result(**record)))


def test_every_committed_row_makes_a_configuration() -> None:
    plan = read_plan(ROOT / EXPERIMENTS_FILE)
    for row in plan.rows:
        config = row.config()
        assert (config.dataset, config.epochs, config.name) == (row.dataset, row.epochs, row.name)


@pytest.mark.parametrize(
    "line",
    ['recipe = "fast"', 'model = "fsvae"', 'variant = "code"', "epochs = 299", "overrides = { v_threshold = 0.3 }"],
)
def test_what_is_not_the_papers_recipe_needs_a_label(line: str, tmp_path: Path) -> None:
    epochs = "" if "epochs" in line else "epochs = 300"
    (tmp_path / "e.toml").write_text(f'{TOML}\n[[run]]\nname = "b"\ndataset = "mnist"\n{epochs}\nfeeds = ""\n{line}\n')
    with pytest.raises(UserError, match="row 'b' is not a run: \"paper's recipe\" is not what it is: give it a label"):
        read_plan(tmp_path / "e.toml")


def test_overrides_reach_the_configuration(plan) -> None:
    assert plan.rows[0].config().lr == 0.01
    assert plan.rows[0].config(epochs=2, device="cpu").epochs == 2


def test_a_row_that_nobody_ran(plan, places) -> None:
    assert line(plan, places) | {"recipe": ""} == {
        "name": "a",
        "epochs": "0/4",
        "status": "not run",
        "hours left": round(4 * 1500 / 50 / 3600, 2),
        "recipe": "",
        "feeds": "nothing",
    }


def test_a_log_with_no_speed_is_damaged(plan, places) -> None:
    write_log(places, epochs=1)
    file = places.runs / "a" / "metrics.csv"
    file.write_text(file.read_text().replace("25", "0"))
    with pytest.raises(UserError, match=r"metrics\.csv is damaged \(0.* images/s\)"):
        line(plan, places)


def test_a_row_half_way_is_partial_and_estimated_at_its_own_speed(plan, places) -> None:
    write_log(places, epochs=1)
    found = line(plan, places)
    assert (found["status"], found["epochs"]) == ("partial", "1/4")
    assert found["hours left"] == round(3 * 1500 / 25 / 3600, 2)


@pytest.mark.parametrize("then", [(), ("a processor, 1 of 2 cores",)])
def test_a_row_half_way_on_another_kind_of_device_is_estimated_at_the_speed_of_this_one(plan, places, then) -> None:
    write_log(places, 1, "NVIDIA H100 80GB HBM3", *then)
    assert line(plan, places)["hours left"] == round(3 * 1500 / 50 / 3600, 2)


def test_hours_are_estimated_at_the_speed_of_another_row_of_the_network(tmp_path: Path, places) -> None:
    (tmp_path / "e.toml").write_text(TOML + '[[run]]\nname = "b"\ndataset = "mnist"\nepochs = 300\nfeeds = ""\n')
    write_result(places, images_per_second=200.0)
    found = status_table(read_plan(tmp_path / "e.toml"), places, "cpu").set_index("name")["hours left"]
    assert found["a"] == 0 and found["b"] == round(300 * 60_000 / 200 / 3600, 2)


def test_the_speed_of_another_kind_of_device_is_no_estimate(plan, places) -> None:
    origin = {key: done_result()[key] for key in PROVENANCE}
    write_result(places, epochs=1, images_per_second=9000.0, trained=origin | {"hardware": "NVIDIA H100 80GB HBM3"})
    assert line(plan, places)["hours left"] == round(4 * 1500 / 50 / 3600, 2)  # as assumed of a CPU


def test_a_reduced_result_without_its_run_folder_leaves_everything_to_do(plan, places) -> None:
    write_result(places, epochs=1, images_per_second=50.0)
    found = line(plan, places)
    assert (found["epochs"], found["hours left"]) == ("1/4", round(4 * 1500 / 50 / 3600, 2))
    write_log(places, epochs=1)
    assert line(plan, places)["hours left"] == round(3 * 1500 / 25 / 3600, 2)


def test_a_row_somebody_trains_is_running(plan, places) -> None:
    for folder in ("a", "a-of-2-epochs"):
        with run_lock(places.runs / folder):
            assert line(plan, places)["status"] == "running"
    assert line(plan, places)["status"] == "not run"


@pytest.mark.parametrize(
    ("record", "status"),
    [({}, "done"), ({"epochs": 2}, "partial"), ({"status": "failed", "epochs": 0}, "failed")],
)
def test_a_result_decides_the_status(plan, places, record: dict, status: str) -> None:
    write_result(places, **record)
    assert line(plan, places)["status"] == status


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epochs = 4", ""), "not a run"),
        (("epochs = 4", "epochs = 0"), "--epochs"),
        (("feeds =", "fees ="), "unknown fields fees"),
        (("{ lr = 0.01 }", "{ learning = 1 }"), "not a run"),
        (('dataset = "digits"', 'dataset = "x"'), "unknown data set"),
        (("[[run]]", "[[run"), "cannot read"),
        (("{ lr = 0.01 }", '{ schedule = "foo" }'), "schedule is 'foo'"),
        (("{ lr = 0.01 }", "{ lr = true }"), "lr is True"),
        (("{ lr = 0.01 }", '{ horizontal_flip = "no" }'), "horizontal_flip is 'no'"),
        (("{ lr = 0.01 }", "{ batch_size = 25.0 }"), "batch_size is 25.0"),
        (("{ lr = 0.01 }", '{ model = "taid" }'), "model cannot be overridden"),
        (("{ lr = 0.01 }", '{ device = "cpu" }'), "device cannot be overridden"),
        (("epochs = 4", "epochs = 1.5"), "epochs is 1.5"),
        (('label = "a test\'s"', "label = 3"), "label is 3"),
        (('name = "a"', 'name = "../a"'), "its name is to be"),
        (('name = "a"', 'name = ""'), "its name is to be"),
        (("32 = 50", "64 = 25"), r"\[assumed_images_per_second.cpu\] has no image size 32"),
        (("cuda = {", "gpu = {"), r"\[assumed_images_per_second.cuda\] has no image size 32"),
        (("cpu = { 32 = 50 }", "cpu = 50"), r"\[assumed_images_per_second\] of cpu and cuda"),
        (
            ("[[run]]", '[[run]]\nname = "a"\ndataset = "digits"\nlabel = "ours"\nepochs = 1\nfeeds = ""\n[[run]]'),
            "twice",
        ),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "e.toml").write_text(TOML.replace(*change))
    with pytest.raises(UserError, match=message):
        read_plan(tmp_path / "e.toml")


def test_a_damaged_result_is_named(plan, places) -> None:
    write_result(places)
    (places.results / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is damaged"):
        line(plan, places)


def test_a_result_without_what_a_table_shows_is_damaged(plan, places) -> None:
    for name in sorted(done_result().keys() - {"commit"}):
        record = done_result()
        del record[name]
        places.results.mkdir(parents=True, exist_ok=True)
        (places.results / "a.json").write_text(json.dumps(record))
        with pytest.raises(UserError, match=rf"a\.json is damaged \(no '{name}'\)"):
            line(plan, places)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {}},
        {"baselines": {}},
        {"images_per_second": None},
        {"images_per_second": 0},
        {"training_seconds": float("nan")},
        {"reconstruction_loss": None},
        {"reconstruction_loss": number(True)},
        {"fad": {}},
        {"fad": number("x")},
        {"fad": number(1.0, training_images={"value": None})},
        {"fid": number(1.0) | {"n_images": "all"}},
        {"inception_score": number(float("inf"))},
        {"trained": {"hardware": "a GPU"}},
        {"epochs": True},
    ],
    ids=str,
)
def test_a_result_with_something_else_where_a_table_looks_is_damaged(changes, plan, places) -> None:
    write_result(places, **changes)
    with pytest.raises(UserError, match=r"a\.json is damaged \("):
        line(plan, places)


def test_a_failed_row_needs_no_numbers(plan, places) -> None:
    places.results.mkdir()
    (places.results / "a.json").write_text('{"status": "failed", "epochs": 0}')
    assert line(plan, places)["status"] == "failed"


def test_committed_weights_and_results_are_of_committed_code() -> None:
    places = Places(results=ROOT / "results", pretrained=ROOT / "pretrained")
    for row in read_plan(ROOT / EXPERIMENTS_FILE).rows:
        if record := read_done(row, places):
            for made in (record, record["trained"]):
                assert re.fullmatch("[0-9a-f]{40}( then [0-9a-f]{40})*", made["commit"]), row.name


def test_a_committed_result_is_of_the_configuration_that_its_row_makes() -> None:
    places, compared = Places(results=ROOT / "results", pretrained=ROOT / "pretrained"), []
    for row in read_plan(ROOT / EXPERIMENTS_FILE).rows:
        if record := read_done(row, places):
            # A field that is younger than the result had the default; epochs may be fewer than the row's.
            stored, wanted = Config().to_dict() | record["config"], row.config().to_dict()
            names = Config().identity().keys() - {"epochs"}
            assert {name: stored[name] for name in names} == {name: wanted[name] for name in names}, row.name
            compared.append(row.recipe)
    assert {"paper", "fast"} <= set(compared)


def test_rows_are_selected_by_name(plan) -> None:
    both = replace(plan, rows=(*plan.rows, replace(plan.rows[0], name="b")))
    assert [row.name for row in both.select(("b", "a"))] == ["b", "a"]
    assert both.select(()) == both.rows
    with pytest.raises(UserError, match="no row c"):
        both.select(("a", "c"))
