/* The recorder plugin: what its parts share. See recorder.c for what it writes. */
#ifndef VIOMMU_RECORDER_H
#define VIOMMU_RECORDER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE 4096ull
/* Addresses in entries of tables: bits 51:12. */
#define FRAME 0xffffffffff000ull

/* What a followed page holds. */
enum kind { QUEUE, STRTAB, STE, CD, PT, ROOT, CONTEXT, PASID_DIR, PASID_TABLE, IRT };

/* ram.c: guest RAM as the file behind it has it, and the pages of it that the IOMMU can reach. */
bool ram_add(const char *text);
bool ram_open(const char *path);
bool ram_has(uint64_t pa, uint64_t bytes);
const uint8_t *ram_at(uint64_t pa);
uint64_t ram_u64(uint64_t pa);
/* Begins a look at everything the IOMMU can reach; what `follow` does not name until `look_ends` is let go. */
void look_begins(void);
void look_ends(void);
/* The page at `pa` is reachable, as this. True: it was not seen in this look yet. */
bool follow(uint64_t pa, enum kind kind, int level, int format);
void follow_range(uint64_t pa, uint64_t bytes, enum kind kind);
/* Called for each store of a processor; false: nobody follows that page. */
bool stored(uint64_t pa, const uint8_t *bytes, unsigned int size);
void ram_totals(char *text, size_t size);

/* The two IOMMUs: what is reachable from the registers, and what one more descriptor of a table makes reachable. */
struct iommu {
    void (*look)(uint32_t offset);
    void (*descriptor)(uint64_t d, int level, int format);
    /* What the IOMMU has written since the last time, if that can be seen in memory only. */
    void (*written)(void);
};
extern const struct iommu smmuv3, vtd;
extern const struct iommu *iommu;

/* The registers as the guest last wrote them. */
extern uint8_t registers[0x20000];
uint64_t reg64(uint32_t offset);
uint32_t reg32(uint32_t offset);

/* One line of the log. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "WHAT ADDRESS BYTES" */
void say_bytes(char what, uint64_t pa, const uint8_t *bytes, size_t count);
#endif
