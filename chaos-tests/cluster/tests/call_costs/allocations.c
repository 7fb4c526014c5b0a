/* Preloaded into a program it counts what the program allocates, in a file that a test reads. */

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t items, size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

/* The file's content. */
struct counts {
    atomic_ulong allocations;
    atomic_ulong bytes;
    atomic_ulong tasks;
};

/* tokio's tasks have this alignment on x86-64 and aarch64, and nothing else that a call needs. */
#define TASK_ALIGNMENT 128

static struct counts until_begun;
static struct counts *counts = &until_begun;

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("ALLOCATIONS_FOLDER");
    char path[4096];
    if (folder == NULL || snprintf(path, sizeof path, "%s/%d", folder, getpid()) >= (int)sizeof path)
        return;
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0)
        return;
    if (ftruncate(file, sizeof(struct counts)) == 0) {
        void *mapped = mmap(NULL, sizeof(struct counts), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (mapped != MAP_FAILED)
            counts = mapped;
    }
    close(file);
}

static void count(size_t bytes) {
    atomic_fetch_add_explicit(&counts->allocations, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&counts->bytes, bytes, memory_order_relaxed);
}

void *malloc(size_t bytes) {
    count(bytes);
    return __libc_malloc(bytes);
}

void *calloc(size_t items, size_t bytes) {
    count(items * bytes);
    return __libc_calloc(items, bytes);
}

void *realloc(void *old, size_t bytes) {
    count(bytes);
    return __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes) {
    count(bytes);
    if (alignment == TASK_ALIGNMENT)
        atomic_fetch_add_explicit(&counts->tasks, 1, memory_order_relaxed);
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **allocated, size_t alignment, size_t bytes) {
    void *memory = aligned_alloc(alignment, bytes);
    if (memory == NULL)
        return ENOMEM;
    *allocated = memory;
    return 0;
}
