/* The system's own functions, behind those this library puts in front of them. */
#include "shim.h"
#include <dlfcn.h>

int (*real_open)(const char *, int, ...);
int (*real_openat)(int, const char *, int, ...);
FILE *(*real_fopen)(const char *, const char *);
DIR *(*real_opendir)(const char *);
int (*real_ioctl)(int, unsigned long, ...);
ssize_t (*real_read)(int, void *, size_t);
ssize_t (*real_write)(int, const void *, size_t);
ssize_t (*real_pread)(int, void *, size_t, off_t);
ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
int (*real_close)(int);
int (*real_close_range)(unsigned, unsigned, int);
int (*real_poll)(struct pollfd *, nfds_t, int);
int (*real_dup)(int);
int (*real_dup2)(int, int);
int (*real_dup3)(int, int, int);
int (*real_fcntl)(int, int, ...);
void *(*real_mmap)(void *, size_t, int, int, int, off_t);
int (*real_munmap)(void *, size_t);
ssize_t (*real_sendmsg)(int, const struct msghdr *, int);
ssize_t (*real_recvmsg)(int, struct msghdr *, int);
ssize_t (*real_readlink)(const char *, char *, size_t);
int (*real_access)(const char *, int);
int (*real_stat)(const char *, struct stat *);
int (*real_lstat)(const char *, struct stat *);
int (*real_fstat)(int, struct stat *);
char *(*real_realpath)(const char *, char *);

void resolve(void)
{
	if (real_realpath)
		return;
#define RESOLVE(name) real_##name = dlsym(RTLD_NEXT, #name)
	RESOLVE(open);
	RESOLVE(openat);
	RESOLVE(fopen);
	RESOLVE(opendir);
	RESOLVE(ioctl);
	RESOLVE(read);
	RESOLVE(write);
	RESOLVE(pread);
	RESOLVE(pwrite);
	RESOLVE(close);
	RESOLVE(close_range);
	RESOLVE(poll);
	RESOLVE(dup);
	RESOLVE(dup2);
	RESOLVE(dup3);
	RESOLVE(fcntl);
	RESOLVE(mmap);
	RESOLVE(munmap);
	RESOLVE(sendmsg);
	RESOLVE(recvmsg);
	RESOLVE(readlink);
	RESOLVE(access);
	RESOLVE(stat);
	RESOLVE(lstat);
	RESOLVE(fstat);
	RESOLVE(realpath);
}
