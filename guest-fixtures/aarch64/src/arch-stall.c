/*
 * Stalls: a device waits while the guest maps what is missing, and goes on; another time the guest gives up.
 */
#include "guest.h"

#define STE24 (STRTAB + ENGINE_SID * 64)
#define VA 0x7000ul
#define STALL 0x80000000ul

int main(void) {
  u64 record[4];
  check_equal("STALL_MODEL", reg(IDR0) >> 24 & 3, 0);
  for (int i = 0; i < 32 * 8; i++) write64(STRTAB + 8 * i, 0);
  engine_start();
  smmu_start(5, 5, 4);
  u64 root = table();
  cd_write(CDTAB, root, 0x51);
  write64(CDTAB, read64(CDTAB) | 1ul << 44);
  map(root, ENGINE_RING, ENGINE_RING, PAGE_RW);
  ste_write(STE24, CDTAB | 0xb, 0, 0, 0);
  command(CFGI_STE | ENGINE_SID << 32, 1);
  sync();

  for (u32 n = 0; n < 3; n++) {
    u64 va = VA + 0x1000 * n;
    write64(TARGET, 0);
    engine_fill(-1, va, 0xabc0 + n);
    check_equal("waits", engine_status(), 0);
    check_equal("a record", event(record), 1);
    check_equal("F_TRANSLATION", record[0], 0x10 | ENGINE_SID << 32);
    check_equal("stalled, of a write", record[1] & ~0xfffful, 0x20000000000ul | STALL);
    check_equal("there", record[2], va);
    map(root, va, TARGET, PAGE_RW);
    command(RESUME | 1ul << 12 | ENGINE_SID << 32, record[1] & 0xffff);
    sync();
    check_equal("done", engine_status(), 1);
    check_equal("written", read32(TARGET), 0xabc0 + n);
    check_equal("no more records", event(record), 0);
  }

  engine_fill(-1, 0x20000, 1);
  check_equal("a record", event(record), 1);
  command(RESUME | 2ul << 12 | ENGINE_SID << 32, record[1] & 0xffff);
  sync();
  check_equal("given up", engine_status(), 2);

  engine_fill(-1, 0x30000, 1);
  check_equal("a record", event(record), 1);
  command(STALL_TERM | ENGINE_SID << 32, 0);
  sync();
  check_equal("terminated", engine_status(), 2);
  return 0;
}
