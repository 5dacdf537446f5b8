/*
 * A second library, for QEMU alone and off by default: QEMU's ARM machine refuses arm-smmuv3,accel=on without KVM, because KVM
 * and a kernel interrupt controller are what it was made for. Under TCG the device works as well. The check looks at two flags
 * when the device is plugged in; they must be as they are at every other moment. So they are set while QEMU reads a file named
 * viommu-kvm-on and cleared at viommu-kvm-off, which a command line puts around the device:
 *
 *   -device loader,file=.../viommu-kvm-on,addr=ADDRESS,force-raw=on -device arm-smmuv3,accel=on,...
 *   -device loader,file=.../viommu-kvm-off,addr=ADDRESS,force-raw=on -device vfio-pci,...
 *
 * Both files have one byte, and lie in RAM that nobody needs at start.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static void set(bool on)
{
	bool *allowed = dlsym(RTLD_DEFAULT, "kvm_allowed");
	bool *irqchip = dlsym(RTLD_DEFAULT, "kvm_kernel_irqchip");

	if (!allowed || !irqchip) {
		fprintf(stderr, "accel-tcg: this QEMU does not show kvm_allowed and kvm_kernel_irqchip: accel=on needs KVM\n");
		return;
	}
	*allowed = on;
	*irqchip = on;
}

static void look(const char *path)
{
	const char *name = path ? strrchr(path, '/') : NULL;

	if (name && !strcmp(name, "/viommu-kvm-on"))
		set(true);
	if (name && !strcmp(name, "/viommu-kvm-off"))
		set(false);
}

#define OPENS(name)                                                         \
	int name(const char *path, int flags, ...)                          \
	{                                                                   \
		int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, #name); \
		va_list v;                                                  \
		int mode;                                                   \
                                                                            \
		va_start(v, flags);                                         \
		mode = va_arg(v, int);                                      \
		va_end(v);                                                  \
		look(path);                                                 \
		return next(path, flags, mode);                             \
	}

OPENS(open)
OPENS(open64)
OPENS(__open_2)
OPENS(__open64_2)
