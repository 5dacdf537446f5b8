/** The hardware's bus numbers differ from the guest's, so that a forgotten vSID shows at once. */
const HOST_BUS = 0x40;

/** The requester id hardware sees for what the guest calls `rid`. */
export function hostRid(rid: number): number {
  return (rid + (HOST_BUS << 8)) & 0xffff;
}
