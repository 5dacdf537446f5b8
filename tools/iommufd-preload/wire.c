/* Frames: u32 length (type + payload), u8 type, payload, little-endian. */
#include "shim.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

/* A program that made its descriptor non-blocking asked so of the queue behind it; a frame is never left half done. */
static int again(int fd, short events)
{
	struct pollfd p = { fd, events, 0 };

	return errno == EINTR || ((errno == EAGAIN || errno == EWOULDBLOCK) && real_poll(&p, 1, -1) >= 0);
}

int write_all(int fd, const void *from, size_t n)
{
	const char *p = from;

	while (n) {
		ssize_t k = send(fd, p, n, MSG_NOSIGNAL);

		if (k < 0 && again(fd, POLLOUT))
			continue;
		if (k <= 0)
			return -1;
		p += k;
		n -= k;
	}
	return 0;
}

int read_all(int fd, void *into, size_t n)
{
	char *p = into;

	while (n) {
		ssize_t k = recv(fd, p, n, 0);

		if (k < 0 && again(fd, POLLIN))
			continue;
		if (k <= 0)
			return -1;
		p += k;
		n -= k;
	}
	return 0;
}

/* Small frames go out as one packet. */
int send_frame(int fd, uint8_t type, const void *a, uint32_t an, const void *b, uint32_t bn)
{
	uint32_t length = 1 + an + bn;
	char small[512];

	memcpy(small, &length, 4);
	small[4] = type;
	if (5 + an + bn <= sizeof(small)) {
		if (an)
			memcpy(small + 5, a, an);
		if (bn)
			memcpy(small + 5 + an, b, bn);
		return write_all(fd, small, 5 + an + bn);
	}
	return write_all(fd, small, 5) || (an && write_all(fd, a, an)) || (bn && write_all(fd, b, bn)) ? -1 : 0;
}

int dial(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	const char *path = getenv("IOMMUFD_SOCK");
	int fd;

	if (!path || strlen(path) >= sizeof(a.sun_path)) {
		errno = ENOENT;
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
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

/* Whether a descriptor that came from elsewhere leads to such a server: its socket came into being under such a name. */
int is_ours(int fd)
{
	struct sockaddr_un a = { 0 };
	socklen_t n = sizeof(a) - 1;

	return !getpeername(fd, (struct sockaddr *)&a, &n) && a.sun_family == AF_UNIX && strstr(a.sun_path, "/.viommu-");
}
