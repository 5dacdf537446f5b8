/* Files of /proc, /sys and /dev that the server has a part in. */
#include "shim.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int fail_nth_fd[8] = { -1, -1, -1, -1, -1, -1, -1, -1 };

static int fail_nth_wanted(void) { return getenv("IOMMUFD_FAIL_NTH") != NULL; }

int is_fail_nth(int fd)
{
	int i;

	for (i = 0; fd >= 0 && i < 8; i++)
		if (fail_nth_fd[i] == fd)
			return 1;
	return 0;
}

void forget_proc(int fd)
{
	int i;

	for (i = 0; fd >= 0 && i < 8; i++)
		if (fail_nth_fd[i] == fd)
			fail_nth_fd[i] = -1;
}

static int open_fail_nth(void)
{
	int i, fd = real_open("/dev/null", O_RDWR);

	for (i = 0; fd >= 0 && i < 8; i++)
		if (fail_nth_fd[i] < 0)
			return fail_nth_fd[i] = fd;
	return fd;
}

/* The number and a line feed, as the kernel writes it. */
ssize_t fail_nth_read(void *into, size_t n)
{
	struct { uint32_t set, n; } ask = { 0, 0 };
	uint32_t left = 0;
	char text[16];
	int64_t r = control(FAIL_NTH, &ask, sizeof(ask), &left, sizeof(left));
	size_t k;

	if (r < 0)
		return finish(r);
	k = snprintf(text, sizeof(text), "%u\n", left);
	memcpy(into, text, k < n ? k : n);
	return k < n ? k : n;
}

ssize_t fail_nth_write(const void *from, size_t n)
{
	struct { uint32_t set, n; } ask = { 1, 0 };
	char text[16] = { 0 };
	int64_t r;

	memcpy(text, from, n < sizeof(text) - 1 ? n : sizeof(text) - 1);
	ask.n = strtoul(text, NULL, 0);
	r = control(FAIL_NTH, &ask, sizeof(ask), NULL, 0);
	return r < 0 ? finish(r) : (ssize_t)n;
}

/* The process that /proc/PID/status names; 0: none. */
static pid_t status_of(const char *path)
{
	int pid, end = 0;

	if (!strcmp(path, "/proc/self/status"))
		return getpid();
	return sscanf(path, "/proc/%d/status%n", &pid, &end) == 1 && end && !path[end] ? pid : 0;
}

/* /proc/PID/status with the pages that the server's kernel has pinned and locked. -2: nobody has any. */
static int open_status(const char *path, pid_t pid)
{
	struct { uint64_t pinned, locked; } pages;
	uint32_t number = pid;
	char line[256];
	FILE *in;
	int fd;

	if (!memcmp(&session, &(struct secret){ { 0 } }, SECRET))
		return -2;
	if (control(PROCESS, &number, 4, &pages, sizeof(pages)) < 0)
		return -2;
	in = real_fopen(path, "re");
	if (!in)
		return -1;
	fd = memfd_create("status", MFD_CLOEXEC);
	while (fd >= 0 && fgets(line, sizeof(line), in)) {
		unsigned long long kilobytes;

		if (sscanf(line, "VmLck: %llu", &kilobytes) == 1)
			dprintf(fd, "VmLck:\t%8llu kB\n", kilobytes + 4 * (unsigned long long)pages.locked);
		else if (sscanf(line, "VmPin: %llu", &kilobytes) == 1)
			dprintf(fd, "VmPin:\t%8llu kB\n", kilobytes + 4 * (unsigned long long)pages.pinned);
		else
			dprintf(fd, "%s", line);
	}
	fclose(in);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

/* -2: not a file this library answers for. */
int open_proc(const char *path)
{
	size_t n = strlen(path);
	pid_t pid;

	if (fail_nth_wanted()) {
		if (!strncmp(path, "/proc/", 6) && n > 9 && !strcmp(path + n - 9, "/fail-nth"))
			return open_fail_nth();
		if (!strncmp(path, "failslab/", 9) || !strncmp(path, "fail_page_alloc/", 16))
			return real_open("/dev/null", O_RDWR | O_CLOEXEC);
	}
	pid = status_of(path);
	return pid ? open_status(path, pid) : -2;
}

FILE *fopen(const char *path, const char *mode)
{
	int fd;

	char other[4096];
	const char *there;

	resolve();
	there = path ? in_sysfs(path, other) : NULL;
	if (there)
		return real_fopen(there, mode);
	fd = path && mode && mode[0] == 'r' && status_of(path) ? open_proc(path) : -2;
	if (fd == -2)
		return real_fopen(path, mode);
	return fd < 0 ? NULL : fdopen(fd, "r");
}

FILE *fopen64(const char *path, const char *mode) { return fopen(path, mode); }

DIR *opendir(const char *path)
{
	char other[4096];
	const char *there;
	DIR *d;

	resolve();
	there = in_sysfs(path, other);
	d = real_opendir(there ? there : path);
	/* A directory without anything: what is opened below it is answered for above. */
	if (fail_nth_wanted() && !strncmp(path, "/sys/kernel/debug", 17)) {
		if (d)
			closedir(d);
		d = real_opendir("/proc/self/fdinfo");
	}
	return d;
}

/* /sys/bus/pci/devices/ADDRESS/iommu_group of a device that the server has; -1: of another. */
static int group_of(const char *path)
{
	char address[13];
	int end = 0;
	int64_t r;

	if (!path || sscanf(path, "/sys/bus/pci/devices/%12[0-9a-f:.]/iommu_group%n", address, &end) != 1 || !end || path[end])
		return -1;
	r = control(GROUP, address, strlen(address), NULL, 0);
	return r < 0 ? -1 : r;
}

ssize_t readlink(const char *path, char *into, size_t n)
{
	char text[64];
	size_t k;
	int group;

	resolve();
	group = getenv("IOMMUFD_SOCK") ? group_of(path) : -1;
	if (group < 0) {
		char other[4096];
		const char *there = in_sysfs(path, other);

		return real_readlink(there ? there : path, into, n);
	}
	k = snprintf(text, sizeof(text), "../../../../kernel/iommu_groups/%d", group);
	memcpy(into, text, k < n ? k : n);
	return k < n ? k : n;
}

/* The folder that a server made, which stands for /sys/bus/pci/devices. Those who read one keep it: it is never freed. */
static struct folder {
	struct secret session;
	char path[256];
} *folder;

static struct folder *ask_folder(void)
{
	struct folder *f = calloc(1, sizeof(*f));

	if (f && control(SYSFS, NULL, 0, f->path, sizeof(f->path) - 1) < 0) {
		free(f);
		return NULL;
	}
	if (f) {
		f->session = session;
		__atomic_store_n(&folder, f, __ATOMIC_RELEASE);
	}
	return f;
}

/*
 * What a path below /sys/bus/pci/devices leads to when the server has the device: a file of the folder that it made for this;
 * NULL: it has not, and the system's own is meant.
 */
const char *in_sysfs(const char *path, char into[4096])
{
	static const char devices[] = "/sys/bus/pci/devices/";
	struct folder *f = __atomic_load_n(&folder, __ATOMIC_ACQUIRE);
	const char *rest = path + sizeof(devices) - 1;
	size_t n;

	if (!path || strncmp(path, devices, sizeof(devices) - 1) || !getenv("IOMMUFD_SOCK"))
		return NULL;
	n = strcspn(rest, "/");
	if (!n || n > 16)
		return NULL;
	if (!f || memcmp(&f->session, &session, SECRET))
		f = ask_folder();
	if (!f)
		return NULL;
	snprintf(into, 4096, "%s/%.*s", f->path, (int)n, rest);
	if (real_access(into, F_OK))
		return NULL;
	snprintf(into, 4096, "%s/%s", f->path, rest);
	return into;
}

/* Nodes that can be opened are there. */
static int is_node(const char *path)
{
	return getenv("IOMMUFD_SOCK") && (!strcmp(path, "/dev/iommu") || !strcmp(path, "/dev/vfio/vfio"));
}

/* Drivers whose work the server does. */
static int is_module(const char *path)
{
	return getenv("IOMMUFD_SOCK") &&
	       (!strcmp(path, "/sys/module/vfio") || !strcmp(path, "/sys/module/vfio_pci") ||
		!strcmp(path, "/sys/module/vfio_iommu_type1"));
}

int access(const char *path, int mode)
{
	char other[4096];
	const char *there;

	resolve();
	if (is_node(path) || is_module(path))
		return 0;
	there = in_sysfs(path, other);
	return real_access(there ? there : path, mode);
}

int stat(const char *path, struct stat *into)
{
	char other[4096];
	const char *there;

	resolve();
	if (!is_node(path) && !is_module(path)) {
		there = in_sysfs(path, other);
		return real_stat(there ? there : path, into);
	}
	memset(into, 0, sizeof(*into));
	into->st_mode = is_node(path) ? S_IFCHR | 0600 : S_IFDIR | 0755;
	into->st_uid = getuid();
	into->st_nlink = 1;
	if (is_node(path))
		into->st_rdev = makedev(10, 196);
	return 0;
}

int lstat(const char *path, struct stat *into)
{
	char other[4096];
	const char *there;

	resolve();
	there = in_sysfs(path, other);
	return real_lstat(there ? there : path, into);
}

int lstat64(const char *path, struct stat64 *into) { return lstat(path, (struct stat *)into); }

/* A node of ours is a character device, as the program that looks for its number expects. */
int fstat(int fd, struct stat *into)
{
	struct conn *c;
	int r;

	resolve();
	r = real_fstat(fd, into);
	c = conn_of(fd);
	if (r || !c || !c->rdev)
		return r;
	into->st_mode = S_IFCHR | 0600;
	into->st_rdev = c->rdev;
	return 0;
}

int fstat64(int fd, struct stat64 *into) { return fstat(fd, (struct stat *)into); }

char *realpath(const char *path, char *into)
{
	char other[4096];
	const char *there;

	resolve();
	there = in_sysfs(path, other);
	return real_realpath(there ? there : path, into);
}

int stat64(const char *path, struct stat64 *into) { return stat(path, (struct stat *)into); }
