/*
 * What a program with children may expect: the last close of all processes is over when it returns, and a child that is
 * killed in the middle of a call takes nothing of its parent's with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct destroy { uint32_t size, id; };
struct bind { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; uint64_t token; };

#define DESTROY 0x3b80
#define IOAS_ALLOC 0x3b81
#define DEVICE_BIND (0x3b00 + 118)

static void must(int ok, const char *what, int run)
{
	if (ok)
		return;
	printf("NOT OK %s in run %d: errno %d\n", what, run, errno);
	exit(1);
}

static int ioas(int fd)
{
	struct ioas_alloc a = { .size = sizeof(a) };

	return ioctl(fd, IOAS_ALLOC, &a) ? -1 : (int)a.out_ioas_id;
}

/* A child that had everything open exits; the parent's closes are the last. Then all is free. */
static void last_close(int runs)
{
	int run;

	for (run = 0; run < runs; run++) {
		int iommufd = open("/dev/iommu", O_RDWR), device = open("/dev/vfio/devices/vfio3", O_RDWR);
		struct bind b = { .argsz = sizeof(b), .iommufd = iommufd };
		pid_t child;

		must(!ioctl(device, DEVICE_BIND, &b), "bind", run);
		child = fork();
		if (!child) {
			/* Closed in order, closed by the system, or killed. */
			if (run % 3 == 0)
				close(device);
			if (run % 3 == 2)
				raise(SIGKILL);
			_exit(0);
		}
		waitpid(child, NULL, 0);
		close(device);
		close(iommufd);
	}
	printf("ok last close after a fork, %d times\n", runs);
}

/* The child keeps it open: it is not free before the child has gone. */
static void kept_open(void)
{
	int iommufd = open("/dev/iommu", O_RDWR), device = open("/dev/vfio/devices/vfio3", O_RDWR), other, again;
	struct bind b = { .argsz = sizeof(b), .iommufd = iommufd };
	int gate[2];
	pid_t child;
	char c;

	must(!pipe(gate) && !ioctl(device, DEVICE_BIND, &b), "bind", 0);
	child = fork();
	if (!child) {
		close(gate[1]);
		read(gate[0], &c, 1);
		must(ioas(iommufd) > 0, "the child's ioctl after the parent closed", 0);
		_exit(0);
	}
	close(gate[0]);
	close(device);
	close(iommufd);
	other = open("/dev/iommu", O_RDWR);
	again = open("/dev/vfio/devices/vfio3", O_RDWR);
	b.iommufd = other;
	must(ioctl(again, DEVICE_BIND, &b) == -1 && errno == EPERM, "the child's device is not free", 0);
	close(gate[1]);
	waitpid(child, NULL, 0);
	must(!ioctl(again, DEVICE_BIND, &b), "it is, when the child has gone", 0);
	close(again);
	close(other);
	printf("ok a child keeps what it has open\n");
}

/* A child that is killed at any moment of a call; its parent goes on, on the same descriptor. */
static void killed(int runs)
{
	int fd = open("/dev/iommu", O_RDWR), run, made = 0;

	for (run = 0; run < runs; run++) {
		struct timespec t = { 0, 200000 + rand() % 3000000 };
		pid_t child = fork();
		int id;

		if (!child)
			for (;;) {
				struct destroy d = { .size = sizeof(d), .id = ioas(fd) };

				ioctl(fd, DESTROY, &d);
			}
		nanosleep(&t, NULL);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		id = ioas(fd);
		must(id > 0, "the parent's ioctl", run);
		made++;
	}
	close(fd);
	printf("ok %d children killed in the middle of a call\n", made);
}

/* Parent and children at once, on one open file. */
static void together(int children, int calls)
{
	int fd = open("/dev/iommu", O_RDWR), i, status, bad = 0;

	for (i = 0; i < children; i++)
		if (!fork()) {
			int n, failed = 0;

			for (n = 0; n < calls; n++)
				failed |= ioas(fd) <= 0;
			_exit(failed);
		}
	for (i = 0; i < calls; i++)
		bad |= ioas(fd) <= 0;
	while (wait(&status) > 0)
		bad |= status;
	must(!bad, "calls of several processes at once", 0);
	must(ioas(fd) == (children + 1) * calls + 1, "they are all on one file", 0);
	close(fd);
	printf("ok %d processes at once\n", children + 1);
}

int main(int argc, char **argv)
{
	int runs = argc > 1 ? atoi(argv[1]) : 150;

	setbuf(stdout, NULL);
	last_close(runs);
	kept_open();
	killed(runs / 3);
	together(4, 50);
	printf("fork: 0 failures\n");
	return 0;
}
