/** 0 to count - 1 in an order that is random and always the same. */
export function shuffled(count: number): Int32Array {
  const order = Int32Array.from({ length: count }, (_, n) => n);
  let seed = 1;
  for (let n = count - 1; n > 0; n--) {
    seed ^= seed << 13;
    seed ^= seed >>> 17;
    seed ^= seed << 5;
    const other = (seed >>> 0) % (n + 1);
    [order[n], order[other]] = [order[other]!, order[n]!];
  }
  return order;
}
