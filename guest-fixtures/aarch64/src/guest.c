#include "guest.h"

#define UART 0x09000000ul
#define ECAM 0x4010000000ul
#define BAR  0x10000000ul

static int failed;

void rest(void) __attribute__((noreturn));

void say(const char *text) {
  for (; *text; text++) write32(UART, (u8)*text);
}

void say_hex(u64 value) {
  say("0x");
  int shift = 60;
  while (shift > 0 && !(value >> shift)) shift -= 4;
  for (; shift >= 0; shift -= 4) write32(UART, "0123456789abcdef"[(value >> shift) & 15]);
}

void finish(void) {
  say(failed ? "FAIL\n" : "PASS\n");
  rest();
}

void check_equal(const char *what, u64 got, u64 want) {
  if (got == want) return;
  failed = 1;
  say("wrong: ");
  say(what);
  say(": got ");
  say_hex(got);
  say(", want ");
  say_hex(want);
  say("\n");
}

u32 cmdq_log2, cmdq_prod;
static u32 evtq_log2, evtq_cons;

/* Queues, stream table and interrupts, then the SMMU itself: the order of every driver. */
void smmu_start(u32 strtab_cfg, u32 cmdq, u32 evtq) {
  cmdq_log2 = cmdq;
  evtq_log2 = evtq;
  cmdq_prod = evtq_cons = 0;
  set(CR0, 0);
  while (reg(CR0ACK) & SMMUEN) { }
  set64(STRTAB_BASE, STRTAB);
  set(STRTAB_BASE_CFG, strtab_cfg);
  set64(CMDQ_BASE, CMDQ | cmdq);
  set(CMDQ_PROD, 0);
  set(CMDQ_CONS, 0);
  set64(EVENTQ_BASE, EVTQ | evtq);
  set(EVENTQ_PROD, 0);
  set(EVENTQ_CONS, 0);
  set(CR2, 2); /* RECINVSID */
  set(CR0, CMDQEN);
  while (reg(CR0ACK) != CMDQEN) { }
  command(CFGI_ALL, 31);
  command(TLBI_NSNH_ALL, 0);
  sync();
  set(IRQ_CTRL, 5);
  while (reg(IRQ_CTRLACK) != 5) { }
  set(CR0, CMDQEN | EVENTQEN | SMMUEN);
  while (reg(CR0ACK) != (CMDQEN | EVENTQEN | SMMUEN)) { }
}

static u32 ring_mask(u32 log2) { return (2u << log2) - 1; }

void command(u64 lo, u64 hi) {
  u64 at = CMDQ + 16 * (cmdq_prod & ((1u << cmdq_log2) - 1));
  /* Full: hand over what is there first. */
  if (((cmdq_prod ^ (reg(CMDQ_CONS) & ring_mask(cmdq_log2)))) == (1u << cmdq_log2)) kick();
  write64(at, lo);
  write64(at + 8, hi);
  cmdq_prod = (cmdq_prod + 1) & ring_mask(cmdq_log2);
}

void kick(void) {
  set(CMDQ_PROD, cmdq_prod);
  for (int n = 0; n < 1000; n++) {
    if ((reg(CMDQ_CONS) & ring_mask(cmdq_log2)) == cmdq_prod) return;
    if ((reg(GERROR) ^ reg(GERRORN)) & 1) return;
  }
}

void sync(void) {
  command(SYNC, 0);
  kick();
}

int event(u64 *record) {
  if (((reg(EVENTQ_PROD) ^ evtq_cons) & ring_mask(evtq_log2)) == 0) return 0;
  u64 at = EVTQ + 32 * (evtq_cons & ((1u << evtq_log2) - 1));
  for (int i = 0; i < 4; i++) record[i] = read64(at + 8 * i);
  evtq_cons = (evtq_cons + 1) & ring_mask(evtq_log2);
  set(EVENTQ_CONS, evtq_cons | (reg(EVENTQ_PROD) & 0x80000000u));
  return 1;
}

void ste_write(u64 at, u64 w0, u64 w1, u64 w2, u64 w3) {
  for (int i = 7; i > 3; i--) write64(at + 8 * i, 0);
  write64(at + 24, w3);
  write64(at + 16, w2);
  write64(at + 8, w1);
  write64(at, w0);
}

void cd_write(u64 at, u64 ttb, u32 asid) {
  for (int i = 7; i > 1; i--) write64(at + 8 * i, 0);
  write64(at + 8, ttb);
  write64(at, 0x00006204c0000019ul | (u64)asid << 48);
}

static u64 next_table = TABLES;

u64 table(void) {
  u64 t = next_table;
  next_table += 4096;
  for (int i = 0; i < 512; i++) write64(t + 8 * i, 0);
  return t;
}

u64 slot(u64 root, u64 va) {
  for (int shift = 30; shift > 12; shift -= 9) {
    u64 at = root + 8 * ((va >> shift) & 511);
    if (!(read64(at) & 1)) write64(at, table() | 3);
    root = read64(at) & 0xfffffffff000ul;
  }
  return root + 8 * ((va >> 12) & 511);
}

void map(u64 root, u64 va, u64 pa, u64 bits) { write64(slot(root, va), pa | bits); }

void testdev_start(u32 n) {
  u64 config = ECAM + ((u64)(n + 1) << 15);
  write32(config + 0x10, BAR + n * 0x1000);
  *(volatile unsigned short *)(config + 4) = 6;
}

u32 dma(u32 n, u64 iova, u64 pa) {
  u64 bar = BAR + n * 0x1000;
  write32(bar + 0x04, iova);
  write32(bar + 0x08, iova >> 32);
  write32(bar + 0x1c, pa);
  write32(bar + 0x20, pa >> 32);
  write32(bar + 0x0c, 4);
  write32(bar + 0x18, 0xa); /* non-secure */
  write32(bar + 0x14, 1);
  read32(bar);
  return read32(bar + 0x10);
}

#define ENGINE (BAR + 0x8000)
static u32 engine_tail;

void engine_start(void) {
  u64 config = ECAM + (3ul << 15);
  write32(config + 0x10, ENGINE);
  write32(config + 0x14, 0);
  *(volatile unsigned short *)(config + 4) = 6;
  /* The PASID capability: switched on, all widths. */
  for (u32 at = 0x100; at; at = read32(config + at) >> 20) {
    if ((read32(config + at) & 0xffff) == 0x1b) *(volatile unsigned short *)(config + at + 6) = 1;
  }
  write32(ENGINE + 0x00, 2);
  engine_tail = 0;
  for (int i = 0; i < 512; i++) write64(ENGINE_RING + 8 * i, 0);
}

void engine_fill(int pasid, u64 iova, u32 pattern) {
  u64 at = ENGINE_RING + 64 * engine_tail;
  for (int i = 0; i < 8; i++) write64(at + 8 * i, 0);
  write64(ENGINE_RING + 0x800, 0);
  write32(at, 2);
  write64(at + 8, ENGINE_RING + 0x800);
  write64(at + 24, iova);
  write32(at + 32, 16);
  write32(at + 36, pattern);
  write32(ENGINE + 0x08, ENGINE_RING);
  write32(ENGINE + 0x0c, ENGINE_RING >> 32);
  write32(ENGINE + 0x10, 4);
  write32(ENGINE + 0x1c, pasid < 0 ? 0 : 0x80000000u | (u32)pasid);
  write32(ENGINE + 0x00, 1);
  engine_tail = (engine_tail + 1) & 15;
  write32(ENGINE + 0x14, engine_tail);
}

u32 engine_status(void) { return read32(ENGINE_RING + 0x800); }
