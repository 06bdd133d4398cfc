// Makes a component of a plugin: node build.js PLUGIN.js OUTPUT.wasm FOLDER-OF-WIT
//
// The files that it imports lie beside it.
import { writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { componentize } from "@bytecodealliance/componentize-js";

const [plugin, output, witPath] = process.argv.slice(2);
const { component } = await componentize({
  sourcePath: resolve(plugin),
  witPath: resolve(witPath),
  worldName: "plugin",
  // The engine asks these of the system when it starts, which no plugin may. "stdio" stays, for it
  // is only asked for when something is printed.
  disableFeatures: ["clocks", "random", "http", "fetch-event"],
});
writeFileSync(output, component);
