"""FSVAE and TAID against the specification written down plainly."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from losses import bernoulli_kl, postsynaptic_potential, psp_mmd
from models import FSVAE, ModelConfig, build_model
from models.fsvae import choose, draw_stepwise

T, N, D, K = 8, 6, 5, 4


def make(model: str = "fsvae", variant: str = "paper", **fields: object) -> FSVAE:
    torch.manual_seed(0)
    lif = {"lif_surrogate": variant, "strict_threshold": variant == "code"}
    config = ModelConfig(model=model, widths=(8, 16), latent_dim=D, n_candidates=K, n_steps=T, **lif, **fields)
    return build_model(config).double()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


@pytest.fixture
def spikes() -> Tensor:
    return (torch.rand(2, T, N, D, generator=torch.Generator().manual_seed(2)) < 0.5).double()


def warmed_up(model: FSVAE, images: Tensor) -> FSVAE:
    """In evaluation mode, with running statistics near those of its activations."""
    for _ in range(20):
        model.train()(images)
    return model.eval()


def plain_network(network, x_seq: Tensor, variant: str, lif: Callable, tdbn: Callable) -> Tensor:
    for layer in network.layers:
        current = F.linear(x_seq, layer.synapse.weight, layer.synapse.bias)
        norm = layer.norm
        statistics = None if network.training else (norm.running_mean.clone(), norm.running_var.clone())
        y, _, _ = tdbn(current, norm.weight, norm.bias, 2 * 0.2, statistics)
        x_seq, _, _ = lif(y, variant)
    by_unit = torch.empty(*x_seq.shape[:2], D, K, dtype=x_seq.dtype)
    for unit in range(D):
        for candidate in range(K):
            by_unit[:, :, unit, candidate] = x_seq[:, :, unit * K + candidate]
    return by_unit


@pytest.mark.parametrize("training", [True, False])
def test_both_networks_are_the_specifications(
    variant: str, training: bool, images: Tensor, spikes: Tensor, literal_lif: Callable, literal_tdbn: Callable
) -> None:
    model = warmed_up(make(variant=variant), images).train(training)
    x_spikes, z = spikes
    shifted = torch.cat([torch.zeros(1, N, D, dtype=z.dtype), z[:-1]])
    both = torch.cat([x_spikes, shifted], dim=-1)
    q = plain_network(model.posterior_network, both, variant, literal_lif, literal_tdbn)
    p = plain_network(model.prior_network, shifted, variant, literal_lif, literal_tdbn)
    assert q.any() and p.any()
    assert model.posterior(x_spikes, z).equal(q)
    assert model.prior(z).equal(p)


def test_a_step_sees_only_the_z_before_it(images: Tensor, spikes: Tensor) -> None:
    model = warmed_up(make(), images)
    x_spikes, z = spikes
    other = z.clone()
    other[3] = 1 - other[3]
    for before, after in (
        (model.posterior(x_spikes, z), model.posterior(x_spikes, other)),
        (model.prior(z), model.prior(other)),
    ):
        assert before[:4].equal(after[:4])
        assert not before[4:].equal(after[4:])


def test_in_evaluation_z_is_what_was_fed_back_and_a_candidate_of_the_posterior(images: Tensor) -> None:
    model = warmed_up(make(), images)
    rng = torch.Generator().manual_seed(3)
    state = rng.get_state()
    output = model(images, generator=rng)
    index = model._pick(N, images.device, rng.set_state(state))
    x_spikes = model.encode(images)
    assert model.draw_posterior(x_spikes, index)[:-1].equal(output.z[:-1])
    assert choose(model.posterior(x_spikes, output.z), index).equal(output.z)


def test_carrying_the_membranes_equals_running_all_earlier_steps_again(images: Tensor) -> None:
    model = warmed_up(make(), images)
    x_spikes = model.encode(images)
    index = model._pick(N, images.device, torch.Generator().manual_seed(4))
    z = torch.zeros_like(x_spikes)
    for t in range(T - 1):
        z[t] = choose(model.posterior(x_spikes[: t + 1], z[: t + 1])[-1:], index[t : t + 1])[0]
    assert z.any()
    for recompute in (False, True):
        assert model.draw_posterior(x_spikes, index, recompute).equal(z)


def test_generation_carries_the_membranes_too(images: Tensor) -> None:
    model, lengths = warmed_up(make(), images), []
    model.prior_network.register_forward_hook(lambda _, inputs, __: lengths.append(len(inputs[0])))
    index = model._pick(N, images.device, torch.Generator().manual_seed(4))
    again = draw_stepwise(model.prior_network, images.new_empty(T, N, 0), index, recompute=True)
    carried = model.sample_latent(N, torch.Generator().manual_seed(4))
    assert lengths == [*range(1, T + 1)] + [1] * T
    assert carried.any() and carried.equal(again)


def test_training_updates_the_posteriors_statistics_once_per_step(images: Tensor) -> None:
    model, lengths = make().train(), []
    model.posterior_network.register_forward_hook(lambda _, inputs, __: lengths.append(len(inputs[0])))
    model(images)
    assert lengths == [*range(1, T), T]


@pytest.mark.parametrize("scheduled", [0.0, 1.0])
def test_training_is_the_specification_step_by_step(
    variant: str, scheduled: float, images: Tensor, literal_lif: Callable, literal_tdbn: Callable
) -> None:
    model = make(variant=variant).train()
    model.scheduled_sampling.fill_(scheduled)
    output = model(images, generator=torch.Generator().manual_seed(9))
    noise = torch.Generator().manual_seed(9)
    picks = torch.randint(K, (T, N, D), generator=noise)
    torch.rand(T, generator=noise)  # the coins
    normal = torch.randn((T, N, D), generator=noise, dtype=images.dtype)
    x_spikes = model.encode(images).detach()

    def pick(candidates: Tensor, t: int) -> Tensor:
        return torch.tensor(
            [[candidates[n, d, picks[t, n, d]] for d in range(D)] for n in range(N)], dtype=candidates.dtype
        )

    def network(of: torch.nn.Module, x_seq: list[Tensor]) -> Tensor:
        return plain_network(of, torch.stack(x_seq), variant, literal_lif, literal_tdbn).detach()

    before = [torch.zeros(N, D, dtype=images.dtype)]  # z[t-1] at step t
    for t in range(T - 1):
        both = [torch.cat([x_spikes[s], before[s]], dim=-1) for s in range(t + 1)]
        before.append(pick(network(model.posterior_network, both)[t], t))
    q = network(model.posterior_network, [torch.cat([x_spikes[s], before[s]], dim=-1) for s in range(T)])
    z = [pick(q[t], t) for t in range(T)]
    assert not torch.stack(z[:-1]).equal(torch.stack(before[1:]))  # statistics over more steps choose otherwise
    seen = [torch.zeros_like(z[0]), *z[:-1]]
    for t in range(5, T - 1) if scheduled else ():
        draw = network(model.prior_network, seen[: t + 1])[t].mean(-1)
        seen[t + 1] = (draw + 1e-3 * normal[t] > 0.5).to(images)
    assert output.posterior.equal(q)
    assert output.z.equal(torch.stack(z))
    assert output.prior.equal(network(model.prior_network, seen))
    assert output.prior.any()


@pytest.mark.parametrize(("epoch", "probability"), [(0, 0.1), (75, 0.2), (150, 0.3)])
def test_scheduled_sampling_grows_from_a_tenth_to_three_tenths(epoch: int, probability: float) -> None:
    model = make()
    model.start_epoch(epoch, 150, 10)
    assert model.scheduled_sampling.item() == pytest.approx(probability)


def test_a_coin_falls_as_often_as_scheduled(spikes: Tensor) -> None:
    model, calls = make().train(), []
    model.prior_network.register_forward_hook(lambda *_: calls.append(1))
    rng, n = torch.Generator().manual_seed(0), 200
    model.scheduled_sampling.fill_(0.3)
    for _ in range(n):
        model._scheduled_prior(spikes[1], rng)
    coins = n * (T - 1 - 5)
    assert abs(len(calls) - n - 0.3 * coins) < 4 * (coins * 0.3 * 0.7) ** 0.5


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_prepared_for_a_graph_it_trains_alike_and_does_the_same_work_in_every_step(
    probability: float, spikes: Tensor
) -> None:
    plain, prepared, lengths = make().train(), make().train(), []
    prepared.prepare_for_graph()
    prepared.prior_network.register_forward_hook(lambda _, arguments, __: lengths.append(len(arguments[0])))
    for seed in range(5):
        outputs = []
        for model in (plain, prepared):
            model.scheduled_sampling.fill_(probability)
            rng = torch.Generator().manual_seed(seed)
            outputs.append((model._scheduled_prior(spikes[1], rng), rng.get_state()))
        assert all(ours.equal(theirs) for ours, theirs in zip(*outputs, strict=True))
    assert lengths == 5 * [*range(6, T), T]
    statistics = zip(plain.prior_network.buffers(), prepared.prior_network.buffers(), strict=True)
    assert all(ours.equal(theirs) for ours, theirs in statistics)


def test_generated_z_is_binary_with_the_priors_mean(images: Tensor) -> None:
    model = warmed_up(make(), images)
    z = model.sample_latent(2000, torch.Generator().manual_seed(5))
    assert z.shape == (T, 2000, D)
    assert set(z.unique().tolist()) == {0.0, 1.0}
    expected = model.prior(z).mean(-1)
    spread = (expected * (1 - expected)).sum(1).sqrt()  # of a sum of Bernoulli draws
    assert ((z.sum(1) - expected.sum(1)).abs() <= 4.5 * spread).all()


def test_the_distance_moves_both_networks_and_the_encoder(images: Tensor) -> None:
    model = make().train()
    terms = model.loss(model(images), images)
    terms["mmd"].backward()
    for part in (model.encoder, model.posterior_network, model.prior_network):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())
    assert all(p.grad is None for p in model.decoder.parameters())


def test_the_reconstruction_reaches_the_posterior_through_z_and_never_the_prior(images: Tensor) -> None:
    model = make().train()
    model.loss(model(images), images)["reconstruction"].backward()
    assert any(p.grad.any() for p in model.posterior_network.parameters())
    assert all(p.grad is None for p in model.prior_network.parameters())


def test_the_loss_is_the_sum_of_its_terms(images: Tensor) -> None:
    output = make(mmd_weight=3.0).train()(images)
    mmd = make(mmd_weight=3.0).loss(output, images)
    assert mmd["loss"].item() == pytest.approx((mmd["reconstruction"] + 3.0 * mmd["mmd"]).item(), rel=1e-12)
    kl = make(distance="kl").loss(output, images)
    assert kl["loss"].item() == pytest.approx((kl["reconstruction"] + 1e-4 * kl["kl"]).item(), rel=1e-12)


def test_psp_is_a_running_half_way_average() -> None:
    spikes = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    assert postsynaptic_potential(spikes).tolist() == [0.5, 0.25, 0.625, 0.8125]


def test_psp_mmd_is_the_mean_squared_difference_of_filtered_rates(spikes: Tensor) -> None:
    q, p = spikes
    total = sum(((postsynaptic_potential(q) - postsynaptic_potential(p))[t] ** 2).sum() for t in range(T))
    assert psp_mmd(q, p).item() == pytest.approx(total.item() / (T * N * D), rel=1e-12)
    assert psp_mmd(q, q).item() == 0


def test_bernoulli_kl_is_summed_over_time_and_units_and_averaged_over_the_batch() -> None:
    q = torch.full((2, 3, 4), 0.5, dtype=torch.float64)
    p = torch.full((2, 3, 4), 0.25, dtype=torch.float64)
    per_unit = 0.5 * torch.log(torch.tensor(0.51 / 0.26)) + 0.5 * torch.log(torch.tensor(0.51 / 0.76))
    assert bernoulli_kl(q, p).item() == pytest.approx(2 * 4 * per_unit.item(), rel=1e-6)
    assert bernoulli_kl(q, q).item() == 0


def test_taids_readout_weighs_steps_by_a_sigmoid_of_their_means(images: Tensor) -> None:
    readout = make("taid").decoder.readout
    spikes = (torch.rand(T, N, 8, 8, 8, generator=torch.Generator().manual_seed(6)) < 0.3).double()
    steps = [readout.synapse(spike) for spike in spikes]
    expected = torch.zeros_like(steps[0])
    for t in range(T):
        for n in range(N):
            for c in range(3):
                attention = sum(readout.attention.weight[t, s, 0] * steps[s][n, c].mean() for s in range(T))
                expected[n, c] += torch.sigmoid(attention) * steps[t][n, c]
    torch.testing.assert_close(readout(spikes), expected, rtol=1e-10, atol=1e-12)


def test_the_same_seed_draws_the_same(images: Tensor) -> None:
    model = warmed_up(make(), images)
    first, second = (model(images, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert first.reconstruction.equal(second.reconstruction)
    a, b = (model.sample(3, torch.Generator().manual_seed(8)) for _ in range(2))
    assert a.equal(b)
