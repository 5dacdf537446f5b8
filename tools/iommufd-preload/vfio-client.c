/*
 * What a VMM does with a VFIO device and an iommufd, as a plain C program: bind, information, attach, replace, PASIDs,
 * detach, and the errors on the way. Runs against the server with the preload library; prints one line per step.
 * usage: vfio-client mock|smmuv3|vtd
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* The headers of an old distribution do not know these structures. */
#define CMD(n) (0x3b00 + (n))
struct ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
struct hwpt_alloc { uint32_t size, flags, dev_id, pt_id, out_hwpt_id, reserved, data_type, data_len; uint64_t data_uptr; uint32_t fault_id, reserved2; };
struct hw_info { uint32_t size, flags, dev_id, data_len; uint64_t data_uptr; uint32_t data_type; uint8_t max_pasid_log2, reserved[3]; uint64_t capabilities; };
struct destroy { uint32_t size, id; };
struct bind { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; uint64_t token; };
struct attach { uint32_t argsz, flags, pt_id, pasid; };
struct detach { uint32_t argsz, flags, pasid; };
struct device_info { uint32_t argsz, flags, num_regions, num_irqs, cap_offset, pad; };

enum {
	DESTROY = CMD(0x80), IOAS_ALLOC = CMD(0x81), IOAS_MAP = CMD(0x85), HWPT_ALLOC = CMD(0x89), GET_HW_INFO = CMD(0x8a),
	DEVICE_GET_INFO = CMD(107), DEVICE_BIND = CMD(118), DEVICE_ATTACH = CMD(119), DEVICE_DETACH = CMD(120),
};
enum { NEST_PARENT = 1, PASID = 8 };

static int failures;

static int step(const char *what, int got, int want)
{
	int result = got < 0 ? -errno : got;

	printf("%s %s = %d\n", result == want ? "ok" : "NOT OK", what, result);
	if (result != want) {
		printf("   wanted %d\n", want);
		failures++;
	}
	return result == want;
}

static int attach(int device, uint32_t pt, int64_t pasid, uint32_t *out)
{
	struct attach a = { sizeof(a), pasid >= 0, pt, pasid >= 0 ? pasid : 0 };
	int r = ioctl(device, DEVICE_ATTACH, &a);

	if (out)
		*out = a.pt_id;
	return r;
}

static int detach(int device, int64_t pasid)
{
	struct detach d = { sizeof(d), pasid >= 0, pasid >= 0 ? pasid : 0 };

	return ioctl(device, DEVICE_DETACH, &d);
}

static int destroy(int iommufd, uint32_t id)
{
	struct destroy d = { sizeof(d), id };

	return ioctl(iommufd, DESTROY, &d);
}

int main(int argc, char **argv)
{
	const char *backend = argc > 1 ? argv[1] : "mock";
	uint32_t info_type = !strcmp(backend, "smmuv3") ? 2 : !strcmp(backend, "vtd") ? 1 : 0xfeedbeef;
	uint32_t automatic, other;
	int iommufd, device, plain;

	setbuf(stdout, NULL);
	iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	device = open("/dev/vfio/devices/vfio0", O_RDWR | O_CLOEXEC);
	plain = open("/dev/null", O_RDWR | O_CLOEXEC);
	step("open a device that is not there", open("/dev/vfio/devices/none", O_RDWR), -ENOENT);
	if (iommufd < 0 || device < 0 || plain < 0) {
		perror("open");
		return 2;
	}

	/* Before the device is bound it understands nothing but BIND. */
	step("attach unbound", attach(device, 1, -1, NULL), -EINVAL);
	struct bind b = { .argsz = 12, .iommufd = iommufd };
	step("bind, structure too short", ioctl(device, DEVICE_BIND, &b), -EINVAL);
	b.argsz = sizeof(b);
	b.flags = 2;
	step("bind, unknown flag", ioctl(device, DEVICE_BIND, &b), -EINVAL);
	b.flags = 0;
	b.iommufd = -1;
	step("bind, negative descriptor", ioctl(device, DEVICE_BIND, &b), -EINVAL);
	b.iommufd = 1000;
	step("bind, closed descriptor", ioctl(device, DEVICE_BIND, &b), -EBADF);
	b.iommufd = plain;
	step("bind, not an iommufd", ioctl(device, DEVICE_BIND, &b), -EBADFD);
	step("bind, no structure", ioctl(device, DEVICE_BIND, NULL), -EFAULT);
	b.iommufd = iommufd;
	step("bind", ioctl(device, DEVICE_BIND, &b), 0);
	step("bind again", ioctl(device, DEVICE_BIND, &b), -EINVAL);

	struct device_info di = { .argsz = sizeof(di) };
	step("device info", ioctl(device, DEVICE_GET_INFO, &di), 0);
	step("  is PCI", !!(di.flags & 2), 1);
	di.argsz = 8;
	step("device info, too short", ioctl(device, DEVICE_GET_INFO, &di), -EINVAL);
	step("an unknown command", ioctl(device, CMD(127), &di), -ENOTTY);

	uint8_t registers[64] = { 0 };
	struct hw_info hi = { .size = sizeof(hi), .dev_id = b.out_devid, .data_len = sizeof(registers), .data_uptr = (uintptr_t)registers };
	step("hardware information", ioctl(iommufd, GET_HW_INFO, &hi), 0);
	step("  of this kind of IOMMU", hi.data_type == info_type, 1);

	/* A second device of another process' iommufd, and a device in use by ours. */
	int second = open("/dev/iommu", O_RDWR), again = open("/dev/vfio/devices/vfio0", O_RDWR);
	struct bind b2 = { .argsz = sizeof(b2), .iommufd = second };
	step("bind a device owned by another iommufd", ioctl(again, DEVICE_BIND, &b2), -EPERM);
	close(again);
	close(second);

	struct ioas_alloc ioas = { .size = sizeof(ioas) };
	step("IOAS", ioctl(iommufd, IOAS_ALLOC, &ioas), 0);
	void *ram = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct ioas_map map = { .size = sizeof(map), .flags = 7, .ioas_id = ioas.out_ioas_id, .user_va = (uintptr_t)ram, .length = 1 << 20, .iova = 1 << 24 };
	step("map", ioctl(iommufd, IOAS_MAP, &map), 0);

	step("attach, unknown id", attach(device, 999, -1, NULL), -ENOENT);
	step("attach a device to a device", attach(device, b.out_devid, -1, NULL), -EINVAL);
	step("attach an IOAS", attach(device, ioas.out_ioas_id, -1, &automatic), 0);
	step("  a HWPT was made", automatic != ioas.out_ioas_id, 1);
	step("  it is in use", destroy(iommufd, automatic), -EBUSY);
	step("  and so is the IOAS", destroy(iommufd, ioas.out_ioas_id), -EBUSY);

	struct hwpt_alloc h = { .size = sizeof(h), .flags = PASID, .dev_id = b.out_devid, .pt_id = ioas.out_ioas_id };
	step("a HWPT for PASIDs", ioctl(iommufd, HWPT_ALLOC, &h), 0);
	step("a PASID beside a RID that cannot", attach(device, h.out_hwpt_id, 5, NULL), -EINVAL);
	step("replace", attach(device, h.out_hwpt_id, -1, &other), 0);
	step("  the automatic HWPT is gone", destroy(iommufd, automatic), -ENOENT);
	step("attach a PASID", attach(device, h.out_hwpt_id, 5, NULL), 0);
	step("replace it by the same", attach(device, h.out_hwpt_id, 5, NULL), 0);
	step("an IOAS on a PASID", attach(device, ioas.out_ioas_id, 6, NULL), -EINVAL);
	step("a PASID out of the device's range", attach(device, h.out_hwpt_id, 1 << 24, NULL), -EINVAL);
	step("a PASID out of every range", attach(device, h.out_hwpt_id, 0x80000000u, NULL), -ENOSPC);
	step("a RID that cannot beside a PASID", attach(device, ioas.out_ioas_id, -1, NULL), -EINVAL);
	step("detach the PASID", detach(device, 5), 0);
	step("detach what is not attached", detach(device, 77), 0);
	step("detach", detach(device, -1), 0);
	step("detach again", detach(device, -1), 0);
	step("the HWPT is free", destroy(iommufd, h.out_hwpt_id), 0);

	/* Closing the device with everything attached leaves nothing behind. */
	step("attach once more", attach(device, ioas.out_ioas_id, -1, NULL), 0);
	step("the bound device is in use", destroy(iommufd, b.out_devid), -EBUSY);
	close(device);
	step("close gives the IOAS free", destroy(iommufd, ioas.out_ioas_id), 0);
	step("and the device's id", destroy(iommufd, b.out_devid), -ENOENT);
	close(iommufd);
	printf("%s: %d failures\n", backend, failures);
	return failures != 0;
}
