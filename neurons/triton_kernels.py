"""tdBN and the LIF recurrence as Triton kernels, for neurons.triton_layer.

Activations are channels_last, so every step is a matrix of rows (pixels of images) and channels. A program takes one
tile of it through all the steps: membranes are float32 in registers, whatever type the activations have. It loads
all the steps' values before it computes, so that their latencies overlap.

What moves through GPU memory, in activations per neuron and step: statistics read x; forward reads x, writes the
spike; backward reads x and the spike's gradient, writes the current's; `input_gradient` reads x and that, writes it
again. In float32 that is 4, 8, 12 and 12 bytes. Where the spikes are summed over time, neither they nor their gradients
move. Sums per channel leave each program as one row of a buffer that is added up later, never by atomics: two runs give
the same bits.
"""

import triton
import triton.language as tl


@triton.jit
def _tile(n_rows, n_channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Offsets of this program's tile [ROWS, CHANNELS], which of them exist, and the channels [CHANNELS]."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (row < n_rows)[:, None] & (channel < n_channels)[None, :]
    return row[:, None] * n_channels + channel[None, :], inside, channel


@triton.jit
def _per_channel(vector, channel, n_channels):
    """Values of a vector [C], to meet a tile: [1, CHANNELS] in float32."""
    return tl.load(vector + channel, mask=channel < n_channels, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _store_row(row, sums, channel, n_channels):
    """This program's sums [CHANNELS] to its row of `sums`, [programs, C]."""
    tl.store(sums + tl.program_id(0) * n_channels + channel, row, mask=channel < n_channels)


@triton.jit
def _load_state(state, here, inside):
    """A tile of `state`, [rows, C]; zeros if that is None."""
    if state is None:
        return tl.where(inside, 0.0, 0.0)
    else:
        return tl.load(state + here, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _load_steps(x, stride, inside, N_STEPS: tl.constexpr):
    """The tile at every step. A stride of 0 reads the same values again, from the nearest cache."""
    values = ()
    for _ in tl.static_range(N_STEPS):
        values = values + (tl.load(x, mask=inside, other=0.0),)
        x += stride
    return values


@triton.jit
def _load_weights(coefficients, N_STEPS: tl.constexpr):
    """A number for each step; ones if there are no coefficients."""
    weights = ()
    for t in tl.static_range(N_STEPS):
        weight = 1.0 if coefficients is None else tl.load(coefficients + t)
        weights = weights + (weight,)
    return weights


@triton.jit
def _membrane(x, slope, offset, v, decay, fires_from):
    """Eq. 1 to 3: the membrane before the reset, and after it. Both passes must round it alike, hence the fma."""
    m = tl.fma(v, decay, tl.fma(x.to(tl.float32), slope, offset))
    return m, tl.where(m >= fires_from, 0.0, m)


@triton.jit
def forward(
    x, x_stride, slope, offset, v, coefficients, spikes, v_last, decay, fires_from,
    n_rows, n_channels, n_neurons, N_STEPS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The LIF of slope x + offset. `spikes` is None where only the last membrane is asked for, and takes the sum of
    coefficients[t] * spikes[t] where there are such."""
    here, inside, channel = _tile(n_rows, n_channels, ROWS, CHANNELS)
    slope, offset = _per_channel(slope, channel, n_channels), _per_channel(offset, channel, n_channels)
    xs = _load_steps(x + here, x_stride, inside, N_STEPS)
    state = _load_state(v, here, inside)
    weights = _load_weights(coefficients, N_STEPS)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    if spikes is not None:
        spikes += here
    for t in tl.static_range(N_STEPS):
        m, state = _membrane(xs[t], slope, offset, state, decay, fires_from)
        if coefficients is not None:
            total += tl.where(m >= fires_from, weights[t], 0.0)
        elif spikes is not None:
            tl.store(spikes, tl.where(m >= fires_from, 1.0, 0.0), mask=inside)
            spikes += n_neurons
    if coefficients is not None:
        tl.store(spikes, total, mask=inside)
    tl.store(v_last + here, state, mask=inside)


@triton.jit
def backward(
    x, x_stride, slope, offset, mean, v, coefficients, grad_spikes, grad_stride, grad_v_last,
    last_grad_y, grad_v, sum_g, sum_gx, decay, fires_from, middle, half, height,
    n_rows, n_channels, n_neurons, N_STEPS: tl.constexpr, SUM_STEPS: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The membranes again, then the recurrence in reverse (neurons/scan.py has the formula).

    grad_spikes is the gradient of the weighted sum where there are coefficients. last_grad_y is where the current's
    gradient of the last step goes, with those of earlier steps in front of it; with SUM_STEPS that of all steps. A lane
    outside has q = g = 0 and adds nothing to a sum.
    """
    here, inside, channel = _tile(n_rows, n_channels, ROWS, CHANNELS)
    slope, offset = _per_channel(slope, channel, n_channels), _per_channel(offset, channel, n_channels)
    mean = _per_channel(mean, channel, n_channels)
    xs = _load_steps(x + here, x_stride, inside, N_STEPS)
    gs = _load_steps(grad_spikes + here, grad_stride, inside, N_STEPS)
    weights = _load_weights(coefficients, N_STEPS)
    state = _load_state(v, here, inside)
    membranes = ()
    for t in tl.static_range(N_STEPS):
        m, state = _membrane(xs[t], slope, offset, state, decay, fires_from)
        membranes = membranes + (m,)

    q = _load_state(grad_v_last, here, inside)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    total_x = tl.zeros((ROWS, CHANNELS), tl.float32)
    grad_y = last_grad_y + here
    for t in tl.static_range(N_STEPS - 1, -1, -1):
        m = membranes[t]
        through_spike = tl.where(tl.abs(m - middle) < half, (weights[t] * gs[t].to(tl.float32) - q * m) * height, 0.0)
        grad = through_spike + tl.where(m >= fires_from, 0.0, q)
        q = decay * grad
        total += grad
        total_x += grad * (xs[t].to(tl.float32) - mean)
        if not SUM_STEPS:
            tl.store(grad_y, grad, mask=inside)
            grad_y -= n_neurons
    if SUM_STEPS:
        tl.store(grad_y, total, mask=inside)
    if grad_v is not None:
        tl.store(grad_v + here, q, mask=inside)
    _store_row(tl.sum(total, axis=0), sum_g, channel, n_channels)
    _store_row(tl.sum(total_x, axis=0), sum_gx, channel, n_channels)


@triton.jit
def moments(
    x, mean, squares, n_rows, n_channels, N_LOOPS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """Per program and channel: the mean of its N_LOOPS * ROWS rows, and the sum of squares around that mean.

    Every lane follows its own values (Welford); lanes meet once, at the end.
    """
    row = tl.program_id(0).to(tl.int64) * N_LOOPS * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.minimum(tl.maximum((n_rows - row + ROWS - 1) // ROWS, 0), N_LOOPS).to(tl.float32)[:, None]
    average, square = tl.zeros((ROWS, CHANNELS), tl.float32), tl.zeros((ROWS, CHANNELS), tl.float32)
    for i in range(N_LOOPS):
        inside = (row < n_rows)[:, None] & (channel < n_channels)[None, :]
        values = tl.load(x + row[:, None] * n_channels + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        distance = tl.where(inside, values - average, 0.0)
        average += distance * (1.0 / (i + 1))
        square += distance * (values - average)
        row += ROWS
    middle = tl.sum(n * average, axis=0) / tl.maximum(tl.sum(n, axis=0), 1.0)
    apart = average - middle[None, :]
    _store_row(middle, mean, channel, n_channels)
    _store_row(tl.sum(square + n * apart * apart, axis=0), squares, channel, n_channels)


@triton.jit
def statistics(
    means, squares, gain, bias, x_bias, mean, inverse_std, slope, offset, running_mean, running_var,
    n_parts, part_rows, n_rows, n_channels, unbiased, momentum, eps, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What a layer needs per channel, from the moments of its parts: float64 inside.

    The running statistics move towards those of x + x_bias, the variance times `unbiased`.
    """
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    exists = channel < n_channels
    part = tl.arange(0, PARTS).to(tl.int64)
    n = tl.minimum(tl.maximum(n_rows - part * part_rows, 0), part_rows).to(tl.float64)[:, None]
    here, inside = part[:, None] * n_channels + channel[None, :], (part < n_parts)[:, None] & exists[None, :]
    average = tl.load(means + here, mask=inside, other=0.0).to(tl.float64)
    square = tl.load(squares + here, mask=inside, other=0.0).to(tl.float64)
    middle = tl.sum(n * average, axis=0) / n_rows
    apart = average - middle[None, :]
    variance = tl.sum(square + n * apart * apart, axis=0) / n_rows

    rounded, inverse = middle.to(tl.float32), (1.0 / tl.sqrt(variance + eps)).to(tl.float32)
    scale = tl.load(gain + channel, mask=exists, other=0.0).to(tl.float32) * inverse
    tl.store(mean + channel, rounded, mask=exists)
    tl.store(inverse_std + channel, inverse, mask=exists)
    tl.store(slope + channel, scale, mask=exists)
    shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32) - rounded * scale
    tl.store(offset + channel, shift, mask=exists)

    middle += tl.load(x_bias + channel, mask=exists, other=0.0).to(tl.float64)
    _move(running_mean + channel, middle, momentum, exists)
    _move(running_var + channel, variance * unbiased, momentum, exists)


@triton.jit
def _move(where, target, share, exists):
    """A share of the way to the target."""
    value = tl.load(where, mask=exists, other=0.0).to(tl.float64)
    tl.store(where, (value + share * (target - value)).to(tl.float32), mask=exists)


@triton.jit
def input_gradient(
    grad, x, sums, gain, mean, inverse_std, grad_gain, grad_bias,
    n_rows, n_channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """grad, of the normalised current, <- that of x, and the gradients of gain and bias.

    sums are float64 [2, C]: of grad, and of grad * (x - mean). neurons/tdbn.py has the formula.
    """
    here, inside, channel = _tile(n_rows, n_channels, ROWS, CHANNELS)
    inverse = _per_channel(inverse_std, channel, n_channels)
    sum_g = _per_channel(sums, channel, n_channels)
    sum_gx = _per_channel(sums + n_channels, channel, n_channels) * inverse
    on_g = _per_channel(gain, channel, n_channels) * inverse
    on_x = -on_g * inverse * sum_gx / n_rows
    constant = -on_g * sum_g / n_rows - on_x * _per_channel(mean, channel, n_channels)
    value = tl.load(grad + here, mask=inside).to(tl.float32) * on_g
    value += tl.load(x + here, mask=inside).to(tl.float32) * on_x
    tl.store(grad + here, value + constant, mask=inside)
    if tl.program_id(0) == 0:
        exists = (channel < n_channels)[None, :]
        tl.store(grad_bias + channel[None, :], sum_g, mask=exists)
        tl.store(grad_gain + channel[None, :], sum_gx, mask=exists)
