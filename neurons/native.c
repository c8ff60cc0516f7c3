/* tdBN and LIF neurons over all time steps, for neurons/native.py. Plain C99; float32.

Activations are [n_steps][n_neurons], the channel of neuron i is i % n_channels. Neurons are independent, so
every pass walks through blocks of them that stay in the cache for all steps: main memory is read and written once.
Blocks begin at channel 0; a per-channel vector is laid out once as a tile as long as a block, so that inner loops
run over plain arrays and vectorise. The same thread count gives the same sums, bit by bit. */

#include "threads.h"

#include <math.h>

enum { BLOCK_NEURONS = 1024, ROWS_PER_FOLD = 32, SHIFT_ROWS = 256 };

typedef struct {
    int64_t n_steps, n_neurons, n_channels;
    float decay, fires_from, box_middle, box_half, box_height;
    int32_t n_threads;
} Layer;

/* a * b + c, rounded once where the processor can: PyTorch's kernels do so in the same places. */
#ifdef FP_FAST_FMAF
#define MULTIPLY_ADD(a, b, c) fmaf(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

/* Length of a tile: whole pixels, about BLOCK_NEURONS. */
static int64_t tile_length(int64_t n_channels) {
    return n_channels < BLOCK_NEURONS ? BLOCK_NEURONS / n_channels * n_channels : n_channels;
}

static const float *fill_tile(float *tile, const float *channels, int64_t n_channels, int64_t length) {
    for (int64_t i = 0; i < length; i += n_channels) memcpy(tile + i, channels, n_channels * sizeof *tile);
    return tile;
}

/* sums[c] = sum over threads and tiles of the double accumulators that start each thread's scratch, `skip` on. */
static void reduce(double *sums, const char *scratch, size_t bytes, int64_t n_threads, int64_t skip, int64_t length,
                   int64_t n_channels) {
    memset(sums, 0, n_channels * sizeof *sums);
    for (int64_t k = 0; k < n_threads; k++) {
        const double *sum = (const double *)(scratch + k * bytes) + skip;
        for (int64_t i = 0; i < length; i++) sums[i % n_channels] += sum[i];
    }
}

/* ---- batch statistics ---- */

typedef struct {
    const float *x;
    int64_t n_values, n_channels, length;
    const float *shift;
} Statistics;

/* Items are tiles. Sums of d = x - shift and of d*d: float over a few rows, then double. */
static void sum_tiles(const void *argument, int64_t first, int64_t last, void *scratch) {
    const Statistics *job = argument;
    const int64_t length = job->length;
    double *restrict total = scratch, *restrict total_square = total + length;
    float *restrict sum = (float *)(total + 2 * length), *restrict square = sum + length;
    const float *restrict shift = fill_tile(square + length, job->shift, job->n_channels, length);
    for (int64_t tile = first; tile < last;) {
        const int64_t stop = smaller(tile + ROWS_PER_FOLD, last);
        for (; tile < stop; tile++) {
            const float *restrict x = job->x + tile * length;
            const int64_t n = smaller(length, job->n_values - tile * length);
            for (int64_t i = 0; i < n; i++) {
                const float d = x[i] - shift[i];
                sum[i] += d;
                square[i] += d * d;
            }
        }
        for (int64_t i = 0; i < length; i++) {
            total[i] += sum[i];
            total_square[i] += square[i];
            sum[i] = square[i] = 0.0f;
        }
    }
}

/* Means of the first rows: near enough to the means that sums of squares around them lose nothing. */
static void first_means(const float *x, int64_t n_rows, int64_t n_channels, double *mean, float *shift) {
    const int64_t n = smaller(n_rows, SHIFT_ROWS);
    memset(mean, 0, n_channels * sizeof *mean);
    for (int64_t row = 0; row < n; row++)
        for (int64_t c = 0; c < n_channels; c++) mean[c] += x[row * n_channels + c];
    for (int64_t c = 0; c < n_channels; c++) shift[c] = (float)(mean[c] / n);
}

/* Mean and biased variance per channel of x [n_rows][n_channels]. Returns 0, or 1 without memory. */
int channel_statistics(const float *x, int64_t n_rows, int64_t n_channels, int64_t n_threads, double *mean,
                       double *variance) {
    const int64_t length = tile_length(n_channels), n_values = n_rows * n_channels;
    const int64_t n_tiles = (n_values + length - 1) / length;
    n_threads = clamp_threads(n_threads, n_tiles / ROWS_PER_FOLD);
    size_t bytes = length * (2 * sizeof(double) + 3 * sizeof(float));
    float *shift = malloc(n_channels * sizeof *shift);
    char *scratch = allocate_scratch(n_threads, &bytes);
    if (shift && scratch) {
        first_means(x, n_rows, n_channels, mean, shift);
        const Statistics job = {x, n_values, n_channels, length, shift};
        run_threads(sum_tiles, &job, n_tiles, n_threads, scratch, bytes);
        reduce(mean, scratch, bytes, n_threads, 0, length, n_channels);
        reduce(variance, scratch, bytes, n_threads, length, length, n_channels);
        for (int64_t c = 0; c < n_channels; c++) {
            const double d = mean[c] / n_rows;
            mean[c] = shift[c] + d;
            variance[c] = fmax(variance[c] / n_rows - d * d, 0.0);
        }
    }
    const int failed = !shift || !scratch;
    free(scratch);
    free(shift);
    return failed;
}

/* ---- forward: y = slope x + offset, m = y + decay v, s = [m >= threshold], v = m (1 - s) ---- */

typedef struct {
    const Layer *layer;
    const float *x, *slope, *offset, *v_first, *coefficients;
    int64_t x_stride;
    float *spikes, *v_last;
} Forward;

static void forward_step(const Layer *layer, int64_t n, const float *restrict x, const float *restrict slope,
                         const float *restrict offset, float *restrict v, float *restrict spikes) {
    const float decay = layer->decay, fires_from = layer->fires_from;
    for (int64_t i = 0; i < n; i++) {
        const float m = MULTIPLY_ADD(decay, v[i], MULTIPLY_ADD(x[i], slope[i], offset[i]));
        const int fires = m >= fires_from;
        spikes[i] = fires ? 1.0f : 0.0f;
        v[i] = fires ? 0.0f : m;
    }
}

static void add_scaled(int64_t n, float factor, const float *restrict values, float *restrict sum) {
    for (int64_t i = 0; i < n; i++) sum[i] += factor * values[i];
}

static void forward_blocks(const void *argument, int64_t first, int64_t last, void *scratch) {
    const Forward *job = argument;
    const Layer *layer = job->layer;
    const int64_t n_neurons = layer->n_neurons, length = tile_length(layer->n_channels);
    float *v = scratch;
    const float *slope = fill_tile(v + length, job->slope, layer->n_channels, length);
    const float *offset = fill_tile(v + 2 * length, job->offset, layer->n_channels, length);
    float *step = v + 3 * length;
    for (int64_t start = first * length; start < smaller(last * length, n_neurons); start += length) {
        const int64_t n = smaller(length, n_neurons - start);
        if (job->coefficients) memset(job->spikes + start, 0, n * sizeof *v);
        if (job->v_first)
            memcpy(v, job->v_first + start, n * sizeof *v);
        else
            memset(v, 0, n * sizeof *v);
        for (int64_t t = 0; t < layer->n_steps; t++) {
            float *spikes = job->coefficients ? step : job->spikes + t * n_neurons + start;
            forward_step(layer, n, job->x + t * job->x_stride + start, slope, offset, v, spikes);
            if (job->coefficients) add_scaled(n, job->coefficients[t], spikes, job->spikes + start);
        }
        memcpy(job->v_last + start, v, n * sizeof *v);
    }
}

/* x has x_stride values between steps, 0 for the same ones at every step; v_first may be NULL, for 0.
   spikes [n_steps][n_neurons], or with coefficients [n_steps], which may be NULL, their weighted sum [n_neurons].
   Returns 0, or 1 without memory. */
int lif_forward(const Layer *layer, const float *x, int64_t x_stride, const float *slope, const float *offset,
                const float *v_first, const float *coefficients, float *spikes, float *v_last) {
    const Forward job = {layer, x, slope, offset, v_first, coefficients, x_stride, spikes, v_last};
    const int64_t length = tile_length(layer->n_channels), n_blocks = (layer->n_neurons + length - 1) / length;
    const int64_t n_threads = clamp_threads(layer->n_threads, n_blocks);
    size_t bytes = 4 * length * sizeof(float);
    char *scratch = allocate_scratch(n_threads, &bytes);
    if (!scratch) return 1;
    run_threads(forward_blocks, &job, n_blocks, n_threads, scratch, bytes);
    free(scratch);
    return 0;
}

/* ---- backward: the membranes of a block again, then the recurrence in reverse (neurons/scan.py has the formula) ---- */

typedef struct {
    const Layer *layer;
    const float *x, *slope, *offset, *mean, *v_first, *coefficients, *grad_spikes, *grad_v_last;
    int64_t x_stride, grad_stride;
    float *grad_y, *grad_v_first;
    int sum_steps;
} Backward;

static void membrane_step(const Layer *layer, int64_t n, const float *restrict x, const float *restrict slope,
                          const float *restrict offset, float *restrict v, float *restrict membrane) {
    const float decay = layer->decay, fires_from = layer->fires_from;
    for (int64_t i = 0; i < n; i++) {
        const float m = MULTIPLY_ADD(decay, v[i], MULTIPLY_ADD(x[i], slope[i], offset[i]));
        membrane[i] = m;
        v[i] = m >= fires_from ? 0.0f : m;
    }
}

/* The gradient of the spikes is factor * grad_spikes.
   grad_y may be the membrane's own memory: each value is read before it is written. */
static void reverse_step(const Layer *layer, int64_t n, const float *membrane, float factor,
                         const float *restrict grad_spikes, const float *restrict x, const float *restrict mean,
                         float *restrict q, float *restrict sum, float *restrict sum_x, float *grad_y) {
    const float decay = layer->decay, fires_from = layer->fires_from;
    const float middle = layer->box_middle, half = layer->box_half, height = layer->box_height;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        const float m = membrane[i];
        const float through_spike = (factor * grad_spikes[i] - q[i] * m) * height;
        const float through_reset = m >= fires_from ? 0.0f : q[i];
        const float grad = (fabsf(m - middle) < half ? through_spike : 0.0f) + through_reset;
        q[i] = decay * grad;
        sum[i] += grad;
        sum_x[i] += grad * (x[i] - mean[i]);
        grad_y[i] = grad;
    }
}

static void backward_blocks(const void *argument, int64_t first, int64_t last, void *scratch) {
    const Backward *job = argument;
    const Layer *layer = job->layer;
    const int64_t n_neurons = layer->n_neurons, n_channels = layer->n_channels, length = tile_length(n_channels);
    double *total = scratch, *total_x = total + length;
    float *q = (float *)(total + 2 * length), *sum = q + length, *sum_x = sum + length, *tiles = sum_x + length;
    const float *slope = fill_tile(tiles, job->slope, n_channels, length);
    const float *offset = fill_tile(tiles + length, job->offset, n_channels, length);
    const float *mean = fill_tile(tiles + 2 * length, job->mean, n_channels, length);
    float *membrane = tiles + 3 * length;
    for (int64_t start = first * length; start < smaller(last * length, n_neurons); start += length) {
        const int64_t n = smaller(length, n_neurons - start);
        if (job->v_first)
            memcpy(q, job->v_first + start, n * sizeof *q);
        else
            memset(q, 0, n * sizeof *q);
        for (int64_t t = 0; t < layer->n_steps; t++)
            membrane_step(layer, n, job->x + t * job->x_stride + start, slope, offset, q, membrane + t * length);
        if (job->grad_v_last)
            memcpy(q, job->grad_v_last + start, n * sizeof *q);
        else
            memset(q, 0, n * sizeof *q);
        memset(sum, 0, 2 * length * sizeof *sum);
        for (int64_t t = layer->n_steps - 1; t >= 0; t--) {
            float *m = membrane + t * length;
            const float factor = job->coefficients ? job->coefficients[t] : 1.0f;
            reverse_step(layer, n, m, factor, job->grad_spikes + t * job->grad_stride + start,
                         job->x + t * job->x_stride + start, mean, q, sum, sum_x,
                         job->sum_steps ? m : job->grad_y + t * n_neurons + start);
        }
        if (job->sum_steps) memcpy(job->grad_y + start, sum, n * sizeof *sum);
        if (job->grad_v_first) memcpy(job->grad_v_first + start, q, n * sizeof *q);
        for (int64_t i = 0; i < n; i++) {
            total[i] += sum[i];
            total_x[i] += sum_x[i];
        }
    }
}

/* grad_y [n_steps][n_neurons], or with sum_steps [n_neurons], summed over the steps; sums of grad_y and of
   grad_y (x - mean) per channel. grad_spikes has grad_stride values between steps; with coefficients it is the
   gradient of the weighted sum. grad_v_last and grad_v_first may be NULL. Returns 0, or 1 without memory. */
int lif_backward(const Layer *layer, const float *x, int64_t x_stride, const float *slope, const float *offset,
                 const float *mean, const float *v_first, const float *coefficients, const float *grad_spikes,
                 int64_t grad_stride, const float *grad_v_last, int32_t sum_steps, float *grad_y, float *grad_v_first,
                 double *sums, double *sums_x) {
    const Backward job = {layer,       x,        slope,       offset, mean,         v_first,  coefficients, grad_spikes,
                          grad_v_last, x_stride, grad_stride, grad_y, grad_v_first, sum_steps};
    const int64_t length = tile_length(layer->n_channels), n_blocks = (layer->n_neurons + length - 1) / length;
    const int64_t n_threads = clamp_threads(layer->n_threads, n_blocks);
    size_t bytes = length * (2 * sizeof(double) + (6 + layer->n_steps) * sizeof(float));
    char *scratch = allocate_scratch(n_threads, &bytes);
    if (!scratch) return 1;
    run_threads(backward_blocks, &job, n_blocks, n_threads, scratch, bytes);
    reduce(sums, scratch, bytes, n_threads, 0, length, layer->n_channels);
    reduce(sums_x, scratch, bytes, n_threads, length, length, layer->n_channels);
    free(scratch);
    return 0;
}

/* ---- gradient of the normalisation: grad <- on_grad grad + on_x x + constant, in place ---- */

typedef struct {
    const float *x, *on_grad, *on_x, *constant;
    int64_t n_values, n_channels, length;
    float *grad;
} Combine;

static void combine_tiles(const void *argument, int64_t first, int64_t last, void *scratch) {
    const Combine *job = argument;
    const int64_t length = job->length;
    float *tiles = scratch;
    const float *restrict on_grad = fill_tile(tiles, job->on_grad, job->n_channels, length);
    const float *restrict on_x = fill_tile(tiles + length, job->on_x, job->n_channels, length);
    const float *restrict constant = fill_tile(tiles + 2 * length, job->constant, job->n_channels, length);
    for (int64_t start = first * length; start < smaller(last * length, job->n_values); start += length) {
        const int64_t n = smaller(length, job->n_values - start);
        const float *restrict x = job->x + start;
        float *restrict grad = job->grad + start;
        for (int64_t i = 0; i < n; i++) grad[i] = MULTIPLY_ADD(x[i], on_x[i], MULTIPLY_ADD(grad[i], on_grad[i], constant[i]));
    }
}

/* Returns 0, or 1 without memory. */
int combine(float *grad, const float *x, const float *on_grad, const float *on_x, const float *constant,
            int64_t n_values, int64_t n_channels, int64_t n_threads) {
    const int64_t length = tile_length(n_channels), n_tiles = (n_values + length - 1) / length;
    const Combine job = {x, on_grad, on_x, constant, n_values, n_channels, length, grad};
    n_threads = clamp_threads(n_threads, n_tiles);
    size_t bytes = 3 * length * sizeof(float);
    char *scratch = allocate_scratch(n_threads, &bytes);
    if (!scratch) return 1;
    run_threads(combine_tiles, &job, n_tiles, n_threads, scratch, bytes);
    free(scratch);
    return 0;
}
