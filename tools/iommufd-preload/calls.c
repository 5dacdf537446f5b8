/* The calls of the C library that this library puts itself in front of. */
#include "shim.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <linux/capability.h>

#define LARGEST 0x100000
/* Calls after which a device interrupts this process, or reaches its memory. */
enum {
	SET_IRQS = 0x3b6e, MAP_DMA = 0x3b71, IOAS_MAP = 0x3b85, IOAS_MAP_FILE = 0x3b8f, IOAS_CHANGE_PROCESS = 0x3b92,
};

struct mapping {
	void *start;
	size_t length;
	uint64_t offset;
	int fd;
	struct mapping *next;
};
static struct mapping *mappings;
static pthread_mutex_t mappings_lock = PTHREAD_MUTEX_INITIALIZER;

static int ours(const char *path)
{
	return path && (!strcmp(path, "/dev/iommu") || !strncmp(path, "/dev/vfio/", 10));
}

/* Opens what this library answers for. -2: somebody else's. */
static int open_special(const char *path, int flags)
{
	int fd;

	char other[4096];
	const char *there;

	if (ours(path))
		return open_node(path, flags);
	there = path ? in_sysfs(path, other) : NULL;
	if (there)
		return real_open(there, flags);
	fd = path ? open_proc(path) : -2;
	return fd;
}

int open(const char *path, int flags, ...)
{
	va_list v;
	int mode, fd;

	resolve();
	va_start(v, flags);
	mode = va_arg(v, int);
	va_end(v);
	fd = open_special(path, flags);
	return fd == -2 ? real_open(path, flags, mode) : fd;
}

int open64(const char *path, int flags, ...)
{
	va_list v;
	int mode;

	va_start(v, flags);
	mode = va_arg(v, int);
	va_end(v);
	return open(path, flags | O_LARGEFILE, mode);
}

int openat(int dir, const char *path, int flags, ...)
{
	va_list v;
	int mode, fd;

	resolve();
	va_start(v, flags);
	mode = va_arg(v, int);
	va_end(v);
	fd = open_special(path, flags);
	return fd == -2 ? real_openat(dir, path, flags, mode) : fd;
}

int openat64(int dir, const char *path, int flags, ...)
{
	va_list v;
	int mode;

	va_start(v, flags);
	mode = va_arg(v, int);
	va_end(v);
	return openat(dir, path, flags | O_LARGEFILE, mode);
}

/* What _FORTIFY_SOURCE makes of open and openat without a mode. */
int __open_2(const char *path, int flags) { return open(path, flags, 0); }
int __open64_2(const char *path, int flags) { return open64(path, flags, 0); }
int __openat_2(int dir, const char *path, int flags) { return openat(dir, path, flags, 0); }
int __openat64_2(int dir, const char *path, int flags) { return openat64(dir, path, flags, 0); }

/* Which capabilities the thread has: bit 0 CAP_IPC_LOCK, bit 1 CAP_SYS_RESOURCE. */
static uint32_t capabilities(void)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { 0, 0, 0 } };

	if (syscall(SYS_capget, &head, data))
		return 0;
	/* The root of a container that lacks the latter is still the root of the machine the server stands for. */
	return (data[0].effective >> CAP_IPC_LOCK & 1) | ((data[0].effective >> CAP_SYS_RESOURCE & 1) | !geteuid()) << 1;
}

int ioctl(int fd, unsigned long number, ...)
{
	struct __attribute__((packed)) {
		uint32_t pid, number;
		uint64_t argument;
		uint32_t uid, flags;
		uint64_t memlock;
		uint32_t writable, zero;
		char bytes[PREFETCH];
	} m;
	struct rlimit limit;
	size_t n = 0;
	struct conn *c;
	va_list v;
	void *argument;

	resolve();
	va_start(v, number);
	argument = va_arg(v, void *);
	va_end(v);
	c = conn_of(fd);
	if (!c)
		return real_ioctl(fd, number, argument);
	/* A child that goes on with what its parent opened, or a process that was handed it, attends for itself. */
	switch ((uint32_t)number) {
	case SET_IRQS:
	case MAP_DMA:
	case IOAS_MAP:
	case IOAS_MAP_FILE:
	case IOAS_CHANGE_PROCESS:
		attend();
	}
	m.pid = getpid();
	m.number = number;
	m.argument = (uintptr_t)argument;
	m.uid = getuid();
	m.flags = capabilities();
	m.memlock = getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur;
	m.zero = 0;
	/* The start of the structure goes along as far as it is there: one question less, or two. */
	if (argument)
		n = copy_in(m.pid, m.argument, m.bytes, PREFETCH);
	m.writable = writable_at(m.argument, n);
	return finish(request(fd, c, IOCTL, &m, sizeof(m) - PREFETCH + n, NULL, 0, NULL, 0));
}

/* A read whose data may belong into memory that is not there: EFAULT, not a signal. */
static ssize_t read_into(int fd, struct conn *c, uint8_t type, const void *a, uint32_t an, void *into, uint32_t count)
{
	char *bounce = malloc(count + 1);
	int64_t r = -ENOMEM;

	if (bounce)
		r = request(fd, c, type, a, an, NULL, 0, bounce, count);
	if (r > 0 && copy_out(getpid(), (uintptr_t)into, bounce, r))
		r = -EFAULT;
	free(bounce);
	return finish(r);
}

static ssize_t write_from(int fd, struct conn *c, uint8_t type, const void *a, uint32_t an, const void *from, size_t n)
{
	size_t k = n > LARGEST ? LARGEST : n;
	char *bounce = malloc(k + 1);
	int64_t r = -ENOMEM;

	if (bounce) {
		size_t got = copy_in(getpid(), (uintptr_t)from, bounce, k);

		r = got < k ? -EFAULT : request(fd, c, type, a, an, bounce, k, NULL, 0);
	}
	free(bounce);
	return finish(r);
}

ssize_t read(int fd, void *into, size_t n)
{
	uint32_t count = n > LARGEST ? LARGEST : n;
	struct conn *c;

	resolve();
	if (is_fail_nth(fd))
		return fail_nth_read(into, n);
	c = conn_of(fd);
	return c ? read_into(fd, c, READ, &count, 4, into, count) : real_read(fd, into, n);
}

ssize_t __read_chk(int fd, void *into, size_t n, size_t room)
{
	if (n > room)
		abort();
	return read(fd, into, n);
}

ssize_t write(int fd, const void *from, size_t n)
{
	struct conn *c;

	resolve();
	if (is_fail_nth(fd))
		return fail_nth_write(from, n);
	c = conn_of(fd);
	return c ? write_from(fd, c, WRITE, NULL, 0, from, n) : real_write(fd, from, n);
}

ssize_t pread(int fd, void *into, size_t n, off_t at)
{
	struct __attribute__((packed)) { uint64_t at; uint32_t count; } m = { at, n > LARGEST ? LARGEST : n };
	struct conn *c;

	resolve();
	if (is_fail_nth(fd))
		return fail_nth_read(into, n);
	c = conn_of(fd);
	return c ? read_into(fd, c, PREAD, &m, sizeof(m), into, m.count) : real_pread(fd, into, n, at);
}

ssize_t pread64(int fd, void *into, size_t n, off_t at) { return pread(fd, into, n, at); }

ssize_t __pread_chk(int fd, void *into, size_t n, off_t at, size_t room)
{
	if (n > room)
		abort();
	return pread(fd, into, n, at);
}

ssize_t __pread64_chk(int fd, void *into, size_t n, off_t at, size_t room) { return __pread_chk(fd, into, n, at, room); }

ssize_t pwrite(int fd, const void *from, size_t n, off_t at)
{
	uint64_t where = at;
	struct conn *c;

	resolve();
	if (is_fail_nth(fd))
		return fail_nth_write(from, n);
	c = conn_of(fd);
	return c ? write_from(fd, c, PWRITE, &where, 8, from, n) : real_pwrite(fd, from, n, at);
}

ssize_t pwrite64(int fd, const void *from, size_t n, off_t at) { return pwrite(fd, from, n, at); }

/* Ready bits of our descriptors; theirs are asked of the system without waiting. */
static int poll_once(struct pollfd *p, nfds_t n)
{
	struct pollfd *rest = malloc((n ? n : 1) * sizeof(*rest));
	int ready = 0;
	nfds_t i;

	if (!rest) {
		errno = ENOMEM;
		return -1;
	}
	for (i = 0; i < n; i++) {
		rest[i] = p[i];
		if (conn_of(p[i].fd))
			rest[i].fd = -1;
	}
	if (real_poll(rest, n, 0) < 0) {
		free(rest);
		return -1;
	}
	for (i = 0; i < n; i++) {
		struct conn *c = conn_of(p[i].fd);
		int64_t bits = c ? request(p[i].fd, c, POLL, NULL, 0, NULL, 0, NULL, 0) : 0;

		if (!c)
			p[i].revents = rest[i].revents;
		else
			p[i].revents = bits < 0 ? POLLERR | POLLHUP : bits & (p[i].events | POLLERR | POLLHUP);
		ready += p[i].revents != 0;
	}
	free(rest);
	return ready;
}

int poll(struct pollfd *p, nfds_t n, int timeout)
{
	struct timespec start, now;
	nfds_t i;

	resolve();
	for (i = 0; i < n; i++)
		if (conn_of(p[i].fd))
			break;
	if (i == n)
		return real_poll(p, n, timeout);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (;;) {
		int ready = poll_once(p, n);
		long waited;

		if (ready)
			return ready;
		clock_gettime(CLOCK_MONOTONIC, &now);
		waited = (now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000;
		if (timeout >= 0 && waited >= timeout)
			return 0;
		if (real_poll(NULL, 0, 1) < 0)
			return -1;
	}
}

int __poll_chk(struct pollfd *p, nfds_t n, int timeout, size_t room)
{
	if (n * sizeof(*p) > room)
		abort();
	return poll(p, n, timeout);
}

int close(int fd)
{
	resolve();
	if (is_hidden(fd)) {
		errno = EBADF;
		return -1;
	}
	leave(fd);
	return real_close(fd);
}

int close_range(unsigned first, unsigned last, int flags)
{
	unsigned fd;
	int r = 0;

	resolve();
	if (!real_close_range) {
		errno = ENOSYS;
		return -1;
	}
	if (first > last)
		return real_close_range(first, last, flags);
	for (fd = first; !r && fd <= last && fd < MAX_FD; fd++) {
		/* CLOSE_RANGE_CLOEXEC closes nothing yet. */
		if (!(flags & 4))
			leave(fd);
		if (!is_hidden(fd))
			continue;
		if (first < fd)
			r = real_close_range(first, fd - 1, flags);
		first = fd + 1;
	}
	return r || first > last ? r : real_close_range(first, last, flags);
}

void closefrom(int first)
{
	int fd = first < 0 ? 0 : first;

	/* A system without close_range. */
	if (close_range(fd, ~0u, 0))
		for (; fd < MAX_FD; fd++)
			close(fd);
}

/* A number that the library has taken is one that the program cannot have. */
static int taken(int fd)
{
	if (is_hidden(fd))
		errno = EBUSY;
	return is_hidden(fd);
}

int dup(int fd)
{
	resolve();
	return share(fd, real_dup(fd));
}

int dup2(int fd, int to)
{
	resolve();
	if (taken(to))
		return -1;
	if (fd != to)
		leave(to);
	return fd == to ? real_dup2(fd, to) : share(fd, real_dup2(fd, to));
}

int dup3(int fd, int to, int flags)
{
	resolve();
	if (taken(to))
		return -1;
	if (fd != to)
		leave(to);
	return share(fd, real_dup3(fd, to, flags));
}

int fcntl(int fd, int command, ...)
{
	va_list v;
	void *argument;
	int r;

	resolve();
	va_start(v, command);
	argument = va_arg(v, void *);
	va_end(v);
	r = real_fcntl(fd, command, argument);
	return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? share(fd, r) : r;
}

int fcntl64(int fd, int command, ...)
{
	va_list v;
	void *argument;

	va_start(v, command);
	argument = va_arg(v, void *);
	va_end(v);
	return fcntl(fd, command, argument);
}

/* The region's first word is what the kernel's test driver puts there; the rest is anonymous shared memory. */
static void *map_ours(int fd, struct conn *c, void *at, size_t length, int prot, int flags, off_t offset)
{
	struct __attribute__((packed)) {
		uint64_t length, offset;
		uint32_t prot, flags;
	} m = { length, offset, prot, flags };
	struct mapping *entry = malloc(sizeof(*entry));
	uint32_t first = 0, *p = MAP_FAILED;
	int64_t r = entry ? request(fd, c, MMAP, &m, sizeof(m), NULL, 0, &first, sizeof(first)) : -ENOMEM;

	if (r >= 0)
		p = real_mmap(at, length, prot | PROT_WRITE, (flags & MAP_FIXED) | MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		if (r >= 0)
			request(fd, c, MUNMAP, &m.offset, 8, NULL, 0, NULL, 0);
		free(entry);
		errno = r < 0 ? -r : ENOMEM;
		return MAP_FAILED;
	}
	*p = first;
	if (!(prot & PROT_WRITE))
		mprotect(p, length, prot);
	pthread_mutex_lock(&mappings_lock);
	*entry = (struct mapping){ p, length, offset, fd, mappings };
	mappings = entry;
	pthread_mutex_unlock(&mappings_lock);
	return p;
}

void *mmap(void *at, size_t length, int prot, int flags, int fd, off_t offset)
{
	struct conn *c;

	resolve();
	if (getenv("IOMMUFD_NOHUGE"))
		flags &= ~MAP_HUGETLB;
	c = flags & MAP_ANONYMOUS ? NULL : conn_of(fd);
	return c ? map_ours(fd, c, at, length, prot, flags, offset) : real_mmap(at, length, prot, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int prot, int flags, int fd, off_t offset)
{
	return mmap(at, length, prot, flags, fd, offset);
}

int munmap(void *at, size_t length)
{
	struct mapping **where, *found = NULL;

	resolve();
	pthread_mutex_lock(&mappings_lock);
	for (where = &mappings; *where; where = &(*where)->next) {
		if ((*where)->start == at) {
			found = *where;
			*where = found->next;
			break;
		}
	}
	pthread_mutex_unlock(&mappings_lock);
	if (found) {
		struct conn *c = conn_of(found->fd);

		if (c)
			request(found->fd, c, MUNMAP, &found->offset, 8, NULL, 0, NULL, 0);
		free(found);
	}
	return real_munmap(at, length);
}

/* The descriptors that a message carries. */
static int *rights(struct msghdr *m, struct cmsghdr **at, size_t *n)
{
	for (*at = *at ? CMSG_NXTHDR(m, *at) : CMSG_FIRSTHDR(m); *at; *at = CMSG_NXTHDR(m, *at)) {
		if ((*at)->cmsg_level != SOL_SOCKET || (*at)->cmsg_type != SCM_RIGHTS)
			continue;
		*n = ((*at)->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		return (int *)CMSG_DATA(*at);
	}
	return NULL;
}

/* A descriptor of ours is handed over as a connection of its own, so that two processes never talk on one. */
ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	struct msghdr m = *message;
	struct cmsghdr *at = NULL;
	int made[256], *fds, count = 0;
	size_t n, i;
	ssize_t r;

	resolve();
	m.msg_control = message->msg_controllen ? malloc(message->msg_controllen) : NULL;
	if (!m.msg_control)
		return real_sendmsg(fd, message, flags);
	memcpy(m.msg_control, message->msg_control, message->msg_controllen);
	while ((fds = rights(&m, &at, &n))) {
		for (i = 0; i < n && count < 256; i++) {
			struct conn *c = conn_of(fds[i]);
			struct secret token;
			int other = c ? join(&c->token, &token) : -1;

			if (other >= 0)
				fds[i] = made[count++] = other;
		}
	}
	r = real_sendmsg(fd, &m, flags);
	free(m.msg_control);
	while (count)
		real_close(made[--count]);
	return r;
}

ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
	struct cmsghdr *at = NULL;
	ssize_t r;
	size_t n, i;
	int *fds;

	resolve();
	r = real_recvmsg(fd, m, flags);
	if (r < 0 || !m->msg_controllen)
		return r;
	while ((fds = rights(m, &at, &n)))
		for (i = 0; i < n; i++)
			adopt(fds[i]);
	return r;
}
