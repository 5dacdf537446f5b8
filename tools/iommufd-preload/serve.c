/* A request to the server, and its questions before it answers. */
#include "shim.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int32_t s32(const char *at) { int32_t v; memcpy(&v, at, 4); return v; }
static uint64_t u64(const char *at) { uint64_t v; memcpy(&v, at, 8); return v; }

static int reply(int fd, int32_t rc, const void *data, uint32_t n)
{
	return send_frame(fd, REPLY, &rc, 4, data, n);
}

static pid_t process(const char *payload)
{
	return s32(payload) ? s32(payload) : getpid();
}

static int reply_bytes(int fd, const char *payload, int file)
{
	uint32_t n = s32(payload + 12);
	char *data = malloc(n + 1);
	ssize_t got = 0;
	int r;

	if (data && file)
		got = real_pread(s32(payload), data, n, u64(payload + 4));
	else if (data)
		got = copy_in(process(payload), u64(payload + 4), data, n);
	r = reply(fd, got < 0 ? -EFAULT : 0, data, got < 0 ? 0 : got);
	free(data);
	return r;
}

static int reply_maps(int fd, const char *payload)
{
	uint32_t n = 0;
	char *maps = read_maps(process(payload), &n);
	int r = reply(fd, maps ? 0 : -ESRCH, maps, maps ? n : 0);

	free(maps);
	return r;
}

static int reply_which(int fd, const char *payload)
{
	int32_t asked = s32(payload);
	struct conn *c = conn_of(asked);

	if (c)
		return reply(fd, 0, &c->token, SECRET);
	return reply(fd, real_fcntl(asked, F_GETFD) < 0 ? -EBADF : -EBADFD, NULL, 0);
}

static int reply_facts(int fd, const char *payload)
{
	char facts[28];
	int r = file_facts(s32(payload), facts);

	return reply(fd, r, facts, r ? 0 : sizeof(facts));
}

static int reply_fd(int fd, const char *payload)
{
	int32_t made = new_fd(payload);

	return reply(fd, made < 0 ? made : 0, &made, made < 0 ? 0 : 4);
}

static int reply_eventfd(int fd, const char *payload)
{
	int32_t kept = keep_eventfd(s32(payload));

	return reply(fd, kept < 0 ? kept : 0, &kept, kept < 0 ? 0 : 4);
}

/* What the answer wants done before the call returns. */
static int act(uint8_t type, const char *at, uint32_t n)
{
	switch (type) {
	case ACT_WRITE:
		return n < 12 ? -EIO : copy_out(process(at), u64(at + 4), at + 12, n - 12);
	case ACT_WRITE_FILE:
		return n < 12 || real_pwrite(s32(at), at + 12, n - 12, u64(at + 4)) != (ssize_t)(n - 12) ? -EFAULT : 0;
	case ACT_CLOSE:
		if (n < 4)
			return -EIO;
		leave(s32(at));
		close_hidden(s32(at));
		return 0;
	default:
		return -EIO;
	}
}

static int64_t ret(const char *payload, uint32_t length, void *out, size_t room)
{
	int64_t r = u64(payload);
	uint32_t actions = s32(payload + 8), at = 12;

	while (actions--) {
		uint32_t n;
		int done;

		if (length - at < 5)
			return -EIO;
		n = s32(payload + at + 1);
		if (length - at - 5 < n)
			return -EIO;
		done = act(payload[at], payload + at + 5, n);
		if (done < 0 && r >= 0)
			r = done;
		at += 5 + n;
	}
	if (out && length > at)
		memcpy(out, payload + at, length - at < room ? length - at : room);
	return r;
}

/* Serves the server's questions until it returns. -EIO: the connection is broken. */
int64_t serve(int fd, void *out, size_t room)
{
	for (;;) {
		uint32_t length;
		uint8_t type;
		char *payload;
		int bad = 1;

		if (read_all(fd, &length, 4) || read_all(fd, &type, 1) || length == 0)
			return -EIO;
		length--;
		payload = malloc(length + 1);
		if (!payload || read_all(fd, payload, length)) {
			free(payload);
			return -EIO;
		}
		if (type == RET && length >= 12) {
			int64_t r = ret(payload, length, out, room);

			free(payload);
			return r;
		}
		if (type == READY && length == 0)
			/* The answer takes it back, and says it again if it still holds. */
			bad = 0;
		else if (type == COPY_IN && length == 16)
			bad = reply_bytes(fd, payload, 0);
		else if (type == COPY_FILE && length == 16)
			bad = reply_bytes(fd, payload, 1);
		else if (type == MAPS && length == 4)
			bad = reply_maps(fd, payload);
		else if (type == NEWFD && length == SECRET)
			bad = reply_fd(fd, payload);
		else if (type == WHICH && length == 4)
			bad = reply_which(fd, payload);
		else if (type == EVENTFD && length == 4)
			bad = reply_eventfd(fd, payload);
		else if (type == FILE_FACTS && length == 4)
			bad = reply_facts(fd, payload);
		free(payload);
		if (bad)
			return -EIO;
	}
}

int64_t request(int fd, struct conn *c, uint8_t type, const void *a, uint32_t an, const void *b, uint32_t bn, void *out,
		size_t room)
{
	int64_t r;
	char probe;

	pthread_mutex_lock(&c->lock);
	r = c->dead || send_frame(fd, type, a, an, b, bn) ? -EIO : serve(fd, out, room);
	/* Either the answer of an ioctl, or a broken connection: a broken one has ended. */
	if (r == -EIO && !c->dead && recv(fd, &probe, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
		c->dead = 1;
	pthread_mutex_unlock(&c->lock);
	return r;
}

int64_t finish(int64_t r)
{
	if (r >= 0)
		return r;
	errno = -r;
	return -1;
}
