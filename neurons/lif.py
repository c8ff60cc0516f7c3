"""The paper's leaky integrate-and-fire neuron on SpikingJelly's LIFNode. The only file that imports SpikingJelly.

Written against SpikingJelly 0.0.0.0.14, the last release with a CuPy backend.
"""

from importlib import metadata

import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn

from errors import UserError
from neurons.fused import fused_lif, fused_norm_lif
from neurons.layer import FusedLayer
from neurons.library import native_obstacle
from neurons.native import NativeLayer
from neurons.scan import LIFConstants, lif_scan, sum_over_time
from neurons.surrogate import Rectangular
from neurons.tdbn import ThresholdDependentBatchNorm
from neurons.triton_support import triton_interprets, triton_obstacle

try:
    from spikingjelly.activation_based.auto_cuda import neuron_kernel as cupy_kernels
except ImportError:  # SpikingJelly 2: LIF() explains
    cupy_kernels = None

SPIKINGJELLY_VERSION = "0.0.0.0.14"
BACKENDS = ("scan", "native", "triton", "torch", "cupy")
DYNAMICS = ("neuronal_charge", "neuronal_fire", "neuronal_reset")  # SpikingJelly's steps of a neuron


class LIF(neuron.LIFNode):
    """Multi-step LIF neurons, Eq. 1 to 3: hard reset to 0, reset inside the gradient.

    Input current [T, N, ...] -> spikes [T, N, ...]. The membrane `v` [N, ...] persists between calls, as in
    every SpikingJelly node, until `reset()`; `store_v_seq` records `v_seq` [T, N, ...].

    The paper's tau = 0.25 is a decay factor, m = 0.25 v + x; SpikingJelly writes that as tau = 4/3 with
    `decay_input=False`. Backends, the same in training and evaluation:

    - `scan`: `neurons.scan.lif_scan`, any device, membrane in float32 at least;
    - `native`: the same in C, tdBN included, on a CPU in float32; other types run as `scan` does;
    - `triton`: as `native` on a GPU, in Triton; float32, bfloat16 or float16 with the membrane in float32;
    - `torch`: SpikingJelly's own loop over single steps;
    - `cupy`: SpikingJelly's CUDA kernels, in float32.

    Args:
        surrogate: step and its surrogate derivative; its `strict` says whether a membrane equal to the
            threshold stays silent.
        v_threshold: firing threshold.
        decay: factor that the membrane keeps from one step to the next, 0 < decay < 1.
        backend: one of BACKENDS.

    Raises:
        UserError: another SpikingJelly release is installed, or the native, Triton or CuPy backend cannot run here.
    """

    def __init__(
        self, surrogate: Rectangular, v_threshold: float = 0.2, decay: float = 0.25, backend: str = "scan"
    ) -> None:
        _check_spikingjelly_version()
        self._decay = decay  # 1 - 1 / tau would be rounded
        super().__init__(
            tau=1 / (1 - decay),
            decay_input=False,
            v_threshold=float(v_threshold),
            v_reset=0.0,
            surrogate_function=surrogate,
            detach_reset=False,
            step_mode="m",
            backend=backend,
            store_v_seq=False,
        )

    @property
    def decay(self) -> float:
        """What is left of the membrane after a step."""
        return self._decay

    @property
    def supported_backends(self) -> tuple[str, ...]:
        return BACKENDS if self.step_mode == "m" else ("torch",)

    @property
    def backend(self) -> str:
        return self._backend

    @backend.setter
    def backend(self, value: str) -> None:
        if value not in self.supported_backends:
            raise UserError(f"unknown LIF backend {value!r}; choose one of {', '.join(self.supported_backends)}")
        if value == "cupy":
            _check_cupy()
        if value == "native":
            _check_native()
        if value == "triton":
            _check_triton()
        self._backend = value

    def single_step_forward(self, x: Tensor) -> Tensor:
        # SpikingJelly's evaluation path has no surrogate gradient and always fires at >=.
        return neuron.BaseNode.single_step_forward(self, x)

    def multi_step_forward(
        self,
        x_seq: Tensor,
        norm: ThresholdDependentBatchNorm | None = None,
        x_bias: Tensor | None = None,
        n_repeats: int = 1,
    ) -> Tensor:
        """Input current [T, N, ...] -> spikes [T, N, ...]; `self.v` moves on to the last step.

        Args:
            x_seq: input current, or what `norm` makes it of. [1, N, ...] if `n_repeats` steps have the same.
            norm: tdBN to apply first, as norm(x_seq, x_bias, n_repeats). `native` and `triton` do both in
                one pass and never call the module, so hooks on it stay silent.
            x_bias: see tdBN.
            n_repeats: number of steps that x_seq stands for, if more than its own.

        Raises:
            ValueError: a membrane left by a batch of another shape, or `norm` for another number of channels.
            UserError: on another backend than `torch`, a neuron that is not the one that `__init__` made.
        """
        self._check_input(x_seq, norm)
        if n_repeats > 1 and len(x_seq) > 1:
            raise ValueError(f"only a single step can be repeated, x_seq has {len(x_seq)}")
        if self._is_fused(x_seq, norm):
            return self._fused(x_seq, norm, x_bias, n_repeats)
        if norm is not None:
            x_seq = norm(x_seq, x_bias, n_repeats)
        x_seq = x_seq.expand(len(x_seq) * n_repeats, *x_seq.shape[1:])
        if self.backend == "torch":
            return neuron.BaseNode.multi_step_forward(self, x_seq)
        self.v_float_to_tensor(x_seq[0])
        return self._cupy(x_seq) if self.backend == "cupy" else self._scan(x_seq)

    def summed(
        self, x_seq: Tensor, coefficients: Tensor, norm: ThresholdDependentBatchNorm, x_bias: Tensor | None = None
    ) -> Tensor:
        """Sum over t of coefficients[t] * spikes[t], [N, ...], in the type of x_seq; other arguments as above.

        `native` and `triton` add the spikes up as they make them and store none, unless hooks of this module watch.

        Raises:
            ValueError: not one coefficient for each step, or some that want a gradient; shapes as above.
        """
        self._check_input(x_seq, norm)
        if coefficients.shape != x_seq.shape[:1] or coefficients.requires_grad:
            raise ValueError(f"wants {len(x_seq)} coefficients without a gradient, got {coefficients}")
        hooks = self._forward_hooks, self._forward_pre_hooks, self._backward_hooks, self._backward_pre_hooks
        if any(hooks) or not self._is_fused(x_seq, norm):
            return sum_over_time(coefficients, self(x_seq, norm, x_bias)).to(x_seq)
        return self._fused(x_seq, norm, x_bias, 1, coefficients.float().contiguous()).to(x_seq)

    def _check_input(self, x_seq: Tensor, norm: ThresholdDependentBatchNorm | None) -> None:
        """Kernels take sizes from x_seq: of other tensors that are smaller, they would read the memory behind."""
        if self.backend != "torch" and (changed := self._changed()):
            raise UserError(
                f"backend {self.backend!r} computes a LIF with hard reset to 0 and a box as surrogate, and leaves out "
                f"what is changed here ({', '.join(changed)}): use backend 'torch'"
            )
        if isinstance(self.v, Tensor) and self.v.shape != x_seq.shape[1:]:
            found = f"{list(self.v.shape)}, not {list(x_seq.shape[1:])} as a step of the current"
            raise ValueError(f"the membrane is {found}: reset_state() before a batch of another shape")
        if norm is not None and len(norm.weight) != x_seq.shape[2]:
            raise ValueError(f"the norm is of {len(norm.weight)} channels, the current has {x_seq.shape[2]}")

    def _changed(self) -> list[str]:
        """What a subclass or an assignment has made other than kernels know it."""
        made = {"tau": 1 / (1 - self.decay), "v_reset": 0.0, "decay_input": False, "detach_reset": False}
        changed = [name for name, value in made.items() if getattr(self, name) != value]
        changed += [name for name in DYNAMICS if getattr(type(self), name) is not getattr(LIF, name)]
        return changed if isinstance(self.surrogate_function, Rectangular) else [*changed, "surrogate_function"]

    def _is_fused(self, x_seq: Tensor, norm: ThresholdDependentBatchNorm | None) -> bool:
        """Whether compiled kernels do tdBN and LIF together."""
        if self.backend == "triton":
            _check_triton_input(x_seq)
            return True
        return self.backend == "native" and self._is_native(x_seq, norm)

    def _is_native(self, x_seq: Tensor, norm: ThresholdDependentBatchNorm | None) -> bool:
        """Whether the C code knows these types: float32 everywhere."""
        if x_seq.device.type != "cpu":
            raise UserError("backend 'native' runs on CPU tensors only; use backend 'scan'")
        tensors = (x_seq, self.v, None if norm is None else norm.weight)
        return all(tensor.dtype == torch.float32 for tensor in tensors if isinstance(tensor, Tensor))

    def _fused(
        self,
        x_seq: Tensor,
        norm: ThresholdDependentBatchNorm | None,
        x_bias: Tensor | None,
        n_repeats: int,
        coefficients: Tensor | None = None,
    ) -> Tensor:
        self._check_no_trace()
        at_rest = isinstance(self.v, float) and self.v == 0.0
        if not at_rest:
            self.v_float_to_tensor(x_seq[0])
        v = None if at_rest else self.v
        kernels = self._kernels()
        if norm is None:
            out, self.v = fused_lif(x_seq, v, self.constants(), n_repeats, kernels)
        else:
            how = n_repeats, kernels, coefficients
            out, self.v = fused_norm_lif(x_seq, v, self.constants(), norm, x_bias, *how)
        return out

    def _kernels(self) -> type[FusedLayer]:
        if self.backend == "native":
            return NativeLayer
        from neurons.triton_layer import TritonLayer  # imports Triton, which others need not have

        return TritonLayer

    def _scan(self, x_seq: Tensor) -> Tensor:
        self._check_no_trace()
        spikes, self.v = lif_scan(x_seq, self.v, self.constants())
        return spikes

    def _check_no_trace(self) -> None:
        if self.store_v_seq:
            raise UserError(f"the {self.backend} backend keeps no membrane trace; use backend 'torch' to record v_seq")

    def constants(self) -> LIFConstants:
        """What the recurrence needs to know."""
        box = self.surrogate_function
        middle = self.v_threshold + box.centre
        return LIFConstants(self.decay, self.v_threshold, box.strict, middle - box.width / 2, middle + box.width / 2)

    def _cupy(self, x_seq: Tensor) -> Tensor:
        _check_cupy_input(x_seq)
        v_threshold, surrogate = self._cupy_threshold()
        if self.forward_kernel is None:
            self.forward_kernel, self.backward_kernel = lif_kernels(surrogate)
        spikes, v_seq = cupy_kernels.LIFNodeATGF.apply(
            x_seq.flatten(1),
            self.v.flatten(),
            v_threshold,
            0.0,
            1 / self.tau,
            self.forward_kernel,
            self.backward_kernel,
        )
        v_seq = v_seq.reshape(x_seq.shape)
        if self.store_v_seq:
            self.v_seq = v_seq
        self.v = v_seq[-1].clone()
        return spikes.reshape(x_seq.shape)

    def _cupy_threshold(self) -> tuple[float, Rectangular]:
        """The kernels fire at >= only; in float32 m > v_threshold is m >= the next number above it."""
        if not self.surrogate_function.strict:
            return self.v_threshold, self.surrogate_function
        above = self.constants().fires_from
        return above, self.surrogate_function.shifted(above - self.v_threshold)


def lif_kernels(surrogate: Rectangular) -> tuple:
    """SpikingJelly's forward and backward CUDA kernels of this LIF, in float32."""

    # The releases' own argument check uses numpy.int, which numpy 1.24 removed.
    class Forward(cupy_kernels.LIFNodeFPTTKernel):
        def check_ctypes(self, py_dict: dict) -> None:
            pass

    class Backward(cupy_kernels.LIFNodeBPTTKernel):
        def check_ctypes(self, py_dict: dict) -> None:
            pass

    forward = Forward(decay_input=False, hard_reset=True, dtype="float")
    backward = Backward(
        decay_input=False, surrogate_function=surrogate.cuda_codes, hard_reset=True, detach_reset=False, dtype="float"
    )
    return forward, backward


def reset_state(module: nn.Module) -> None:
    """Forget every membrane potential below `module`, so that the next call starts from 0."""
    functional.reset_net(module)


def detach_state(module: nn.Module) -> None:
    """Keep every membrane potential below `module` but let go of the graph that made it, and of its memory."""
    functional.detach_net(module)


def set_backend(module: nn.Module, backend: str) -> None:
    """Let every LIF below `module` run on `backend` (one of BACKENDS).

    Raises:
        UserError: no such backend, or it cannot run on this machine.
    """
    for lif in module.modules():
        if isinstance(lif, LIF):
            lif.backend = backend


def backend_of(module: nn.Module) -> str | None:
    """What runs the LIF neurons below `module`; None where there are none."""
    return next((lif.backend for lif in module.modules() if isinstance(lif, LIF)), None)


def _check_spikingjelly_version() -> None:
    try:
        version = metadata.version("spikingjelly")
    except metadata.PackageNotFoundError:
        version = "of an unknown version"
    if version != SPIKINGJELLY_VERSION:
        raise UserError(
            f"spikingjelly {version} is installed, but this project needs {SPIKINGJELLY_VERSION} (the release with "
            f"the CuPy backend): pip install spikingjelly=={SPIKINGJELLY_VERSION}"
        )


def _check_native() -> None:
    if obstacle := native_obstacle():
        raise UserError(f"backend 'native' cannot be built: {obstacle}; use backend 'scan'")


def _check_triton() -> None:
    if obstacle := triton_obstacle():
        raise UserError(f"backend 'triton' cannot run: {obstacle}; use backend 'scan'")


def _check_triton_input(x_seq: Tensor) -> None:
    if not (x_seq.is_cuda or triton_interprets()):
        raise UserError("backend 'triton' runs on CUDA tensors only; use backend 'native' or 'scan'")
    if x_seq.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise UserError(
            f"backend 'triton' computes float32, bfloat16 and float16, not {x_seq.dtype}; use backend 'scan'"
        )


def _check_cupy() -> None:
    try:
        import cupy
    except ImportError as error:
        raise UserError(f"backend 'cupy' needs CuPy (pip install cupy-cuda12x, or cupy-cuda13x): {error}") from error
    try:
        found = cupy.cuda.is_available()
    except Exception as error:  # CuPy raises its own types for a broken driver
        raise UserError(f"backend 'cupy' cannot use the GPU driver: {error}") from error
    if not found:
        raise UserError("backend 'cupy' needs an NVIDIA GPU and its driver; on a CPU use backend 'scan' or 'torch'")


def _check_cupy_input(x_seq: Tensor) -> None:
    if not x_seq.is_cuda:
        raise UserError("backend 'cupy' runs on CUDA tensors only; move the model and images with device='cuda'")
    if x_seq.dtype != torch.float32:
        raise UserError(
            f"backend 'cupy' computes in float32 only, not in {x_seq.dtype}; use backend 'triton' or 'scan'"
        )
