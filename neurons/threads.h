/* Threads and scratch memory for the C code of this folder.

   With OpenMP the threads are those of PyTorch's own pool (library.py links the runtime that PyTorch has loaded). That
   matters: after each operation PyTorch's threads go on spinning for a while, on the cores that others would want. */

#ifndef THREADS_H
#define THREADS_H

#ifndef _OPENMP
#include <pthread.h>
#endif
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 256 };

typedef void Work(const void *job, int64_t first, int64_t last, void *scratch);

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t clamp_threads(int64_t n_threads, int64_t n_items) {
    n_threads = smaller(smaller(n_threads, n_items), MAX_THREADS);
    return n_threads < 1 ? 1 : n_threads;
}

typedef struct {
    Work *work;
    const void *job;
    int64_t first, last;
    void *scratch;
} Share;

static inline void *run_share(void *argument) {
    Share *share = argument;
    share->work(share->job, share->first, share->last, share->scratch);
    return NULL;
}

#ifdef _OPENMP
/* Right with fewer threads than shares too. */
static inline void run_shares(Share *shares, int64_t n) {
#pragma omp parallel for num_threads(n) schedule(static, 1)
    for (int64_t k = 0; k < n; k++) run_share(&shares[k]);
}
#else
/* The calling thread takes the last share, and every share whose thread cannot be started. */
static inline void run_shares(Share *shares, int64_t n) {
    pthread_t threads[MAX_THREADS];
    int started[MAX_THREADS];
    for (int64_t k = 0; k < n; k++) {
        started[k] = k + 1 < n && pthread_create(&threads[k], NULL, run_share, &shares[k]) == 0;
        if (!started[k]) run_share(&shares[k]);
    }
    for (int64_t k = 0; k < n; k++)
        if (started[k]) pthread_join(threads[k], NULL);
}
#endif

/* Each thread gets one run of items and `bytes` of scratch: the same division, and so the same sums, on any pool. */
static inline void run_threads(Work *work, const void *job, int64_t n_items, int64_t n_threads, char *scratch,
                               size_t bytes) {
    Share shares[MAX_THREADS];
    for (int64_t k = 0; k < n_threads; k++) {
        const int64_t first = n_items * k / n_threads, last = n_items * (k + 1) / n_threads;
        shares[k] = (Share){work, job, first, last, scratch + k * bytes};
    }
    run_shares(shares, n_threads);
}

/* Zeroed; one cache line never serves two threads. */
static inline char *allocate_scratch(int64_t n_threads, size_t *bytes) {
    void *scratch = NULL;
    *bytes = (*bytes + 63) / 64 * 64;
    if (posix_memalign(&scratch, 64, n_threads * *bytes)) return NULL;
    memset(scratch, 0, n_threads * *bytes);
    return scratch;
}

#endif
