/** The hardware's bus numbers differ from the guest's, so that a requester id nobody translated shows at once. */
const HOST_BUS = 0x40;

/** The number hardware has for what a guest that enumerates in order calls bus `number`. */
export function hostBus(number: number): number {
  return (number + HOST_BUS) & 0xff;
}

/** The requester id hardware sees for what the guest calls `rid`. */
export function hostRid(rid: number): number {
  return (rid + (HOST_BUS << 8)) & 0xffff;
}

/** The counterpart: what a guest that enumerates in order calls the function. */
export function guestRid(rid: number): number {
  return (rid - (HOST_BUS << 8)) & 0xffff;
}
