// node deliver.mjs SOCKET PROJECT: publishes each line of stdin, a JSON array of events, as a
// batch; prints what the daemon says. At the end of stdin it ends when all is acknowledged.
import readline from "node:readline";
import { Client } from "./client.mjs";

let ended = false;
const client = new Client(process.argv[2], process.argv[3], (message) => {
  console.log(JSON.stringify(message));
  setImmediate(endIfDone);
});
function endIfDone() {
  if (ended && !client.over && client.kept.length === 0) client.goodbye();
}
const lines = readline.createInterface({ input: process.stdin });
lines.on("line", (line) => client.publish(JSON.parse(line)));
lines.on("close", () => { ended = true; endIfDone(); });
