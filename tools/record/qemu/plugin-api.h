/*
 * The declarations of QEMU's TCG plugin interface that the recorder uses, written from its documentation. Distributions leave
 * qemu-plugin.h out, and QEMU takes plugins of few versions of the interface: `viommu record` asks QEMU which
 * (VIOMMU_PLUGIN_API, 4 is QEMU 9.2) and builds for that one. Callbacks take two words: what is in which of them, and
 * whether a userdata is passed, differs between versions.
 */
#ifndef VIOMMU_PLUGIN_API_H
#define VIOMMU_PLUGIN_API_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_hwaddr;
struct qemu_plugin_mem_value {
    int type;
    union {
        uint8_t u8;
        uint16_t u16;
        uint32_t u32;
        uint64_t u64;
        struct { uint64_t low, high; } u128;
    } data;
};
/* What the beginnings of GLib's arrays look like. */
typedef struct { char *data; unsigned int len; } GArrayLike;
typedef struct { uint8_t *data; unsigned int len; } GByteArrayLike;
/* The beginning of a register's descriptor: later versions append to it. */
struct register_descriptor { void *handle; const char *name; const char *feature; };
typedef void (*two_words)(uintptr_t, uintptr_t);
typedef void (*on_memory)(unsigned int, qemu_plugin_meminfo_t, uint64_t, void *);
typedef void (*on_instruction)(unsigned int, void *);
enum { CALLBACK_NO_REGISTERS = 0, CALLBACK_READ_REGISTERS = 1, MEM_READ_WRITE = 3 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, two_words cb, void *userdata);
void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t id, two_words cb, void *userdata);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, two_words cb, void *userdata);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t i);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *into, size_t most);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, on_memory cb, int flags, int rw, void *userdata);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, on_instruction cb, int flags, void *userdata);
unsigned int qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t info);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t info);
struct qemu_plugin_mem_value qemu_plugin_mem_get_value(qemu_plugin_meminfo_t info);
struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(qemu_plugin_meminfo_t info, uint64_t vaddr);
bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *haddr);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *haddr);
void qemu_plugin_outs(const char *string);
GArrayLike *qemu_plugin_get_registers(void);
/* An int up to version 5, then a bool: both are positive when it was read. */
#if VIOMMU_PLUGIN_API >= 6
bool qemu_plugin_read_register(void *handle, GByteArrayLike *into);
#else
int qemu_plugin_read_register(void *handle, GByteArrayLike *into);
#endif
bool qemu_plugin_translate_vaddr(uint64_t vaddr, uint64_t *hwaddr);
/* GLib's, which QEMU has loaded. */
unsigned int g_array_get_element_size(GArrayLike *array);
GByteArrayLike *g_byte_array_new(void);
GByteArrayLike *g_byte_array_set_size(GByteArrayLike *array, unsigned int length);

EXPORT int qemu_plugin_version = VIOMMU_PLUGIN_API;

#endif
