/*
 * Every fault a guest can cause with page tables and descriptors, each with its record; then more faults than the event
 * queue holds.
 */
#include "guest.h"

#define STE8 (STRTAB + 8 * 64)

static void expect(const char *what, u64 iova, u64 w0, u64 w1, u64 w2, u64 w3) {
  u64 record[4];
  check_equal(what, dma(0, iova, TARGET), DMA_REFUSED);
  check_equal(what, event(record), 1);
  check_equal(what, record[0], w0 | 8ul << 32);
  check_equal(what, record[1], w1);
  check_equal(what, record[2], w2);
  check_equal(what, record[3], w3);
}

static void flush(void) {
  command(CFGI_ALL, 31);
  command(TLBI_NSNH_ALL, 0);
  sync();
}

int main(void) {
  u64 record[4];
  testdev_start(0);
  for (int i = 0; i < 16 * 8; i++) write64(STRTAB + 8 * i, 0);
  smmu_start(4, 4, 2);

  expect("STE not valid", 0x5000, 0x04, 0, 0, 0);
  ste_write(STE8, 1, 0, 0, 0);
  flush();
  check_equal("abort", dma(0, 0x5000, TARGET), DMA_REFUSED);
  check_equal("abort is silent", event(record), 0);

  u64 root = table();
  cd_write(CDTAB, root, 0x11);
  map(root, 0x5000, TARGET, PAGE_RW);
  map(root, 0x6000, TARGET + 0x1000, PAGE_RO);
  map(root, 0x7000, TARGET + 0x2000, PAGE_RW & ~0x400ul);
  map(root, 0x8000, 0x200000000000ul, PAGE_RW);
  ste_write(STE8, CDTAB | 0xb, 0, 0, 0);
  flush();
  check_equal("mapped", dma(0, 0x5004, TARGET + 4), DMA_OK);
  expect("not mapped", 0x9000, 0x10, 0x20000000000ul, 0x9000, 0);
  expect("read-only", 0x6008, 0x13, 0x20000000000ul, 0x6008, 0);
  expect("never accessed", 0x7000, 0x12, 0x20000000000ul, 0x7000, 0);
  expect("beyond IPS", 0x8000, 0x11, 0x20000000000ul, 0x8000, 0);
  expect("beyond T0SZ", 0x8000000000ul, 0x10, 0x20000000000ul, 0x8000000000ul, 0);

  write64(CDTAB, 0x00116204c0000019ul & ~0x80000000ul);
  command(CFGI_CD | 8ul << 32, 1);
  sync();
  expect("CD not valid", 0x5000, 0x0a, 0, 0, 0);
  write64(CDTAB, 0x00114204c0000019ul);
  command(CFGI_CD_ALL | 8ul << 32, 0);
  sync();
  check_equal("CD.R = 0", dma(0, 0x9000, TARGET), DMA_REFUSED);
  check_equal("CD.R = 0 is silent", event(record), 0);
  cd_write(CDTAB, root, 0x11);
  command(CFGI_STE | 8ul << 32, 1);
  sync();

  /* The queue holds four records: the fifth is lost and GERROR says so; the guest reads and acknowledges. */
  for (u32 n = 0; n < 6; n++) check_equal("overflow", dma(0, 0x10000 + 0x1000 * n, TARGET), DMA_REFUSED);
  check_equal("GERROR.EVENTQ_ABT_ERR", (reg(GERROR) ^ reg(GERRORN)) & 4, 4);
  set(GERRORN, reg(GERROR));
  for (u32 n = 0; n < 4; n++) {
    check_equal("kept", event(record), 1);
    check_equal("in order", record[2], 0x10000 + 0x1000 * n);
  }
  check_equal("empty", event(record), 0);
  expect("after the overflow", 0x9000, 0x10, 0x20000000000ul, 0x9000, 0);
  return 0;
}
