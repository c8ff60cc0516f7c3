"""The Frechet distance against closed forms, and the statistics that it compares."""

import numpy as np
import pytest
import torch
from torch import Tensor

from errors import UserError
from metrics import frechet_distance, statistics


def covariance(n: int, rank: int, seed: int) -> Tensor:
    factor = torch.randn(n, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.T


def rotation(n: int) -> Tensor:
    noise = torch.randn(n, n, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return torch.linalg.qr(noise)[0]


def vector(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gaussians_in_one_dimension() -> None:
    # (m1 - m2)^2 + (s1 - s2)^2 for standard deviations s.
    assert frechet_distance([1.0], [[4.0]], [3.5], [[9.0]]) == pytest.approx(2.5**2 + 1, abs=1e-12)


@pytest.mark.parametrize("zeros", [0, 30])
def test_gaussians_with_common_axes(zeros: int) -> None:
    """Where the covariances commute: |mu1 - mu2|^2 + sum of (sqrt(a) - sqrt(b))^2 over their eigenvalues."""
    a, b = vector(64, 1).square(), vector(64, 2).square()
    a[:zeros] = 0
    turn, mu1, mu2 = rotation(64), vector(64, 3), vector(64, 4)
    s1, s2 = (turn * values @ turn.T for values in (a, b))
    expected = (mu1 - mu2).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance(mu1, s1, mu2, s2) == pytest.approx(expected.item(), abs=1e-8)


def test_gaussians_without_common_axes() -> None:
    """In two dimensions Tr (s1 s2)^(1/2) = sqrt(Tr(s1 s2) + 2 sqrt(det s1 det s2))."""
    s1, s2 = covariance(2, 3, seed=1), covariance(2, 3, seed=2)
    assert not torch.allclose(s1 @ s2, s2 @ s1, rtol=0.01)
    root_trace = ((s1 @ s2).trace() + 2 * (s1.det() * s2.det()).sqrt()).sqrt()
    expected = s1.trace() + s2.trace() - 2 * root_trace
    assert frechet_distance([0, 0], s1, [0, 0], s2) == pytest.approx(expected.item(), abs=1e-8)


@pytest.mark.parametrize("rank", [128, 100, 1])
def test_equal_gaussians_are_no_distance_apart(rank: int) -> None:
    mu, s = vector(128, 1), covariance(128, rank, seed=2)
    assert 0 <= frechet_distance(mu, s, mu, s) < 1e-9


@pytest.mark.parametrize("rank", [64, 20])
def test_the_distance_is_symmetric(rank: int) -> None:
    one, other = (vector(64, 1), covariance(64, rank, 2)), (vector(64, 3), covariance(64, 40, 4))
    there, back = frechet_distance(*one, *other), frechet_distance(*other, *one)
    assert there > 1 and there == pytest.approx(back, rel=1e-12)


def test_point_masses_are_as_far_apart_as_points() -> None:
    zero = torch.zeros(3, 3)
    assert frechet_distance([0, 0, 0], zero, [1, 2, 2], zero) == 9


def test_numpy_and_single_precision_are_taken() -> None:
    s = covariance(4, 6, 1)
    expected = frechet_distance(torch.zeros(4), s, torch.ones(4), 2 * s)
    assert frechet_distance(np.zeros(4), s.numpy(), np.ones(4, np.float32), 2 * s.numpy()) == expected


@pytest.mark.parametrize("shapes", [((3,), (3, 3), (2,), (2, 2)), ((3,), (3, 3), (3,), (3,)), ((1, 3), (3, 3)) * 2])
def test_shapes_must_fit(shapes: tuple) -> None:
    with pytest.raises(ValueError, match=r"must be \[D\], \[D, D\]"):
        frechet_distance(*(torch.zeros(shape) for shape in shapes))


def test_values_must_be_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        frechet_distance([0.0, float("nan")], torch.eye(2), [0.0, 0.0], torch.eye(2))


def test_statistics_are_numpys() -> None:
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) + 3
    mean, covariance = statistics(features)
    values = features.numpy().astype(np.float64)
    assert mean.dtype == covariance.dtype == torch.float64
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(values, rowvar=False), rtol=1e-10)  # divides by N - 1


@pytest.mark.parametrize(("n", "enough"), [(8, False), (9, True)])
def test_too_few_images_are_refused(n: int, enough: bool) -> None:
    features = torch.randn(n, 8, generator=torch.Generator().manual_seed(0))
    if enough:
        assert torch.linalg.matrix_rank(statistics(features)[1]) == 8
        return
    assert torch.linalg.matrix_rank(torch.cov(features.T.double())) == 7
    with pytest.raises(UserError, match="8 images are too few for the covariance of 8 features: give at least 9"):
        statistics(features)


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(UserError, match="1 images are too few for the covariance of 1 features: give at least 2"):
        statistics(torch.zeros(1, 1))


def test_one_feature_has_a_covariance_of_one_row() -> None:
    assert statistics(torch.tensor([[1.0], [3.0]]))[1].tolist() == [[2.0]]


def test_features_must_be_finite() -> None:
    with pytest.raises(UserError, match="not finite"):
        statistics(torch.full((10, 2), float("inf")))
