/*
 * SubstreamIDs with a two-level CD table: the same address means another page in each; a CD is changed, and taken away.
 */
#include "guest.h"

#define STE24 (STRTAB + ENGINE_SID * 64)
#define LEAF0 (CDTAB + 0x1000)
#define LEAF1 (CDTAB + 0x2000)
#define VA 0x7000ul

static u64 root_of(u32 asid, u64 cd, u64 page) {
  u64 root = table();
  cd_write(cd, root, asid);
  map(root, VA, page, PAGE_RW);
  map(root, ENGINE_RING, ENGINE_RING, PAGE_RW);
  return root;
}

static void fill(int ssid, u32 pattern, u64 page) {
  write64(page, 0);
  engine_fill(ssid, VA, pattern);
  check_equal("done", engine_status(), 1);
  check_equal("in its own page", read32(page), pattern);
}

int main(void) {
  u64 record[4];
  check_equal("SSIDSIZE", reg(IDR1) >> 6 & 31, 16);
  check_equal("CD2L", reg(IDR0) >> 19 & 1, 1);
  for (int i = 0; i < 32 * 8; i++) write64(STRTAB + 8 * i, 0);
  for (u64 at = CDTAB; at < CDTAB + 0x3000; at += 8) write64(at, 0);
  engine_start();
  smmu_start(5, 5, 4);

  /* Level-2 tables of 64 CDs: SubstreamIDs 1, 5 and 70. */
  write64(CDTAB, LEAF0 | 1);
  write64(CDTAB + 8, LEAF1 | 1);
  root_of(0x101, LEAF0 + 64 * 1, TARGET);
  root_of(0x105, LEAF0 + 64 * 5, TARGET + 0x1000);
  root_of(0x170, LEAF1 + 64 * 6, TARGET + 0x2000);
  /* S1CDMax 8, S1Fmt 4K leaves, S1DSS terminate. */
  ste_write(STE24, 8ul << 59 | CDTAB | 1 << 4 | 0xb, 0, 0, 0);
  command(CFGI_STE | ENGINE_SID << 32, 1);
  sync();
  for (u32 n = 0; n < 4; n++) {
    fill(1, 0x11110000 + n, TARGET);
    fill(70, 0x70700000 + n, TARGET + 0x2000);
    fill(5, 0x55550000 + n, TARGET + 0x1000);
  }

  /* Another address space under SubstreamID 5. */
  root_of(0x205, LEAF0 + 64 * 5, TARGET + 0x3000);
  command(CFGI_CD | 5ul << 12 | ENGINE_SID << 32, 1);
  sync();
  fill(5, 0x66660000, TARGET + 0x3000);
  fill(1, 0x11119999, TARGET);

  /* No CD, no level-2 table, beyond S1CDMax, none at all: each with its record. */
  static const int bad[] = { 2, 130, 300, -1 };
  static const u64 code[] = { 0x0a | 2 << 12 | 1 << 11, 0x08 | 130 << 12, 0x08 | 300 << 12, 0x06 };
  for (int i = 0; i < 4; i++) {
    engine_fill(bad[i], VA, 0);
    check_equal("not done", engine_status(), 0);
    check_equal("a record", event(record), 1);
    check_equal("of this kind", record[0], code[i] | ENGINE_SID << 32);
    while (event(record)) check_equal("the same again", record[0], code[i] | ENGINE_SID << 32);
    engine_start();
  }
  fill(70, 0x70707070, TARGET + 0x2000);
  return 0;
}
