/* A disk that tells what it was made to keep: once a file under ENDMARK_DISK is flushed, it is copied to ENDMARK_KEPT.
 *
 * Preloaded (LD_PRELOAD). What was written since the last flush is in memory alone, and a loss of power forgets it; the
 * test that lets the power fail finds in ENDMARK_KEPT what must be there afterwards. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void keep(int file)
{
    const char *disk = getenv("ENDMARK_DISK"), *folder = getenv("ENDMARK_KEPT");
    char link[64], path[PATH_MAX], made[2 * PATH_MAX], kept[2 * PATH_MAX], block[65536];
    ssize_t length;
    off_t at = 0;
    int copy;
    if (!disk || !folder)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return;
    path[length] = 0;
    if (strncmp(path, disk, strlen(disk)))
        return;
    snprintf(kept, sizeof kept, "%s%s", folder, strrchr(path, '/'));
    snprintf(made, sizeof made, "%s.%d", kept, (int)getpid());
    copy = open(made, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (copy < 0)
        return;
    while ((length = pread(file, block, sizeof block, at)) > 0 && write(copy, block, length) == length)
        at += length;
    close(copy);
    if (length == 0)
        rename(made, kept); /* whole or not at all, should the process be killed here */
    else
        unlink(made);
}

int fsync(int file)
{
    int failed = syscall(SYS_fsync, file);
    if (!failed)
        keep(file);
    return failed;
}

int fdatasync(int file)
{
    int failed = syscall(SYS_fdatasync, file);
    if (!failed)
        keep(file);
    return failed;
}
