// Ask llama.cpp about a GGUF: its tokens of a text, what it goes on with, and log-probabilities.
// node llama.mjs PACKAGE MODEL.gguf < QUESTION, a JSON {text, ids, tokens, exact}; prints a JSON. PACKAGE is the folder
// of node-llama-cpp that scripts/llama_cpp has installed; exact: attention in 32 bits, where llama.cpp's own has 16.
import {readFileSync} from "node:fs";

const [, , home, modelPath] = process.argv;
const {getLlama, LlamaLogLevel} = await import(`${home}/dist/index.js`);
const question = JSON.parse(readFileSync(0, "utf8"));
const llama = await getLlama({gpu: false, maxThreads: 1, build: "never", logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath, gpuLayers: 0});
const exact = {experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32", flashAttention: false};
const context = await model.createContext({threads: 1, contextSize: 128, ...(question.exact ? exact : {})});
const sequence = context.getSequence();

const greedy = [];
for await (const token of sequence.evaluate(question.ids, {temperature: 0, yieldEogToken: true})) {
    greedy.push(token);
    if (greedy.length >= question.tokens) break;
}
await sequence.clearHistory();
const read = question.ids;
const found = await sequence.controlledEvaluate(
    read.map((token) => [token, {generateNext: {probabilities: true}}])
);
const logp = read.slice(1).map((token, i) => Math.log(found[i].next.probabilities.get(token)));
console.log(JSON.stringify({
    ids: model.tokenize(question.text ?? "", false),
    addsBos: model.tokens.shouldPrependBosToken,
    eos: model.tokens.eos, greedy, logp,
}));
process.exit(0);
