// Makes a component of plugin.js.
//
// usage: node build.js FOLDER-OF-WIT OUTPUT.wasm
import { readFileSync, writeFileSync } from "node:fs";
import { componentize } from "@bytecodealliance/componentize-js";

const [witPath, output] = process.argv.slice(2);
const { component } = await componentize(readFileSync("plugin.js", "utf8"), {
  witPath,
  worldName: "plugin",
  // The engine asks these of the system when it starts, which no plugin may. "stdio" stays, for it
  // is only asked for when something is printed.
  disableFeatures: ["clocks", "random", "http", "fetch-event"],
});
writeFileSync(output, component);
