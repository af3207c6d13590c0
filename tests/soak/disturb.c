/* Loaded into the server and into every program of a soak (LD_PRELOAD): a disk that takes its time, a clock that is set.
 *
 * The file named by $SOAK_CONTROL holds two numbers, which the soak changes while the program runs: microseconds that
 * each fsync takes longer, and microseconds by which the wall clock is off. The monotonic clock is left alone, as it is
 * when somebody sets a machine's clock. Build: cc -shared -fPIC -O2 -o disturb.so disturb.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control { volatile int64_t sync_us, clock_us; };
static struct control nothing, *control = &nothing;

__attribute__((constructor)) static void open_control(void) {
    const char *path = getenv("SOAK_CONTROL");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *found = mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (found != MAP_FAILED) control = found;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void take_time(void) {
    int64_t rest = control->sync_us;
    if (rest > 0) {
        struct timespec pause = {rest / 1000000, rest % 1000000 * 1000};
        nanosleep(&pause, NULL);
    }
}

int fsync(int fd) { REAL(fsync); take_time(); return real(fd); }

int fdatasync(int fd) { REAL(fdatasync); take_time(); return real(fd); }

int clock_gettime(clockid_t id, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(id, now);
    if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        int64_t ns = now->tv_nsec + control->clock_us % 1000000 * 1000;
        now->tv_sec += control->clock_us / 1000000 + (ns >= 1000000000) - (ns < 0);
        now->tv_nsec = ns + (ns < 0 ? 1000000000 : ns >= 1000000000 ? -1000000000 : 0);
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *place) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (place) *place = found.tv_sec;
    return found.tv_sec;
}
