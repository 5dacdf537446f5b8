/*
 * A two-level stream table: one level-1 descriptor per 2^SPLIT streams, made when the first of them is used. Stream 8
 * bypasses, stream 16 translates; a stream whose level-2 table is not there is refused; SPLIT 6 and 8.
 */
#include "guest.h"

static void run(u32 split) {
  u64 record[4];
  for (int i = 0; i < 256; i++) write64(STRTAB + 8 * i, 0);
  for (int i = 0; i < 64 * 8; i++) write64(STRTAB2 + 8 * i, 0);
  smmu_start(10 | split << 6 | 1 << 16, 5, 4);
  check_equal("no table yet", dma(0, TARGET, TARGET), DMA_REFUSED);
  check_equal("a record", event(record), 1);
  check_equal("C_BAD_STREAMID", record[0], 0x800000002ul);

  ste_write(STRTAB2 + 8 * 64, 9, 0, 0, 0);
  u64 root = table();
  cd_write(CDTAB, root, 0x21);
  map(root, 0x5000, TARGET + 0x2000, PAGE_RW);
  ste_write(STRTAB2 + 16 * 64, CDTAB | 0xb, 0, 0, 0);
  write64(STRTAB, STRTAB2 | (split + 1));
  command(CFGI_ALL, 31);
  sync();
  check_equal("stream 8 bypasses", dma(0, TARGET + 0x10, TARGET + 0x10), DMA_OK);
  check_equal("stream 16 translates", dma(1, 0x5020, TARGET + 0x2020), DMA_OK);
  check_equal("stream 16 elsewhere", dma(1, 0x6020, TARGET), DMA_REFUSED);
  check_equal("a record", event(record), 1);
  check_equal("F_TRANSLATION", record[0], 0x1000000010ul);
  check_equal("of a write", record[1], 0x20000000000ul);
  check_equal("there", record[2], 0x6020);

  /* The level-2 table goes: what was cached stays until it is named. */
  write64(STRTAB, 0);
  check_equal("still cached", dma(0, TARGET + 0x10, TARGET + 0x10), DMA_OK);
  command(CFGI_STE | 8ul << 32, 0);
  sync();
  check_equal("gone", dma(0, TARGET + 0x10, TARGET), DMA_REFUSED);
  check_equal("a record", event(record), 1);
  check_equal("C_BAD_STREAMID", record[0], 0x800000002ul);
  check_equal("no more", event(record), 0);
}

int main(void) {
  testdev_start(0);
  testdev_start(1);
  run(6);
  run(8);
  return 0;
}
