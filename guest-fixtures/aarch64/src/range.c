/*
 * Range invalidation: pages are used, their descriptors cleared, and only what a command names is looked up again. What
 * is not named may stay; what is named must be gone.
 */
#include "guest.h"

#define STE8 (STRTAB + 8 * 64)
#define ASID 0x33ul
/* TG 4K, NUM and SCALE: (NUM + 1) << SCALE pages. */
#define RANGE(num, scale) ((u64)(num) << 12 | (u64)(scale) << 20)
#define TG4K (1ul << 10)
#define LEAF 1ul

static u64 root;

static void use(u64 first, u32 pages) {
  for (u32 n = 0; n < pages; n++) {
    u64 va = first + 0x1000ul * n;
    map(root, va, TARGET + 0x1000ul * (n & 15), PAGE_RW);
    check_equal("used", dma(0, va, TARGET + 0x1000ul * (n & 15)), DMA_OK);
  }
  for (u32 n = 0; n < pages; n++) write64(slot(root, first + 0x1000ul * n), 0);
}

static void gone(u64 first, u32 pages) {
  u64 record[4];
  for (u32 n = 0; n < pages; n++) {
    u64 va = first + 0x1000ul * n;
    check_equal("gone", dma(0, va, TARGET), DMA_REFUSED);
    check_equal("gone", event(record), 1);
    check_equal("gone", record[2], va);
  }
}

int main(void) {
  testdev_start(0);
  for (int i = 0; i < 16 * 8; i++) write64(STRTAB + 8 * i, 0);
  smmu_start(4, 5, 5);
  root = table();
  cd_write(CDTAB, root, ASID);
  ste_write(STE8, CDTAB | 0xb, 0, 0, 0);
  command(CFGI_STE | 8ul << 32, 1);
  sync();

  use(0x100000, 1);
  command(TLBI_NH_VA | ASID << 48, 0x100000 | LEAF);
  sync();
  gone(0x100000, 1);

  use(0x200000, 8);
  command(TLBI_NH_VA | ASID << 48 | RANGE(7, 0), 0x200000 | TG4K | LEAF);
  sync();
  gone(0x200000, 8);

  use(0x300000, 12);
  command(TLBI_NH_VAA | RANGE(2, 2), 0x300000 | TG4K | LEAF);
  sync();
  gone(0x300000, 12);

  use(0x40000000, 4);
  use(0x80000000, 4);
  command(TLBI_NH_ASID | ASID << 48, 0);
  sync();
  gone(0x40000000, 4);
  gone(0x80000000, 4);

  use(0x500000, 4);
  command(TLBI_NH_VA | ASID << 48 | RANGE(31, 4), 0x400000 | TG4K);
  sync();
  gone(0x500000, 4);
  return 0;
}
