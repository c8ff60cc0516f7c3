import re

import numpy as np
import pytest
import torch
from torch import Tensor

from neurons import Rectangular, lif_surrogate, sampler_surrogate
from neurons.lif import lif_kernels
from tests.neurons.lifs import make_lif


def gradient(surrogate: Rectangular, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(surrogate(x).sum(), x)[0]


def cupy_threshold(variant: str) -> tuple[float, Rectangular]:
    return make_lif(variant)._cupy_threshold()


@pytest.mark.parametrize(("strict", "at_zero"), [(False, 1.0), (True, 0.0)])
def test_step_at_and_around_zero(strict: bool, at_zero: float) -> None:
    tiny = torch.finfo(torch.float32).smallest_normal
    x = torch.tensor([-1.0, -tiny, -0.0, 0.0, tiny, 1.0])
    assert Rectangular(0.5, strict=strict)(x).tolist() == [0, 0, at_zero, at_zero, 1, 1]


def test_derivative_is_one_over_width_strictly_inside_the_box() -> None:
    x = torch.tensor([-0.75, -0.74, -0.5, -0.26, -0.25, 0.0], dtype=torch.float64)
    assert gradient(Rectangular(0.5, centre=-0.5), x).tolist() == [0, 2, 2, 2, 0, 0]


@pytest.mark.parametrize("surrogate", [Rectangular(0.5), Rectangular(1.0, -0.2, True), Rectangular(3.0, 0.7)], ids=str)
def test_box_has_unit_area(surrogate: Rectangular) -> None:
    x = torch.linspace(-4, 4, 800_001, dtype=torch.float64)
    torch.testing.assert_close(torch.trapezoid(gradient(surrogate, x), x).item(), 1.0, rtol=0, atol=1e-4)


def test_lif_boxes_on_the_membrane_are_those_of_the_two_variants(variant: str) -> None:
    membrane = torch.tensor([-0.51, -0.49, -0.06, -0.04, 0.0, 0.2, 0.44, 0.46, 0.49, 0.51])
    expected = {"paper": [0, 0, 0, 2, 2, 2, 2, 0, 0, 0], "code": [0, 1, 1, 1, 1, 1, 1, 1, 1, 0]}[variant]
    assert gradient(lif_surrogate(variant, 0.2, strict=False), membrane - 0.2).tolist() == expected


def test_sampler_boxes_are_eq_8_and_the_released_one(variant: str) -> None:
    difference = torch.tensor([-0.51, -0.49, -0.26, -0.24, 0.0, 0.24, 0.26, 0.49, 0.51])
    expected = {"paper": [0, 0, 0, 2, 2, 2, 0, 0, 0], "code": [0, 1, 1, 1, 1, 1, 1, 1, 0]}[variant]
    assert gradient(sampler_surrogate(variant), difference).tolist() == expected


def test_gradient_from_above_is_multiplied_by_the_box() -> None:
    x = torch.tensor([-1.0, 0.1, 0.2], requires_grad=True)
    (Rectangular(0.5)(x) * torch.tensor([3.0, 5.0, 7.0])).sum().backward()
    assert x.grad.tolist() == [0, 10, 14]


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_a_box_without_width_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match="width"):
        Rectangular(width)


def test_shifted_keeps_the_box_where_it_was_on_the_membrane() -> None:
    surrogate, membrane = Rectangular(1.0, centre=-0.2, strict=True), torch.linspace(-1, 1, 1999, dtype=torch.float64)
    moved = surrogate.shifted(0.0625)
    assert torch.equal(gradient(moved, membrane - 0.2625), gradient(surrogate, membrane - 0.2))
    assert moved(torch.zeros(1)) == 1


def test_cupys_threshold_at_or_above_decides_as_the_variants_own_test(variant: str) -> None:
    at = np.float32(0.2)
    membrane = [at]
    for _ in range(5):
        membrane = [np.nextafter(membrane[0], np.float32(-1)), *membrane, np.nextafter(membrane[-1], np.float32(1))]
    threshold, _ = cupy_threshold(variant)
    assert float(np.float32(threshold)) == threshold or variant == "paper"
    for m in membrane:
        assert (m >= np.float32(threshold)) == (m > at if variant == "code" else m >= at)


def test_cupys_box_is_the_variants_own_on_the_membrane(variant: str) -> None:
    edges = torch.tensor([-0.5, -0.05, 0.45, 0.5], dtype=torch.float64)
    membrane = torch.cat([torch.linspace(-1, 1, 1999, dtype=torch.float64), edges - 1e-9, edges + 1e-9])
    threshold, surrogate = cupy_threshold(variant)
    expected = gradient(lif_surrogate(variant, 0.2, strict=False), membrane - 0.2)
    assert torch.equal(gradient(surrogate, membrane - threshold), expected)


def test_cuda_statement_in_float_is_the_box_and_names_no_type() -> None:
    surrogate = Rectangular(1.0, centre=-0.2)
    statement = surrogate.cuda_codes(y="const float y", x="x", dtype="float")
    form = r"const float y = fabsf\(x - \((\S+)f\)\) < (\S+)f \? (\S+)f : 0\.0f;"
    centre, half, height = map(float, re.fullmatch(form, statement).groups())
    x = torch.linspace(-1, 1, 1999, dtype=torch.float64)
    assert torch.equal(((x - centre).abs() < half) * height, gradient(surrogate, x))


def test_cuda_kernels_compile_for_an_h100(variant: str) -> None:
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    include = _cuda_headers()
    for kernel in lif_kernels(cupy_threshold(variant)[1]):
        _, program = nvrtc.nvrtcCreateProgram(kernel.full_codes.encode(), b"kernel.cu", 0, [], [])
        options = [b"--gpu-architecture=sm_90", f"-I{include}".encode()]
        (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = bytes(size + 2)  # NVRTC writes into it, and Python shares bytes of length 1
        nvrtc.nvrtcGetProgramLog(program, log)
        assert result == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()


@pytest.mark.parametrize("dtype", ["half2", "bfloat16"])
def test_cuda_statement_in_another_type_is_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match=f"compute in float, not {dtype}"):
        Rectangular(0.5).cuda_codes("y", "x", dtype)


def _cuda_headers() -> str:
    runtime = pytest.importorskip("nvidia.cuda_runtime")
    folder = f"{next(iter(runtime.__path__))}/include"
    try:
        open(f"{folder}/cuda_fp16.h").close()
    except OSError:
        pytest.skip(f"no CUDA headers in {folder}")
    return folder
