/* Which descriptors are connections, through dup, fork, exec and SCM_RIGHTS. */
#include "shim.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* This program's session with the server; all zero: there is none yet. */
struct secret session;

static struct conn *conns;
static struct conn *table[MAX_FD];
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
/* A connection for what needs no file; it keeps the session alive. */
static int control_fd = -1;
static pthread_mutex_t control_lock = PTHREAD_MUTEX_INITIALIZER;

struct conn *conn_of(int fd)
{
	return fd >= 0 && fd < MAX_FD ? table[fd] : NULL;
}

/* Makes `fd` a connection of ours. It is closed if there is no memory. */
int enter(int fd, const struct secret *token)
{
	struct conn *c = fd < MAX_FD ? calloc(1, sizeof(*c)) : NULL;

	if (!c) {
		real_close(fd);
		errno = ENOMEM;
		return -1;
	}
	pthread_mutex_init(&c->lock, NULL);
	c->refs = 1;
	c->token = *token;
	pthread_mutex_lock(&table_lock);
	c->next = conns;
	conns = c;
	table[fd] = c;
	pthread_mutex_unlock(&table_lock);
	return fd;
}

/* The first frame of a connection. The answer names session and connection. */
static int64_t introduce(int fd, uint8_t type, const void *more, uint32_t n, struct secret *token)
{
	struct secret named[2];
	int64_t r;

	memset(named, 0, sizeof(named));
	if (send_frame(fd, type, &session, SECRET, more, n))
		return -EIO;
	r = serve(fd, named, sizeof(named));
	if (memcmp(&named[0], &(struct secret){ { 0 } }, SECRET)) {
		session = named[0];
		*token = named[1];
	}
	return r;
}

static void control_close(void)
{
	if (control_fd >= 0)
		close_hidden(control_fd);
	control_fd = -1;
}

/* Dials the control connection, and anew when the server has ended since. */
static int control_open(void)
{
	struct secret token;
	char probe;
	int fd;

	if (control_fd >= 0 && recv(control_fd, &probe, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
		control_close();
	if (control_fd >= 0)
		return control_fd;
	fd = dial();
	if (fd < 0)
		return -1;
	control_fd = hide(fd);
	if (introduce(control_fd, OPEN, "/", 1, &token) == -EIO)
		control_close();
	return control_fd;
}

/* Whether there is a session. */
int control_ready(void)
{
	int fd;

	pthread_mutex_lock(&control_lock);
	fd = control_open();
	pthread_mutex_unlock(&control_lock);
	return fd >= 0;
}

/* A request that needs no open file. */
int64_t control(uint8_t type, const void *a, uint32_t an, void *out, size_t room)
{
	int64_t r = -EIO;
	int fd;

	pthread_mutex_lock(&control_lock);
	fd = control_open();
	if (fd >= 0) {
		r = send_frame(fd, type, a, an, NULL, 0) ? -EIO : serve(fd, out, room);
		if (r == -EIO)
			control_close();
	}
	pthread_mutex_unlock(&control_lock);
	return r;
}

static void set_cloexec(int fd, int on)
{
	int flags = real_fcntl(fd, F_GETFD);

	real_fcntl(fd, F_SETFD, on ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC);
}

/* The device number of a node: VFIO's character devices have a major number of their own. */
static dev_t node_number(const char *path)
{
	unsigned n;

	if (sscanf(path, "/dev/vfio/devices/vfio%u", &n) == 1)
		return makedev(511, n);
	return makedev(10, strcmp(path, "/dev/iommu") ? 196 : 195);
}

int open_node(const char *path, int flags)
{
	struct secret token;
	int64_t r;
	int fd;

	/* The session comes first: two threads that open at once are one program. */
	control_ready();
	fd = dial();
	if (fd < 0)
		return -1;
	r = introduce(fd, OPEN, path, strlen(path), &token);
	if (r < 0) {
		real_close(fd);
		return finish(r);
	}
	set_cloexec(fd, flags & O_CLOEXEC);
	fd = enter(fd, &token);
	if (fd < 0)
		return -1;
	conn_of(fd)->rdev = node_number(path);
	/* A device may do DMA and interrupt from its first moment on. */
	if (strcmp(path, "/dev/iommu"))
		attend();
	return fd;
}

/* A second connection to the same open file. Returns its socket, or -1. */
int join(const struct secret *token, struct secret *mine)
{
	int fd = dial();

	if (fd >= 0 && introduce(fd, JOIN, token, SECRET, mine) < 0) {
		real_close(fd);
		return -1;
	}
	return fd;
}

/* A descriptor that another process handed over: it is ours from now on. */
int adopt(int fd)
{
	struct secret token;

	if (conn_of(fd) || !is_ours(fd) || introduce(fd, ADOPT, NULL, 0, &token) < 0)
		return -1;
	return enter(fd, &token);
}

/* The server wants a descriptor for a file of its own: dial, and name the token. */
int32_t new_fd(const char token[SECRET])
{
	struct secret mine;
	int fd = dial();

	if (fd < 0)
		return errno == EMFILE || errno == ENFILE ? -errno : -EMFILE;
	memcpy(&mine, token, SECRET);
	if (send_frame(fd, HELLO, &session, SECRET, token, SECRET) || serve(fd, NULL, 0) < 0) {
		real_close(fd);
		return -EIO;
	}
	return enter(fd, &mine) < 0 ? -ENOMEM : fd;
}

/* Takes `fd` out of the table. The last close of this process is over when the server has done it. */
void leave(int fd)
{
	struct conn *c, **where;

	forget_proc(fd);
	pthread_mutex_lock(&table_lock);
	c = conn_of(fd);
	if (c)
		table[fd] = NULL;
	if (!c || --c->refs > 0) {
		pthread_mutex_unlock(&table_lock);
		return;
	}
	for (where = &conns; *where != c; where = &(*where)->next)
		;
	*where = c->next;
	pthread_mutex_unlock(&table_lock);
	request(fd, c, CLOSE, NULL, 0, NULL, 0, NULL, 0);
	free(c);
}

int share(int from, int to)
{
	pthread_mutex_lock(&table_lock);
	if (to >= 0 && to < MAX_FD && conn_of(from) && from != to) {
		table[to] = table[from];
		table[to]->refs++;
	}
	pthread_mutex_unlock(&table_lock);
	return to;
}

/*
 * Fork: the child gets a connection of its own to every open file before it exists, so that the file stays open whatever parent
 * and child do first. The child puts it in the place of the parent's.
 */
static void before_fork(void)
{
	struct conn *c;

	attend_before_fork();
	pthread_mutex_lock(&control_lock);
	pthread_mutex_lock(&table_lock);
	for (c = conns; c; c = c->next)
		c->spare = c->dead ? -1 : join(&c->token, &c->spare_token);
	lock_kept();
}

static void in_parent(void)
{
	struct conn *c;

	for (c = conns; c; c = c->next)
		if (c->spare >= 0)
			real_close(c->spare);
	unlock_kept();
	pthread_mutex_unlock(&table_lock);
	pthread_mutex_unlock(&control_lock);
	attend_in_parent();
}

static void in_child(void)
{
	int nothing = -1;
	struct conn *c;
	int fd;

	for (fd = 0; fd < MAX_FD; fd++) {
		int mine;

		c = table[fd];
		if (!c)
			continue;
		mine = c->spare;
		if (mine < 0) {
			/* The server could not be asked: the parent's connection must not be used by two. */
			if (nothing < 0)
				nothing = real_open("/dev/null", O_RDWR | O_CLOEXEC);
			mine = nothing;
			c->dead = 1;
		}
		real_dup3(mine, fd, real_fcntl(fd, F_GETFD) & FD_CLOEXEC ? O_CLOEXEC : 0);
	}
	for (c = conns; c; c = c->next) {
		pthread_mutex_init(&c->lock, NULL);
		c->token = c->spare_token;
		if (c->spare >= 0)
			real_close(c->spare);
	}
	/* The parent's control connection is the parent's. */
	control_close();
	attend_in_child();
	unlock_kept();
	pthread_mutex_init(&table_lock, NULL);
	pthread_mutex_init(&control_lock, NULL);
}

__attribute__((constructor)) static void init(void)
{
	int fd;

	resolve();
	pthread_atfork(before_fork, in_parent, in_child);
	/* What a program inherits through exec. */
	for (fd = 3; fd < 256; fd++)
		if (is_ours(fd))
			adopt(fd);
}
