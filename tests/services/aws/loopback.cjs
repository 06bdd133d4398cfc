// Servers listen on loopback alone, whatever the program that this is put before says (node --require).
const net = require("node:net");

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  const port = typeof args[0] === "object" ? args[0].port : args[0];
  const listening = args.find((argument) => typeof argument === "function");
  return listen.call(this, { host: "127.0.0.1", port }, listening);
};
