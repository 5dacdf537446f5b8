/*
 * A small VMM's way with a device that works: it finds the DMA engine of the server in sysfs, gives it memory, drives it by its
 * registers, hears its interrupts, takes memory away under it, answers its page requests, resets it. One line per step.
 * usage: dma-client anonymous|memfd|shared smmuv3|vtd [device-last]      (server: --device dma-engine --device dma-engine)
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/vfio.h>

/* The headers of an old distribution do not know these structures. */
#define CMD(n) (0x3b00 + (n))
struct ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
struct map_file { uint32_t size, flags, ioas_id; int32_t fd; uint64_t start, length, iova; };
struct ioas_unmap { uint32_t size, ioas_id; uint64_t iova, length; };
struct hwpt_alloc { uint32_t size, flags, dev_id, pt_id, out_hwpt_id, reserved, data_type, data_len; uint64_t data_uptr; uint32_t fault_id, reserved2; };
struct fault_alloc { uint32_t size, flags, out_fault_id; int32_t out_fault_fd; };
struct page_fault { uint32_t flags, dev_id, pasid, grpid, perm, reserved; uint64_t addr; uint32_t length, cookie; };
struct page_response { uint32_t cookie, code; };
struct bind { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; };
struct attach { uint32_t argsz, flags, pt_id, pasid; };
enum {
	IOAS_ALLOC = CMD(0x81), IOAS_MAP = CMD(0x85), IOAS_UNMAP = CMD(0x86), HWPT_ALLOC = CMD(0x89), FAULT_ALLOC = CMD(0x8e),
	SET_DIRTY = CMD(0x8b), GET_DIRTY = CMD(0x8c), IOAS_MAP_FILE = CMD(0x8f), BIND = CMD(118), ATTACH = CMD(119),
};
/* The DMA engine of this package: registers and descriptors (devices/endpoints/dma-engine.ts, descriptor.ts). */
enum { CONTROL = 0, STATE = 4, RING_LOW = 8, RING_HIGH = 12, RING_LOG2 = 16, TAIL = 20, HEAD = 24, TABLE = 0x800 };
enum { COPY = 1, FILL = 2, INTERRUPT = 0x100, ASK = 0x200, SUCCESS = 1, FAULT = 2 };
struct work { uint32_t op, pasid; uint64_t done, source, destination; uint32_t bytes, pattern, pad[6]; };
struct record { uint32_t status, bytes; uint64_t address; };

#define IOVA 0x1000000ull
#define BYTES (8u << 20)
#define ADDRESS "0000:01:00.0"

static int failures, device, iommufd;
static char *memory;
static uint32_t ioas_id, tail, pasid;
static uint64_t bar0, config;
static int irq[2];

static int step(const char *what, long got, long want)
{
	long result = got < 0 ? -errno : got;

	printf("%s %s = %ld\n", result == want ? "ok" : "NOT OK", what, result);
	if (result != want) {
		printf("   wanted %ld\n", want);
		failures++;
	}
	return result == want;
}

static uint32_t get(uint32_t at)
{
	uint32_t v = 0xdeadbeef;

	return pread(device, &v, 4, bar0 + at) == 4 ? v : 0xdeadbeef;
}

static void put(uint32_t at, uint32_t v)
{
	if (pwrite(device, &v, 4, bar0 + at) != 4)
		perror("pwrite");
}

static int interrupts(int index, int flags, int start, int count, const int *fds)
{
	char bytes[sizeof(struct vfio_irq_set) + 64];
	struct vfio_irq_set *s = (void *)bytes;

	s->argsz = sizeof(bytes);
	s->flags = flags;
	s->index = index;
	s->start = start;
	s->count = count;
	memcpy(s->data, fds ? (const void *)fds : "", fds ? 4 * count : 0);
	return ioctl(device, VFIO_DEVICE_SET_IRQS, s);
}

/* Waits for an interrupt. Returns whether it came in time. */
static int came(int fd, int milliseconds)
{
	struct pollfd p = { fd, POLLIN, 0 };
	uint64_t n;

	return poll(&p, 1, milliseconds) == 1 && read(fd, &n, 8) == 8;
}

static struct record *work(uint32_t op, uint64_t source, uint64_t destination, uint32_t bytes, uint32_t pattern)
{
	struct work *ring = (void *)memory;
	struct record *r = (void *)(memory + 0x1000);

	memset(r, 0, sizeof(*r));
	ring[tail] = (struct work){ .op = op, .pasid = pasid, .done = IOVA + 0x1000, .source = source, .destination = destination,
				    .bytes = bytes, .pattern = pattern };
	tail = (tail + 1) & 7;
	put(TAIL, tail);
	return r;
}

static void start(void)
{
	uint16_t command = 6;

	tail = 0;
	pwrite(device, &command, 2, config + 4);
	put(RING_LOW, IOVA);
	put(RING_LOG2, 3);
	put(CONTROL, 1);
}

static int map(uint64_t iova, uint64_t offset, uint64_t length, int fd)
{
	struct ioas_map m = { sizeof(m), 7, ioas_id, 0, (uintptr_t)memory + offset, length, iova };
	struct map_file f = { sizeof(f), 7, ioas_id, fd, offset, length, iova };

	return fd >= 0 ? ioctl(iommufd, IOAS_MAP_FILE, &f) : ioctl(iommufd, IOAS_MAP, &m);
}

static int unmap(uint64_t iova, uint64_t length)
{
	struct ioas_unmap u = { sizeof(u), ioas_id, iova, length };

	return ioctl(iommufd, IOAS_UNMAP, &u);
}

static void sysfs(void)
{
	char text[64] = { 0 };
	struct dirent *e;
	struct stat s;
	DIR *d;
	int fd;

	step("the device is in sysfs", stat("/sys/bus/pci/devices/" ADDRESS, &s), 0);
	d = opendir("/sys/bus/pci/devices/" ADDRESS "/vfio-dev");
	while (d && (e = readdir(d)) && e->d_name[0] == '.')
		;
	step("  with a VFIO device", d && e && !strcmp(e->d_name, "vfio0"), 1);
	if (d)
		closedir(d);
	fd = open("/sys/bus/pci/devices/" ADDRESS "/vfio-dev/vfio0/dev", O_RDONLY);
	read(fd, text, sizeof(text) - 1);
	close(fd);
	fstat(device, &s);
	step("  whose number is that of its node", S_ISCHR(s.st_mode) && major(s.st_rdev) == (unsigned)atoi(text) &&
	     minor(s.st_rdev) == (unsigned)atoi(strchr(text, ':') + 1), 1);
	step("a device that is not there has no folder", access("/sys/bus/pci/devices/0000:7f:1f.0", F_OK), -ENOENT);
}

static void regions(void)
{
	struct vfio_region_info r = { .argsz = sizeof(r), .index = VFIO_PCI_BAR0_REGION_INDEX };
	uint32_t size = 0xffffffff, word = 0;
	uint16_t command = 0;

	step("BAR 0", ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &r), 0);
	step("  its size", r.size, 0x1000);
	bar0 = r.offset;
	r.index = VFIO_PCI_BAR1_REGION_INDEX;
	step("the high half of BAR 0", ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &r), 0);
	step("  is no region", r.size, 0);
	r.index = VFIO_PCI_CONFIG_REGION_INDEX;
	step("configuration space", ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &r), 0);
	step("  with its extended part", r.size, 4096);
	config = r.offset;
	r.index = VFIO_PCI_VGA_REGION_INDEX;
	step("VGA", ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &r), -EINVAL);
	pwrite(device, &size, 4, config + 0x10);
	pread(device, &size, 4, config + 0x10);
	step("BAR 0 is sized", size == 0xfffff004, 1);
	step("behind the end of a region", pread(device, &word, 4, bar0 + 0x1000), -EINVAL);
	pread(device, &command, 2, config + 4);
	step("memory is on in a fresh device, the bus is not its own", command & 7, 3);
	command = 0;
	pwrite(device, &command, 2, config + 4);
	step("registers of a device whose memory is off", pread(device, &word, 4, bar0), -EIO);
	start();
	put(TABLE, 0xfee00000);
	step("the vectors' table is the kernel's", get(TABLE) == 0xffffffff, 1);
}

static void irqs(void)
{
	struct vfio_irq_info i = { .argsz = sizeof(i), .index = VFIO_PCI_MSIX_IRQ_INDEX };
	int plain[1] = { iommufd }, closed[1] = { 900 };

	step("MSI-X", ioctl(device, VFIO_DEVICE_GET_IRQ_INFO, &i), 0);
	step("  vectors", i.count, 2);
	step("off before it was on", interrupts(VFIO_PCI_MSIX_IRQ_INDEX, 0x21, 0, 0, NULL), -EINVAL);
	step("more vectors than there are", interrupts(VFIO_PCI_MSIX_IRQ_INDEX, 0x24, 1, 2, irq), -EINVAL);
	step("two kinds of data", interrupts(VFIO_PCI_MSIX_IRQ_INDEX, 0x26, 0, 1, irq), -EINVAL);
	step("a descriptor that is closed", interrupts(VFIO_PCI_MSIX_IRQ_INDEX, 0x24, 0, 1, closed), -EBADF);
	step("a descriptor that is no eventfd", interrupts(VFIO_PCI_MSIX_IRQ_INDEX, 0x24, 0, 1, plain), -EINVAL);
	step("masking a message", interrupts(VFIO_PCI_MSIX_IRQ_INDEX, 0x0c, 0, 1, irq), -ENOTTY);
	step("eventfds", interrupts(VFIO_PCI_MSIX_IRQ_INDEX, 0x24, 0, 2, irq), 0);
	step("the pin beside them", interrupts(VFIO_PCI_INTX_IRQ_INDEX, 0x24, 0, 1, irq), -EINVAL);
	step("a vector that is triggered by hand", interrupts(VFIO_PCI_MSIX_IRQ_INDEX, 0x21, 1, 1, NULL), 0);
	step("  arrives", came(irq[1], 2000), 1);
	step("  and only that", came(irq[0], 0), 0);
}

static void pin(void)
{
	step("MSI-X off", interrupts(VFIO_PCI_MSIX_IRQ_INDEX, 0x21, 0, 0, NULL), 0);
	step("the pin", interrupts(VFIO_PCI_INTX_IRQ_INDEX, 0x24, 0, 1, irq), 0);
	work(FILL | INTERRUPT, 0, IOVA + 0x4000, 64, 1);
	step("  rises", came(irq[0], 2000), 1);
	work(FILL | INTERRUPT, 0, IOVA + 0x4000, 64, 1);
	step("  is told of once", came(irq[0], 50), 0);
	step("  until it has been served", interrupts(VFIO_PCI_INTX_IRQ_INDEX, 0x11, 0, 1, NULL), 0);
	step("  and is still up", came(irq[0], 2000), 1);
	step("the pin off", interrupts(VFIO_PCI_INTX_IRQ_INDEX, 0x21, 0, 0, NULL), 0);
	step("MSI-X once more", interrupts(VFIO_PCI_MSIX_IRQ_INDEX, 0x24, 0, 2, irq), 0);
}

static void dma(int fd)
{
	struct record *r;
	unsigned i, same = 1;

	for (i = 0; i < 0x10000; i++)
		memory[0x10000 + i] = i * 7 + i / 256;
	r = work(COPY | INTERRUPT, IOVA + 0x10003, IOVA + 0x30005, 0xf001, 0);
	step("a copy interrupts when it is done", came(irq[0], 2000), 1);
	step("  with success", r->status, SUCCESS);
	step("  and every byte", !memcmp(memory + 0x30005, memory + 0x10003, 0xf001), 1);
	step("  and none beside", memory[0x30004] | memory[0x30005 + 0xf001], 0);
	step("memory goes", unmap(IOVA + 0x400000, 0x400000), 0);
	r = work(FILL | INTERRUPT, 0, IOVA + 0x3ff000, 0x2000, 0x11111111);
	came(irq[0], 2000);
	step("work in it fails", r->status, FAULT);
	step("  where it is gone", r->address == IOVA + 0x400000, 1);
	step("  and not before", memory[0x3ff000], 0x11);
	step("memory comes", map(IOVA + 0x400000, 0x400000, 0x400000, fd), 0);
	r = work(FILL | INTERRUPT, 0, IOVA + 0x3ff000, 0x2000, 0x22222222);
	came(irq[0], 2000);
	step("and work goes on", r->status, SUCCESS);
	for (i = 0; i < 0x2000; i++)
		same &= memory[0x3ff000 + i] == 0x22;
	step("  everywhere", same, 1);
}

static void reset(void)
{
	step("a reset", ioctl(device, VFIO_DEVICE_RESET), 0);
	step("  stops the engine", get(CONTROL), 0);
	start();
	work(FILL | INTERRUPT, 0, IOVA + 0x4000, 64, 0x33333333);
	step("  and keeps the vectors", came(irq[0], 2000), 1);
	step("  work is done", memory[0x4000], 0x33);
}

/* The other function on the bus is somebody else's, or nobody's: until it is ours as well, the bus is not. */
static void hot_reset(void)
{
	struct { struct vfio_pci_hot_reset_info head; struct { uint32_t id; uint16_t segment; uint8_t devfn, bus; } devices[4]; } info;
	struct vfio_pci_hot_reset reset = { .argsz = sizeof(reset) };
	int other = open("/dev/vfio/devices/vfio1", O_RDWR);
	struct bind b = { sizeof(b), 0, iommufd, 0 };

	memset(&info, 0, sizeof(info));
	info.head.argsz = sizeof(info.head);
	step("whom a bus reset concerns, without room", ioctl(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &info), -ENOSPC);
	step("  is told in number", info.head.count, 2);
	info.head.argsz = sizeof(info);
	step("  and by name", ioctl(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &info), 0);
	step("  not all of them ours", info.head.flags, 1);
	step("  this one is", info.devices[0].bus == 1 && info.devices[0].devfn == 0 && info.devices[0].id != -1u, 1);
	step("  that one is not", info.devices[1].bus == 1 && info.devices[1].devfn == 8 && info.devices[1].id == -1u, 1);
	step("no reset then", ioctl(device, VFIO_DEVICE_PCI_HOT_RESET, &reset), -EINVAL);
	ioctl(other, BIND, &b);
	step("with the other one bound", ioctl(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &info), 0);
	step("  both are ours", info.head.flags == 3 && info.devices[1].id == b.out_devid, 1);
	reset.flags = 1;
	step("a flag that is none", ioctl(device, VFIO_DEVICE_PCI_HOT_RESET, &reset), -EINVAL);
	reset.flags = 0;
	step("a reset of the bus", ioctl(device, VFIO_DEVICE_PCI_HOT_RESET, &reset), 0);
	step("  stops the engine", get(CONTROL), 0);
	close(other);
	start();
}

/* Pages that the device has written are known to whoever asks (VT-d; this SMMUv3 has no such bits). */
static void dirty(uint32_t devid)
{
	struct hwpt_alloc h = { .size = sizeof(h), .flags = 2, .dev_id = devid, .pt_id = ioas_id };
	struct attach a = { sizeof(a), 0, 0, 0 };
	struct { uint32_t size, flags, hwpt_id, reserved; } track = { sizeof(track), 1, 0, 0 };
	uint64_t map[BYTES / 4096 / 64] = { 0 };
	struct { uint32_t size, hwpt_id, flags, reserved; uint64_t iova, length, page, data; } ask = {
		sizeof(ask), 0, 0, 0, IOVA, BYTES, 4096, (uintptr_t)map,
	};
	unsigned i, others = 0;

	step("a HWPT that tracks writes", ioctl(iommufd, HWPT_ALLOC, &h), 0);
	a.pt_id = track.hwpt_id = ask.hwpt_id = h.out_hwpt_id;
	step("  attached", ioctl(device, ATTACH, &a), 0);
	step("  tracking", ioctl(iommufd, SET_DIRTY, &track), 0);
	ioctl(iommufd, GET_DIRTY, &ask);
	memset(map, 0, sizeof(map));
	work(FILL | INTERRUPT, 0, IOVA + 0x200000, 0x2000, 0x66666666);
	came(irq[0], 2000);
	step("  what was written", ioctl(iommufd, GET_DIRTY, &ask), 0);
	/* A leaf of the table may cover 2 MiB: then that is what is known to be written. */
	step("  is what the device wrote", (map[0x200 / 64] & 3) == 3 && (map[0] & 2) == 2, 1);
	for (i = 0x400 / 64; i < BYTES / 4096 / 64; i++)
		others += map[i] != 0;
	step("  and nothing beyond its large page", others, 0);
	memset(map, 0, sizeof(map));
	ioctl(iommufd, GET_DIRTY, &ask);
	step("  and it is told once", map[0x200 / 64], 0);
	a.pt_id = ioas_id;
	step("back", ioctl(device, ATTACH, &a), 0);
}

/* A page that is not there is asked for; the descriptor of the queue becomes readable for epoll. */
static void faults(uint32_t devid, int fd)
{
	struct fault_alloc q = { .size = sizeof(q) };
	struct hwpt_alloc h = { .size = sizeof(h), .flags = 8, .dev_id = devid, .pt_id = ioas_id };
	struct attach a = { sizeof(a), 0, 0, 5 };
	struct epoll_event ask = { .events = EPOLLIN }, got;
	struct page_fault f = { 0 };
	struct page_response answer;
	struct record *r;
	int e = epoll_create1(0);

	step("a HWPT beside which there may be PASIDs", ioctl(iommufd, HWPT_ALLOC, &h), 0);
	a.pt_id = h.out_hwpt_id;
	step("attached", ioctl(device, ATTACH, &a), 0);
	step("a fault queue", ioctl(iommufd, FAULT_ALLOC, &q), 0);
	h.fault_id = q.out_fault_id;
	h.flags = 8 | 4;
	step("a HWPT with it", ioctl(iommufd, HWPT_ALLOC, &h), 0);
	a.pt_id = h.out_hwpt_id;
	a.flags = 1;
	step("attached to a PASID", ioctl(device, ATTACH, &a), 0);
	put(CONTROL, 5);
	pasid = 0x80000005;
	fcntl(q.out_fault_fd, F_SETFL, fcntl(q.out_fault_fd, F_GETFL) | O_NONBLOCK);
	epoll_ctl(e, EPOLL_CTL_ADD, q.out_fault_fd, &ask);
	step("nothing to read", epoll_wait(e, &got, 1, 0), 0);
	step("  as a read says", read(q.out_fault_fd, &f, sizeof(f)), 0);
	step("nothing is said of an empty queue afterwards", epoll_wait(e, &got, 1, 0), 0);
	unmap(IOVA + 0x400000, 0x400000);
	r = work(FILL | INTERRUPT | ASK, 0, IOVA + 0x400000, 64, 0x44444444);
	step("a page is asked for", epoll_wait(e, &got, 1, 2000), 1);
	step("  work waits", r->status, 0);
	step("  which", read(q.out_fault_fd, &f, sizeof(f)), sizeof(f));
	step("  the one", f.addr == IOVA + 0x400000 && f.pasid == 5, 1);
	step("  once", epoll_wait(e, &got, 1, 0), 0);
	map(IOVA + 0x400000, 0x400000, 0x400000, fd);
	answer = (struct page_response){ f.cookie, 0 };
	step("it is there now", write(q.out_fault_fd, &answer, sizeof(answer)), sizeof(answer));
	step("  and the work is done", came(irq[0], 2000) && r->status == SUCCESS && memory[0x400000] == 0x44, 1);
	pasid = 0;
	close(e);
	close(q.out_fault_fd);
}

/* A program that dies with a device at work leaves nothing. */
static void death(void)
{
	int status, second;
	pid_t child = fork();

	if (!child) {
		iommufd = open("/dev/iommu", O_RDWR);
		device = open("/dev/vfio/devices/vfio1", O_RDWR);
		struct bind b = { sizeof(b), 0, iommufd, 0 };
		struct ioas_alloc i = { .size = sizeof(i) };
		struct attach a = { sizeof(a), 0, 0, 0 };
		if (ioctl(device, BIND, &b) || ioctl(iommufd, IOAS_ALLOC, &i))
			_exit(1);
		ioas_id = a.pt_id = i.out_ioas_id;
		memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		int fd = eventfd(0, 0);
		if (map(IOVA, 0, BYTES, -1) || ioctl(device, ATTACH, &a) || interrupts(VFIO_PCI_MSIX_IRQ_INDEX, 0x24, 0, 1, &fd))
			_exit(2);
		start();
		work(FILL | INTERRUPT, 0, IOVA + 0x4000, 64, 0x55555555);
		if (!came(fd, 2000) || memory[0x4000] != 0x55)
			_exit(3);
		work(FILL, 0, IOVA + 0x4000, 1 << 20, 0);
		raise(SIGKILL);
	}
	waitpid(child, &status, 0);
	step("a child used another device, and was killed", WIFSIGNALED(status) ? WTERMSIG(status) : -1, SIGKILL);
	second = open("/dev/vfio/devices/vfio1", O_RDWR);
	struct bind b = { sizeof(b), 0, iommufd, 0 };
	step("the device is free", ioctl(second, BIND, &b), 0);
	close(second);
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void speed(void)
{
	double t = seconds();
	int i;

	for (i = 0; i < 2000; i++)
		get(HEAD);
	printf("a register access: %.1f us\n", (seconds() - t) / 2000 * 1e6);
	t = seconds();
	for (i = 0; i < 32; i++) {
		work(COPY | INTERRUPT, IOVA + 0x100000, IOVA + 0x500000, 1 << 20, 0);
		came(irq[0], 2000);
	}
	printf("DMA: %.0f MiB/s, read and written\n", 64 / (seconds() - t));
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "anonymous";
	struct ioas_alloc ioas = { .size = sizeof(ioas) };
	struct attach a = { sizeof(a), 0, 0, 0 };
	int fd = -1;

	setbuf(stdout, NULL);
	iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	device = open("/dev/vfio/devices/vfio0", O_RDWR | O_CLOEXEC);
	irq[0] = eventfd(0, EFD_CLOEXEC);
	irq[1] = eventfd(0, EFD_CLOEXEC);
	if (iommufd < 0 || device < 0) {
		perror("open");
		return 2;
	}
	struct bind b = { sizeof(b), 0, iommufd, 0 };
	sysfs();
	step("bind", ioctl(device, BIND, &b), 0);
	step("IOAS", ioctl(iommufd, IOAS_ALLOC, &ioas), 0);
	ioas_id = a.pt_id = ioas.out_ioas_id;
	step("attach", ioctl(device, ATTACH, &a), 0);
	if (!strcmp(kind, "anonymous")) {
		memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	} else {
		fd = memfd_create("ram", MFD_CLOEXEC);
		ftruncate(fd, BYTES);
		memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (!strcmp(kind, "shared"))
			fd = -1;
	}
	step("memory", map(IOVA, 0, 0x400000, fd), 0);
	step("more of it", map(IOVA + 0x400000, 0x400000, BYTES - 0x400000, fd), 0);
	regions();
	irqs();
	dma(fd);
	pin();
	reset();
	hot_reset();
	/* Linux's SMMUv3 driver has no page requests. */
	if (argc > 2 && !strcmp(argv[2], "vtd")) {
		dirty(b.out_devid);
		faults(b.out_devid, fd);
	}
	death();
	speed();
	close(argc > 3 ? iommufd : device);
	close(argc > 3 ? device : iommufd);
	device = open("/dev/vfio/devices/vfio0", O_RDWR);
	iommufd = open("/dev/iommu", O_RDWR);
	b = (struct bind){ sizeof(b), 0, iommufd, 0 };
	step("the device is free again", ioctl(device, BIND, &b), 0);
	printf("dma %s: %d failures\n", kind, failures);
	return failures != 0;
}
