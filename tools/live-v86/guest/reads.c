/* Reads COUNT random 4 KiB blocks of the disk past the page cache. No libc: the kernel's nolibc headers. */
#define BLOCK 4096
#define BLOCKS 4096 /* 16 MiB */
#define DIRECT 040000

static unsigned char buffer[2 * BLOCK];

int main(int argc, char **argv)
{
	unsigned char *at = (unsigned char *)(((unsigned long)buffer + BLOCK - 1) & -BLOCK);
	unsigned int left = argc > 1 ? atoi(argv[1]) : 1000, seed = 1;
	int disk = open("/dev/nvme0n1", O_RDONLY | DIRECT);

	if (disk < 0)
		return 1;
	for (; left > 0; left--) {
		seed = seed * 1664525 + 1013904223;
		if (syscall(__NR_pread64, disk, at, BLOCK, (seed >> 12) % BLOCKS * BLOCK, 0) != BLOCK)
			return 2;
	}
	return 0;
}
