// Calls the server in the environment with the openai package in a folder, and prints the results.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const [folder, retries, photo] = process.argv.slice(2);
const OpenAI = createRequire(path.join(folder, "x.js"))("openai");
const client = new OpenAI({ maxRetries: 0 });
const image = () => fs.createReadStream(photo);
const answers = [];
for (const n of [1, 10]) {
  for (const size of ["256x256", "512x512", "1024x1024"]) {
    for (const response_format of ["url", "b64_json"]) {
      const response = await client.images.createVariation({ image: image(), n, size, response_format });
      answers.push([n, size, response_format, response.data.map((entry) => entry[response_format])]);
    }
  }
}

const errors = {};
async function fails(status, call) {
  try {
    await call;
    errors[status] = "none";
  } catch (error) {
    errors[status] = [error.constructor.name, error.status, error.code ?? null];
  }
}
const wrong = new OpenAI({ apiKey: "sk-wrong", maxRetries: 0 });
await fails(400, client.images.createVariation({ image: image(), size: "1x1" }));
await fails(401, wrong.images.createVariation({ image: image() }));
await fails(404, client.models.retrieve("gpt-9"));
await fails(429, client.images.createVariation({ image: image(), user: "limit-raised" }));
await fails(500, client.images.createVariation({ image: image(), user: "fail-raised" }));

const patient = new OpenAI({ maxRetries: 2 });
const retried = [];
// Release 4 has only streams for forms, and a retry sends an empty body to any server.
for (const user of retries === "yes" ? ["limit-retried", "fail-retried"] : []) {
  // A stream cannot be sent twice; a file can.
  const file = await OpenAI.toFile(fs.readFileSync(photo), "image.png", { type: "image/png" });
  retried.push((await patient.images.createVariation({ image: file, user })).data.length);
}
console.log(JSON.stringify({ answers, errors, retried }));
