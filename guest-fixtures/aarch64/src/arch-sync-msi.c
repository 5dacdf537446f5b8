/*
 * Interrupts by message: CMD_SYNC, the event queue and the global error each write their word where the guest wants it.
 */
#include "guest.h"

#define MAILBOX (SHARED + 0x60000ul)

static void sync_msi(u32 data) { command(SYNC | 1ul << 12 | (u64)data << 32, MAILBOX); }

int main(void) {
  u64 record[4];
  check_equal("IDR0.MSI", reg(IDR0) >> 13 & 1, 1);
  testdev_start(0);
  for (int i = 0; i < 16 * 8; i++) write64(STRTAB + 8 * i, 0);
  for (int i = 0; i < 8; i++) write64(MAILBOX + 8 * i, 0);
  set(IRQ_CTRL, 0);
  set64(EVENTQ_IRQ_CFG0, MAILBOX + 16);
  set(EVENTQ_IRQ_CFG1, 0xeeee);
  set64(GERROR_IRQ_CFG0, MAILBOX + 32);
  set(GERROR_IRQ_CFG1, 0x9999);
  smmu_start(4, 4, 3);

  for (u32 n = 1; n <= 40; n++) {
    command(TLBI_NH_ASID | (u64)n << 48, 0);
    sync_msi(0x1000 + n);
    kick();
    check_equal("the sync's word", read32(MAILBOX), 0x1000 + n);
  }
  check_equal("no event yet", read32(MAILBOX + 16), 0);
  check_equal("refused", dma(0, 0x5000, TARGET), DMA_REFUSED);
  check_equal("the event queue's word", read32(MAILBOX + 16), 0xeeee);
  check_equal("a record", event(record), 1);
  check_equal("C_BAD_STE", record[0], 0x800000004ul);

  u32 at = cmdq_prod;
  command(0xff, 0);
  sync_msi(0x7777);
  set(CMDQ_PROD, cmdq_prod);
  check_equal("the error's word", read32(MAILBOX + 32), 0x9999);
  check_equal("no sync behind the error", read32(MAILBOX), 0x1000 + 40);
  write64(CMDQ + 16 * (at & 15), SYNC);
  set(GERRORN, reg(GERROR));
  check_equal("the sync behind the mended command", read32(MAILBOX), 0x7777);
  return 0;
}
