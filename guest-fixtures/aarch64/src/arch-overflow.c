/*
 * Event-queue overflow as the architecture has it: no global error but OVFLG, toggled once; the guest acknowledges in
 * EVENTQ_CONS; as soon as there is room records are written again.
 */
#include "guest.h"

#define OVFLG 0x80000000u

int main(void) {
  u64 record[4];
  testdev_start(0);
  for (int i = 0; i < 16 * 8; i++) write64(STRTAB + 8 * i, 0);
  smmu_start(4, 4, 2);
  for (u32 round = 0; round < 3; round++) {
    u32 flag = round & 1 ? OVFLG : 0;
    for (u32 n = 0; n < 7; n++) check_equal("refused", dma(0, 0x1000 * n, TARGET), DMA_REFUSED);
    check_equal("no global error", reg(GERROR) ^ reg(GERRORN), 0);
    check_equal("OVFLG has changed", reg(EVENTQ_PROD) & OVFLG, flag ^ OVFLG);
    for (u32 n = 0; n < 4; n++) check_equal("kept", event(record), 1);
    check_equal("acknowledged", reg(EVENTQ_CONS) & OVFLG, flag ^ OVFLG);
    check_equal("empty", event(record), 0);
    check_equal("refused", dma(0, 0x9000, TARGET), DMA_REFUSED);
    check_equal("recorded again", event(record), 1);
  }
  return 0;
}
