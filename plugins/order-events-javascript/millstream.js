// What a plugin in JavaScript needs of Millstream: it turns the columns of the contract
// (plugin-sdk/wit/plugin.wit) into one message at a time, and what becomes of each into columns.

import { write } from "millstream:plugin/log@0.1.0";
import { getMany } from "millstream:plugin/lookup@0.1.0";

/** The message goes on as it is. */
export const PASS = 0;
/** The message goes no further. */
export const DROP = 1;
/** What was emitted goes on in its place; nothing, if nothing was. */
export const EMIT = 2;

const REJECT = 3;
const RETRY = 4;
/** "There is none", in place of an address. */
const NONE = 0xffff_fffe;
/** "As in the parent row", in place of an address or a route. */
const AS_PARENT = 0xffff_ffff;
const TIMESTAMP_AS_PARENT = -(2n ** 63n);

const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** Thrown for a message that cannot be handled. `code` is short and one of few. */
export class Failure extends Error {
  constructor(verdict, code, text) {
    super(text);
    this.verdict = verdict;
    this.code = code;
  }
}

/** `throw reject(...)`: the message goes to the dead letters. */
export const reject = (code, text) => new Failure(REJECT, code, text);

/** `throw retry(...)`: the message is given again later. */
export const retry = (code, text) => new Failure(RETRY, code, text);

/** Thrown by `configure`: which field is wrong, as a JSON pointer, and why. */
export class ConfigError extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** The host's log. */
export const log = Object.fromEntries(
  ["error", "warn", "info", "debug", "trace"].map((level) => [
    level,
    (text) => write(level, currentRow, String(text)),
  ]),
);
let currentRow;

/** The rows of a table that have these keys, in their order; `undefined` where there is none. */
export function lookup(table, keys) {
  const bytes = new Bytes(0);
  const spans = keys.flatMap((key) => {
    const found = toBytes(key);
    return [bytes.put(found), found.length];
  });
  const { arena, found } = getMany(table, bytes.joined(), Uint32Array.from(spans));
  return keys.map((_, index) => {
    const row = span(arena, found, index);
    return row === null ? undefined : JSON.parse(decoder.decode(row));
  });
}

/**
 * A plugin, to be exported as `processor`:
 *
 * - `name`, `version`, `summary`: what it says of itself
 * - `reads`: what it wants of a message: "payload" (the default), "key", "headers", "metadata"
 * - `schema`: JSON Schema of its configuration
 * - `configure(config)`: called once before the first message
 * - one of `filter(message)`, which says whether a message goes on; `map(message)`, which returns its
 *   new payload; `process(message, out)`, which returns PASS, DROP or EMIT
 */
export function plugin({ name, version, summary, reads = ["payload"], schema = {}, configure, ...kinds }) {
  const process = processOf(kinds);
  return {
    describe: () => ({
      name,
      version,
      summary,
      reads: Object.fromEntries(reads.map((column) => [column, true])),
      configSchema: JSON.stringify(schema),
    }),
    configure(config) {
      try {
        configure?.(JSON.parse(config));
      } catch (error) {
        throw { field: error.field ?? "", message: error.message ?? String(error) };
      }
    },
    process(batch) {
      const out = new Output(batch);
      for (let row = 0; row < batch.rows; row++) {
        currentRow = row;
        out.begin(row);
        try {
          out.end(process(new Message(batch, row), out) ?? PASS);
        } catch (error) {
          out.fail(error);
        }
      }
      currentRow = undefined;
      return out.outcome();
    },
  };
}

function processOf({ filter, map, process }) {
  if (filter) return (message) => (filter(message) ? PASS : DROP);
  if (map) {
    return (message, out) => {
      out.emit({ payload: map(message) });
      return EMIT;
    };
  }
  return process;
}

/** One message. Bytes are views of the batch: copy what is kept beyond the call. */
class Message {
  constructor(batch, row) {
    this._batch = batch;
    this._row = row;
  }

  /** Bytes; `null` if there are none, or the plugin does not read it. */
  get payload() {
    return span(this._batch.arena, this._batch.payloads, this._row);
  }

  /** Bytes; `null` if there are none, or the plugin does not read it. */
  get key() {
    return span(this._batch.arena, this._batch.keys, this._row);
  }

  text() {
    return decoder.decode(this.payload ?? new Uint8Array());
  }

  json() {
    try {
      return JSON.parse(this.text());
    } catch (error) {
      throw reject("payload-not-json", error.message);
    }
  }

  /** Names and values of all headers, as texts. */
  get headers() {
    const { arena, headers, headerEnds } = this._batch;
    const all = [];
    const end = headerEnds[this._row] ?? 0;
    for (let header = this._row === 0 ? 0 : headerEnds[this._row - 1]; header < end; header++) {
      const name = decoder.decode(span(arena, headers, header * 2));
      all.push([name, decoder.decode(span(arena, headers, header * 2 + 1))]);
    }
    return all;
  }

  /** The first header of this name, whatever its case; `undefined` if there is none. */
  header(name) {
    const { arena, headers, headerEnds } = this._batch;
    const end = headerEnds[this._row] ?? 0;
    name = name.toLowerCase();
    const { length } = toBytes(name);
    for (let header = this._row === 0 ? 0 : headerEnds[this._row - 1]; header < end; header++) {
      // The names alone: a text of each value would cost as much again. Case changes no length in ASCII.
      if (headers[header * 4 + 1] !== length) continue;
      const other = decoder.decode(span(arena, headers, header * 2));
      if (other.toLowerCase() === name) return decoder.decode(span(arena, headers, header * 2 + 1));
    }
    return undefined;
  }

  /** Event time, in milliseconds since 1970. */
  get timestamp() {
    return number(this._batch.timestamps[this._row]);
  }

  get partition() {
    return this._batch.partitions[this._row];
  }

  get offset() {
    return number(this._batch.offsets[this._row]);
  }

  /** Name of the source. */
  get source() {
    return this._batch.source;
  }

  /** Wall-clock time of the call, in milliseconds since 1970: there is no other clock. */
  get now() {
    return number(this._batch.now);
  }
}

/** What becomes of the messages of a batch. The engine has no compiler here: the loops are plain. */
class Output {
  constructor(batch) {
    this._arena = batch.arena;
    this._buffer = batch.arena.buffer;
    this._bytes = new Bytes(batch.arena.length);
    this._verdicts = [];
    this._emitted = [];
    this._headers = [];
    this._timestamps = [];
    this._timed = false;
    this._routes = [];
    this._routeIndexes = new Map();
    this._reasons = [];
  }

  /**
   * Gives a new message, which is as the one it comes from but for what is said here:
   * `payload` and `key` (bytes, a text, `null`, or a value that is written as JSON), `headers` (an
   * object, or pairs where names repeat; they take the place of those of their names, and `null`
   * removes those), `replaceHeaders` (these replace all), `timestamp`, `routes`.
   */
  emit(message = {}) {
    const { headers, timestamp, routes } = message;
    let count = 0;
    if (Array.isArray(headers)) {
      for (const [name, value] of headers) this._header(name, value);
      count = headers.length;
    } else if (headers !== undefined) {
      for (const name in headers) {
        this._header(name, headers[name]);
        count++;
      }
    }
    const emitted = this._emitted;
    emitted.push(this._row);
    this._put(emitted, message.payload);
    this._put(emitted, message.key);
    emitted.push(count);
    emitted.push(message.replaceHeaders ? 1 : 0);
    emitted.push(routes === undefined ? AS_PARENT : this._routeSet(routes));
    if (timestamp !== undefined) this._timed = true;
    this._timestamps.push(timestamp);
  }

  begin(row) {
    this._row = row;
    this._firstEmitted = this._emitted.length;
    this._firstHeader = this._headers.length;
  }

  end(verdict) {
    if (verdict !== EMIT) this._discard();
    this._verdicts.push(verdict);
  }

  fail(error) {
    this._discard();
    const known = error instanceof Failure;
    this._verdicts.push(known ? error.verdict : REJECT);
    const [code, text] = known ? [error.code, error.message] : ["exception", `${error}\n${error?.stack ?? ""}`];
    this._reasons.push({ row: this._row, code, text });
  }

  outcome() {
    const time = (given) => (given === undefined ? TIMESTAMP_AS_PARENT : BigInt(given));
    return {
      verdicts: Uint8Array.from(this._verdicts),
      arena: this._bytes.joined(),
      emitted: Uint32Array.from(this._emitted),
      headers: Uint32Array.from(this._headers),
      timestamps: BigInt64Array.from(this._timed ? this._timestamps.map(time) : []),
      routes: this._routes,
      reasons: this._reasons,
    };
  }

  _discard() {
    this._emitted.length = this._firstEmitted;
    this._timestamps.length = this._firstEmitted / 8;
    this._headers.length = this._firstHeader;
  }

  _header(name, value) {
    this._put(this._headers, name);
    this._put(this._headers, value);
  }

  /** Appends the address of a value, and its length. */
  _put(addresses, value) {
    if (value === undefined || value === null) {
      addresses.push(value === null ? NONE : AS_PARENT);
      addresses.push(0);
      return;
    }
    const bytes = toBytes(value);
    // What was given need not be copied.
    const given = bytes === value && bytes.buffer === this._buffer;
    addresses.push(given ? bytes.byteOffset - this._arena.byteOffset : this._bytes.put(bytes));
    addresses.push(bytes.length);
  }

  _routeSet(routes) {
    const name = routes.join("\0");
    let index = this._routeIndexes.get(name);
    if (index === undefined) {
      index = this._routes.push(routes) - 1;
      this._routeIndexes.set(name, index);
    }
    return index;
  }
}

/** Bytes one after the other, which begin at an address. */
class Bytes {
  constructor(start) {
    this._end = start;
    this._start = start;
    this._pieces = [];
  }

  /** Where they are. */
  put(bytes) {
    const address = this._end;
    this._pieces.push(bytes);
    this._end = address + bytes.length;
    return address;
  }

  joined() {
    const all = new Uint8Array(this._end - this._start);
    let at = 0;
    for (const piece of this._pieces) {
      all.set(piece, at);
      at += piece.length;
    }
    return all;
  }
}

/** Short texts that were written before, such as names of headers. */
const written = new Map();
const MOST_WRITTEN = 256;

function toBytes(value) {
  if (typeof value !== "string") {
    return value instanceof Uint8Array ? value : encoder.encode(JSON.stringify(value));
  }
  if (value.length > 32) return encoder.encode(value);
  let bytes = written.get(value);
  if (bytes === undefined) {
    if (written.size === MOST_WRITTEN) written.clear();
    bytes = encoder.encode(value);
    written.set(value, bytes);
  }
  return bytes;
}

/** The bytes of a span of `arena`, or `null`. */
function span(arena, spans, index) {
  const start = spans[index * 2];
  return start === undefined || start === NONE ? null : arena.subarray(start, start + spans[index * 2 + 1]);
}

function number(integer) {
  return integer === undefined ? undefined : Number(integer);
}
