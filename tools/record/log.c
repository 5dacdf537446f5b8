/*
 * A QEMU TCG plugin (plugin API 7, QEMU >= 11.1) that writes what a single vCPU does to memory into QEMU's log, where the
 * trace events of the devices go too, so that both stand in one order:
 *
 *   -plugin log.so,base=ADDR,size=BYTES -d plugin -D FILE -trace 'smmu*'
 *
 *   #S ADDR SIZE VALUE   a store into the window
 *   #L ADDR SIZE VALUE   a load from it
 *   #W ADDR SIZE VALUE   a store to a device; the device has acted on it already
 *   #R ADDR SIZE VALUE   a load from a device
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../qemu-plugin.h"

static uint64_t base, bytes;
/* The registration passes a userdata and a TB; which of the two comes first differed between releases. */
static char marker;

static void line(char what, uint64_t at, unsigned int size, uint64_t value)
{
    char text[80];
    snprintf(text, sizeof text, "#%c 0x%llx %u 0x%llx\n", what, (unsigned long long)at, size, (unsigned long long)value);
    qemu_plugin_outs(text);
}

static void on_access(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t vaddr, void *userdata)
{
    (void)cpu;
    (void)userdata;
    struct qemu_plugin_hwaddr *h = qemu_plugin_get_hwaddr(info, vaddr);
    bool io = h && qemu_plugin_hwaddr_is_io(h);
    /* The guests run without MMU: a device's address is the one the instruction named. */
    uint64_t at = io || !h ? vaddr : qemu_plugin_hwaddr_phys_addr(h);
    if (!io && at - base >= bytes)
        return;
    bool store = qemu_plugin_mem_is_store(info);
    char what = io ? (store ? 'W' : 'R') : (store ? 'S' : 'L');
    struct qemu_plugin_mem_value v = qemu_plugin_mem_get_value(info);
    switch (qemu_plugin_mem_size_shift(info)) {
    case 0: line(what, at, 1, v.data.u8); break;
    case 1: line(what, at, 2, v.data.u16); break;
    case 2: line(what, at, 4, v.data.u32); break;
    case 3: line(what, at, 8, v.data.u64); break;
    default:
        line(what, at, 8, v.data.u128.low);
        line(what, at + 8, 8, v.data.u128.high);
    }
}

static void on_translate(uintptr_t a, uintptr_t b)
{
    struct qemu_plugin_tb *tb = (struct qemu_plugin_tb *)(b == (uintptr_t)&marker ? a : b);
    for (size_t i = 0, n = qemu_plugin_tb_n_insns(tb); i < n; i++)
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), on_access, CALLBACK_NO_REGS, MEM_READ_WRITE,
                                         NULL);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "base=", 5))
            base = strtoull(argv[i] + 5, NULL, 0);
        else if (!strncmp(argv[i], "size=", 5))
            bytes = strtoull(argv[i] + 5, NULL, 0);
        else {
            fprintf(stderr, "log: unknown argument %s\n", argv[i]);
            return 1;
        }
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate, &marker);
    return 0;
}
