// node vectors.mjs WIRE.json: every frame decodes to its message, and encodes to its bytes.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { PREFACE, cut, frame } from "./client.mjs";
import { decode, encode } from "./msgpack.mjs";

// JSON.parse would round what is over 2^53.
const text = readFileSync(process.argv[2], "utf8").replace(/: (\d{16,})/g, ': "$1n"');
const wire = JSON.parse(text, (_, v) => (/^\d{16,}n$/.test(v) ? BigInt(v.slice(0, -1)) : v));

function expected(vector) { // raw events stand there as hex, bytes as base64
  const message = { ...vector.message };
  if (message.type === "publish") message.events = decode(Buffer.from(message.events, "hex"));
  if (message.type === "reply") message.body = Buffer.from(message.body, "base64");
  return message;
}

assert.deepEqual(PREFACE.toString("hex"), wire.preface);
let encoded = 0;
for (const vector of wire.messages) {
  const bytes = Buffer.from(vector.frame, "hex");
  assert.deepEqual([...cut({}, bytes)], [expected(vector)], vector.name);
  assert.deepEqual(decode(encode(vector.message)), vector.message, vector.name);
  if (vector.from === "client" && vector.message.type !== "publish") {
    assert.equal(frame(vector.message).toString("hex"), vector.frame, vector.name);
    encoded++;
  }
}
for (const conversation of wire.conversations) {
  for (const side of ["client", "daemon"]) {
    const said = conversation.steps.filter((step) => step.from === side);
    const stream = Buffer.from(said.map((step) => step.frame).join(""), "hex");
    for (const size of [1, 3, stream.length]) { // however it is cut
      const state = {}, found = [];
      for (let at = 0; at < stream.length; at += size) found.push(...cut(state, stream.subarray(at, at + size)));
      assert.deepEqual(found, said.map(expected), conversation.name);
    }
    if (side === "client") // what we would send ourselves, byte by byte
      for (const step of said) assert.equal(frame(expected(step)).toString("hex"), step.frame, conversation.name);
  }
}
console.log(JSON.stringify({ messages: wire.messages.length, encoded, conversations: wire.conversations.length }));
