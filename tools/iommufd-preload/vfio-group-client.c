/*
 * What DPDK and SPDK do to get at a device: container, group, address space, device, configuration space. Every step is
 * compared with what Linux answers. argv[1]: the device's PCI address; argv[2]: another device.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <linux/vfio.h>

static int failures;

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

/* The number of a device's group, as every such program finds it. */
static int group_of(const char *address)
{
	char link[128], target[128] = { 0 };

	snprintf(link, sizeof(link), "/sys/bus/pci/devices/%s/iommu_group", address);
	return readlink(link, target, sizeof(target) - 1) < 0 ? -1 : atoi(basename(target));
}

int main(int argc, char **argv)
{
	const char *address = argc > 1 ? argv[1] : "0000:01:00.0", *other = argc > 2 ? argv[2] : "0000:01:01.0";
	struct vfio_group_status status = { .argsz = sizeof(status) };
	struct vfio_device_info info = { .argsz = sizeof(info) };
	struct vfio_region_info region = { .argsz = sizeof(region), .index = VFIO_PCI_CONFIG_REGION_INDEX };
	struct vfio_irq_info irq = { .argsz = sizeof(irq), .index = VFIO_PCI_MSI_IRQ_INDEX };
	char info_bytes[512] = { 0 };
	struct vfio_iommu_type1_info *iommu = (void *)info_bytes;
	int container, group, device, again;
	uint16_t ids[2] = { 0 }, command = 6;
	char path[32];
	struct stat s;

	setbuf(stdout, NULL);
	step("the module is there", stat("/sys/module/vfio", &s), 0);
	step("the container's node is there", access("/dev/vfio/vfio", R_OK | W_OK), 0);
	container = open("/dev/vfio/vfio", O_RDWR);
	if (!step("open the container", container < 0 ? -1 : 0, 0))
		return 2;
	step("API version", ioctl(container, VFIO_GET_API_VERSION), VFIO_API_VERSION);
	step("type 1", ioctl(container, VFIO_CHECK_EXTENSION, VFIO_TYPE1_IOMMU), 1);
	step("no such extension", ioctl(container, VFIO_CHECK_EXTENSION, 77), 0);
	step("an address space before a group", ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), -ENODEV);

	step("two devices are in two groups", group_of(address) != group_of(other), 1);
	step("a device that is not there has none", group_of("0000:7f:00.0"), -ENOENT);
	snprintf(path, sizeof(path), "/dev/vfio/%d", group_of(address));
	group = open(path, O_RDWR);
	if (!step("open the group", group < 0 ? -1 : 0, 0))
		return 2;
	step("once only", open(path, O_RDWR), -EBUSY);
	step("no such group", open("/dev/vfio/4711", O_RDWR), -ENOENT);
	step("status", ioctl(group, VFIO_GROUP_GET_STATUS, &status), 0);
	step("  viable, no container", status.flags, VFIO_GROUP_FLAGS_VIABLE);
	step("a device without a container", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address), -EINVAL);
	again = -1;
	step("a container that is none", ioctl(group, VFIO_GROUP_SET_CONTAINER, &again), -EBADF);
	again = 1;
	step("a container that is a terminal", ioctl(group, VFIO_GROUP_SET_CONTAINER, &again), -EBADFD);
	step("unset before set", ioctl(group, VFIO_GROUP_UNSET_CONTAINER), -EINVAL);
	step("set the container", ioctl(group, VFIO_GROUP_SET_CONTAINER, &container), 0);
	step("set it again", ioctl(group, VFIO_GROUP_SET_CONTAINER, &container), -EINVAL);
	step("status", ioctl(group, VFIO_GROUP_GET_STATUS, &status), 0);
	step("  viable, container set", status.flags, VFIO_GROUP_FLAGS_VIABLE | VFIO_GROUP_FLAGS_CONTAINER_SET);
	step("the address space", ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), 0);

	step("a device by a wrong name", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, "0000:7f:00.0"), -ENODEV);
	step("a device of another group", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, other), -ENODEV);
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
	if (!step("the device", device < 0 ? -1 : 0, 0))
		return 2;
	again = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
	step("the device once more", again < 0 ? -1 : 0, 0);
	close(again);

	iommu->argsz = sizeof(info_bytes);
	step("IOMMU info", ioctl(container, VFIO_IOMMU_GET_INFO, iommu), 0);
	step("  4 KiB pages", !!(iommu->iova_pgsizes & 4096), 1);
	size_t bytes = 2 << 20;
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct vfio_iommu_type1_dma_map map = { .argsz = sizeof(map), .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
						.vaddr = (uintptr_t)memory, .iova = 1 << 24, .size = bytes };
	step("map memory", ioctl(container, VFIO_IOMMU_MAP_DMA, &map), 0);
	step("map it twice", ioctl(container, VFIO_IOMMU_MAP_DMA, &map), -EEXIST);

	step("device info", ioctl(device, VFIO_DEVICE_GET_INFO, &info), 0);
	step("  a PCI function that can be reset", info.flags & 3, VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET);
	step("configuration space", ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region), 0);
	step("  its ids", pread(device, ids, 4, region.offset), 4);
	step("  are those of a function", ids[0] != 0xffff && ids[0] != 0, 1);
	step("  bus mastering on", pwrite(device, &command, 2, region.offset + 4), 2);
	command = 0;
	step("  reads back", pread(device, &command, 2, region.offset + 4), 2);
	step("  as written", command & 6, 6);
	step("behind its end", pread(device, ids, 4, region.offset + region.size), -EFAULT);
	step("across its end", pread(device, ids, 4, region.offset + region.size - 2), -EFAULT);
	step("nothing behind it", pread(device, ids, 0, region.offset + region.size), 0);
	step("interrupts", ioctl(device, VFIO_DEVICE_GET_IRQ_INFO, &irq), 0);
	step("reset", ioctl(device, VFIO_DEVICE_RESET), 0);
	command = 6;
	pread(device, &command, 2, region.offset + 4);
	step("  bus mastering is off", command, 0);
	step("an unknown command", ioctl(device, VFIO_GROUP_GET_STATUS, &status), -ENOTTY);

	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .iova = 1 << 24, .size = bytes };
	step("unmap", ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap), 0);
	step("  all of it", unmap.size == bytes, 1);

	/* A device holds its group. */
	close(group);
	step("the group is still open", open(path, O_RDWR), -EBUSY);
	close(device);
	group = open(path, O_RDWR);
	step("and free with its last device", group < 0 ? -1 : 0, 0);
	close(group);
	close(container);
	printf("group: %d failures\n", failures);
	return failures != 0;
}
