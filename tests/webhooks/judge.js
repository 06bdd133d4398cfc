// What should become of each webhook, by Node's own HMAC and the validator Ajv. Prints one JSON
// object a line: the verdict (signature-mismatch, schema-violation, filtered or delivered) and, for
// a delivered one, the message that should come out.
//
// usage: node judge.js WEBHOOKS.ndjson SCHEMA.json
import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import Ajv from "ajv";

const [webhooks, schemaFile] = process.argv.slice(2);
// As in the pipeline, "format" is an annotation, which is what draft-07 says where nothing else is asked.
const ajv = new Ajv({ strict: false, validateFormats: false });
const isValid = ajv.compile(JSON.parse(readFileSync(schemaFile, "utf8")));

function judge({ headers, payload }) {
  const hmac = createHmac("sha256", process.env.WEBHOOK_SECRET).update(payload, "utf8").digest("hex");
  if (headers["x-hub-signature-256"] !== `sha256=${hmac}`) return { verdict: "signature-mismatch" };
  const body = JSON.parse(payload);
  if (!isValid(body)) return { verdict: "schema-violation" };
  if (body.action !== "opened") return { verdict: "filtered" };
  return {
    verdict: "delivered",
    message: { repo: body.repository?.full_name ?? null, by: body.sender?.login ?? null },
  };
}

for (const line of readFileSync(webhooks, "utf8").split("\n")) {
  if (line !== "") console.log(JSON.stringify(judge(JSON.parse(line))));
}
