"""From result files to tables: statistics over seeds, what stands beside them, and the page that holds them."""

import csv
import hashlib
import io
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import tables
from analysis.experiment_result import write_experiment
from analysis.experiment_tables import TABLE2, TABLE3, experiment_table
from analysis.formats import as_latex, markdown_table
from analysis.full_budget import Table, full_budget_table
from analysis.published import PAPER
from analysis.release import card
from analysis.row_results import read_done
from analysis.rows import Places, Plan, Row, read_plan
from analysis.summaries import NOT_MEASURED, SUMMARIES, summaries
from analysis.table1 import HEADINGS, table1
from analysis.table_layout import latex_layout, markdown_layout
from cli import run_program
from errors import UserError
from tests.records import done_result, number

ROOT = Path(__file__).parent.parent.parent
LOSSES = (0.0131, 0.0140, 0.0125)
SEED = Row("esvae-mnist-1", "mnist", 300, "Table I", seed=1)
SEEDS = (SEED, replace(SEED, name="esvae-mnist-2", seed=2), replace(SEED, name="esvae-mnist-3", seed=3))
NETWORK = "autoencoder for mnist, by Kamata et al. (mnist_64.pth)"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "results").mkdir()
    return Places(tmp_path / "runs", tmp_path / "results", tmp_path / "pretrained")


def write_result(places: Places, row: Row, loss: float, **changes: Any) -> None:
    measured = {"hardware": "the machine that measured", "reconstruction_loss": number(loss)}
    origin = {"hardware": "one GPU", "date": "2026-01-01", "versions": {}, "commit": "c"}
    record = done_result(name=row.name, epochs=row.epochs, trained=origin, **measured)
    (places.results / f"{row.name}.json").write_text(json.dumps(record | changes))


def lines_of(places: Places, *rows: Row, origin: str = "ours") -> list[dict[str, Any]]:
    table = table1(Plan(rows, {}), places)
    return table[(table["origin"] == origin) & (table["dataset"] == "mnist")].to_dict("records")


def markdown_of(places: Places, *rows: Row) -> str:
    return markdown_layout(table1(Plan(rows, {}), places), HEADINGS)


def test_seeds_make_one_line_with_mean_deviation_n_and_difference(places: Places) -> None:
    for row, loss in zip(SEEDS, LOSSES, strict=True):
        write_result(places, row, loss)
    (line,) = lines_of(places, *SEEDS)
    assert line["reconstruction_loss"] == pytest.approx(statistics.mean(LOSSES))
    assert line["reconstruction_loss_std"] == pytest.approx(statistics.stdev(LOSSES))
    assert line["reconstruction_loss_difference"] == pytest.approx(statistics.mean(LOSSES) - 0.013)
    assert (line["n_seeds"], line["reconstruction_loss_n"], line["seeds"]) == (3, 3, "1, 2, 3")
    assert (line["epochs"], line["hardware"], line["status"]) == (300, "one GPU", "done")
    assert "0.0132 ± 0.00075 (+0.0002)" in markdown_of(places, *SEEDS)


def test_a_run_on_a_part_of_the_images_has_no_difference_to_the_paper(places: Places) -> None:
    part = replace(SEED, overrides={"train_images": 9_000})
    write_result(places, part, 0.02)
    (line,) = lines_of(places, part)
    assert line["reconstruction_loss"] == 0.02 and pd.isna(line["reconstruction_loss_difference"])


def test_one_seed_has_no_deviation_and_says_how_many_are_planned(places: Places) -> None:
    write_result(places, SEED, 0.02)
    (line,) = lines_of(places, *SEEDS)
    assert pd.isna(line["reconstruction_loss_std"]) and (line["n_seeds"], line["n_planned"]) == (1, 3)
    text = markdown_of(places, *SEEDS)
    assert "0.02 (+0.007)" in text and "1 of 3" in text and "±" not in text


def test_a_mean_never_mixes_budgets_or_recipes(places: Places) -> None:
    other = replace(SEED, name="another", label="another recipe")
    write_result(places, SEEDS[0], 0.01)
    write_result(places, SEEDS[1], 0.05, epochs=20)
    write_result(places, other, 0.09)
    lines = lines_of(places, *SEEDS[:2], other)
    assert [(line["epochs"], line["reconstruction_loss"]) for line in lines] == [(300, 0.01), (20, 0.05), (300, 0.09)]
    assert "20 of 300" in markdown_of(places, *SEEDS[:2])


def test_a_mean_never_mixes_protocols(places: Places) -> None:
    write_result(places, SEEDS[0], 0.01)
    write_result(places, SEEDS[1], 0.01, reconstruction_loss=number(0.01) | {"protocol": "another one"})
    with pytest.raises(UserError, match=r"different protocols.*--evaluate esvae-mnist-1 esvae-mnist-2"):
        lines_of(places, *SEEDS)


def full_budget_of(places: Places, *rows: Row) -> list[list[str]]:
    text = full_budget_table((Table("Table I", table1(Plan(rows, {}), places), HEADINGS),), Plan(rows, {}))
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]


def test_what_had_its_full_budget_by_a_published_recipe_stands_beside_the_published_number(places: Places) -> None:
    for row, loss in zip(SEEDS, LOSSES, strict=True):
        write_result(places, row, loss, fad=number(33.0, "own", own_network=True))
    (line,) = full_budget_of(places, *SEEDS)
    expected = ["0.013", "0.0132 ± 0.00075", "+1.5%", "3", "300"]
    assert line == ["MNIST", "ESVAE", "Table I: reconstruction loss", *expected]


def test_both_fids_stand_beside_the_published_one(places: Places) -> None:
    write_result(places, SEED, 0.013, fid=number(90.0), fid_original=number(120.0))
    _, *lines = full_budget_of(places, SEED)
    assert [(line[2], *line[3:6]) for line in lines] == [
        ("Table I: FID", "117.8", "90", "-23.6%"),
        ("Table I: FID, original size", "117.8", "120", "+1.9%"),
    ]


def test_reduced_budgets_and_recipes_of_our_own_have_not_had_the_full_budget(places: Places) -> None:
    ours = replace(SEED, name="ours", recipe="fast", label="ours")
    part = replace(SEED, name="part", label="a part", overrides={"train_images": 9_000})
    write_result(places, SEED, 0.013, epochs=299)
    write_result(places, ours, 0.013)
    write_result(places, part, 0.013)
    assert full_budget_of(places, SEED, ours, part) == []


def test_failed_rows_and_rows_not_run_say_so(places: Places) -> None:
    failure = {"name": SEEDS[0].name, "status": "failed", "epochs": 0, "error": "the loss became nan"}
    (places.results / f"{SEEDS[0].name}.json").write_text(json.dumps(failure))
    other = replace(SEED, name="another", label="another recipe")
    failed, not_run = lines_of(places, SEED, other)
    assert (failed["status"], not_run["status"]) == ("failed", "not run")
    assert failed["recipe"] == "paper's recipe; failed: the loss became nan"
    assert pd.isna(failed["reconstruction_loss"]) and pd.isna(not_run["reconstruction_loss"])
    text = markdown_of(places, SEED, other)
    (row,) = [line.split(" | ") for line in text.splitlines() if line.startswith("| ESVAE, ours")]
    assert row[3].strip() == "failed" and "\n\nNot run yet: `another`.\n" in text


def test_fad_by_our_own_autoencoder_has_a_column_of_its_own_and_no_difference(places: Places) -> None:
    write_result(places, SEED, 0.013, fad=number(33.0, "own", own_network=True))
    (line,) = lines_of(places, SEED)
    assert line["fad_own"] == 33.0 and pd.isna(line["fad_own_difference"])
    assert pd.isna(line["fad"]) and pd.isna(line["fad_difference"])
    write_result(places, SEED, 0.013, fad=number(33.0, NETWORK, own_network=False))
    (line,) = lines_of(places, SEED)
    assert line["fad_difference"] == pytest.approx(33.0 - 10.99) and pd.isna(line["fad_own"])
    assert "own autoencoder" not in markdown_of(places, SEED)


def test_a_metric_that_not_every_seed_has_says_its_n(places: Places) -> None:
    write_result(places, SEEDS[0], 0.01, fad=number(12.0, NETWORK))
    write_result(places, SEEDS[1], 0.01)
    assert "12 (+1.01), n = 1" in markdown_of(places, *SEEDS[:2])


def test_the_papers_rows_keep_their_digits(places: Places) -> None:
    with (PAPER / "table1.csv").open(newline="") as file:
        wanted = [row for row in csv.DictReader(file) if row["dataset"] == "mnist"]
    found = {line["model"]: line for line in lines_of(places, origin="paper")}
    assert found.keys() == {row["model"] for row in wanted} >= {"SGAD", "SWGAN"}
    for row in wanted:
        for metric in ("reconstruction_loss", "inception_score", "fid", "fad"):
            assert found[row["model"]][metric] == pytest.approx(float(row[metric] or "nan"), nan_ok=True)
    assert "| 100.29 |" in markdown_of(places)


def test_newer_systems_stand_below_with_their_protocol(places: Places) -> None:
    (line,) = lines_of(places, SEED, origin="newer")
    assert (line["fid"], line["fad"]) == (3.99, 5.71) and "clean-fid" in line["protocol"]
    part = markdown_of(places, SEED).split("###")[1]
    assert part.rindex("ESVAE, paper") < part.index("FSDDIM T=8, newer") and "clean-fid 10k PNG" in part


def test_a_schedule_that_was_not_run_to_its_end_is_a_line_of_its_own(places: Places) -> None:
    rows = [replace(row, model="fsvae", epochs=20) for row in SEEDS]
    for row, (epochs, scheduled) in zip(rows, ((2, 2), (2, 2), (2, 20)), strict=True):
        config = {"seed": row.seed, "model": "fsvae", "epochs": scheduled}
        write_result(places, row, 0.01, epochs=epochs, config=config)
    whole, stopped = lines_of(places, *rows)
    assert (whole["n_seeds"], stopped["n_seeds"]) == (2, 1) and whole["n_planned"] == stopped["n_planned"] == 3
    assert "schedule" not in whole["recipe"] and stopped["recipe"].endswith(", by the schedule of 20 epochs")


def test_protocols_of_our_numbers_stand_below_the_table(places: Places) -> None:
    write_result(places, SEED, 0.013, fad=number(33.0, NETWORK))
    text = markdown_of(places, SEED)
    assert f"- FAD: a protocol; n = 5,120, test split, {NETWORK}" in text
    assert text.count("- reconstruction loss: ") == 1


def test_a_protocol_stands_once_with_its_data_sets(places: Places) -> None:
    rows = (SEED, replace(SEED, name="b", dataset="cifar10"), replace(SEED, name="c", dataset="fashion_mnist"))
    for row in rows:
        write_result(places, row, 0.013)
    write_result(places, rows[1], 0.013, fad=number(33.0, "its network", own_network=True))
    notes = [line for line in markdown_of(places, *rows).splitlines() if line.startswith("- ")]
    assert notes == [
        "- reconstruction loss: a protocol; n = 5,120, test split",
        "- FAD, own autoencoder: a protocol; n = 5,120, test split, its network (CIFAR-10)",
    ]


def write_shuffles(places: Places, *subjects: tuple[str, int | None], **more: Any) -> None:
    described = [
        {
            "label": f"ESVAE ({name})",
            "name": name,
            "dataset": "mnist",
            "epochs": epochs,
            "sha256": hashlib.sha256(b"weights").hexdigest(),
            "config": {"seed": 5, "variant": "paper"},
            "model": {"model": "esvae"},
        }
        for name, epochs in subjects
    ]
    rows = [
        {"model": s["label"], "latent": latent, "loss_vs_original": loss + k / 100, "loss_vs_vanilla": loss / 2}
        for k, s in enumerate(described)
        for latent, loss in (("vanilla", 0.01), ("time-shuffled", 0.02))
    ]
    record = {"dataset": "mnist", "subjects": described, "settings": {}, "protocol": "by shuffling"}
    record["hardware"] = "a laptop"
    write_experiment(places.results / "analysis", "time_shuffle-mnist", record | more, pd.DataFrame(rows))


def test_what_an_experiment_found_is_a_line_a_model(places: Places) -> None:
    assert summaries(places.results)["time_shuffle"] == NOT_MEASURED
    write_shuffles(places, ("esvae-mnist-1", 300), ("unlisted", 7), n_images=2000)
    head, _, *lines = summaries(places.results)["time_shuffle"].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *lines)]
    assert cells[0][:5] == ["data set", "model", "images", "against the original: vanilla", "time-shuffled"]
    assert cells[1][:5] == ["MNIST", "ESVAE (esvae-mnist-1)", "2,000", "0.0100", "0.0200"]
    assert cells[2][:5] == ["MNIST", "ESVAE (unlisted)", "2,000", "0.0200", "0.0300"]


def test_a_result_that_lacks_what_a_summary_shows_is_one_line(places: Places) -> None:
    write_shuffles(places, ("esvae-mnist-1", 300))
    with pytest.raises(UserError, match=r"time_shuffle-mnist\.json or \.csv is damaged \(no 'n_images'\)"):
        summaries(places.results)


def test_table2_takes_the_shuffled_latents_over_seeds(places: Places) -> None:
    write_shuffles(places, ("esvae-mnist-1", 300), ("esvae-mnist-2", 300), ("unlisted", 7))
    everything = read_plan(ROOT / "experiments.toml").rows + SEEDS
    table = experiment_table(TABLE2, Plan(everything, {}), places)
    ours = table[(table["dataset"] == "mnist") & (table["origin"] == "ours")]
    seeds, unlisted = ours[ours["model"] == "ESVAE"].to_dict("records")
    assert (seeds["runs"], seeds["n_seeds"], seeds["epochs"]) == ("esvae-mnist-1, esvae-mnist-2", 2, 300)
    assert seeds["loss_vs_original"] == pytest.approx(0.025) and seeds["vanilla"] == pytest.approx(0.015)
    assert seeds["loss_vs_original_std"] == pytest.approx(0.01 / 2**0.5)
    assert seeds["loss_vs_original_difference"] == pytest.approx(0.025 - 0.0105)
    assert seeds["loss_vs_vanilla_difference"] == pytest.approx(0.01 - 0.0021)
    assert (unlisted["recipe"], unlisted["seeds"], unlisted["hardware"]) == ("ESVAE (unlisted)", "5", "a laptop")
    assert unlisted["protocol"] == "by shuffling"


def test_a_model_of_unknown_training_and_replaced_weights_say_so(places: Places) -> None:
    write_shuffles(places, ("published", None), ("esvae-mnist-1", 300), ("esvae-mnist-2", 300))
    for row, weights in zip(SEEDS, (b"other weights", b"weights"), strict=False):
        write_result(places, row, 0.02, checkpoint_sha256=hashlib.sha256(weights).hexdigest())
    plan = Plan(read_plan(ROOT / "experiments.toml").rows + SEEDS, {})
    table = experiment_table(TABLE2, plan, places)
    text = markdown_layout(table, TABLE2.headings)
    found = {line.split(" | ")[1].strip(): line for line in text.splitlines() if "ESVAE, ours" in line}
    assert " unknown |" in found["`published`"]
    assert "paper's recipe; weights that are replaced by now" in found["`esvae-mnist-1`"]
    assert " 0.02 " in found["`esvae-mnist-1`"]  # and no difference to the paper's
    assert full_budget_table([Table("Table II", table, TABLE2.headings)], plan).count("| MNIST ") == 2
    assert "replaced" not in found["`esvae-mnist-2`"] and "0.04 (+0.0295)" in found["`esvae-mnist-2`"]


@pytest.mark.parametrize("kind", [TABLE2, TABLE3])
def test_what_was_not_measured_says_so(kind: Any, places: Places) -> None:
    table = experiment_table(kind, read_plan(ROOT / "experiments.toml"), places)
    ours = table[table["origin"] == "ours"]
    assert set(ours["status"]) == {"not run"} and len(ours) == len(pd.read_csv(PAPER / f"{kind.name}.csv"))
    assert "\n\nNot run yet: FSVAE, ESVAE.\n" in markdown_layout(table, kind.headings)


def test_latex_has_as_many_cells_in_every_line_and_no_raw_special_character(places: Places) -> None:
    for row, loss in zip(SEEDS, LOSSES, strict=True):
        write_result(places, replace(row, label="50 % & more_or_less"), loss)
    plan = Plan(tuple(replace(row, label="50 % & more_or_less") for row in SEEDS), {})
    text = as_latex(latex_layout(table1(plan, places), HEADINGS), left=3)
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    n_columns = len(text.split("{tabular}{")[1].split("}")[0])
    assert {line.replace("\\&", "").count("&") for line in body} == {n_columns - 1}
    assert "50 \\% \\& more\\_or\\_less" in text and "$\\pm$" in text
    assert text.isascii()


def test_markdown_aligns_the_first_columns_left() -> None:
    lines = markdown_table(["a", "bb", "cc"], [["x", 1, 2]], left=2).splitlines()
    assert lines == ["| a | bb | cc |", "| - | -- | -: |", "| x | 1  |  2 |"]


LISTS = ("full_budget", "rate_convergence", "runs", *tables.TRIALS)
PAGE = "\n".join(
    f"by hand {name}\n<!-- begin {name} -->\nold\n<!-- end {name} -->"
    for name in ("table1", "table2", "table3", "runs")
)


def run(places: Places, page: Path) -> int:
    return run_program(tables.main, ["--results", str(places.results), "--document", str(page)])


def test_the_command_renews_marked_sections_alone(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    page = tmp_path / "page.md"
    page.write_text(f"{PAGE}\nthe end")
    assert run(places, page) == 0
    text = page.read_text()
    assert "old" not in text and text.endswith("the end") and "by hand table2\n<!-- begin table2 -->" in text
    assert "No run has a result yet." in text and "### CelebA" in text
    written = {file.name for file in (places.results / "tables").iterdir()}
    assert written == {f"table{k}.{kind}" for k in (1, 2, 3) for kind in ("md", "csv", "tex")} | {
        f"{name}.md" for name in (*LISTS, *SUMMARIES)
    }
    table = pd.read_csv(io.StringIO((places.results / "tables" / "table1.csv").read_text()))
    assert set(table[table["origin"] == "ours"]["status"]) == {"not run"}
    assert run(places, page) == 0 and page.read_text() == text


@pytest.mark.parametrize("damage", [("<!-- end table2 -->", ""), ("<!-- begin runs -->", ""), ("by hand runs", PAGE)])
def test_a_page_without_its_markers_is_refused_and_nothing_is_written(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, damage: tuple[str, str]
) -> None:
    monkeypatch.chdir(ROOT)
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace(*damage))
    before = page.read_text()
    assert run(places, page) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {page} must have a line <!-- begin")
    assert page.read_text() == before and not (places.results / "tables").exists()


def test_results_of_ones_own_leave_the_projects_page_alone(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(tables, "PAGES", {tmp_path / "page.md": ("runs",)})  # the project's, which is not even there
    assert run_program(tables.main, ["--results", str(places.results)]) == 0
    assert (places.results / "tables" / "table1.md").is_file() and not (tmp_path / "page.md").exists()


def test_no_page_is_one_line(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(ROOT)
    assert run(places, tmp_path / "absent.md") == 2
    assert "cannot read" in capsys.readouterr().err


def test_the_committed_page_and_tables_are_what_the_command_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    files = tables.make(Path("results"))
    for name, content in files.items():
        assert (Path("results/tables") / name).read_text() == content, f"{name}: run `python -m analysis.tables`"
    found = tables.pages(tables.Arguments(), tables.sections(files))
    assert {page.name for page in found} == {"README.md", "results.md", "tables.md", "trials.md", "experiments.md"}
    for page, names in found.items():
        assert tables.renewed(page.read_text(), names, page) == page.read_text(), page


def test_the_committed_cards_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for row in read_plan().rows:
        if record := read_done(row, Places()):
            written = Path("pretrained") / f"{row.name}.md"
            assert written.read_text() == card(record), f"reproduce.py --evaluate {row.name}"
