/*
 * A QEMU TCG plugin (plugin API 7, QEMU >= 11.1) that stops a vCPU at every store into a window of guest RAM until a
 * process on the other side of a Unix socket has seen it:
 *
 *   -plugin trap.so,base=ADDR,size=BYTES,sock=PATH[,minva=ADDR]
 *
 * For each store the plugin sends one `struct store` and waits for one byte. The store itself has already happened, so the
 * other side may overwrite it (registers that clear themselves, write-1-to-clear bits) before the vCPU goes on. Loads are
 * not trapped: what a load shall see is written into the window beforehand. Virtual addresses below `minva` are not looked
 * at; by default those are the user half.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../../qemu-plugin.h"

struct store {
    uint64_t offset;
    uint64_t value;
    uint32_t size;
    uint32_t cpu;
};

static uint64_t base, bytes, min_va = 0xffff800000000000ull;
static int peer = -1;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

/* The registration passes a userdata and a TB; which of the two comes first differed between releases. */
static char marker;

static void tell(uint64_t offset, uint32_t size, uint64_t value, unsigned int cpu)
{
    struct store s = { offset, value, size, cpu };
    char ack;
    if (write(peer, &s, sizeof s) != (ssize_t)sizeof s || read(peer, &ack, 1) != 1) {
        fprintf(stderr, "trap: the device side is gone\n");
        _exit(3);
    }
}

static void on_store(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t vaddr, void *userdata)
{
    (void)userdata;
    if (vaddr < min_va)
        return;
    struct qemu_plugin_hwaddr *h = qemu_plugin_get_hwaddr(info, vaddr);
    if (!h || qemu_plugin_hwaddr_is_io(h))
        return;
    uint64_t offset = qemu_plugin_hwaddr_phys_addr(h) - base;
    if (offset >= bytes)
        return;
    struct qemu_plugin_mem_value v = qemu_plugin_mem_get_value(info);
    unsigned int shift = qemu_plugin_mem_size_shift(info);
    pthread_mutex_lock(&one_at_a_time);
    switch (shift) {
    case 0: tell(offset, 1, v.data.u8, cpu); break;
    case 1: tell(offset, 2, v.data.u16, cpu); break;
    case 2: tell(offset, 4, v.data.u32, cpu); break;
    case 3: tell(offset, 8, v.data.u64, cpu); break;
    default:
        tell(offset, 8, v.data.u128.low, cpu);
        tell(offset + 8, 8, v.data.u128.high, cpu);
    }
    pthread_mutex_unlock(&one_at_a_time);
}

static void on_translate(uintptr_t a, uintptr_t b)
{
    struct qemu_plugin_tb *tb = (struct qemu_plugin_tb *)(b == (uintptr_t)&marker ? a : b);
    if (qemu_plugin_tb_vaddr(tb) < min_va && min_va != 0)
        return;
    for (size_t i = 0, n = qemu_plugin_tb_n_insns(tb); i < n; i++)
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), on_store, CALLBACK_NO_REGS, MEM_WRITE, NULL);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    (void)info;
    for (int i = 0; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) {
            fprintf(stderr, "trap: expected NAME=VALUE, got %s\n", argv[i]);
            return 1;
        }
        value++;
        if (!strncmp(argv[i], "base=", 5))
            base = strtoull(value, NULL, 0);
        else if (!strncmp(argv[i], "size=", 5))
            bytes = strtoull(value, NULL, 0);
        else if (!strncmp(argv[i], "minva=", 6))
            min_va = strtoull(value, NULL, 0);
        else if (!strncmp(argv[i], "sock=", 5) && strlen(value) < sizeof address.sun_path)
            strcpy(address.sun_path, value);
        else {
            fprintf(stderr, "trap: unknown or too long argument %s\n", argv[i]);
            return 1;
        }
    }
    if (!bytes || !address.sun_path[0]) {
        fprintf(stderr, "trap: base, size and sock are needed\n");
        return 1;
    }
    peer = socket(AF_UNIX, SOCK_STREAM, 0);
    if (peer < 0 || connect(peer, (struct sockaddr *)&address, sizeof address)) {
        perror("trap: connect");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate, &marker);
    return 0;
}
