// Write greedily with llama.cpp, in turns with another program: a JSON line a question, a JSON line an answer.
// node llama.mjs PACKAGE MODEL.gguf THREADS CONTEXT TEXTS; a question is {ids, tokens, texts}, an answer {seconds, written}.
// PACKAGE is the folder of node-llama-cpp that scripts/llama_cpp has installed.
import {createInterface} from "node:readline";

const [, , home, modelPath, threads, contextSize, sequences] = process.argv;
const {getLlama, LlamaLogLevel} = await import(`${home}/dist/index.js`);
const llama = await getLlama({gpu: false, maxThreads: +threads, build: "never", logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath, gpuLayers: 0});
const context = await model.createContext({threads: +threads, contextSize: +contextSize, sequences: +sequences});
const all = Array.from({length: +sequences}, () => context.getSequence());

async function write(sequence, {ids, tokens}) {
    await sequence.clearHistory();
    const written = [];
    for await (const token of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
        written.push(token);
        if (written.length >= tokens) break;
    }
    return written;
}

for await (const line of createInterface({input: process.stdin})) {
    const question = JSON.parse(line);
    const begin = performance.now();
    // llama.cpp reads the next tokens of all texts that wait for one in a batch.
    const written = await Promise.all(all.slice(0, question.texts).map((each) => write(each, question)));
    console.log(JSON.stringify({seconds: (performance.now() - begin) / 1e3, written}));
}
process.exit(0);
