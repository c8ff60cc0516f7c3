from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import Tensor

from losses import mmd2
from models import ESVAE, WIDTHS, ModelConfig, build_model
from models.backbone import SpikingBlock
from neurons import LIF, reset_state, set_backend
from neurons.library import native_obstacle


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(model: ESVAE, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize(("size", "n_steps"), [(32, 16), (64, 2)])
def test_the_papers_widths_take_their_image_size_and_every_parameter_learns(
    size: int, n_steps: int, make_esvae
) -> None:
    model = make_esvae(image_channels=3, widths=WIDTHS[size], latent_dim=128, n_steps=n_steps)
    images = torch.rand(4, 3, size, size, generator=seeded()) * 2 - 1
    output = model(images, seeded())
    assert output.reconstruction.shape == images.shape
    assert output.z.shape == (n_steps, 4, 128)
    for name, gradient in gradients(model, model.loss(output, images)["loss"]).items():
        assert gradient.isfinite().all(), name
        # tdBN takes out what the bias before it adds, so only the readout's bias learns
        in_front_of_tdbn = name.endswith("synapse.bias") and "readout" not in name
        assert gradient.any() != in_front_of_tdbn, name


@pytest.mark.parametrize("size", [32, 64])
def test_layers_are_those_of_section_iv_b1(size: int) -> None:
    model = build_model(ModelConfig(widths=WIDTHS[size]))
    widths = [32, 64, 128, 256, 512][: {32: 4, 64: 5}[size]]
    down, up = zip([3, *widths], widths, strict=False), zip(widths[::-1], [*widths[-2::-1], 32], strict=True)
    expected = [("Conv2d", (o, i, 3, 3), (2, 2)) for i, o in down]
    expected += [("Linear", (128, 4 * widths[-1]), None), ("Linear", (128, 128), None)]
    expected += [("Linear", (4 * widths[-1], 128), None)]
    expected += [("ConvTranspose2d", (i, o, 3, 3), (2, 2)) for i, o in up]
    expected += [("ConvTranspose2d", (32, 3, 3, 3), (1, 1))]
    synapses = [m for m in model.modules() if hasattr(m, "weight") and not hasattr(m, "running_mean")]
    found = [(type(m).__name__, tuple(m.weight.shape), getattr(m, "stride", None)) for m in synapses]
    assert found == expected
    assert all(m.bias is not None for m in synapses)
    n_norms = sum(hasattr(m, "running_mean") for m in model.modules())
    assert n_norms == sum(isinstance(m, LIF) for m in model.modules()) == len(expected) - 2  # bottleneck and readout


@pytest.mark.parametrize("strict", [False, True])
def test_every_neuron_and_norm_obeys_the_config(strict: bool, make_esvae) -> None:
    model = make_esvae(v_threshold=0.5, decay=0.5, strict_threshold=strict)
    reset_state(model)
    blocks = [module for module in model.modules() if isinstance(module, SpikingBlock)]
    assert len(blocks) == 6
    for block in blocks:
        spikes = block.lif(torch.tensor([[[0.25]], [[0.375]]]))  # reaches 0.5 exactly at the second step
        assert spikes.flatten().tolist() == [0.0, 0.0 if strict else 1.0]
        assert block.norm.scale == 0.5


def test_encoder_spikes_are_binary_and_their_mean_over_time_is_the_rate(make_esvae, images: Tensor) -> None:
    model = make_esvae()
    spikes = model.encode(images)
    assert spikes.shape == (16, 5, 12)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    rate = model.firing_rate(images)
    assert torch.equal(rate, sum(spikes) / 16)
    assert torch.equal(rate * 16, (rate * 16).round())


def test_images_do_not_see_each_other_in_evaluation(make_esvae, images: Tensor) -> None:
    model = make_esvae().eval()
    together = model.firing_rate(images)
    assert torch.equal(torch.cat([model.firing_rate(image[None]) for image in images]), together)


def test_decoded_images_stay_inside_minus_one_to_one_and_depend_on_time_order(make_esvae) -> None:
    model = make_esvae().eval()
    z = (torch.rand(16, 5, 12, generator=seeded()) < 0.4).float()
    images = model.decode(z)
    assert images.abs().max() <= 1
    assert not torch.allclose(images, model.decode(z.flip(0)))
    with torch.no_grad():
        model.decoder.readout.synapse.bias.fill_(100)
    assert (model.decode(z) == 1).all()


def test_given_noise_makes_the_forward_pass_deterministic(make_esvae, images: Tensor) -> None:
    model = make_esvae().eval()
    noise = {"uniform": torch.rand(16, 5, 12, generator=seeded()), "normal": torch.randn(5, 12, generator=seeded())}
    first, second = model(images, **noise), model(images, seeded(7), **noise)
    assert torch.equal(first.z, (noise["uniform"] < first.posterior_rate).float())
    assert torch.equal(first.prior_rate, model.prior_rate(noise["normal"]))
    assert torch.equal(first.reconstruction, second.reconstruction)
    other = model(images, seeded(7))
    assert not torch.equal(other.z, first.z)
    assert not torch.equal(other.prior_rate, first.prior_rate)


def test_a_generator_seed_decides_samples_and_forward_passes(make_esvae, images: Tensor) -> None:
    model = make_esvae().eval()
    for draw in (lambda g: model.sample(3, g), lambda g: model(images, g).reconstruction):
        assert torch.equal(draw(seeded(1)), draw(seeded(1)))
        assert not torch.equal(draw(seeded(1)), draw(seeded(2)))
    assert torch.equal(model.decode(model.sample_latent(3, seeded(1))), model.sample(3, seeded(1)))


@pytest.mark.parametrize("training", [True, False])
def test_calls_in_any_order_give_what_each_gives_alone(training: bool, make_esvae, images: Tensor) -> None:
    def backward(model: ESVAE) -> Tensor:
        model.zero_grad()
        model.loss(model(images, seeded(3)), images)["loss"].backward()
        return model.encoder.blocks[0].synapse.weight.grad.clone()

    calls: dict[str, Callable[[ESVAE], Tensor]] = {
        "forward": lambda m: m(images, seeded(1)).reconstruction,
        "forward of fewer images": lambda m: m(images[:3], seeded(2)).reconstruction,
        "sample": lambda m: m.sample(4, seeded(1)),
        "backward": backward,
    }
    alone = {name: call(make_esvae().train(training)) for name, call in calls.items()}
    model = make_esvae().train(training)
    for order in permutations(calls):
        for name in order:
            torch.testing.assert_close(calls[name](model), alone[name], rtol=0, atol=0, msg=f"{name} in {order}")


def test_two_forward_passes_and_one_backward_add_their_gradients(make_esvae, images: Tensor) -> None:
    def loss(model: ESVAE, seed: int) -> Tensor:
        return model.loss(model(images, seeded(seed)), images)["loss"]

    together = make_esvae()
    first = loss(together, 1)
    found = gradients(together, first + loss(together, 2))
    parts = [gradients(model, loss(model, seed)) for seed, model in ((1, make_esvae()), (2, make_esvae()))]
    torch.testing.assert_close(found, {name: parts[0][name] + parts[1][name] for name in found})


def test_a_membrane_left_over_from_outside_does_not_reach_the_output(make_esvae, images: Tensor) -> None:
    model = make_esvae().eval()
    expected = model(images, seeded()).reconstruction
    for module in model.modules():
        if hasattr(module, "v"):
            module.v = 5.0
    assert torch.equal(model(images, seeded()).reconstruction, expected)
    reset_state(model)


def test_loss_is_the_reconstruction_error_plus_lambda_times_mmd2(make_esvae, images: Tensor) -> None:
    model = make_esvae(mmd_weight=0.25)
    output = model(images, seeded())
    terms = model.loss(output, images)
    error = ((output.reconstruction - images) ** 2).sum() / images.numel()
    distance = mmd2(output.posterior_rate, output.prior_rate)
    assert distance > 0.01
    torch.testing.assert_close(terms["reconstruction"], error)
    torch.testing.assert_close(terms["mmd"], distance)
    torch.testing.assert_close(terms["loss"], error + 0.25 * distance)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("backend", "device"),
    [
        pytest.param("native", "cpu", marks=pytest.mark.skipif(bool(native_obstacle()), reason="no C compiler")),
        *(pytest.param(name, "cuda", marks=pytest.mark.gpu) for name in ("scan", "triton", "cupy")),
    ],
)
def test_backends_that_round_otherwise_agree_but_for_single_spikes(
    backend: str, device: str, training: bool, variant: str, make_esvae, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    images = torch.rand(4, 3, 32, 32, generator=seeded()) * 2 - 1
    noise = {"uniform": torch.rand(16, 4, 128, generator=seeded()), "normal": torch.randn(4, 128, generator=seeded())}

    def run(backend: str, device: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        model = make_esvae(variant, image_channels=3, widths=WIDTHS[32], latent_dim=128).train(training).to(device)
        set_backend(model, backend)
        output = model(images.to(device), **{name: value.to(device) for name, value in noise.items()})
        loss = model.loss(output, images.to(device))["loss"]
        gradient = {name: value.cpu() for name, value in gradients(model, loss).items()}
        return output.posterior_rate.cpu(), loss.cpu(), gradient

    (rate, loss, gradient), (expected_rate, expected_loss, expected_gradient) = run(backend, device), run("scan", "cpu")
    assert (rate != expected_rate).float().mean() < 0.02
    torch.testing.assert_close(loss, expected_loss, rtol=1e-3, atol=0)
    for name, expected in expected_gradient.items():
        assert (gradient[name] - expected).norm() <= 0.1 * expected.norm() + 1e-6, name
