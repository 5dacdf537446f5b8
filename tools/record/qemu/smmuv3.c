/* What an SMMUv3 can reach (Arm IHI 0070): command queue, stream table, contexts, translation tables. */
#include <stdlib.h>
#include <string.h>

#include "recorder.h"

enum { STRTAB_BASE = 0x80, STRTAB_BASE_CFG = 0x88, CMDQ_BASE = 0x90, CMDQ_PROD = 0x98, EVENTQ_BASE = 0xa0 };
/* Addresses in registers and entries: bits 51:6 and 51:5. */
#define TABLE 0xfffffffffffc0ull
#define QUEUE_AT 0xfffffffffffe0ull
/* Stream ids and contexts that are looked at, at most: QEMU has 16 bits of each. */
enum { MOST_LOG2 = 16 };

static const int TG0[4] = { 12, 16, 14, 0 };
static const int TG1[4] = { 0, 14, 12, 16 };

static void table(uint64_t pa, uint64_t bytes, int level, int granule);

static void descriptor(uint64_t d, int level, int granule)
{
    if (level < 3 && (d & 3) == 3)
        table(d & 0xffffffffffffull & ~((1ull << granule) - 1), 1ull << granule, level + 1, granule);
}

static void table(uint64_t pa, uint64_t bytes, int level, int granule)
{
    for (uint64_t a = pa & ~(PAGE - 1); a < pa + bytes; a += PAGE)
        if (follow(a, PT, level, granule) && level < 3)
            for (uint64_t i = 0; i < PAGE; i += 8)
                descriptor(ram_u64(a + i), level, granule);
}

/* `level` of the first table; negative: what the input size leads to. */
static void walk(uint64_t ttb, int size, int granule, int level)
{
    int stride = granule - 3, bits = 64 - size;
    if (size == 0 || granule == 0 || bits <= granule)
        return;
    if (level < 0)
        level = 4 - (bits - granule + stride - 1) / stride;
    int top = bits - (granule + stride * (3 - level));
    if (level < 0 || top < 1 || top > stride + 4)
        return;
    table(ttb & 0xffffffffffffull & ~63ull, 8ull << top, level, granule);
}

static void context(uint64_t pa)
{
    uint64_t w0 = ram_u64(pa);
    follow(pa, CD, 0, 0);
    if (!(w0 & 1ull << 31))
        return;
    if (!(w0 & 1ull << 14))
        walk(ram_u64(pa + 8) & 0xffffffffffff0ull, w0 & 63, TG0[w0 >> 6 & 3], -1);
    if (!(w0 & 1ull << 30))
        walk(ram_u64(pa + 16) & 0xffffffffffff0ull, w0 >> 16 & 63, TG1[w0 >> 22 & 3], -1);
}

static void contexts(uint64_t pa, uint64_t count)
{
    follow_range(pa, count * 64, CD);
    for (uint64_t i = 0; i < count; i++)
        if (ram_u64(pa + i * 64) & 1ull << 31)
            context(pa + i * 64);
}

static void stream(uint64_t pa)
{
    uint64_t w0 = ram_u64(pa), w2 = ram_u64(pa + 16), w3 = ram_u64(pa + 24);
    int config = w0 >> 1 & 7;
    if (!(w0 & 1))
        return;
    if ((config & 5) == 5) {
        uint64_t at = w0 & TABLE;
        int max = w0 >> 59, format = w0 >> 4 & 3;
        if (max > MOST_LOG2)
            max = MOST_LOG2;
        if (max == 0 || format == 0)
            contexts(at, 1ull << max);
        else {
            int split = format == 1 ? 6 : 10;
            uint64_t count = max > split ? 1ull << (max - split) : 1;
            follow_range(at, count * 8, CD);
            for (uint64_t i = 0; i < count; i++) {
                uint64_t d = ram_u64(at + i * 8);
                if (d & 1)
                    contexts(d & FRAME, 1ull << split);
            }
        }
    }
    if ((config & 6) == 6) {
        int granule = TG0[w2 >> 46 & 3], sl0 = w2 >> 38 & 3;
        walk(w3 & 0xffffffffffff0ull, w2 >> 32 & 63, granule, (granule == 12 ? 2 : 3) - sl0);
    }
}

/* Only the pages of the queue that were written are followed: it can have megabytes. */
static void commands(uint32_t offset)
{
    static uint64_t base, bytes;
    static uint32_t last;
    static uint8_t *used;
    uint64_t now = reg64(CMDQ_BASE), at = now & QUEUE_AT;
    int log2 = now & 31;
    if (log2 > 20)
        return;
    if (now != base || !used) {
        base = now;
        last = 0;
        free(used);
        bytes = ((16ull << log2) + PAGE - 1) / PAGE;
        used = calloc(bytes, 1);
    }
    if (!at || !used)
        return;
    if (offset == CMDQ_PROD) {
        uint32_t mask = (1u << log2) - 1, to = reg32(CMDQ_PROD) & mask;
        for (uint32_t i = last & mask;; i = (i + 1) & mask) {
            used[i * 16ull / PAGE] = 1;
            if (i == to)
                break;
        }
        last = to;
    }
    for (uint64_t i = 0; i < bytes; i++)
        if (used[i])
            follow(at + i * PAGE, QUEUE, 0, 0);
}

static void look(uint32_t offset)
{
    uint64_t base = reg64(STRTAB_BASE) & TABLE;
    uint32_t config = reg32(STRTAB_BASE_CFG);
    int format = config >> 16 & 3, split = config >> 6 & 31, log2 = config & 63;
    commands(offset);
    if (!base || !log2)
        return;
    if (log2 > MOST_LOG2)
        log2 = MOST_LOG2;
    if (format == 0) {
        follow_range(base, 64ull << log2, STE);
        for (uint64_t i = 0; i < 1ull << log2; i++)
            stream(base + i * 64);
    } else if (format == 1) {
        uint64_t count = log2 > split ? 1ull << (log2 - split) : 1;
        follow_range(base, count * 8, STRTAB);
        for (uint64_t i = 0; i < count; i++) {
            uint64_t d = ram_u64(base + i * 8);
            int span = d & 31;
            if (span == 0 || span > split + 1 || span > 11)
                continue;
            follow_range(d & TABLE, 64ull << (span - 1), STE);
            for (uint64_t j = 0; j < 1ull << (span - 1); j++)
                stream((d & TABLE) + j * 64);
        }
    }
}

/* QEMU's trace events name a fault's type and stream: the rest is in the record it wrote into the event queue. */
static void written(void)
{
    static uint64_t last, at, entries, next;
    static uint8_t *seen;
    uint64_t base = reg64(EVENTQ_BASE);
    if (!(base & QUEUE_AT) || !(base & 31) || (base & 31) > 19)
        return;
    if (base != last) {
        at = base & QUEUE_AT;
        entries = 1ull << (base & 31);
        if (!ram_has(at, entries * 32))
            return;
        last = base;
        next = 0;
        free(seen);
        seen = malloc(entries * 32);
        if (!seen)
            abort();
        memcpy(seen, ram_at(at), entries * 32);
    }
    for (;;) {
        const uint8_t *now = ram_at(at + next * 32);
        if (!memcmp(now, seen + next * 32, 32) || now[0] == 0)
            return;
        memcpy(seen + next * 32, now, 32);
        say_bytes('E', at + next * 32, seen + next * 32, 32);
        next = (next + 1) % entries;
    }
}

const struct iommu smmuv3 = { look, descriptor, written };
