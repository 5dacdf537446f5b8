/* What a VT-d unit can reach: invalidation queue, interrupt remapping table, root table, contexts, PASID and page tables. */
#include "recorder.h"

enum { RTADDR = 0x20, IQA = 0x90, IRTA = 0xb8 };
enum format { SECOND = 1, FIRST = 2 };

static void table(uint64_t pa, int level, int format);

static void descriptor(uint64_t d, int level, int format)
{
    bool present = format == SECOND ? (d & 3) != 0 : (d & 1) != 0;
    bool leaf = (d & 0x80) && level <= 3;
    if (level > 1 && present && !leaf)
        table(d & FRAME, level - 1, format);
}

static void table(uint64_t pa, int level, int format)
{
    pa &= FRAME;
    if (level <= 6 && follow(pa, PT, level, format) && level > 1)
        for (uint64_t i = 0; i < PAGE; i += 8)
            descriptor(ram_u64(pa + i), level, format);
}

static void pasid(uint64_t at)
{
    uint64_t v0 = ram_u64(at), v2 = ram_u64(at + 16);
    int pgtt = v0 >> 6 & 7;
    if (!(v0 & 1))
        return;
    if (pgtt == 2 || pgtt == 3)
        table(v0, (int)(v0 >> 2 & 7) + 2, SECOND);
    if (pgtt == 1 || pgtt == 3)
        table(v2, v2 >> 2 & 3 ? 5 : 4, FIRST);
}

static void scalable(uint64_t at)
{
    uint64_t v0 = ram_u64(at), directory = v0 & FRAME, entries = 1ull << ((v0 >> 9 & 7) + 7);
    if (!(v0 & 1))
        return;
    follow_range(directory, entries * 8, PASID_DIR);
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t d = ram_u64(directory + i * 8);
        if (!(d & 1))
            continue;
        follow(d & FRAME, PASID_TABLE, 0, 0);
        for (int j = 0; j < 64; j++)
            pasid((d & FRAME) + j * 64);
    }
}

static void legacy(uint64_t at)
{
    uint64_t lo = ram_u64(at), hi = ram_u64(at + 8);
    if ((lo & 1) && (lo >> 2 & 3) != 2)
        table(lo, (int)(hi & 7) + 2, SECOND);
}

static void look(uint32_t offset)
{
    uint64_t iqa = reg64(IQA), irta = reg64(IRTA), root = reg64(RTADDR);
    (void)offset;
    if (iqa & FRAME)
        follow_range(iqa & FRAME, PAGE << (iqa & 7), QUEUE);
    if (irta & FRAME)
        follow_range(irta & FRAME, 16ull << ((irta & 15) + 1), IRT);
    if (!(root & FRAME))
        return;
    bool scalable_mode = (root >> 10 & 3) == 1;
    follow(root & FRAME, ROOT, 0, 0);
    for (int bus = 0; bus < 256; bus++) {
        for (int half = 0; half < (scalable_mode ? 2 : 1); half++) {
            uint64_t entry = ram_u64((root & FRAME) + bus * 16 + half * 8);
            if (!(entry & 1))
                continue;
            follow(entry & FRAME, CONTEXT, 0, 0);
            for (int i = 0; i < (scalable_mode ? 128 : 256); i++) {
                if (scalable_mode)
                    scalable((entry & FRAME) + i * 32);
                else
                    legacy((entry & FRAME) + i * 16);
            }
        }
    }
}

/* Wait descriptors and fault records are in QEMU's own trace events. */
static void written(void)
{
}

const struct iommu vtd = { look, descriptor, written };
