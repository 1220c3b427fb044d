// A client of tallymarkd in Node.js, written from docs/PROTOCOL.md alone; no packages.
import net from "node:net";
import { randomBytes } from "node:crypto";
import { decode, encode, u32 } from "./msgpack.mjs";

export const PREFACE = Buffer.from([0xc1, 0x54, 0x4d, 0x01]);

export function frame(message) {
  const payload = encode(message);
  return Buffer.concat([u32(payload.length, "LE"), payload]);
}

export function* cut(state, data) { // the messages that are complete; state.rest keeps the others
  state.rest = Buffer.concat([state.rest ?? Buffer.alloc(0), data]);
  while (state.rest.length >= 4 && state.rest.length >= 4 + state.rest.readUInt32LE()) {
    const end = 4 + state.rest.readUInt32LE();
    yield decode(state.rest.subarray(4, end));
    state.rest = state.rest.subarray(end);
  }
}

export function uuid7() {
  const bytes = Buffer.concat([Buffer.alloc(6), randomBytes(10)]);
  bytes.writeUIntBE(Date.now(), 0, 6);
  bytes[6] = 0x70 | (bytes[6] & 15);
  bytes[8] = 0x80 | (bytes[8] & 63);
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

// One producer. What is not acknowledged is kept as it was first framed, and sent again.
export class Client {
  constructor(path, project, tell) {
    Object.assign(this, { path, tell, seq: 0, kept: [], failures: 0 });
    this.hello = { type: "hello", protocol_min: 1, protocol_max: 1, producer: uuid7(), project, client: "node" };
  }
  publish(events) {
    const batch = { seq: ++this.seq, frame: frame({ type: "publish", seq: this.seq, count: events.length, events }) };
    this.kept.push(batch);
    if (this.open) this.socket.write(batch.frame);
    else if (!this.socket) this.connect();
  }
  connect() {
    const socket = (this.socket = net.connect(this.path)), state = {};
    const mine = (act) => (...args) => this.socket === socket && act(...args);
    socket.on("connect", () => socket.write(Buffer.concat([PREFACE, frame(this.hello)])));
    socket.on("data", (data) => [...cut(state, data)].forEach(mine((message) => this.take(message))));
    socket.on("error", () => {}); // "close" follows
    socket.on("close", mine(() => this.connectLater()));
  }
  connectLater(leastSeconds = 0) {
    this.socket?.destroy();
    this.open = this.socket = undefined;
    const seconds = Math.min(0.05 * 2 ** this.failures++, 5) * (0.5 + Math.random() / 2);
    if (!this.over) setTimeout(() => this.socket ?? (this.kept.length && this.connect()), 1000 * Math.max(seconds, leastSeconds));
  }
  take(message) {
    this.tell(message);
    if (message.type === "welcome") {
      this.failures = 0;
      this.settle(message.durable_seq);
      this.resend();
    } else if (message.type === "ack") this.settle(message.through_seq);
    else if (message.type === "refused") this.over = true;
    else if (message.type === "goodbye") this.connectLater();
    else if (message.type === "nack") {
      const seconds = message.retry_after_seconds ?? 1, socket = this.socket;
      if (this.open === undefined) return this.connectLater(seconds); // instead of the welcome
      if (this.open) setTimeout(() => this.socket === socket && this.resend(), seconds * 1000);
      this.open = false; // batches on their way get a nack as well: one pause is enough
    }
  }
  settle(seq) { this.kept = this.kept.filter((batch) => batch.seq > seq); }
  resend() {
    this.open = true;
    for (const batch of this.kept) this.socket.write(batch.frame);
  }
  goodbye() { // once nothing is kept
    this.over = true;
    this.socket?.end(frame({ type: "goodbye" }));
  }
}
