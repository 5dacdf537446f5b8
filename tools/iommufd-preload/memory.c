/* What the server asks of this process: its memory, its mappings, its files. */
#include "shim.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define TMPFS 0x01021994
#define HUGETLBFS 0x958458f6
/* Mappings are told in 40 bytes each. */
#define MAPPING 40
#define MAX_MAPS (4 << 20)

static size_t copy(pid_t pid, int out, uint64_t address, char *buffer, size_t n)
{
	size_t done = 0;

	while (done < n) {
		size_t k = PAGE - ((address + done) & (PAGE - 1));
		struct iovec local, remote;
		ssize_t r;

		if (k > n - done)
			k = n - done;
		local = (struct iovec){ buffer + done, k };
		remote = (struct iovec){ (void *)(uintptr_t)(address + done), k };
		r = out ? process_vm_writev(pid, &local, 1, &remote, 1, 0) : process_vm_readv(pid, &local, 1, &remote, 1, 0);
		if (r > 0)
			done += r;
		if (r != (ssize_t)k)
			break;
	}
	return done;
}

/* Copies from a process, page by page. Returns how many bytes are there. */
size_t copy_in(pid_t pid, uint64_t address, char *into, size_t n)
{
	return copy(pid, 0, address, into, n);
}

int copy_out(pid_t pid, uint64_t address, const char *from, size_t n)
{
	return copy(pid, 1, address, (char *)from, n) == n ? 0 : -EFAULT;
}

/* How many of the bytes can be written; 0 also when the system does not tell. Nothing is changed. */
uint32_t writable_at(uint64_t address, uint32_t n)
{
	uint64_t first = address & ~(uint64_t)(PAGE - 1);
	uint64_t last = (address + n - 1) & ~(uint64_t)(PAGE - 1);

	if (!n || madvise((void *)(uintptr_t)first, last - first + PAGE, MADV_POPULATE_WRITE))
		return 0;
	return n;
}

static void put64(char *at, uint64_t v) { memcpy(at, &v, 8); }
static void put32(char *at, uint32_t v) { memcpy(at, &v, 4); }

/* One line of /proc/PID/maps. Returns the next line, or NULL. */
static const char *mapping(const char *line, char *entry)
{
	unsigned long start, end, offset, inode;
	unsigned major, minor;
	char p[5];

	if (sscanf(line, "%lx-%lx %4s %lx %x:%x %lu", &start, &end, p, &offset, &major, &minor, &inode) != 7)
		return NULL;
	put64(entry, start);
	put64(entry + 8, end);
	put64(entry + 16, offset);
	put64(entry + 24, inode);
	put32(entry + 32, major << 20 | minor);
	put32(entry + 36, (p[0] == 'r') | (p[1] == 'w') << 1 | (p[2] == 'x') << 2 | (p[3] == 's') << 3);
	line = strchr(line, '\n');
	return line ? line + 1 : NULL;
}

/* The mappings of a process as the server wants them; NULL: not ours to see. */
char *read_maps(pid_t pid, uint32_t *bytes)
{
	char path[40], *text = NULL, *out = NULL;
	size_t size = 0, room = 0, used = 0;
	const char *line;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	fd = real_open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	for (;;) {
		ssize_t k;
		char *more;

		if (room - size < 8192) {
			more = realloc(text, room = room ? 2 * room : 1 << 16);
			if (!more)
				break;
			text = more;
		}
		k = real_read(fd, text + size, room - size - 1);
		if (k <= 0)
			break;
		size += k;
	}
	real_close(fd);
	if (text) {
		text[size] = 0;
		out = malloc(size + MAPPING);
	}
	/* A line has more than 40 characters. */
	for (line = text; out && line && *line && used + MAPPING <= MAX_MAPS; used += MAPPING) {
		line = mapping(line, out + used);
		if (!line)
			break;
	}
	free(text);
	*bytes = used;
	return out;
}

/* Files whose bytes the server may ask for: kept open for it, one descriptor each. */
static struct kept {
	dev_t device;
	ino_t inode;
	int fd;
	struct kept *next;
} *kept;
static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;

static int keep(int fd, const struct stat *s)
{
	struct kept *k;

	pthread_mutex_lock(&kept_lock);
	for (k = kept; k; k = k->next)
		if (k->device == s->st_dev && k->inode == s->st_ino)
			break;
	if (!k && (k = malloc(sizeof(*k)))) {
		*k = (struct kept){ s->st_dev, s->st_ino, hide_copy(fd), kept };
		if (k->fd >= 0) {
			kept = k;
		} else {
			/* Later there may be room for one more descriptor. */
			free(k);
			k = NULL;
		}
	}
	pthread_mutex_unlock(&kept_lock);
	return k ? k->fd : -1;
}

/* Fork's handlers: a child must not start with the lock of a thread that it does not have. */
void lock_kept(void) { pthread_mutex_lock(&kept_lock); }
void unlock_kept(void) { pthread_mutex_unlock(&kept_lock); }

/* A copy of an eventfd, kept for the server until it says DROP; -EBADF, or -EINVAL: it is none. */
int32_t keep_eventfd(int fd)
{
	char path[40], target[64] = { 0 };
	int kept;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (real_readlink(path, target, sizeof(target) - 1) < 0)
		return -EBADF;
	if (strcmp(target, "anon_inode:[eventfd]"))
		return -EINVAL;
	kept = hide_copy(fd);
	return kept < 0 ? -EMFILE : kept;
}

/* {u64 bytes, u64 inode, u32 device, u32 kind (1: memfd), s32 handle} of a descriptor. */
int file_facts(int fd, char facts[28])
{
	struct statfs fs;
	struct stat s;
	int memory;

	if (real_fstat(fd, &s))
		return -EBADF;
	memory = S_ISREG(s.st_mode) && !fstatfs(fd, &fs) && (fs.f_type == TMPFS || fs.f_type == HUGETLBFS);
	put64(facts, s.st_size);
	put64(facts + 8, s.st_ino);
	put32(facts + 16, major(s.st_dev) << 20 | minor(s.st_dev));
	put32(facts + 20, memory);
	put32(facts + 24, memory ? keep(fd, &s) : -1);
	return 0;
}
