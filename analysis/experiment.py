"""What all experiments share: their settings, from the command line or a notebook, and how they end."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro
from torch import Tensor

from analysis.experiment_result import ANALYSIS_RESULTS, Result, check_replaceable, write_result
from analysis.formats import as_text
from analysis.subjects import Subject, load_subjects
from cli import parse_arguments
from data import load_split
from errors import UserError, check_at_least, check_seed, flag_of
from training.config import Backend, Dataset
from training.device import describe_backend


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment with its settings. A subclass adds settings of its own, and `measure`.

    Attributes:
        name: of the experiment; its files are called <name>-<data set>.
        spiking: whether its models must have a spiking latent.
    """

    name: ClassVar[str]
    spiking: ClassVar[bool] = True

    checkpoint: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="PATH")] = ()
    """run folder or model file; give it once for each model of the comparison"""
    dataset: Dataset | None = None
    """test images to use; those of the data set that the models were trained on if None"""
    data_dir: Path | None = None
    """where the data sets are or go; $ESVAE_DATA_DIR or ./datasets if None"""
    n_images: int | None = None
    """use the first so many test images only; all if None"""
    seed: int = 0
    """of all noise"""
    out: Path = ANALYSIS_RESULTS
    """folder for the result and the figures"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA if there is one"""
    backend: Backend = "auto"
    """what runs the LIF neurons; auto takes native on a CPU and triton on a GPU if they can run there, else scan"""

    def __post_init__(self) -> None:
        if isinstance(self.checkpoint, str | Path):
            raise UserError(f"checkpoint is a tuple of paths, one for each model: (Path({str(self.checkpoint)!r}),)")
        check_at_least(1, n_images=self.n_images)
        check_seed(self.seed)

    def measure(self, subjects: list[Subject]) -> Result:
        """Everything that the experiment has to say of the subjects; writes nothing."""
        raise NotImplementedError

    def load_subjects(self) -> list[Subject]:
        """The models to compare; errors as `analysis.subjects.load_subjects`."""
        return load_subjects(self.checkpoint, self.dataset, self.device, self.backend, spiking=self.spiking)

    def load_images(self, subjects: list[Subject]) -> Tensor:
        """The test images to use, uint8 [N, C, H, W] on the subjects' device."""
        first = subjects[0]
        return load_split(first.dataset, "test", self.data_dir, limit=self.n_images, device=first.device).images

    def settings(self) -> dict[str, Any]:
        """What decides the numbers beside models and images: the seed and a subclass's own fields."""
        shared = {field.name for field in fields(Experiment)}
        own = [field.name for field in fields(self) if field.name not in shared]
        return {name: getattr(self, name) for name in ("seed", *own)}

    def changed_settings(self) -> list[str]:
        """Those of `settings` that are not the defaults, by name."""
        defaults = type(self)().settings()
        return [name for name, value in self.settings().items() if value != defaults[name]]

    def file_name(self, subjects: list[Subject]) -> str:
        """Of its result, without a suffix."""
        return f"{self.name}-{subjects[0].dataset}"


def experiment_main(kind: type[Experiment], description: str | None) -> Callable[[list[str]], None]:
    """The `main` of an experiment's module, for `cli.run_program`: parse, measure, print, write.

    What is in `ANALYSIS_RESULTS` was measured by the default settings, so that nobody need look which they were. A
    result is replaced by one of models of the same names with the same settings, and by no other.
    """

    def main(argv: list[str]) -> None:
        experiment = parse_arguments(kind, argv, description)
        if experiment.out == ANALYSIS_RESULTS and (changed := experiment.changed_settings()):
            flags = ", ".join(flag_of(name) for name in changed)
            raise UserError(
                f"{ANALYSIS_RESULTS} is for results by the default settings: give --out FOLDER beside {flags}"
            )
        subjects = experiment.load_subjects()
        name = experiment.file_name(subjects)
        check_replaceable(experiment.out, name, subjects, experiment.settings(), experiment.n_images)
        print(describe_backend(experiment.backend, subjects[0].device), flush=True)
        measured = experiment.measure(subjects)
        result = replace(measured, record=measured.record | {"n_images": experiment.n_images})
        print(as_text(result.table), result.record["protocol"], sep="\n\n")
        for path in write_result(experiment.out, name, result):
            print(path)

    return main
