"""Checkpoints published by the authors of ESVAE, FSVAE and TAID: their layout, read into our models.

A file holds a state_dict, or {"net": state_dict, "epoch": int}. It names neither model nor settings; both follow from
the tensors. The weights belong to the released programs, hence to variant `code`.
"""

import re
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from errors import UserError
from files import read_torch_file
from models.config import ModelConfig

SUFFIXES = (".pth", ".pt")

# Our prefix -> theirs, for a network whose last decoder block is number {last}. The first match counts.
SPIKING_PREFIXES = {
    "encoder.blocks.": "encoder.",
    "encoder.to_latent.": "before_latent_layer.",
    "decoder.from_latent.": "decoder_input.",
    "decoder.blocks.{last}.": "final_layer.0.",
    "decoder.blocks.": "decoder.",
    "decoder.readout.synapse.": "final_layer.1.",
    "decoder.readout.attention.": "membrane_output_layer.conv.",
    "bottleneck.": "sample_layer.0.",
    "posterior_network.": "posterior.",
    "prior_network.": "prior.",
}
ANN_PREFIXES = {
    "to_mean.": "fc_mu.",
    "to_log_variance.": "fc_var.",
    "to_latent.": "latent_layer.",
    "from_latent.": "decoder_input.",
    "decoder.{last}.": "final_layer.",
    "readout.": "final_layer.3.",
}
# Tensors that carry no weights of the model, by model; for ESVAE also networks left over from FSVAE.
COUNTERS = r".*num_batches_tracked|membrane_output_layer\.coef"
IGNORED = {
    "esvae": COUNTERS + r"|(prior|posterior)\..*",
    "fsvae": COUNTERS + r"|(prior|posterior)\.initial_input",
    "taid": COUNTERS + r"|(prior|posterior)\.initial_input|membrane_output_layer\.conv_c\..*",
    "ann_vae": COUNTERS,
    "autoencoder": COUNTERS,
}
ANN_LATENT = {"ann_vae": "fc_mu.weight", "autoencoder": "latent_layer.weight"}  # [D, ...], by non-spiking model


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a published file, on the CPU, without unpickling anything but tensors and plain values.

    Raises:
        UserError: damaged, or not a state_dict.
    """
    content = read_torch_file(path)
    if isinstance(content, dict) and isinstance(content.get("net"), dict):
        content = content["net"]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path} holds no state_dict")
    return content


def infer_config(tensors: dict[str, Tensor], path: Path) -> ModelConfig:
    """Model, widths, latent size and T from the names and shapes of the tensors.

    Raises:
        UserError: not one of the published architectures.
    """
    known = "ESVAE, FSVAE, TAID, ANN VAE or autoencoder"
    try:
        return _infer(tensors)
    except KeyError as error:
        raise UserError(f"{path} is not a published {known}: no tensor {error.args[0]}") from error
    except (IndexError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{path} is not a published {known}: tensors of other shapes ({error})") from error


def _infer(tensors: dict[str, Tensor]) -> ModelConfig:
    model = _model_name(tensors)
    first = "encoder.{}.0.weight" if model in ANN_LATENT else "encoder.{}.weight"
    n_blocks = sum(bool(re.fullmatch(r"encoder\.\d+(\.0)?\.weight", name)) for name in tensors)
    kernels = [tensors[first.format(i)] for i in range(max(1, n_blocks))]
    values: dict[str, Any] = {
        "model": model,
        "image_channels": kernels[0].shape[1],
        "widths": tuple(kernel.shape[0] for kernel in kernels),
        "latent_dim": tensors[ANN_LATENT.get(model, "before_latent_layer.weight")].shape[0],
    }
    if model not in ANN_LATENT:
        values |= {"lif_surrogate": "code", "strict_threshold": True, "sampler_surrogate": "code"}
        values["n_steps"] = _n_steps(tensors)
    if model in ("fsvae", "taid"):
        values["n_candidates"] = tensors["posterior.layers.2.weight"].shape[0] // values["latent_dim"]
        values["mmd_weight"] = 1.0
    return ModelConfig(**values)


def _model_name(tensors: dict[str, Tensor]) -> str:
    marks = ANN_LATENT | {
        "esvae": "sample_layer.0.weight",
        "taid": "membrane_output_layer.conv.weight",
        "fsvae": "posterior.layers.2.weight",
    }
    for model, mark in marks.items():
        if mark in tensors:
            return model
    raise KeyError(" or ".join(marks.values()))


def _n_steps(tensors: dict[str, Tensor]) -> int:
    attention = tensors.get("membrane_output_layer.conv.weight")
    return len(attention) if attention is not None else tensors["membrane_output_layer.coef"].shape[-1]


def to_our_layout(
    tensors: dict[str, Tensor], config: ModelConfig, expected: dict[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Rename and reshape published tensors to the names and shapes of `expected`, a state_dict of our model.

    Raises:
        UserError: missing, unknown or misshapen tensors, by their published names.
    """
    names = {name: published_name(name, config) for name in expected if not name.endswith("num_batches_tracked")}
    spare = sorted(tensors.keys() - names.values())
    ignored = [name for name in spare if re.fullmatch(IGNORED[config.model], name)]
    missing = names.values() - tensors.keys()
    problems = [f"missing {name}" for name in missing]
    problems += [f"unknown {name}" for name in spare if name not in ignored]
    ours = {name: _without_time_axis(tensors[theirs]) for name, theirs in names.items() if theirs not in missing}
    problems += [
        f"{names[name]} is {list(tensors[names[name]].shape)}, not {list(expected[name].shape)}"
        for name, tensor in ours.items()
        if tensor.shape != expected[name].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        raise UserError(f"{path} does not fit {config.model}: {len(problems)} tensors ({shown})")
    networks = sorted({name.split(".")[0] for name in ignored if not re.fullmatch(COUNTERS, name)})
    if networks:
        print(f"{path}: ignoring what {config.model} does not use: {', '.join(networks)}", file=sys.stderr)
    return ours


def published_name(name: str, config: ModelConfig) -> str:
    """The authors' name of one of our tensors."""
    prefixes = ANN_PREFIXES if config.model in ANN_LATENT else SPIKING_PREFIXES
    last = len(config.widths) - 1
    for ours, theirs in prefixes.items():
        prefix = ours.format(last=last)
        if name.startswith(prefix):
            name = theirs + name.removeprefix(prefix)
            break
    return name.replace("synapse.", "").replace("norm.", "bn.")


def _without_time_axis(tensor: Tensor) -> Tensor:
    """Published convolutions have a trailing time axis of size 1."""
    return tensor.squeeze(-1) if tensor.dim() == 5 else tensor
