/*
 * A guest's user-space driver with the guest's own iommufd: takes the function by vfio, builds a nesting parent, a fault
 * queue and a first-stage HWPT on tables of its own, attaches the function, and then serves page requests and does what the
 * host asks for on the console, one command a line. Every answer is a line that begins with "@@ nest".
 *
 * No libc: the kernel's nolibc headers and uAPI headers, fetched with the kernel's source when the guest is built.
 */
#include <linux/iommufd.h>
#include <linux/vfio.h>

/* Where the "guest" of this guest has its memory, and the I/O virtual addresses in use. */
#define SPACE 0x20000
#define GPA 0x40000000ull
#define IOVA 0x12345000ull
#define LEAF 0x67 /* present, writable, user, accessed, dirty */
#define PAGE(n) (memory + (n) * 0x1000)

static int ifd, dev, faults;
static unsigned char *memory;
static unsigned int nested;

static int die(const char *what)
{
	printf("@@ nest failed: %s, errno %d\n", what, errno);
	return 1;
}

/* First-stage leaf of page `n` after IOVA: guest-physical page `page`, or nothing. */
static void leaf(unsigned int n, int page)
{
	unsigned long long *table = (void *)PAGE(3);

	table[0x145 + n] = page < 0 ? 0 : (GPA + page * 0x1000) | LEAF;
}

/* vfio takes bus mastering away from a function it opens. */
static int bus_master(void)
{
	unsigned short command = 6;

	return syscall(__NR_pwrite64, dev, &command, 2, 4, VFIO_PCI_CONFIG_REGION_INDEX << 8);
}

static int build(void)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };
	struct iommu_hw_info info = { .size = sizeof(info) };
	struct iommu_hw_info_vtd vtd = { 0 };
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };
	struct iommu_ioas_map map = { .size = sizeof(map) };
	struct iommu_hwpt_alloc parent = { .size = sizeof(parent) }, child = { .size = sizeof(child) };
	struct iommu_fault_alloc queue = { .size = sizeof(queue) };
	struct iommu_hwpt_vtd_s1 stage1 = { .pgtbl_addr = GPA, .addr_width = 48 };
	unsigned long long *table;

	ifd = open("/dev/iommu", O_RDWR);
	dev = open("/dev/vfio/devices/vfio0", O_RDWR);
	if (ifd < 0 || dev < 0)
		return die("open");
	bind.iommufd = ifd;
	if (ioctl(dev, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		return die("bind");
	info.dev_id = bind.out_devid;
	info.data_len = sizeof(vtd);
	info.data_uptr = (unsigned long)&vtd;
	if (ioctl(ifd, IOMMU_GET_HW_INFO, &info))
		return die("GET_HW_INFO");
	printf("@@ nest info type %u cap %08x%08x ecap %08x%08x\n", info.out_data_type, (unsigned)(vtd.cap_reg >> 32),
	       (unsigned)vtd.cap_reg, (unsigned)(vtd.ecap_reg >> 32), (unsigned)vtd.ecap_reg);
	if (ioctl(ifd, IOMMU_IOAS_ALLOC, &ioas))
		return die("IOAS_ALLOC");
	memory = mmap(0, SPACE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(memory, 0, SPACE);
	parent.flags = IOMMU_HWPT_ALLOC_NEST_PARENT;
	parent.dev_id = bind.out_devid;
	parent.pt_id = ioas.out_ioas_id;
	if (ioctl(ifd, IOMMU_HWPT_ALLOC, &parent))
		return die("HWPT_ALLOC of the parent");
	map.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE;
	map.ioas_id = ioas.out_ioas_id;
	map.user_va = (unsigned long)memory;
	map.length = SPACE;
	map.iova = GPA;
	if (ioctl(ifd, IOMMU_IOAS_MAP, &map))
		return die("IOAS_MAP");
	if (ioctl(ifd, IOMMU_FAULT_QUEUE_ALLOC, &queue))
		return die("FAULT_QUEUE_ALLOC");
	faults = queue.out_fault_fd;
	/* Pages 0 … 3 are the tables on the way to IOVA; data begins at page 8. */
	table = (void *)memory;
	table[0] = (GPA + 0x1000) | LEAF;
	table[512] = (GPA + 0x2000) | LEAF;
	table[1024 + 0x91] = (GPA + 0x3000) | LEAF;
	leaf(0, 8);
	strcpy((char *)PAGE(8), "first page of the nested guest");
	strcpy((char *)PAGE(9), "another page, mapped later");
	child.flags = IOMMU_HWPT_FAULT_ID_VALID;
	child.dev_id = bind.out_devid;
	child.pt_id = parent.out_hwpt_id;
	child.data_type = IOMMU_HWPT_DATA_VTD_S1;
	child.data_len = sizeof(stage1);
	child.data_uptr = (unsigned long)&stage1;
	child.fault_id = queue.out_fault_id;
	if (ioctl(ifd, IOMMU_HWPT_ALLOC, &child))
		return die("HWPT_ALLOC of the nested one");
	nested = child.out_hwpt_id;
	attach.pt_id = nested;
	if (ioctl(dev, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach))
		return die("ATTACH");
	if (bus_master() != 2)
		return die("bus mastering");
	printf("@@ nest attached\n");
	return 0;
}

/* A page request: pages 16 and up after IOVA are nobody's, everything else gets the page 10 + n. */
static int serve(void)
{
	struct iommu_hwpt_pgfault f;
	struct iommu_hwpt_page_response answer = { 0 };
	unsigned int n;

	if (read(faults, &f, sizeof(f)) != sizeof(f))
		return die("reading the fault queue");
	n = (unsigned int)(f.addr - IOVA) >> 12;
	printf("@@ nest fault addr %08x perm %x group %u flags %x\n", (unsigned)f.addr, f.perm, f.grpid, f.flags);
	answer.cookie = f.cookie;
	answer.code = n < 16 ? IOMMUFD_PAGE_RESP_SUCCESS : IOMMUFD_PAGE_RESP_INVALID;
	if (n < 16)
		leaf(n, 10 + (n & 3));
	if (write(faults, &answer, sizeof(answer)) != sizeof(answer))
		return die("answering");
	return 0;
}

static void invalidate(void)
{
	struct iommu_hwpt_vtd_s1_invalidate range = { .addr = IOVA, .npages = 1 };
	struct iommu_hwpt_invalidate call = { .size = sizeof(call) };
	int r;

	call.hwpt_id = nested;
	call.data_uptr = (unsigned long)&range;
	call.data_type = IOMMU_HWPT_INVALIDATE_DATA_VTD_S1;
	call.entry_len = sizeof(range);
	call.entry_num = 1;
	r = ioctl(ifd, IOMMU_HWPT_INVALIDATE, &call);
	printf("@@ nest invalidated %d of %u\n", r, call.entry_num);
}

/* One line of the console, without stdio: 0 at the end of the input. */
static int line(char *into, int most)
{
	int n = 0;
	char c;

	while (read(0, &c, 1) == 1) {
		if (c == '\n') {
			into[n] = 0;
			return 1;
		}
		if (n < most - 1)
			into[n++] = c;
	}
	return 0;
}

int main(void)
{
	char word[32];

	if (build())
		return 1;
	for (;;) {
		struct pollfd wait[2] = { { faults, POLLIN, 0 }, { 0, POLLIN, 0 } };

		if (poll(wait, 2, -1) < 0)
			return die("poll");
		if ((wait[0].revents & POLLIN) && serve())
			return 1;
		if (!(wait[1].revents & (POLLIN | POLLHUP)))
			continue;
		if (!line(word, sizeof(word)) || !strcmp(word, "quit"))
			break;
		if (!strcmp(word, "remap")) {
			leaf(0, 9);
			printf("@@ nest remapped\n");
		} else if (!strcmp(word, "invalidate")) {
			invalidate();
		} else if (!strcmp(word, "show")) {
			printf("@@ nest page %s\n", (char *)PAGE(11));
		}
	}
	close(dev);
	close(ifd);
	printf("@@ nest closed\n");
	return 0;
}
