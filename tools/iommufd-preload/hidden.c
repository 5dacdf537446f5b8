/*
 * Descriptors of this library that the program does not know of: the control connection, the attendant's, copies of eventfds and
 * of files. They have high numbers, so that the program's own are those it would have without this library, and a program that
 * closes what it does not know passes over them. Only a system call that bypasses the C library can still close one.
 */
#include "shim.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

/* Hidden descriptors start here, or in the middle of what the process may have when that is less. */
#define FIRST 512

static char hidden[MAX_FD];

/* A copy of a descriptor that the program does not know of. Returns -1 and errno when there can be none. */
int hide_copy(int fd)
{
	struct rlimit limit;
	int first = FIRST, copy;

	if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur <= FIRST)
		first = limit.rlim_cur / 2;
	copy = real_fcntl(fd, F_DUPFD_CLOEXEC, first);
	if (copy >= MAX_FD) {
		real_close(copy);
		errno = EMFILE;
		return -1;
	}
	if (copy >= 0)
		__atomic_store_n(&hidden[copy], 1, __ATOMIC_RELAXED);
	return copy;
}

/* Gives a descriptor a number that the program does not know of. Where there is none it keeps the one it has. */
int hide(int fd)
{
	int copy = hide_copy(fd);

	if (copy < 0) {
		__atomic_store_n(&hidden[fd], 1, __ATOMIC_RELAXED);
		return fd;
	}
	real_close(fd);
	return copy;
}

int is_hidden(int fd)
{
	return fd >= 0 && fd < MAX_FD && __atomic_load_n(&hidden[fd], __ATOMIC_RELAXED);
}

void close_hidden(int fd)
{
	if (fd >= 0 && fd < MAX_FD)
		__atomic_store_n(&hidden[fd], 0, __ATOMIC_RELAXED);
	real_close(fd);
}
