/* Preloaded into nginx: lets an allocation of nginx's own fail, which the test chooses.
 *
 * The file AUTHGEAR_TESTS_ALLOCATIONS holds how many succeed before the one that fails, or a
 * negative number once it did, or if none is to. What libraries and the module allocate without
 * nginx's pools does not count: Rust ends the process there, as it does when memory runs out. */

#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static _Atomic int64_t *left;
static uintptr_t from, to;

static int find_nginx(struct dl_phdr_info *info, size_t size, void *data)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X)) {
            from = info->dlpi_addr + segment->p_vaddr;
            to = from + segment->p_memsz;
        }
    }
    return 1; /* The program itself comes first. */
}

__attribute__((constructor)) static void start(void)
{
    int fd = open(getenv("AUTHGEAR_TESTS_ALLOCATIONS"), O_RDWR);
    void *shared = mmap(NULL, sizeof *left, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (shared == MAP_FAILED) {
        abort();
    }
    dl_iterate_phdr(find_nginx, NULL);
    left = shared;
}

static int fails(const void *caller)
{
    uintptr_t at = (uintptr_t) caller;
    return left != NULL && at >= from && at < to && *left >= 0 && atomic_fetch_sub(left, 1) == 0;
}

void *malloc(size_t size)
{
    if (fails(__builtin_return_address(0))) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_malloc(size);
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    if (fails(__builtin_return_address(0))) {
        return ENOMEM;
    }
    *memory = __libc_memalign(alignment, size);
    return *memory == NULL ? ENOMEM : 0;
}
