"""tdBN against its formula in float64, differentiated by autograd."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from neurons import ThresholdDependentBatchNorm

V_THRESHOLD = 0.2


def random_input(*shape: int) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    scale = torch.linspace(0.5, 3, shape[2]).view(-1, *[1] * (len(shape) - 3))
    return (torch.randn(shape, generator=rng) + torch.randn(shape[2], generator=rng).view(scale.shape)) * scale


INPUTS: dict[str, Callable[[], Tensor]] = {
    "vector": lambda: random_input(4, 6, 5),
    "image of 64 pixels": lambda: random_input(3, 2, 5, 8, 8),
    "image of 15 pixels": lambda: random_input(3, 2, 5, 3, 5),
    "image of 4 pixels, channels_last": lambda: channels_last(random_input(3, 2, 5, 2, 2)),
    "image of 192 pixels, channels_last": lambda: channels_last(random_input(3, 2, 5, 16, 12)),
    "every second column": lambda: random_input(3, 2, 5, 4, 8)[..., ::2],
}


def channels_last(x: Tensor) -> Tensor:
    return x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


def make_norm(n_features: int = 5, alpha: float = 1.0, dtype: torch.dtype = torch.float64):
    """tdBN with a weight, bias and running statistics that are not the initial ones."""
    norm = ThresholdDependentBatchNorm(n_features, V_THRESHOLD, alpha).to(dtype)
    with torch.no_grad():
        for index, tensor in enumerate((norm.weight, norm.bias, norm.running_mean, norm.running_var)):
            tensor.copy_(torch.linspace(0.5 + index, 1.5, n_features))
    return norm


def unbiased(x: Tensor) -> Tensor:
    return x.transpose(0, 2).flatten(1).var(1)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
@pytest.mark.parametrize("name", INPUTS)
def test_training_output_statistics_and_gradients_are_the_formulas(name: str, alpha: float, literal_tdbn) -> None:
    norm, x = make_norm(alpha=alpha), INPUTS[name]().double().requires_grad_()
    old_mean, old_var = norm.running_mean.clone(), norm.running_var.clone()
    expected, mean, _ = literal_tdbn(x, norm.weight, norm.bias, alpha * V_THRESHOLD)
    y = norm(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, 0.9 * old_mean + 0.1 * mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(norm.running_var, 0.9 * old_var + 0.1 * unbiased(x), rtol=1e-12, atol=0)
    inputs, weight = (x, norm.weight, norm.bias), x.detach().cos() + x.detach()
    found = torch.autograd.grad((y * weight).sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weight).sum(), inputs), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", INPUTS)
def test_float32_training_is_the_formula_to_float32_accuracy(name: str, literal_tdbn) -> None:
    norm, x = make_norm(dtype=torch.float32), INPUTS[name]().requires_grad_()
    y = norm(x)
    weight = x.detach().cos()
    found = torch.autograd.grad((y * weight).sum(), (x, norm.weight, norm.bias))
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, norm.weight, norm.bias)]
    expected, _, _ = literal_tdbn(*exact, V_THRESHOLD)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-6)
    true = torch.autograd.grad((expected * weight).sum(), exact)
    for gradient, reference in zip(found, true, strict=True):
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-5 * reference.abs().max().item())


@pytest.mark.parametrize("name", INPUTS)
def test_evaluation_uses_the_running_statistics_and_leaves_them(name: str, literal_tdbn) -> None:
    norm, x = make_norm(alpha=2.0).eval(), INPUTS[name]().double().requires_grad_()
    before = norm.running_mean.clone(), norm.running_var.clone()
    expected, _, _ = literal_tdbn(x, norm.weight, norm.bias, 2 * V_THRESHOLD, before)
    y = norm(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])
    inputs, weight = (x, norm.weight, norm.bias), x.detach().cos()
    found = torch.autograd.grad((y * weight).sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weight).sum(), inputs), rtol=1e-11, atol=1e-12)


def test_the_factor_stands_outside_a_weight_that_starts_at_one() -> None:
    x = INPUTS["vector"]()
    small, large = ThresholdDependentBatchNorm(5, V_THRESHOLD), ThresholdDependentBatchNorm(5, V_THRESHOLD, alpha=2)
    assert torch.equal(large.weight, torch.ones(5))
    assert torch.equal(large.bias, torch.zeros(5))
    assert torch.equal(large.running_var, torch.ones(5))
    gradients = []
    for norm in (small, large):
        y = norm(x)
        torch.testing.assert_close(y.std((0, 1), correction=0), torch.full((5,), norm.scale), rtol=1e-4, atol=0)
        gradients.append(torch.autograd.grad((y * x).sum(), norm.weight)[0])
    assert small.scale == pytest.approx(0.2)
    torch.testing.assert_close(gradients[1], 2 * gradients[0])
    normal = (x - x.mean((0, 1))) / x.std((0, 1), correction=0)
    torch.testing.assert_close(gradients[0], 0.2 * (normal * x).sum((0, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["vector", "image of 15 pixels", "image of 4 pixels, channels_last"])
def test_x_bias_does_what_adding_it_to_the_input_does(name: str, training: bool) -> None:
    def run(inside: bool) -> tuple[Tensor, ...]:
        norm = make_norm().train(training)
        x = INPUTS[name]().double().requires_grad_()
        x_bias = torch.linspace(-1, 2, 5, dtype=torch.float64, requires_grad=True)
        shape = x_bias.view(-1, *[1] * (x.dim() - 3))
        y = norm(x, x_bias) if inside else norm(x + shape)
        gradients = torch.autograd.grad((y * x.detach().cos()).sum(), (x_bias, x, norm.weight, norm.bias))
        return *gradients, y.detach(), norm.running_mean, norm.running_var

    found, expected = run(inside=True), run(inside=False)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    assert (found[0] == 0).all() == training
    assert expected[0].any()  # in training the plain form's is rounding noise


@pytest.mark.parametrize("x_bias", [None, torch.linspace(-1, 2, 5, dtype=torch.float64)])
@pytest.mark.parametrize("training", [True, False])
def test_n_repeats_equals_an_input_repeated_in_time(training: bool, x_bias: Tensor | None) -> None:
    x = INPUTS["image of 15 pixels"]()[:1].double()
    once, repeated = make_norm().train(training), make_norm().train(training)
    y, expected = once(x, x_bias, n_repeats=16), repeated(x.expand(16, -1, -1, -1, -1), x_bias)
    torch.testing.assert_close(y.expand_as(expected), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(once.running_mean, repeated.running_mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(once.running_var, repeated.running_var, rtol=1e-12, atol=0)
    if training:
        plain = make_norm()
        plain(x, x_bias)
        assert not torch.allclose(plain.running_var, repeated.running_var, rtol=1e-4)


def test_a_single_value_per_channel_gives_the_bias_and_finite_statistics() -> None:
    norm = make_norm()
    y = norm(torch.full((1, 1, 5), 7.0, dtype=torch.float64))
    torch.testing.assert_close(y.flatten(), norm.bias)
    torch.testing.assert_close(norm.running_var, 0.9 * torch.linspace(3.5, 1.5, 5).double(), rtol=1e-6, atol=0)


def test_a_constant_channel_gets_no_infinite_gradient() -> None:
    norm, x = make_norm(dtype=torch.float32), torch.ones(4, 6, 5, requires_grad=True)
    norm(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert norm.running_var.isfinite().all()
