/* Convolutions of spikes, for neurons/spike_convolution.py. C99 with GNU vectors; float32.

Spikes are 0 or 1, so four of them (a nibble) can only contribute one of 16 sums of weights. The forward pass keeps
these sums in a table and adds one row of it where a dense convolution multiplies and adds four: a quarter of the
arithmetic, whatever the firing rate. The weight gradient does the same the other way round: the 16 sums of four
gradient rows are a table, and four spikes of one channel pick one of them.

Images are channels-last: spikes [n_images][n_in][n_groups], one byte per nibble of four channels, and real values
[n_images][n_out][c_out]; weights are [n_taps][c_in][c_out]. Which input pixel an output pixel sees through which tap
is a table too, so this code knows neither strides nor padding. */

#include "threads.h"

/* As wide as the processor's registers: of wider vectors GCC keeps sums in memory, at three times the cost. */
#ifdef __AVX512F__
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

enum { MAX_VECTORS = 4, SETS = 16, TILE_GROUPS = 8, TILE = 4 * TILE_GROUPS, NO_MEMORY = 1, NOT_SPIKES = 2 };

/* Output pixels come in phases: those of one phase use the same taps (a transposed convolution with stride 2 has
   four). Phase p has pixels[first_pixel[p]] up to pixels[first_pixel[p + 1] - 1], and taps likewise. */
typedef struct {
    int64_t n_images, n_in, n_out, c_in, c_out, n_taps, n_groups, n_phases;
    const int32_t *inputs; /* [n_out][n_taps]: an input pixel, or -1 */
    const int32_t *pixels, *first_pixel, *taps, *first_tap;
    int32_t n_threads;
} Geometry;

/* Output channels are worked on so many vectors at a time: a constant for the compiler in each of the three cases,
   so that sums stay in registers. */
static int n_vectors(const Geometry *geometry) {
    return geometry->c_out > 2 * LANES ? MAX_VECTORS : geometry->c_out > LANES ? 2 : 1;
}

#define FOR_EACH_WIDTH(function, n, ...)                   \
    do {                                                   \
        if (n == 1) function(1, __VA_ARGS__);              \
        else if (n == 2) function(2, __VA_ARGS__);         \
        else function(MAX_VECTORS, __VA_ARGS__);           \
    } while (0)
#define INLINE static inline __attribute__((always_inline))

/* ---- spikes as floats to nibbles ---- */

typedef struct {
    const uint32_t *spikes;
    int64_t n_channels, n_groups;
    uint8_t *packed, *bad;
} Pack;

/* The bits of 1.0f are 0x3f800000, those of 0.0f are 0; anything else leaves a trace in `bad`. */
INLINE uint8_t pack_nibble(const uint32_t *bits, int64_t n, uint32_t *bad) {
    uint32_t nibble = 0;
    for (int64_t k = 0; k < n; k++) {
        const uint32_t spike = bits[k] >> 29;
        *bad |= bits[k] ^ (spike * 0x3f800000u);
        nibble |= spike << k;
    }
    return (uint8_t)nibble;
}

static void pack_rows(const void *argument, int64_t first, int64_t last, void *scratch) {
    const Pack *job = argument;
    const int64_t n_full = job->n_channels / 4, rest = job->n_channels % 4;
    uint32_t bad = 0;
    (void)scratch;
    for (int64_t row = first; row < last; row++) {
        const uint32_t *bits = job->spikes + row * job->n_channels;
        uint8_t *packed = job->packed + row * job->n_groups;
        for (int64_t g = 0; g < n_full; g++) packed[g] = pack_nibble(bits + 4 * g, 4, &bad);
        for (int64_t g = n_full; g < job->n_groups; g++) packed[g] = pack_nibble(bits + 4 * g, g == n_full ? rest : 0, &bad);
    }
    if (bad) *job->bad = 1;
}

/* [n_rows][n_channels] -> [n_rows][n_groups]. Returns 0, or NOT_SPIKES if a value is neither 0 nor 1. */
int pack_spikes(const float *spikes, int64_t n_rows, int64_t n_channels, int64_t n_groups, int32_t n_threads,
                uint8_t *packed) {
    uint8_t bad = 0;
    const Pack job = {(const uint32_t *)spikes, n_channels, n_groups, packed, &bad};
    run_threads(pack_rows, &job, n_rows, clamp_threads(n_threads, n_rows), NULL, 0);
    return bad ? NOT_SPIKES : 0;
}

/* ---- forward ---- */

typedef struct {
    const Geometry *geometry;
    const uint8_t *spikes;
    const float *weight;
    int64_t channel; /* first output channel of this pass */
    float *table;    /* [n_taps][n_groups][SETS][width] */
    float *out;
} Forward;

/* Items are (tap, group). Sets that hold a channel that does not exist stay 0 and are never picked. */
static void build_tables(const void *argument, int64_t first, int64_t last, void *scratch) {
    const Forward *job = argument;
    const Geometry *geometry = job->geometry;
    const int64_t width = n_vectors(geometry) * LANES, n = smaller(width, geometry->c_out - job->channel);
    (void)scratch;
    for (int64_t item = first; item < last; item++) {
        const int64_t tap = item / geometry->n_groups, channel = item % geometry->n_groups * 4;
        float *table = job->table + item * SETS * width;
        memset(table, 0, SETS * width * sizeof *table);
        for (int64_t bit = 0; bit < smaller(4, geometry->c_in - channel); bit++) {
            const float *row = job->weight + (tap * geometry->c_in + channel + bit) * geometry->c_out + job->channel;
            const float *without = table;
            for (float *with = table + (width << bit); with < table + (width << (bit + 1)); with += width, without += width)
                for (int64_t k = 0; k < n; k++) with[k] = without[k] + row[k];
        }
    }
}

/* Two sums side by side: an addition waits for the one before it. */
INLINE void add_tap(const int n, const uint8_t *spikes, const float *table, int64_t n_groups, Vector *even, Vector *odd) {
    const int width = n * LANES;
    for (int64_t g = 0; g < n_groups; g += 2, table += 2 * SETS * width) {
        const Vector *first = (const Vector *)(table + spikes[g] * width);
        const Vector *second = (const Vector *)(table + (SETS + spikes[g + 1]) * width);
        for (int k = 0; k < n; k++) even[k] += first[k];
        for (int k = 0; k < n; k++) odd[k] += second[k];
    }
}

INLINE void forward_pixel(const int n, const Forward *job, int64_t phase, int64_t image, int64_t pixel) {
    const Geometry *geometry = job->geometry;
    const int64_t n_groups = geometry->n_groups, n_valid = smaller(n * LANES, geometry->c_out - job->channel);
    Vector even[MAX_VECTORS], odd[MAX_VECTORS];
    for (int k = 0; k < n; k++) even[k] = odd[k] = (Vector){0};
    for (int64_t j = geometry->first_tap[phase]; j < geometry->first_tap[phase + 1]; j++) {
        const int64_t tap = geometry->taps[j], input = geometry->inputs[pixel * geometry->n_taps + tap];
        if (input < 0) continue;
        const uint8_t *spikes = job->spikes + (image * geometry->n_in + input) * n_groups;
        add_tap(n, spikes, job->table + tap * n_groups * SETS * n * LANES, n_groups, even, odd);
    }
    for (int k = 0; k < n; k++) even[k] += odd[k];
    float *out = job->out + (image * geometry->n_out + pixel) * geometry->c_out + job->channel;
    if (n_valid == n * LANES)
        for (int k = 0; k < n; k++) ((Vector *)out)[k] = even[k];
    else
        memcpy(out, even, n_valid * sizeof *out);
}

/* Phase by phase, because the tables of all taps together may be larger than the cache. */
INLINE void forward_images(const int n, const Forward *job, int64_t first, int64_t last) {
    const Geometry *geometry = job->geometry;
    for (int64_t phase = 0; phase < geometry->n_phases; phase++)
        for (int64_t image = first; image < last; image++)
            for (int64_t j = geometry->first_pixel[phase]; j < geometry->first_pixel[phase + 1]; j++)
                forward_pixel(n, job, phase, image, geometry->pixels[j]);
}

static void forward_share(const void *argument, int64_t first, int64_t last, void *scratch) {
    const Forward *job = argument;
    (void)scratch;
    FOR_EACH_WIDTH(forward_images, n_vectors(job->geometry), job, first, last);
}

/* out [n_images][n_out][c_out]. Returns 0, or NO_MEMORY. */
int spike_conv_forward(const Geometry *geometry, const uint8_t *spikes, const float *weight, float *out) {
    const int64_t width = n_vectors(geometry) * LANES, n_items = geometry->n_taps * geometry->n_groups;
    const int64_t n_threads = clamp_threads(geometry->n_threads, geometry->n_images);
    size_t bytes = n_items * SETS * width * sizeof(float);
    float *table = (float *)allocate_scratch(1, &bytes);
    if (!table) return NO_MEMORY;
    for (int64_t channel = 0; channel < geometry->c_out; channel += width) {
        const Forward job = {geometry, spikes, weight, channel, table, out};
        run_threads(build_tables, &job, n_items, clamp_threads(n_threads, n_items), NULL, 0);
        run_threads(forward_share, &job, geometry->n_images, n_threads, NULL, 0);
    }
    free(table);
    return 0;
}

/* ---- gradient of the weight ---- */

typedef struct {
    const Geometry *geometry;
    const uint8_t *spikes;
    const float *grad_out;
    int64_t chunk;        /* images whose spikes are unpacked at a time */
    int64_t channel_rows; /* c_in, up to whole nibbles */
    int64_t row;          /* c_out, up to whole passes */
} Backward;

/* Scratch of a thread. `sums` comes first: it is read after the threads have ended. */
typedef struct {
    float *sums;       /* [n_taps][c_in][row] */
    float *table;      /* [TILE_GROUPS][SETS][width] */
    uint8_t *sets;     /* [TILE_GROUPS][channel_rows] */
    uint8_t *unpacked; /* [chunk * n_in][channel_rows], one byte per spike */
    uint8_t *silence;  /* [channel_rows] of 0 */
} Scratch;

static size_t scratch_sizes(const Backward *job, size_t sizes[4]) {
    const Geometry *geometry = job->geometry;
    sizes[0] = geometry->n_taps * geometry->c_in * job->row * sizeof(float);
    sizes[1] = TILE_GROUPS * SETS * MAX_VECTORS * LANES * sizeof(float);
    sizes[2] = TILE_GROUPS * job->channel_rows;
    sizes[3] = job->chunk * geometry->n_in * job->channel_rows;
    return sizes[0] + sizes[1] + sizes[2] + sizes[3] + job->channel_rows;
}

static Scratch divide_scratch(const Backward *job, char *memory) {
    size_t sizes[4];
    scratch_sizes(job, sizes);
    Scratch scratch = {.sums = (float *)memory, .table = (float *)(memory + sizes[0])};
    scratch.sets = (uint8_t *)scratch.table + sizes[1];
    scratch.unpacked = scratch.sets + sizes[2];
    scratch.silence = scratch.unpacked + sizes[3];
    return scratch;
}

static void unpack(const uint8_t *packed, int64_t n_nibbles, uint8_t *spikes) {
    for (int64_t g = 0; g < n_nibbles; g++)
        for (int k = 0; k < 4; k++) spikes[4 * g + k] = packed[g] >> k & 1;
}

/* A tile is up to TILE pairs (image, pixel) of one phase; where a pair or its input is missing there is silence. */
typedef struct {
    int64_t n;
    int64_t image[TILE], pixel[TILE];
} Tile;

/* The sums of all subsets of four gradient rows, for every group of the tile. */
INLINE void tabulate_gradients(const int n, const Backward *job, const Tile *tile, int64_t channel, Vector *table) {
    const Geometry *geometry = job->geometry;
    const int64_t n_valid = smaller(n * LANES, geometry->c_out - channel);
    for (int64_t j = 0; j < TILE; j++) {
        Vector row[MAX_VECTORS] = {{0}};
        if (j < tile->n) {
            const float *grad = job->grad_out + (tile->image[j] * geometry->n_out + tile->pixel[j]) * geometry->c_out + channel;
            if (n_valid == n * LANES)
                for (int k = 0; k < n; k++) row[k] = ((const Vector *)grad)[k];
            else
                memcpy(row, grad, n_valid * sizeof *grad);
        }
        Vector *sets = table + j / 4 * SETS * n;
        const int with = 1 << j % 4;
        if (with == 1)
            for (int k = 0; k < n; k++) sets[k] = (Vector){0};
        for (int set = 0; set < with; set++)
            for (int k = 0; k < n; k++) sets[(with + set) * n + k] = sets[set * n + k] + row[k];
    }
}

/* For every group and input channel: which of the group's four pixels have a spike at the other end of the tap. */
static void pick_sets(const Backward *job, const Tile *tile, int64_t tap, int64_t first_image, const Scratch *scratch) {
    const Geometry *geometry = job->geometry;
    const int64_t n = job->channel_rows;
    const uint8_t *spikes[TILE];
    for (int64_t j = 0; j < TILE; j++) {
        const int64_t input = j < tile->n ? geometry->inputs[tile->pixel[j] * geometry->n_taps + tap] : -1;
        const int64_t row = j < tile->n ? (tile->image[j] - first_image) * geometry->n_in + input : 0;
        spikes[j] = input < 0 ? scratch->silence : scratch->unpacked + row * n;
    }
    for (int64_t g = 0; g < TILE_GROUPS; g++) {
        const uint8_t *restrict a = spikes[4 * g], *restrict b = spikes[4 * g + 1];
        const uint8_t *restrict c = spikes[4 * g + 2], *restrict d = spikes[4 * g + 3];
        uint8_t *restrict sets = scratch->sets + g * n;
        for (int64_t k = 0; k < n; k++) sets[k] = (uint8_t)(a[k] + 2 * b[k] + 4 * c[k] + 8 * d[k]);
    }
}

INLINE void add_picked(const int n, const Backward *job, int64_t tap, int64_t channel, const Scratch *scratch) {
    const Geometry *geometry = job->geometry;
    const Vector *table = (const Vector *)scratch->table;
    for (int64_t c = 0; c < geometry->c_in; c++) {
        Vector *sums = (Vector *)(scratch->sums + (tap * geometry->c_in + c) * job->row + channel);
        const uint8_t *sets = scratch->sets + c;
        Vector even[MAX_VECTORS], odd[MAX_VECTORS];
        for (int k = 0; k < n; k++) even[k] = sums[k], odd[k] = (Vector){0};
        for (int g = 0; g < TILE_GROUPS; g += 2) {
            const Vector *first = table + (g * SETS + sets[g * job->channel_rows]) * n;
            const Vector *second = table + ((g + 1) * SETS + sets[(g + 1) * job->channel_rows]) * n;
            for (int k = 0; k < n; k++) even[k] += first[k];
            for (int k = 0; k < n; k++) odd[k] += second[k];
        }
        for (int k = 0; k < n; k++) sums[k] = even[k] + odd[k];
    }
}

static Tile make_tile(const Geometry *geometry, int64_t phase, int64_t first_image, int64_t first, int64_t last) {
    const int64_t start = geometry->first_pixel[phase], n_pixels = geometry->first_pixel[phase + 1] - start;
    Tile tile = {.n = smaller(TILE, last - first)};
    for (int64_t j = 0; j < tile.n; j++) {
        tile.image[j] = first_image + (first + j) / n_pixels;
        tile.pixel[j] = geometry->pixels[start + (first + j) % n_pixels];
    }
    return tile;
}

INLINE void backward_chunk(const int n, const Backward *job, int64_t channel, int64_t first, int64_t last,
                           const Scratch *scratch) {
    const Geometry *geometry = job->geometry;
    unpack(job->spikes + first * geometry->n_in * geometry->n_groups,
           (last - first) * geometry->n_in * geometry->n_groups, scratch->unpacked);
    for (int64_t phase = 0; phase < geometry->n_phases; phase++) {
        const int64_t n_pairs = (last - first) * (geometry->first_pixel[phase + 1] - geometry->first_pixel[phase]);
        for (int64_t pair = 0; pair < n_pairs; pair += TILE) {
            const Tile tile = make_tile(geometry, phase, first, pair, n_pairs);
            tabulate_gradients(n, job, &tile, channel, (Vector *)scratch->table);
            for (int64_t j = geometry->first_tap[phase]; j < geometry->first_tap[phase + 1]; j++) {
                pick_sets(job, &tile, geometry->taps[j], first, scratch);
                add_picked(n, job, geometry->taps[j], channel, scratch);
            }
        }
    }
}

INLINE void backward_images(const int n, const Backward *job, int64_t first, int64_t last, const Scratch *scratch) {
    for (int64_t channel = 0; channel < job->geometry->c_out; channel += n * LANES)
        for (int64_t image = first; image < last; image += job->chunk)
            backward_chunk(n, job, channel, image, smaller(image + job->chunk, last), scratch);
}

static void backward_share(const void *argument, int64_t first, int64_t last, void *memory) {
    const Backward *job = argument;
    const Scratch scratch = divide_scratch(job, memory);
    FOR_EACH_WIDTH(backward_images, n_vectors(job->geometry), job, first, last, &scratch);
}

/* So many images that a phase fills whole tiles, where pixels are few. */
static int64_t chunk_images(const Geometry *geometry) {
    const int64_t n_pixels = geometry->first_pixel[1];
    return n_pixels < TILE ? TILE / n_pixels : 1;
}

/* grad_weight [n_taps][c_in][c_out]. Returns 0, or NO_MEMORY. */
int spike_conv_weight_gradient(const Geometry *geometry, const uint8_t *spikes, const float *grad_out,
                               float *grad_weight) {
    const int64_t width = n_vectors(geometry) * LANES, row = (geometry->c_out + width - 1) / width * width;
    const Backward job = {geometry, spikes, grad_out, chunk_images(geometry), 4 * geometry->n_groups, row};
    const int64_t n_threads = clamp_threads(geometry->n_threads, geometry->n_images), c_out = geometry->c_out;
    size_t sizes[4], bytes = scratch_sizes(&job, sizes);
    char *scratch = allocate_scratch(n_threads, &bytes);
    if (!scratch) return NO_MEMORY;
    run_threads(backward_share, &job, geometry->n_images, n_threads, scratch, bytes);
    memset(grad_weight, 0, geometry->n_taps * geometry->c_in * c_out * sizeof *grad_weight);
    for (int64_t k = 0; k < n_threads; k++)
        for (int64_t r = 0; r < geometry->n_taps * geometry->c_in; r++)
            for (int64_t c = 0; c < c_out; c++)
                grad_weight[r * c_out + c] += ((const float *)(scratch + k * bytes))[r * row + c];
    free(scratch);
    return 0;
}
