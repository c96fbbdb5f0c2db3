// Calls the server in the environment, and the upstream behind it, with one client.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const [folder, photo] = process.argv.slice(2);
const OpenAI = createRequire(path.join(folder, "x.js"))("openai");
const client = new OpenAI({ maxRetries: 0 });

const stream = await client.chat.completions.create({
  model: "gpt-9",
  messages: [{ role: "user", content: "Describe the photo." }],
  stream: true,
});
const words = [];
for await (const chunk of stream) {
  if (chunk.choices[0].delta.content) words.push(chunk.choices[0].delta.content);
}
const embeddings = await client.embeddings.create({
  model: "m",
  input: "x",
  encoding_format: "float",
});
const file = await client.files.create({
  file: await OpenAI.toFile(Buffer.from("{}\n".repeat(100000)), "a.jsonl"),
  purpose: "batch",
});
const models = [];
for await (const model of client.models.list()) models.push(model.id);
let error;
try {
  await client.post("/limited", { body: {} });
} catch (caught) {
  error = [caught.constructor.name, caught.code];
}
const images = await client.images.createVariation({
  image: fs.createReadStream(photo),
  size: "256x256",
});
console.log(
  JSON.stringify({
    words,
    embedding: embeddings.data[0].embedding,
    bytes: file.bytes,
    models,
    error,
    image: images.data[0].url,
  }),
);
