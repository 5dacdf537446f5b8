/*
 * A process that is reached into, for tests without a socket. It says where it has what, then writes each 16 bytes it reads to
 * all places that could show them, and says so.
 * usage: reach-client                                  (no preload library, no server)
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define BYTES 4096

static int file(const char *text)
{
	int fd = memfd_create("reached", 0);

	if (fd < 0 || ftruncate(fd, BYTES) || pwrite(fd, text, strlen(text), 0) < 0)
		perror("memfd");
	return fd;
}

static void *map(int flags, int fd) { return mmap(NULL, BYTES, PROT_READ | PROT_WRITE, flags, fd, 0); }

static void tell(const char *name, int fd)
{
	struct stat s;

	fstat(fd, &s);
	printf(", \"%s\": {\"fd\": %d, \"identity\": \"%u:%lu\"}", name, fd, major(s.st_dev) << 20 | minor(s.st_dev),
	       (unsigned long)s.st_ino);
}

int main(void)
{
	int both = file("to be written"), kept = file("to be read"), leased = file("leased"), only;
	char *own = map(MAP_PRIVATE | MAP_ANONYMOUS, -1), *shared = map(MAP_SHARED | MAP_ANONYMOUS, -1);
	char *copied = map(MAP_PRIVATE, both), secret[16], path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", kept);
	only = open(path, O_RDONLY);
	/* A lease is for a file that was opened by a path. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", leased);
	leased = open(path, O_RDWR);
	printf("{\"pid\": %d, \"own\": %lu, \"shared\": %lu, \"copied\": %lu", getpid(), (unsigned long)own, (unsigned long)shared,
	       (unsigned long)copied);
	tell("both", both);
	tell("only", only);
	tell("leased", leased);
	printf(", \"lease\": %d}\n", fcntl(leased, F_SETLEASE, F_WRLCK));
	fflush(stdout);
	while (read(0, secret, sizeof(secret)) == sizeof(secret)) {
		memcpy(own, secret, sizeof(secret));
		memcpy(shared, secret, sizeof(secret));
		/* Its page is still the file's as far as the process is concerned. */
		pwrite(both, secret, sizeof(secret), 0);
		printf("written\n");
		fflush(stdout);
	}
	return 0;
}
