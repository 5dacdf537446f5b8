/* What every guest uses: the console, checks, the SMMU's registers, and the test device that makes DMA. */
#ifndef GUEST_H
#define GUEST_H

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

/* Memory the SMMU and the device read and write: everything a recording must know. 64 MiB from 0x41000000 on. */
#define SHARED   0x41000000ul
#define STRTAB   0x41000000ul
#define STRTAB2  0x41010000ul
#define CMDQ     0x41020000ul
#define EVTQ     0x41030000ul
#define CDTAB    0x41040000ul
#define TABLES   0x41100000ul
#define S2TABLES 0x41200000ul
#define TARGET   0x42000000ul

#ifndef SMMU /* virt,iommu=smmuv3; the first -device arm-smmuv3 is at 0x0c000000 */
#define SMMU     0x09050000ul
#endif
#define PAGE1    0x10000ul

enum {
  IDR0 = 0x00, IDR1 = 0x04, CR0 = 0x20, CR0ACK = 0x24, CR1 = 0x28, CR2 = 0x2c, GBPA = 0x44, IRQ_CTRL = 0x50,
  IRQ_CTRLACK = 0x54, GERROR = 0x60, GERRORN = 0x64, GERROR_IRQ_CFG0 = 0x68, GERROR_IRQ_CFG1 = 0x70, STRTAB_BASE = 0x80, STRTAB_BASE_CFG = 0x88, CMDQ_BASE = 0x90,
  CMDQ_PROD = 0x98, CMDQ_CONS = 0x9c, EVENTQ_BASE = 0xa0, EVENTQ_IRQ_CFG0 = 0xb0, EVENTQ_IRQ_CFG1 = 0xb8, EVENTQ_PROD = 0x100a8, EVENTQ_CONS = 0x100ac,
};
enum { SMMUEN = 1, PRIQEN = 2, EVENTQEN = 4, CMDQEN = 8 };
enum {
  CFGI_STE = 0x03, CFGI_ALL = 0x04, CFGI_CD = 0x05, CFGI_CD_ALL = 0x06, TLBI_NH_ALL = 0x10, TLBI_NH_ASID = 0x11,
  TLBI_NH_VA = 0x12, TLBI_NH_VAA = 0x13, TLBI_S12_VMALL = 0x28, TLBI_S2_IPA = 0x2a, TLBI_NSNH_ALL = 0x30, RESUME = 0x44, STALL_TERM = 0x45,
  SYNC = 0x46,
};

static inline u32 read32(u64 at) { return *(volatile u32 *)at; }
static inline void write32(u64 at, u32 v) { *(volatile u32 *)at = v; }
static inline u64 read64(u64 at) { return *(volatile u64 *)at; }
static inline void write64(u64 at, u64 v) { *(volatile u64 *)at = v; }
static inline u32 reg(u32 at) { return read32(SMMU + at); }
static inline void set(u32 at, u32 v) { write32(SMMU + at, v); }
static inline void set64(u32 at, u64 v) { write64(SMMU + at, v); }

void say(const char *text);
void say_hex(u64 value);
/* Ends the run: "PASS" or "FAIL" on the console. */
void finish(void) __attribute__((noreturn));
void check_equal(const char *what, u64 got, u64 want);

/* The queues: 2^log2 entries each; indexes as the guest driver keeps them. */
extern u32 cmdq_log2, cmdq_prod;
void smmu_start(u32 strtab_cfg, u32 cmdq, u32 evtq);
void command(u64 lo, u64 hi);
/* Rings the doorbell and waits until everything has been consumed. */
void kick(void);
void sync(void);
/* Takes the oldest record of the event queue into four words; 0: empty. */
int event(u64 *record);

void ste_write(u64 at, u64 w0, u64 w1, u64 w2, u64 w3);
/* One CD: 4 KiB granule, 39-bit TTB0, 44-bit output; records and aborts faults. */
void cd_write(u64 at, u64 ttb, u32 asid);
/* Maps one 4 KiB page in a 39-bit table of stage 1 (start level 1); tables come from the pool. */
void map(u64 root, u64 va, u64 pa, u64 bits);
/* The level-3 descriptor of a mapped page. */
u64 slot(u64 root, u64 va);
u64 table(void);

#define PAGE_RW 0x443ul
#define PAGE_RO 0x4c3ul

/* iommu-testdev, n-th on the bus (00:01.0, 00:02.0): StreamIDs 8 and 16. */
void testdev_start(u32 n);
/* Writes 4 bytes at `iova`, expecting them at `pa`. Returns the device's result: 0 done, 0xdead0002 refused. */
u32 dma(u32 n, u64 iova, u64 pa);
#define DMA_OK 0u
#define DMA_REFUSED 0xdead0002u

/*
 * The DMA engine at 00:03.0 (StreamID 24) that architecture guests find: a ring of one-page descriptors, sent with the
 * PASID of the ring. `engine_fill` writes `bytes` of `pattern` at `iova`; ring and completion record are at ENGINE_RING in
 * the address space of that PASID (-1: none). `engine_status` is the completion record's status: 0 not yet, 1 done, 2 fault.
 */
#define ENGINE_SID 24ul
#define ENGINE_RING (SHARED + 0x50000ul)
void engine_start(void);
void engine_fill(int pasid, u64 iova, u32 pattern);
u32 engine_status(void);

#endif
