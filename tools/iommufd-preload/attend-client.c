/*
 * How a program lives with what the preload library keeps in it: descriptors and a thread that the program does not know of.
 * usage: attend-client child|close|full|file|restart      (server: --device dma-engine)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/vfio.h>

/* The headers of an old distribution do not know these structures. */
#define CMD(n) (0x3b00 + (n))
struct ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
struct map_file { uint32_t size, flags, ioas_id; int32_t fd; uint64_t start, length, iova; };
struct ioas_unmap { uint32_t size, ioas_id; uint64_t iova, length; };
struct bind { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; };
struct attach { uint32_t argsz, flags, pt_id, pasid; };
enum {
	IOAS_ALLOC = CMD(0x81), IOAS_MAP = CMD(0x85), IOAS_UNMAP = CMD(0x86), IOAS_MAP_FILE = CMD(0x8f), BIND = CMD(118),
	ATTACH = CMD(119),
};
/* The DMA engine of this package (devices/endpoints/dma-engine.ts, descriptor.ts). */
enum { CONTROL = 0, RING_LOW = 8, RING_LOG2 = 16, TAIL = 20 };
enum { FILL = 2, INTERRUPT = 0x100, SUCCESS = 1 };
struct work { uint32_t op, pasid; uint64_t done, source, destination; uint32_t bytes, pattern, pad[6]; };

#define IOVA 0x1000000ull
#define OTHER 0x4000000ull
#define BYTES (1u << 20)
/* VFIO_PCI_CONFIG_REGION_INDEX. */
#define CONFIG (7ull << 40)

int close_range(unsigned, unsigned, int) __attribute__((weak));
void closefrom(int) __attribute__((weak));

static int failures, device, iommufd;
static char *memory;
static uint32_t ioas_id, tail;

static int step(const char *what, long got, long want)
{
	long result = got < 0 ? -errno : got;

	printf("%s %s = %ld\n", result == want ? "ok" : "NOT OK", what, result);
	if (result != want) {
		printf("   wanted %ld\n", want);
		failures++;
	}
	fflush(stdout);
	return result == want;
}

static void put(uint32_t at, uint32_t v)
{
	if (pwrite(device, &v, 4, at) != 4)
		perror("pwrite");
}

static int vectors(int flags, int start, int count, const int *fds)
{
	char bytes[sizeof(struct vfio_irq_set) + 64] = { 0 };
	struct vfio_irq_set *s = (void *)bytes;

	s->argsz = sizeof(bytes);
	s->flags = flags;
	s->index = VFIO_PCI_MSIX_IRQ_INDEX;
	s->start = start;
	s->count = count;
	if (fds)
		memcpy(s->data, fds, 4 * count);
	return ioctl(device, VFIO_DEVICE_SET_IRQS, s);
}

/* Waits for an interrupt. Returns whether it came in time. */
static int came(int fd, int milliseconds)
{
	struct pollfd p = { fd, POLLIN, 0 };
	uint64_t n;

	return poll(&p, 1, milliseconds) == 1 && read(fd, &n, 8) == 8;
}

/* Has the engine fill 64 bytes. Returns what it says of it, 0 after two seconds. */
static uint32_t fill(uint64_t where)
{
	struct work *ring = (void *)memory;
	volatile uint32_t *done = (void *)(memory + 0x1000);
	int i;

	*done = 0;
	ring[tail] = (struct work){ .op = FILL | INTERRUPT, .done = IOVA + 0x1000, .destination = where, .bytes = 64,
				    .pattern = 0x77777777 };
	tail = (tail + 1) & 7;
	put(TAIL, tail);
	for (i = 0; !*done && i < 200; i++)
		usleep(10000);
	return *done;
}

static int map(char *from, uint64_t iova, uint64_t length)
{
	struct ioas_map m = { sizeof(m), 7, ioas_id, 0, (uintptr_t)from, length, iova };

	return ioctl(iommufd, IOAS_MAP, &m);
}

static void start(void)
{
	struct ioas_alloc a = { sizeof(a), 0, 0 };
	struct attach t = { sizeof(t), 0, 0, 0 };
	struct bind b = { sizeof(b), 0, 0, 0 };
	uint16_t command = 6;

	memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(memory, 0, BYTES);
	iommufd = open("/dev/iommu", O_RDWR);
	device = open("/dev/vfio/devices/vfio0", O_RDWR);
	b.iommufd = iommufd;
	step("bound", ioctl(device, BIND, &b), 0);
	ioctl(iommufd, IOAS_ALLOC, &a);
	t.pt_id = ioas_id = a.out_ioas_id;
	step("mapped", map(memory, IOVA, BYTES), 0);
	step("attached", ioctl(device, ATTACH, &t), 0);
	pwrite(device, &command, 2, CONFIG + 4);
	tail = 0;
	put(RING_LOW, IOVA);
	put(RING_LOG2, 3);
	put(CONTROL, 1);
}

/* A child that does no more than give the device memory of its own. */
static void child(void)
{
	int there[2], over[2], status;
	pid_t pid;
	char c;

	start();
	if (pipe(there) || pipe(over))
		return;
	fflush(stdout);
	pid = fork();
	if (!pid) {
		char *own = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		memset(own, 0, 0x10000);
		step("a child maps memory of its own", map(own, OTHER, 0x10000), 0);
		write(there[1], "x", 1);
		read(over[0], &c, 1);
		step("  and finds there what the device wrote", own[0], 0x77);
		_exit(failures);
	}
	read(there[0], &c, 1);
	step("the parent has the device write into the child", fill(OTHER), SUCCESS);
	write(over[1], "x", 1);
	waitpid(pid, &status, 0);
	step("the child saw it", status, 0);
}

static int mine(int fd, int irq) { return fd == device || fd == iommufd || fd == irq; }

static void works(const char *after, int irq)
{
	printf("   after %s\n", after);
	step("work is done", fill(IOVA + 0x10000), SUCCESS);
	step("  and interrupts", came(irq, 2000), 1);
}

/* A program that closes whatever it does not know, and uses the numbers for its own. */
static void closes(void)
{
	int irq, fd, i, unknown = 0, sockets[8];
	struct rlimit limit;

	/* What the program was started with. */
	for (fd = 3; fd < 4096; fd++)
		close(fd);
	irq = eventfd(0, EFD_NONBLOCK);
	start();
	step("the numbers are those the system would give", iommufd == irq + 1 && device == irq + 2, 1);
	step("vector 0", vectors(0x24, 0, 1, &irq), 0);
	getrlimit(RLIMIT_NOFILE, &limit);
	for (fd = 3; fd < (int)limit.rlim_cur && fd < 4096; fd++)
		if (!mine(fd, irq))
			unknown += close(fd) == 0;
	step("nothing is open that the program does not know", unknown, 0);
	works("close", irq);
	for (i = 0; i < 8; i += 2)
		socketpair(AF_UNIX, SOCK_STREAM, 0, sockets + i);
	for (i = 0; i < 8; i++)
		send(sockets[i ^ 1], "hello, world", 12, 0);
	works("new descriptors of its own", irq);
	for (i = 0; i < 8; i++) {
		char text[32];

		unknown += recv(sockets[i], text, sizeof(text), MSG_DONTWAIT) != 12;
	}
	step("nobody else reads from them", unknown, 0);
	if (close_range) {
		step("everything behind is closed", close_range(device + 1, ~0u, 0), 0);
		step("  its own as well", close(sockets[0]), -EBADF);
		works("close_range", irq);
	}
	if (closefrom) {
		socketpair(AF_UNIX, SOCK_STREAM, 0, sockets);
		closefrom(device + 1);
		step("and from a number on", close(sockets[0]), -EBADF);
		works("closefrom", irq);
	}
	for (fd = device + 1; fd < (int)limit.rlim_cur && fd < 4096; fd++)
		if (dup2(0, fd) == fd)
			close(fd);
	works("dup2 to every number", irq);
}

/* A counter that is full, and has a vector behind it. */
static void full(void)
{
	uint64_t most = ~1ull;
	int fds[2] = { eventfd(0, 0), eventfd(0, EFD_NONBLOCK) };

	write(fds[0], &most, 8);
	start();
	step("vectors", vectors(0x24, 0, 2, fds), 0);
	step("one whose counter is full", vectors(0x21, 0, 1, NULL), 0);
	usleep(50000);
	step("and the next", vectors(0x21, 1, 1, NULL), 0);
	step("  arrives", came(fds[1], 2000), 1);
	step("  the full one stays so", came(fds[0], 0), 1);
	step("  and counts anew", vectors(0x21, 0, 1, NULL), 0);
	step("  from then on", came(fds[0], 2000), 1);
}

/* A file that could not be kept for the server because the program had no descriptor left. */
static void file(void)
{
	int fd = memfd_create("memory", 0), used[64], n = 0;
	struct map_file m = { sizeof(m), 7, 0, fd, 0, 0x10000, OTHER };
	struct ioas_unmap u = { sizeof(u), 0, OTHER, 0x10000 };
	struct rlimit before, few;

	ftruncate(fd, 0x10000);
	start();
	m.ioas_id = u.ioas_id = ioas_id;
	getrlimit(RLIMIT_NOFILE, &before);
	few = before;
	few.rlim_cur = 32;
	setrlimit(RLIMIT_NOFILE, &few);
	while (n < 64 && (used[n] = dup(0)) >= 0)
		n++;
	if (!ioctl(iommufd, IOAS_MAP_FILE, &m))
		ioctl(iommufd, IOAS_UNMAP, &u);
	while (n)
		close(used[--n]);
	setrlimit(RLIMIT_NOFILE, &before);
	step("a file, now that there are descriptors", ioctl(iommufd, IOAS_MAP_FILE, &m), 0);
	step("  is reached", fill(OTHER), SUCCESS);
}

/* A server that ends and one that comes in its place. The caller does both, and says so by a line. */
static void restart(void)
{
	int irq = eventfd(0, EFD_NONBLOCK), i;
	char line[16];

	for (i = 0; i < 2; i++) {
		start();
		step("vector 0", vectors(0x24, 0, 1, &irq), 0);
		works(i ? "the restart" : "the start", irq);
		step("the device is in sysfs", access("/sys/bus/pci/devices/0000:01:00.0/vfio-dev", F_OK), 0);
		close(device);
		close(iommufd);
		printf("ready\n");
		fflush(stdout);
		if (!i && !fgets(line, sizeof(line), stdin))
			failures++;
	}
}

int main(int argc, char **argv)
{
	static const struct { const char *name; void (*run)(void); } modes[] = {
		{ "child", child }, { "close", closes }, { "full", full }, { "file", file }, { "restart", restart },
	};
	unsigned i;

	for (i = 0; i < sizeof(modes) / sizeof(*modes); i++) {
		if (argc != 2 || strcmp(argv[1], modes[i].name))
			continue;
		modes[i].run();
		printf("attend %s: %d failures\n", argv[1], failures);
		return failures != 0;
	}
	fprintf(stderr, "usage: attend-client child|close|full|file|restart\n");
	return 2;
}
