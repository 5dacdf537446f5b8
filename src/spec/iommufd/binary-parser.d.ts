/** The part of binary-parser this package uses (its own types are not reachable through its `exports`). */
declare module 'binary-parser' {
  export class Parser {
    endianness(order: 'little' | 'big'): this;
    uint8(name: string): this;
    uint16(name: string): this;
    uint32(name: string): this;
    int32(name: string): this;
    uint64(name: string): this;
    array(name: string, options: { type: 'uint8'; length: number; formatter: (bytes: number[]) => number }): this;
    parse(bytes: Uint8Array): Record<string, number | bigint>;
  }
}
