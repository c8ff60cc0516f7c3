/* Threads and scratch memory for the C code of this folder. */

#ifndef THREADS_H
#define THREADS_H

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 256 };

typedef void Work(const void *job, int64_t first, int64_t last, void *scratch);

typedef struct {
    Work *work;
    const void *job;
    int64_t first, last;
    void *scratch;
    pthread_t thread;
    int started;
} Share;

static inline void *run_share(void *argument) {
    Share *share = argument;
    share->work(share->job, share->first, share->last, share->scratch);
    return NULL;
}

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t clamp_threads(int64_t n_threads, int64_t n_items) {
    n_threads = smaller(smaller(n_threads, n_items), MAX_THREADS);
    return n_threads < 1 ? 1 : n_threads;
}

/* Each thread gets one run of items and `bytes` of scratch. The calling thread takes the last run, and every run
   whose thread cannot be started. */
static inline void run_threads(Work *work, const void *job, int64_t n_items, int64_t n_threads, char *scratch,
                               size_t bytes) {
    Share shares[MAX_THREADS];
    for (int64_t k = 0; k < n_threads; k++) {
        Share *share = &shares[k];
        share->work = work;
        share->job = job;
        share->first = n_items * k / n_threads;
        share->last = n_items * (k + 1) / n_threads;
        share->scratch = scratch + k * bytes;
        share->started = k + 1 < n_threads && pthread_create(&share->thread, NULL, run_share, share) == 0;
        if (!share->started) run_share(share);
    }
    for (int64_t k = 0; k < n_threads; k++)
        if (shares[k].started) pthread_join(shares[k].thread, NULL);
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
