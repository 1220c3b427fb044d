// MessagePack in plain JavaScript, as far as docs/PROTOCOL.md needs it. Maps are objects, binaries Buffers.
const head = (n, short, shortMax, ...codes) => // codes are for lengths of 1, 2 and 4 bytes
  n <= shortMax ? Buffer.from([short | n])
    : n < 256 && codes.length > 2 ? Buffer.from([codes[0], n])
    : n < 65536 ? Buffer.from([codes.at(-2), n >> 8, n & 255])
    : Buffer.concat([Buffer.from([codes.at(-1)]), u32(n, "BE")]);
export const u32 = (n, end) => { const b = Buffer.alloc(4); b[`writeUInt32${end}`](n); return b; };
const wide = (code, n, write) => { const b = Buffer.alloc(9); b[0] = code; b[write](n, 1); return b; };
export function encode(v) {
  if (v === null) return Buffer.from([0xc0]);
  if (typeof v === "boolean") return Buffer.from([v ? 0xc3 : 0xc2]);
  if (typeof v === "string") return Buffer.concat([head(Buffer.byteLength(v), 0xa0, 31, 0xd9, 0xda, 0xdb), Buffer.from(v)]);
  if (typeof v === "bigint" || (Number.isInteger(v) && (v < -32 || v > 0xffffffff)))
    return v < 0 ? wide(0xd3, BigInt(v), "writeBigInt64BE") : wide(0xcf, BigInt(v), "writeBigUInt64BE");
  if (Number.isInteger(v)) return v < 0 ? Buffer.from([256 + v]) : head(v, 0, 127, 0xcc, 0xcd, 0xce);
  if (typeof v === "number") return wide(0xcb, v, "writeDoubleBE");
  if (Array.isArray(v)) return Buffer.concat([head(v.length, 0x90, 15, 0xdc, 0xdd), ...v.map(encode)]);
  const pairs = Object.entries(v);
  return Buffer.concat([head(pairs.length, 0x80, 15, 0xde, 0xdf), ...pairs.flat().map(encode)]);
}
export function decode(b) {
  let at = 0;
  const uint = (n) => { at += n; return n < 8 ? b.readUIntBE(at - n, n) : exact(b.readBigUInt64BE(at - n)); };
  const exact = (n) => (n <= Number.MAX_SAFE_INTEGER && n >= Number.MIN_SAFE_INTEGER ? Number(n) : n);
  const bytes = (n) => b.subarray(at, (at += n));
  const array = (n) => Array.from({ length: n }, value);
  const map = (n) => Object.fromEntries(Array.from({ length: n }, () => [value(), value()]));
  const value = () => {
    const c = uint(1);
    if (c < 0x80) return c;
    if (c >= 0xe0) return c - 256;
    if (c < 0x90) return map(c & 15);
    if (c < 0xa0) return array(c & 15);
    if (c < 0xc0) return bytes(c & 31).toString();
    switch (c) {
      case 0xc0: return null;
      case 0xc2: case 0xc3: return c === 0xc3;
      case 0xc4: case 0xc5: case 0xc6: return bytes(uint(1 << (c - 0xc4)));
      case 0xca: at += 4; return b.readFloatBE(at - 4);
      case 0xcb: at += 8; return b.readDoubleBE(at - 8);
      case 0xcc: case 0xcd: case 0xce: case 0xcf: return uint(1 << (c - 0xcc));
      case 0xd0: case 0xd1: case 0xd2: at += 1 << (c - 0xd0); return b.readIntBE(at - (1 << (c - 0xd0)), 1 << (c - 0xd0));
      case 0xd3: at += 8; return exact(b.readBigInt64BE(at - 8));
      case 0xd9: case 0xda: case 0xdb: return bytes(uint(1 << (c - 0xd9))).toString();
      case 0xdc: case 0xdd: return array(uint(2 << (c - 0xdc)));
      case 0xde: case 0xdf: return map(uint(2 << (c - 0xde)));
      default: throw new Error(`cannot decode msgpack type ${c}`);
    }
  };
  return value();
}
