/*
 * A command queue of four entries, wrapped many times; then a command that does not exist: the queue stops there, says so,
 * and goes on at the same place once the command is mended and the error acknowledged.
 */
#include "guest.h"

int main(void) {
  smmu_start(4, 2, 3);
  for (u32 n = 0; n < 50; n++) {
    command(TLBI_NH_ASID | (u64)n << 48, 0);
    if (n % 3 == 2) sync();
    check_equal("no error", reg(GERROR) ^ reg(GERRORN), 0);
  }
  sync();
  u32 stuck = cmdq_prod;
  u64 at = CMDQ + 16 * (stuck & 3);
  command(0xff, 0);
  command(SYNC, 0);
  set(CMDQ_PROD, cmdq_prod);
  check_equal("CERROR_ILL at the command", reg(CMDQ_CONS) & 0x7f000007, 0x01000000 | stuck);
  check_equal("GERROR.CMDQ_ERR", reg(GERROR) ^ reg(GERRORN), 1);
  set(CMDQ_PROD, cmdq_prod);
  check_equal("still stopped", reg(CMDQ_CONS) & 7, stuck);
  write64(at, SYNC);
  check_equal("mended, not yet acknowledged", reg(CMDQ_CONS) & 7, stuck);
  set(GERRORN, reg(GERROR));
  check_equal("resumed", reg(CMDQ_CONS) & 7, cmdq_prod);
  for (u32 n = 0; n < 20; n++) sync();
  check_equal("all consumed", reg(CMDQ_CONS) & 7, cmdq_prod);
  return 0;
}
