// Makes payloads loud, and puts a suffix behind them. It speaks the contract as it is: see
// plugin-sdk/wit/plugin.wit.

const EMIT = 2;
const AS_PARENT = 0xffffffff;

let suffix;

export const processor = {
  describe() {
    return {
      name: "loud",
      version: "0.1.0",
      summary: "Makes payloads loud.",
      reads: { payload: true },
      configSchema: JSON.stringify({ type: "object", properties: { suffix: { type: "string" } } }),
    };
  },

  configure(config) {
    suffix = JSON.parse(config).suffix;
    if (typeof suffix !== "string") throw { field: "/suffix", message: "is a string" };
  },

  process({ rows, arena, payloads }) {
    const bytes = [];
    const emitted = [];
    for (let row = 0; row < rows; row++) {
      const [start, length] = payloads.subarray(row * 2);
      const text = new TextDecoder().decode(arena.subarray(start, start + length));
      if (text === "print") console.log(text);
      const loud = new TextEncoder().encode(text.toUpperCase() + suffix);
      emitted.push(row, arena.length + bytes.length, loud.length, AS_PARENT, 0, 0, 0, AS_PARENT);
      bytes.push(...loud);
    }
    return {
      verdicts: new Uint8Array(rows).fill(EMIT),
      arena: new Uint8Array(bytes),
      emitted: new Uint32Array(emitted),
      headers: new Uint32Array(),
      timestamps: new BigInt64Array(),
      routes: [],
      reasons: [],
    };
  },
};
