/*
 * The attendant: one thread of the program on a connection of its own. It adds to eventfds when the server says that a device
 * has interrupted, and shows the server that this process is the one whose memory it may reach.
 */
#include "shim.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static pthread_mutex_t attend_lock = PTHREAD_MUTEX_INITIALIZER;
/* The connection; -1: there is none yet, -2: the server of `idle`'s session needs none. */
static int attend_fd = -1;
static struct secret idle;
/* The server looks for its secret here: a page of this process alone, which no other can have written to. */
static struct secret *shown;

static void signal_eventfds(const char *handles, uint32_t bytes)
{
	uint64_t one = 1;
	uint32_t at;

	for (at = 0; at + 4 <= bytes; at += 4) {
		int32_t handle;

		struct pollfd room = { .events = POLLOUT };

		memcpy(&handle, handles + at, 4);
		room.fd = handle;
		/* A full eventfd stays full: whoever waits is told anyway. The kernel does not wait for a reader either. */
		if (real_poll(&room, 1, 0) == 1 && room.revents & POLLOUT && real_write(handle, &one, sizeof(one)) < 0)
			continue;
	}
}

static void *attendant(void *argument)
{
	int fd = (intptr_t)argument;

	for (;;) {
		uint32_t length;
		uint8_t type;
		char *payload;
		int32_t handle;

		if (read_all(fd, &length, 4) || read_all(fd, &type, 1) || length == 0)
			break;
		payload = malloc(length--);
		if (!payload || read_all(fd, payload, length)) {
			free(payload);
			break;
		}
		if (type == SIGNAL)
			signal_eventfds(payload, length);
		if (type == DROP && length == 4) {
			memcpy(&handle, payload, 4);
			close_hidden(handle);
		}
		free(payload);
	}
	/* The server is gone. Another one may come in its place, and then somebody has to attend anew. */
	pthread_mutex_lock(&attend_lock);
	if (attend_fd == fd)
		attend_fd = -1;
	close_hidden(fd);
	pthread_mutex_unlock(&attend_lock);
	return NULL;
}

/* Says who this process is. -ENODEV: nobody has to attend here. */
static int64_t introduce_attendant(int fd)
{
	struct __attribute__((packed)) { uint32_t pid; uint64_t address; } m = { .pid = getpid() };
	struct secret given;
	int64_t r;

	if (!shown) {
		shown = real_mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (shown == MAP_FAILED) {
			shown = NULL;
			return -ENOMEM;
		}
	}
	m.address = (uintptr_t)shown;
	if (send_frame(fd, ATTEND, &session, SECRET, &m, sizeof(m)))
		return -EIO;
	r = serve(fd, &given, sizeof(given));
	if (r < 0)
		return r;
	*shown = given;
	return send_frame(fd, PROVE, NULL, 0, NULL, 0) ? -EIO : serve(fd, NULL, 0);
}

/* Starts the thread. Returns whether it is there. */
static int start_attendant(int fd)
{
	sigset_t all, before;
	pthread_t thread;
	int failed;

	/* The program's signals are for its own threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	failed = pthread_create(&thread, NULL, attendant, (void *)(intptr_t)fd);
	if (!failed)
		pthread_detach(thread);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return !failed;
}

static void dial_and_attend(void)
{
	int fd = dial();
	int64_t r;

	if (fd < 0)
		return;
	fd = hide(fd);
	r = introduce_attendant(fd);
	if (r == -EPERM)
		fprintf(stderr, "iommufd-preload: the server cannot reach the memory of process %d (another PID namespace, "
				"another user, or ptrace is not allowed): its devices' DMA will fail\n", getpid());
	if ((r == 0 || r == -EPERM) && start_attendant(fd)) {
		attend_fd = fd;
		return;
	}
	close_hidden(fd);
	if (r == -ENODEV) {
		attend_fd = -2;
		idle = session;
	}
}

/* Sees to it that this process attends: from now on, if it has not yet. errno stays what it is. */
void attend(void)
{
	int before = errno;
	char probe;

	pthread_mutex_lock(&attend_lock);
	/* A server that has ended, and its thread has not come to see it: that one closes the connection. */
	if (attend_fd >= 0 && recv(attend_fd, &probe, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
		attend_fd = -1;
	if (attend_fd == -2 && memcmp(&idle, &session, SECRET))
		attend_fd = -1;
	if (attend_fd == -1 && control_ready())
		dial_and_attend();
	pthread_mutex_unlock(&attend_lock);
	errno = before;
}

/* A process that is forked while another of its threads begins to attend would keep that connection. */
void attend_before_fork(void) { pthread_mutex_lock(&attend_lock); }
void attend_in_parent(void) { pthread_mutex_unlock(&attend_lock); }

/* The thread stays with the parent: a child that uses a device attends anew. */
void attend_in_child(void)
{
	if (attend_fd >= 0) {
		close_hidden(attend_fd);
		attend_fd = -1;
	}
	pthread_mutex_init(&attend_lock, NULL);
}
