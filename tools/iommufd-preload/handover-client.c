/* Descriptors that one process hands to another with SCM_RIGHTS, or leaves open for the program it becomes (exec). */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct destroy { uint32_t size, id; };
struct fault_alloc { uint32_t size, flags, out_fault_id, out_fault_fd; };
struct bind { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; uint64_t token; };

#define DESTROY 0x3b80
#define IOAS_ALLOC 0x3b81
#define FAULT_ALLOC 0x3b8e
#define DEVICE_BIND (0x3b00 + 118)

static void must(int ok, const char *what)
{
	printf("%s %s\n", ok ? "ok" : "NOT OK", what);
	if (!ok)
		exit(1);
}

static int ioas(int fd)
{
	struct ioas_alloc a = { .size = sizeof(a) };

	return ioctl(fd, IOAS_ALLOC, &a) ? -1 : (int)a.out_ioas_id;
}

static int destroy(int fd, int id)
{
	struct destroy d = { sizeof(d), id };

	return ioctl(fd, DESTROY, &d) ? -errno : 0;
}

static void hand(int to, int *fds, int n)
{
	char control[CMSG_SPACE(4 * sizeof(int))] = { 0 }, byte = 0;
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	must(sendmsg(to, &m, 0) == 1, "hand descriptors over");
}

static void take(int from, int *fds, int n)
{
	char control[CMSG_SPACE(4 * sizeof(int))] = { 0 }, byte;
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };

	must(recvmsg(from, &m, 0) == 1 && CMSG_FIRSTHDR(&m), "take them");
	memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&m)), n * sizeof(int));
}

/* The other process: it was there before anything was opened. */
static int receiver(int socket)
{
	struct bind b = { .argsz = sizeof(b) };
	int fds[2], own, device, n, failed = 0;
	struct pollfd p;
	char c;

	take(socket, fds, 2);
	/* Both work on one file at a time. */
	for (n = 0; n < 200; n++)
		failed |= ioas(fds[0]) <= 0;
	must(!failed, "the receiver's calls, the sender's at the same time");
	must(destroy(fds[0], 1) == 0, "an object of the sender is there");
	must(destroy(fds[0], 2) == -EBUSY, "the fault queue is in use by its descriptor");
	p = (struct pollfd){ fds[1], POLLIN | POLLOUT, 0 };
	must(poll(&p, 1, 1000) == 1 && p.revents == POLLOUT, "the fault queue's descriptor answers");
	/* A device that this process opened, in an iommufd that another one opened. */
	device = open("/dev/vfio/devices/vfio2", O_RDWR);
	own = open("/dev/iommu", O_RDWR);
	b.iommufd = fds[0];
	must(!ioctl(device, DEVICE_BIND, &b), "bind a device to it");
	must(write(socket, "x", 1) == 1 && read(socket, &c, 1) == 1, "the sender closes");
	must(ioas(fds[0]) > 0, "the file is open as long as the receiver has it");
	close(fds[1]);
	must(destroy(fds[0], 2) == 0, "the last close of the queue was the receiver's");
	close(device);
	close(fds[0]);
	must(ioas(own) == 1, "a file of its own is another one");
	return 0;
}

int main(int argc, char **argv)
{
	struct fault_alloc f = { .size = sizeof(f) };
	int pair[2], fds[2], n, failed = 0, status;
	char number[16], c;
	pid_t child;

	setbuf(stdout, NULL);
	if (argc > 1) {
		must(ioas(atoi(argv[1])) == 2, "the program it became has the file still");
		printf("handover: 0 failures\n");
		return 0;
	}
	must(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "a pair of sockets");
	child = fork();
	if (!child)
		_exit(receiver(pair[1]));
	fds[0] = open("/dev/iommu", O_RDWR);
	must(ioas(fds[0]) == 1 && !ioctl(fds[0], FAULT_ALLOC, &f), "an IOAS and a fault queue");
	fds[1] = f.out_fault_fd;
	hand(pair[0], fds, 2);
	for (n = 0; n < 200; n++)
		failed |= ioas(fds[0]) <= 0;
	must(!failed, "the sender's calls");
	must(read(pair[0], &c, 1) == 1, "the receiver is done");
	close(fds[0]);
	close(fds[1]);
	must(write(pair[0], "x", 1) == 1, "say so");
	waitpid(child, &status, 0);
	must(status == 0, "the receiver");

	fds[0] = open("/dev/iommu", O_RDWR);
	must(ioas(fds[0]) == 1, "an IOAS before exec");
	snprintf(number, sizeof(number), "%d", fds[0]);
	execl("/proc/self/exe", argv[0], number, NULL);
	return 1;
}
