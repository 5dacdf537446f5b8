/*
 * LD_PRELOAD library: /dev/iommu and /dev/vfio/devices/NAME of any program become connections to `viommu iommufd --socket`.
 * The server never sees the program's memory: while an ioctl runs it asks for copies, which are made page by page with
 * process_vm_readv/writev, so that a bad pointer fails at the byte where the kernel's copy would fail.
 *
 *   IOMMUFD_SOCK    path of the server's socket
 *   IOMMUFD_NOHUGE  set: MAP_HUGETLB is dropped from every mmap (machines without reserved huge pages)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum frame {
	IOCTL = 1, REPLY, HELLO, READ, WRITE, POLL, MMAP, MUNMAP, OPEN,
	RET, COPY_IN, COPY_OUT, NEWFD, WHICH,
};

enum kind { MAIN, EXTRA };

#define MAX_FD 65536
#define PAGE 4096
/* Bytes of an ioctl's argument that travel with the request. */
#define PREFETCH 96

/* What the processes that share a connection after a fork agree on. */
struct shared {
	pthread_mutex_t lock;
	int holders;
};

/* One connection. Descriptors made by dup and fork share it; requests on it are made one at a time, also across fork. */
struct conn {
	enum kind kind;
	int refs;
	uint32_t token;
	int dead;
	struct shared *shared;
	struct conn *next;
};

static struct conn *conns;

static struct conn *table[MAX_FD];
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

struct mapping {
	void *start;
	size_t length;
	uint64_t offset;
	int fd;
	struct mapping *next;
};
static struct mapping *mappings;

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_ioctl)(int, unsigned long, ...);
static ssize_t (*real_read)(int, void *, size_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_close)(int);
static int (*real_poll)(struct pollfd *, nfds_t, int);
static int (*real_dup)(int);
static int (*real_dup2)(int, int);
static int (*real_dup3)(int, int, int);
static int (*real_fcntl)(int, int, ...);
static void *(*real_mmap)(void *, size_t, int, int, int, off_t);
static int (*real_munmap)(void *, size_t);

static void resolve(void)
{
	if (real_munmap)
		return;
#define RESOLVE(name) real_##name = dlsym(RTLD_NEXT, #name)
	RESOLVE(open);
	RESOLVE(openat);
	RESOLVE(ioctl);
	RESOLVE(read);
	RESOLVE(write);
	RESOLVE(close);
	RESOLVE(poll);
	RESOLVE(dup);
	RESOLVE(dup2);
	RESOLVE(dup3);
	RESOLVE(fcntl);
	RESOLVE(mmap);
	RESOLVE(munmap);
}

/* The child will hold every connection too. */
static void before_fork(void)
{
	struct conn *c;

	for (c = conns; c; c = c->next)
		__atomic_add_fetch(&c->shared->holders, 1, __ATOMIC_SEQ_CST);
}

__attribute__((constructor)) static void init(void)
{
	resolve();
	pthread_atfork(before_fork, NULL, NULL);
}

static struct conn *conn_of(int fd)
{
	return fd >= 0 && fd < MAX_FD ? table[fd] : NULL;
}

/* A mutex that parent and child of a fork share and that survives the death of its holder. */
static struct shared *new_shared(void)
{
	struct shared *s = real_mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_t a;

	if (s == MAP_FAILED)
		return NULL;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&s->lock, &a);
	pthread_mutexattr_destroy(&a);
	s->holders = 1;
	return s;
}

static void lock(struct conn *c)
{
	if (pthread_mutex_lock(&c->shared->lock) == EOWNERDEAD) {
		/* A request was left in the middle: the connection is of no use any more. */
		c->dead = 1;
		pthread_mutex_consistent(&c->shared->lock);
	}
}

static void unlock(struct conn *c)
{
	pthread_mutex_unlock(&c->shared->lock);
}

static int write_all(int fd, const void *from, size_t n)
{
	const char *p = from;

	while (n) {
		ssize_t k = send(fd, p, n, MSG_NOSIGNAL);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return -1;
		p += k;
		n -= k;
	}
	return 0;
}

static int read_all(int fd, void *into, size_t n)
{
	char *p = into;

	while (n) {
		ssize_t k = recv(fd, p, n, 0);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return -1;
		p += k;
		n -= k;
	}
	return 0;
}

static int send_frame(int fd, uint8_t type, const void *a, uint32_t an, const void *b, uint32_t bn)
{
	uint32_t length = 1 + an + bn;
	char head[5];

	memcpy(head, &length, 4);
	head[4] = type;
	return write_all(fd, head, 5) || (an && write_all(fd, a, an)) || (bn && write_all(fd, b, bn)) ? -1 : 0;
}

static int dial(int flags)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	const char *path = getenv("IOMMUFD_SOCK");
	int fd;

	if (!path || strlen(path) >= sizeof(a.sun_path)) {
		errno = ENOENT;
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | (flags & O_CLOEXEC ? SOCK_CLOEXEC : 0), 0);
	if (fd < 0)
		return -1;
	strcpy(a.sun_path, path);
	if (fd >= MAX_FD || connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		real_close(fd);
		errno = ENOENT;
		return -1;
	}
	return fd;
}

static int enter(int fd, enum kind kind, uint32_t token)
{
	struct conn *c = calloc(1, sizeof(*c));

	if (c)
		c->shared = new_shared();
	if (!c || !c->shared) {
		free(c);
		real_close(fd);
		errno = ENOMEM;
		return -1;
	}
	c->kind = kind;
	c->refs = 1;
	c->token = token;
	pthread_mutex_lock(&table_lock);
	c->next = conns;
	conns = c;
	table[fd] = c;
	pthread_mutex_unlock(&table_lock);
	return fd;
}

/* Copies between `buffer` and a process, page by page. */
static int copy(pid_t pid, int to_process, uint64_t address, char *buffer, size_t n)
{
	size_t done = 0;

	while (done < n) {
		size_t k = PAGE - ((address + done) & (PAGE - 1));
		struct iovec local, remote;
		ssize_t r;

		if (k > n - done)
			k = n - done;
		local = (struct iovec){ buffer + done, k };
		remote = (struct iovec){ (void *)(uintptr_t)(address + done), k };
		r = to_process ? process_vm_writev(pid, &local, 1, &remote, 1, 0)
			       : process_vm_readv(pid, &local, 1, &remote, 1, 0);
		if (r != (ssize_t)k)
			return -EFAULT;
		done += k;
	}
	return 0;
}

/* The server wants a descriptor of its own: dial, name the token, wait for the welcome. */
static int32_t new_fd(const char *payload)
{
	int fd = dial(O_CLOEXEC);
	char ack;

	if (fd < 0)
		return -EMFILE;
	if (send_frame(fd, HELLO, payload, 4, NULL, 0) || read_all(fd, &ack, 1)) {
		real_close(fd);
		return -EIO;
	}
	return enter(fd, EXTRA, 0) < 0 ? -ENOMEM : fd;
}

static int32_t which(int32_t fd, uint32_t *token)
{
	struct conn *c = conn_of(fd);

	if (c && c->kind == MAIN) {
		*token = c->token;
		return 0;
	}
	return !c && real_fcntl(fd, F_GETFD) < 0 ? -EBADF : -EBADFD;
}

/* Serves the server's questions until it returns. */
static int64_t serve(int fd, void *out, size_t room)
{
	for (;;) {
		uint32_t length;
		uint8_t type;
		char *payload;
		int32_t rc;
		int bad = 0;

		if (read_all(fd, &length, 4) || read_all(fd, &type, 1) || length == 0)
			return -EIO;
		length--;
		payload = malloc(length + 1);
		if (!payload || read_all(fd, payload, length)) {
			free(payload);
			return -EIO;
		}
		switch (type) {
		case COPY_IN: {
			uint32_t pid, n;
			uint64_t address;
			char *data;

			memcpy(&pid, payload, 4);
			memcpy(&address, payload + 4, 8);
			memcpy(&n, payload + 12, 4);
			data = malloc(n + 1);
			rc = data ? copy(pid ? (pid_t)pid : getpid(), 0, address, data, n) : -EFAULT;
			bad = send_frame(fd, REPLY, &rc, 4, data, rc ? 0 : n);
			free(data);
			break;
		}
		case COPY_OUT: {
			uint32_t pid;
			uint64_t address;

			memcpy(&pid, payload, 4);
			memcpy(&address, payload + 4, 8);
			rc = copy(pid ? (pid_t)pid : getpid(), 1, address, payload + 12, length - 12);
			bad = send_frame(fd, REPLY, &rc, 4, NULL, 0);
			break;
		}
		case NEWFD:
			rc = new_fd(payload);
			bad = send_frame(fd, REPLY, &rc, 4, NULL, 0);
			break;
		case WHICH: {
			uint32_t token = 0;
			int32_t asked;

			memcpy(&asked, payload, 4);
			rc = which(asked, &token);
			bad = send_frame(fd, REPLY, &rc, 4, &token, rc ? 0 : 4);
			break;
		}
		case RET: {
			int64_t r;

			memcpy(&r, payload, 8);
			if (out && length > 8)
				memcpy(out, payload + 8, length - 8 < room ? length - 8 : room);
			free(payload);
			return r;
		}
		default:
			bad = 1;
		}
		free(payload);
		if (bad)
			return -EIO;
	}
}

static int64_t request(int fd, struct conn *c, uint8_t type, const void *a, uint32_t an, void *out, size_t room)
{
	int64_t r;

	lock(c);
	r = c->dead || send_frame(fd, type, a, an, NULL, 0) ? -EIO : serve(fd, out, room);
	if (r == -EIO && !c->dead) {
		/* Either the answer of an ioctl, or a broken connection: a broken one shows at the next request. */
		char probe;
		if (recv(fd, &probe, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
			c->dead = 1;
	}
	unlock(c);
	return r;
}

static int64_t finish(int64_t r)
{
	if (r >= 0)
		return r;
	errno = -r;
	return -1;
}

static int ours(const char *path)
{
	return !strcmp(path, "/dev/iommu") || !strncmp(path, "/dev/vfio/devices/", 18);
}

static int open_ours(const char *path, int flags)
{
	uint32_t token = 0;
	int64_t r;
	int fd = dial(flags);

	if (fd < 0)
		return -1;
	/* Our pointers are real: a server on this machine may look for itself. */
	r = send_frame(fd, OPEN, path, strlen(path) + 1, "direct", 6) ? -EIO : serve(fd, &token, sizeof(token));
	if (r < 0) {
		real_close(fd);
		return finish(r);
	}
	return enter(fd, MAIN, token);
}

int open(const char *path, int flags, ...)
{
	va_list v;
	int mode;

	resolve();
	va_start(v, flags);
	mode = va_arg(v, int);
	va_end(v);
	return ours(path) ? open_ours(path, flags) : real_open(path, flags, mode);
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
	int mode;

	resolve();
	va_start(v, flags);
	mode = va_arg(v, int);
	va_end(v);
	return ours(path) ? open_ours(path, flags) : real_openat(dir, path, flags, mode);
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

int ioctl(int fd, unsigned long number, ...)
{
	struct __attribute__((packed)) {
		uint32_t pid, number;
		uint64_t argument;
		char bytes[PREFETCH];
	} m;
	size_t n = 16;
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
	if (c->kind != MAIN) {
		errno = ENOTTY;
		return -1;
	}
	m.pid = getpid();
	m.number = number;
	m.argument = (uintptr_t)argument;
	/* The start of the structure goes along if it is there: one question less. */
	if (argument) {
		size_t k = PAGE - (m.argument & (PAGE - 1));

		if (k > PREFETCH)
			k = PREFETCH;
		if (!copy(m.pid, 0, m.argument, m.bytes, k))
			n += k;
	}
	return finish(request(fd, c, IOCTL, &m, n, NULL, 0));
}

ssize_t read(int fd, void *into, size_t n)
{
	uint32_t count = n > 0x100000 ? 0x100000 : n;
	struct conn *c;
	char *bounce;
	int64_t r;

	resolve();
	c = conn_of(fd);
	if (!c)
		return real_read(fd, into, n);
	if (c->kind != EXTRA) {
		errno = EINVAL;
		return -1;
	}
	/* The data may belong into memory that is not there: EFAULT, not a signal. */
	bounce = malloc(count + 1);
	if (!bounce) {
		errno = ENOMEM;
		return -1;
	}
	r = request(fd, c, READ, &count, 4, bounce, count);
	if (r > 0 && copy(getpid(), 1, (uintptr_t)into, bounce, r))
		r = -EFAULT;
	free(bounce);
	return finish(r);
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
	char *bounce;
	int64_t r;

	resolve();
	c = conn_of(fd);
	if (!c)
		return real_write(fd, from, n);
	if (c->kind != EXTRA || n > 0x100000) {
		errno = EINVAL;
		return -1;
	}
	bounce = malloc(n + 1);
	if (!bounce) {
		errno = ENOMEM;
		return -1;
	}
	r = copy(getpid(), 0, (uintptr_t)from, bounce, n);
	if (!r)
		r = request(fd, c, WRITE, bounce, n, NULL, 0);
	free(bounce);
	return finish(r);
}

/* Ready bits of our descriptors; theirs are asked of the system without waiting. */
static int poll_once(struct pollfd *p, nfds_t n)
{
	struct pollfd rest[n ? n : 1];
	int ready = 0;
	nfds_t i;

	for (i = 0; i < n; i++) {
		rest[i] = p[i];
		if (conn_of(p[i].fd))
			rest[i].fd = -1;
	}
	if (real_poll(rest, n, 0) < 0)
		return -1;
	for (i = 0; i < n; i++) {
		struct conn *c = conn_of(p[i].fd);

		if (!c) {
			p[i].revents = rest[i].revents;
		} else if (c->kind == EXTRA) {
			int64_t bits = request(p[i].fd, c, POLL, NULL, 0, NULL, 0);

			p[i].revents = bits < 0 ? POLLERR | POLLHUP : bits & (p[i].events | POLLERR | POLLHUP);
		} else {
			p[i].revents = 0;
		}
		ready += p[i].revents != 0;
	}
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

/* Takes `fd` out of the table. The last close of all processes is over when the server has done it. */
static void leave(int fd)
{
	struct conn *c = conn_of(fd), **where;
	uint32_t zero = 0;

	if (!c)
		return;
	pthread_mutex_lock(&table_lock);
	table[fd] = NULL;
	if (--c->refs > 0) {
		pthread_mutex_unlock(&table_lock);
		return;
	}
	for (where = &conns; *where != c; where = &(*where)->next)
		;
	*where = c->next;
	pthread_mutex_unlock(&table_lock);
	if (__atomic_sub_fetch(&c->shared->holders, 1, __ATOMIC_SEQ_CST) == 0)
		request(fd, c, MUNMAP, &zero, 4, NULL, 0);
	real_munmap(c->shared, PAGE);
	free(c);
}

int close(int fd)
{
	resolve();
	leave(fd);
	return real_close(fd);
}

static int share(int from, int to)
{
	struct conn *c = conn_of(from);

	if (to < 0)
		return to;
	if (c && to < MAX_FD) {
		pthread_mutex_lock(&table_lock);
		table[to] = c;
		c->refs++;
		pthread_mutex_unlock(&table_lock);
	}
	return to;
}

int dup(int fd)
{
	resolve();
	return share(fd, real_dup(fd));
}

int dup2(int fd, int to)
{
	resolve();
	if (fd != to)
		leave(to);
	return fd == to ? real_dup2(fd, to) : share(fd, real_dup2(fd, to));
}

int dup3(int fd, int to, int flags)
{
	resolve();
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

void *mmap(void *at, size_t length, int prot, int flags, int fd, off_t offset)
{
	struct __attribute__((packed)) {
		uint64_t length, offset;
		uint32_t prot, flags;
	} m;
	struct mapping *entry;
	struct conn *c;
	uint32_t first = 0;
	uint32_t *p;
	int64_t r;

	resolve();
	if (getenv("IOMMUFD_NOHUGE"))
		flags &= ~MAP_HUGETLB;
	c = flags & MAP_ANONYMOUS ? NULL : conn_of(fd);
	if (!c)
		return real_mmap(at, length, prot, flags, fd, offset);
	m.length = length;
	m.offset = offset;
	m.prot = prot;
	m.flags = flags;
	r = c->kind == MAIN ? request(fd, c, MMAP, &m, sizeof(m), &first, sizeof(first)) : -ENODEV;
	if (r < 0) {
		errno = -r;
		return MAP_FAILED;
	}
	p = real_mmap(at, length, prot | PROT_WRITE, (flags & MAP_FIXED) | MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	entry = malloc(sizeof(*entry));
	if (p == MAP_FAILED || !entry) {
		free(entry);
		errno = ENOMEM;
		return MAP_FAILED;
	}
	*p = first;
	if (!(prot & PROT_WRITE))
		mprotect(p, length, prot);
	*entry = (struct mapping){ p, length, offset, fd, NULL };
	pthread_mutex_lock(&table_lock);
	entry->next = mappings;
	mappings = entry;
	pthread_mutex_unlock(&table_lock);
	return p;
}

void *mmap64(void *at, size_t length, int prot, int flags, int fd, off_t offset)
{
	return mmap(at, length, prot, flags, fd, offset);
}

int munmap(void *at, size_t length)
{
	struct mapping **where, *found = NULL;

	resolve();
	pthread_mutex_lock(&table_lock);
	for (where = &mappings; *where; where = &(*where)->next) {
		if ((*where)->start == at) {
			found = *where;
			*where = found->next;
			break;
		}
	}
	pthread_mutex_unlock(&table_lock);
	if (found) {
		struct conn *c = conn_of(found->fd);

		if (c && c->kind == MAIN)
			request(found->fd, c, MUNMAP, &found->offset, 8, NULL, 0);
		free(found);
	}
	return real_munmap(at, length);
}
