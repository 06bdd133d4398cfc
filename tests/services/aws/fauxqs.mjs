// SQS, SNS and S3 on loopback alone, which the program `fauxqs` itself cannot be told: fauxqs.mjs PORT
import { buildApp } from "fauxqs";

const app = buildApp({ logger: false });
await app.listen({ host: "127.0.0.1", port: Number(process.argv[2]) });
