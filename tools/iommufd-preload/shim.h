/*
 * LD_PRELOAD library: /dev/iommu and the nodes below /dev/vfio of any program become connections to `viommu iommufd --socket`.
 * The server never reaches into the program: whatever it needs of the program's memory or files it asks for, and what it has
 * to say is written by this library, page by page, so that a bad pointer fails at the byte where the kernel's copy would fail.
 *
 *   IOMMUFD_SOCK      path of the server's socket
 *   IOMMUFD_NOHUGE    set: MAP_HUGETLB is dropped from every mmap (machines without reserved huge pages)
 *   IOMMUFD_FAIL_NTH  set: /proc/self/fail-nth and what the kernel's fail_nth test needs beside it are there
 */
#ifndef IOMMUFD_SHIM_H
#define IOMMUFD_SHIM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>

enum frame {
	IOCTL = 1, REPLY, HELLO, READ, WRITE, POLL, MMAP, MUNMAP, OPEN,
	RET, COPY_IN, MAPS, NEWFD, WHICH, JOIN, ADOPT, CLOSE, FILE_FACTS,
	COPY_FILE, PREAD, PWRITE, PROCESS, FAIL_NTH, GROUP, EVENTFD, ATTEND,
	PROVE, SIGNAL, DROP, READY, SYSFS,
};

enum action { ACT_WRITE = 1, ACT_WRITE_FILE, ACT_CLOSE };

#define SECRET 16
#define MAX_FD 65536
#define PAGE 4096
/* Bytes of an ioctl's argument that travel with the request. */
#define PREFETCH 96

/* A secret names a session or a connection to the server and cannot be guessed. */
struct secret { unsigned char bytes[SECRET]; };

/*
 * One connection. Descriptors made by dup share it. A forked child has connections of its own (`conns.c`), so that what
 * becomes of it in the middle of a call is nobody else's concern.
 */
struct conn {
	pthread_mutex_t lock;
	int refs;
	int dead;
	struct secret token;
	/* What fstat says of it; 0: a queue, or not known. */
	dev_t rdev;
	/* Between fork's handlers: the child's connection. */
	int spare;
	struct secret spare_token;
	struct conn *next;
};

/* real.c: the system's own functions. */
extern int (*real_open)(const char *, int, ...);
extern int (*real_openat)(int, const char *, int, ...);
extern FILE *(*real_fopen)(const char *, const char *);
extern DIR *(*real_opendir)(const char *);
extern int (*real_ioctl)(int, unsigned long, ...);
extern ssize_t (*real_read)(int, void *, size_t);
extern ssize_t (*real_write)(int, const void *, size_t);
extern ssize_t (*real_pread)(int, void *, size_t, off_t);
extern ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
extern int (*real_close)(int);
extern int (*real_close_range)(unsigned, unsigned, int);
extern int (*real_poll)(struct pollfd *, nfds_t, int);
extern int (*real_dup)(int);
extern int (*real_dup2)(int, int);
extern int (*real_dup3)(int, int, int);
extern int (*real_fcntl)(int, int, ...);
extern void *(*real_mmap)(void *, size_t, int, int, int, off_t);
extern int (*real_munmap)(void *, size_t);
extern ssize_t (*real_sendmsg)(int, const struct msghdr *, int);
extern ssize_t (*real_recvmsg)(int, struct msghdr *, int);
extern ssize_t (*real_readlink)(const char *, char *, size_t);
extern int (*real_access)(const char *, int);
extern int (*real_stat)(const char *, struct stat *);
extern int (*real_lstat)(const char *, struct stat *);
extern int (*real_fstat)(int, struct stat *);
extern char *(*real_realpath)(const char *, char *);
void resolve(void);

/* wire.c: frames, and dialling the server. */
int write_all(int fd, const void *from, size_t n);
int read_all(int fd, void *into, size_t n);
int send_frame(int fd, uint8_t type, const void *a, uint32_t an, const void *b, uint32_t bn);
int dial(void);
int is_ours(int fd);

/* hidden.c: descriptors that the program does not know of. */
int hide_copy(int fd);
int hide(int fd);
int is_hidden(int fd);
void close_hidden(int fd);

/* memory.c: what the server asks of this process. */
size_t copy_in(pid_t pid, uint64_t address, char *into, size_t n);
int copy_out(pid_t pid, uint64_t address, const char *from, size_t n);
uint32_t writable_at(uint64_t address, uint32_t n);
char *read_maps(pid_t pid, uint32_t *bytes);
int file_facts(int fd, char facts[28]);
int32_t keep_eventfd(int fd);
void lock_kept(void);
void unlock_kept(void);

/* attend.c: the thread that signals eventfds for the server. */
void attend(void);
void attend_before_fork(void);
void attend_in_parent(void);
void attend_in_child(void);

/* serve.c: a request, and the questions between it and its answer. */
int64_t serve(int fd, void *out, size_t room);
int64_t request(int fd, struct conn *c, uint8_t type, const void *a, uint32_t an, const void *b, uint32_t bn, void *out,
		size_t room);
int64_t finish(int64_t r);

/* conns.c: which descriptors are ours. */
extern struct secret session;
struct conn *conn_of(int fd);
int open_node(const char *path, int flags);
int enter(int fd, const struct secret *token);
void leave(int fd);
int share(int from, int to);
int join(const struct secret *token, struct secret *mine);
int adopt(int fd);
int control_ready(void);
int64_t control(uint8_t type, const void *a, uint32_t an, void *out, size_t room);
int32_t new_fd(const char token[SECRET]);

/* proc.c: files of /proc and /sys that the server has a part in. */
int open_proc(const char *path);
int is_fail_nth(int fd);
ssize_t fail_nth_read(void *into, size_t n);
ssize_t fail_nth_write(const void *from, size_t n);
void forget_proc(int fd);
const char *in_sysfs(const char *path, char into[4096]);

#endif
