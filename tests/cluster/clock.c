/* A clock of one's own for a process: what asks for the time of day gets it with the seconds that stand in a file added.
 *
 * Preloaded (LD_PRELOAD) with ENDMARK_CLOCK naming a file of three 64-bit integers, which is mapped: seconds, how many
 * parts in a million the clock gains, and since when by the monotonic clock, in nanoseconds. A test that writes there
 * puts the clocks of all these processes on or back at once, or lets them drift. Monotonic clocks and sleeps are left alone, as
 * they are by a real clock that is set. libfaketime 0.9.10, told to leave the monotonic clock alone, lets every
 * absolute sleep on it fail with EINVAL, and that is what Python's time.sleep does. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *ahead;

__attribute__((constructor)) static void open_clock(void)
{
    const char *path = getenv("ENDMARK_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *found = mmap(NULL, 3 * sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (found != MAP_FAILED)
        ahead = found;
    close(file);
}

int clock_gettime(clockid_t id, struct timespec *now)
{
    int failed = syscall(SYS_clock_gettime, id, now);
    if (!failed && ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        now->tv_sec += ahead[0];
        if (ahead[1]) {
            struct timespec passed;
            syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &passed);
            int64_t gone = passed.tv_sec * 1000000000LL + passed.tv_nsec - ahead[2];
            int64_t gained = now->tv_nsec + gone / 1000 * ahead[1] / 1000;
            now->tv_sec += gained / 1000000000LL;
            now->tv_nsec = gained % 1000000000LL;
            if (now->tv_nsec < 0) {
                now->tv_nsec += 1000000000LL;
                now->tv_sec -= 1;
            }
        }
    }
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact))
        return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now)
{
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact))
        return -1;
    if (now)
        *now = exact.tv_sec;
    return exact.tv_sec;
}
