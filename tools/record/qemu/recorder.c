/*
 * A QEMU TCG plugin that writes a guest's accesses to the registers of an IOMMU into QEMU's log, and the memory the IOMMU
 * can reach from them. QEMU's trace events go there as well, so that everything stands in one order:
 *
 *   -plugin recorder.so,iommu=smmuv3|vtd,base=ADDRESS,size=BYTES,memory=PATH,ram=GPA:BYTES:OFFSET -d plugin -D LOG
 *
 *   @R OFFSET SIZE VALUE    a load from the registers
 *   @W OFFSET SIZE VALUE    a store to them, which the device has acted on already
 *   @K KIND  @P GPA BYTES   a page can be reached from now on: what it holds    @Z GPA KIND  the same, all zeros
 *   @S GPA BYTES            a store of a processor to such a page
 *   @D GPA BYTES            such a page holds this now, and no processor was seen storing it
 *   @X GPA                  the page can be reached no longer
 *   @E GPA BYTES            the IOMMU wrote this
 *   @Q NAME=COUNT...        at the end
 *
 * Processors take turns (thread=single): nothing here is locked. Only code in the upper half of the address space is
 * watched, which is where Linux and other kernels run; all=on watches everything, for guests that run elsewhere.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin-api.h"
#include "recorder.h"

const struct iommu *iommu;
uint8_t registers[0x20000];

static uint64_t base, size;
static bool x86, all, opened;
static char path[1024];
static unsigned long long probed;
/* The registration passes a userdata and a TB; which of the two comes first differed between releases. */
static char marker;

uint64_t reg64(uint32_t offset)
{
    uint64_t v;
    memcpy(&v, registers + offset, sizeof v);
    return v;
}

uint32_t reg32(uint32_t offset)
{
    uint32_t v;
    memcpy(&v, registers + offset, sizeof v);
    return v;
}

void say(const char *format, ...)
{
    char text[256] = "@";
    va_list list;
    va_start(list, format);
    int n = vsnprintf(text + 1, sizeof text - 2, format, list);
    va_end(list);
    strcpy(text + 1 + n, "\n");
    qemu_plugin_outs(text);
}

void say_bytes(char what, uint64_t pa, const uint8_t *bytes, size_t count)
{
    static char text[2 * 4096 + 64];
    int n = sprintf(text, "@%c 0x%llx ", what, (unsigned long long)pa);
    for (size_t i = 0; i < count; i++, n += 2) {
        text[n] = "0123456789abcdef"[bytes[i] >> 4];
        text[n + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
    strcpy(text + n, "\n");
    qemu_plugin_outs(text);
}

static void accessed(uint64_t offset, unsigned int bytes, uint64_t value, bool store)
{
    if (store) {
        if (offset + bytes <= sizeof registers)
            memcpy(registers + offset, &value, bytes);
        look_begins();
        iommu->look((uint32_t)offset);
        look_ends();
    } else
        iommu->written();
    say("%c 0x%llx %u 0x%llx", store ? 'W' : 'R', (unsigned long long)offset, bytes, (unsigned long long)value);
    if (store)
        iommu->written();
}

/* A store that goes over the end of a page is two. */
static void remember(uint64_t pa, const uint8_t *bytes, unsigned int count)
{
    unsigned int first = PAGE - pa % PAGE;
    if (count > first)
        count = first;
    stored(pa, bytes, count);
}

static void on_access(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t va, void *userdata)
{
    bool store = qemu_plugin_mem_is_store(info);
    (void)cpu;
    (void)userdata;
    if (!all) {
        if (!(va >> 63))
            return;
        /* Loads matter from the registers only, and those are not in the map of all RAM. */
        if (!store && (x86 ? va >= 0xffff888000000000ull && va < 0xffffc88000000000ull : va < 0xffff800000000000ull))
            return;
    }
    struct qemu_plugin_hwaddr *h = qemu_plugin_get_hwaddr(info, va);
    if (!h)
        return;
    uint64_t pa = qemu_plugin_hwaddr_phys_addr(h);
    bool io = qemu_plugin_hwaddr_is_io(h);
    if (io ? pa - base >= size : !store)
        return;
    if (!opened)
        opened = ram_open(path);
    if (!opened)
        return;
    struct qemu_plugin_mem_value v = qemu_plugin_mem_get_value(info);
    unsigned int bytes = 1u << qemu_plugin_mem_size_shift(info);
    probed++;
    if (!io) {
        uint8_t data[16];
        memcpy(data, &v.data, sizeof data);
        remember(pa, data, bytes < 16 ? bytes : 16);
        return;
    }
    uint64_t value = bytes == 1 ? v.data.u8 : bytes == 2 ? v.data.u16 : bytes == 4 ? v.data.u32 : v.data.u64;
    accessed(pa - base, bytes < 8 ? bytes : 8, value, store);
}

/* AArch64's DC ZVA stores zeros without a memory callback. */
enum { ZVA_BYTES = 64 };
static void *x_register[31];
static void *buffer;

static void on_processor(uintptr_t a, uintptr_t b)
{
    GArrayLike *list = qemu_plugin_get_registers();
    unsigned int each = g_array_get_element_size(list);
    (void)a;
    (void)b;
    for (unsigned int i = 0; i < list->len; i++) {
        const struct register_descriptor *r = (const void *)(list->data + (size_t)i * each);
        int n;
        char rest;
        if (r->name && sscanf(r->name, "x%d%c", &n, &rest) == 1 && n >= 0 && n < 31)
            x_register[n] = r->handle;
    }
    if (!buffer)
        buffer = g_byte_array_new();
}

static void on_zva(unsigned int cpu, void *userdata)
{
    static const uint8_t zero[ZVA_BYTES];
    uintptr_t n = (uintptr_t)userdata;
    uint64_t va, pa;
    GByteArrayLike *bytes = buffer;
    (void)cpu;
    if (!opened || n == 31 || !x_register[n])
        return;
    g_byte_array_set_size(bytes, 0);
    if (qemu_plugin_read_register(x_register[n], bytes) <= 0 || bytes->len < 8)
        return;
    memcpy(&va, bytes->data, 8);
    va &= ~(uint64_t)(ZVA_BYTES - 1);
#if VIOMMU_PLUGIN_API >= 5
    if (qemu_plugin_translate_vaddr(va, &pa))
        stored(pa, zero, ZVA_BYTES);
#else
    (void)pa;
    (void)zero;
#endif
}

static void on_translate(uintptr_t a, uintptr_t b)
{
    struct qemu_plugin_tb *tb = (struct qemu_plugin_tb *)(b == (uintptr_t)&marker ? a : b);
    if (!all && !(qemu_plugin_tb_vaddr(tb) >> 63))
        return;
    for (size_t i = 0, n = qemu_plugin_tb_n_insns(tb); i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint32_t word = 0;
        if (!x86 && qemu_plugin_insn_data(insn, &word, 4) == 4 && (word & 0xffffffe0u) == 0xd50b7420u)
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_zva, CALLBACK_READ_REGISTERS, (void *)(uintptr_t)(word & 31));
        qemu_plugin_register_vcpu_mem_cb(insn, on_access, CALLBACK_NO_REGISTERS, MEM_READ_WRITE, NULL);
    }
}

static void on_exit_of_qemu(uintptr_t a, uintptr_t b)
{
    char totals[160];
    (void)a;
    (void)b;
    ram_totals(totals, sizeof totals);
    say("Q %s looked=%llu", totals, probed);
}

static bool argument(const char *text)
{
    const char *value = strchr(text, '=');
    if (!value)
        return false;
    value++;
    if (!strncmp(text, "iommu=", 6)) {
        iommu = !strcmp(value, "smmuv3") ? &smmuv3 : !strcmp(value, "vtd") ? &vtd : NULL;
        return iommu != NULL;
    }
    if (!strncmp(text, "ram=", 4))
        return ram_add(value);
    if (!strncmp(text, "base=", 5))
        base = strtoull(value, NULL, 0);
    else if (!strncmp(text, "size=", 5))
        size = strtoull(value, NULL, 0);
    else if (!strncmp(text, "all=", 4))
        all = !strcmp(value, "on") || !strcmp(value, "true");
    else if (!strncmp(text, "memory=", 7) && strlen(value) < sizeof path)
        strcpy(path, value);
    else
        return false;
    return true;
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        /* Asked whether this QEMU takes a plugin of this version: it does. */
        if (!strncmp(argv[i], "probe=", 6)) {
            fprintf(stderr, "viommu-recorder: taken\n");
            return 1;
        }
        if (!argument(argv[i])) {
            fprintf(stderr, "viommu-recorder: unknown argument %s\n", argv[i]);
            return 1;
        }
    }
    if (!iommu || !size || size > sizeof registers || !path[0]) {
        fprintf(stderr, "viommu-recorder: iommu, base, size and memory are needed\n");
        return 1;
    }
    x86 = iommu == &vtd;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate, &marker);
    if (!x86)
        qemu_plugin_register_vcpu_init_cb(id, on_processor, &marker);
    qemu_plugin_register_atexit_cb(id, on_exit_of_qemu, &marker);
    return 0;
}
