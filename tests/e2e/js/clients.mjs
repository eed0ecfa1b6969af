// What the official JavaScript SDKs make of the gateway, as one JSON object on standard output.
// Arguments: the gateway's address, an API key.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const [base, key] = process.argv.slice(2);
const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: base, apiKey: key, maxRetries: 0 });
const messages = [{ role: "user", content: "count" }];
const tools = [{ name: "lookup", description: "Looks things up.", schema: { type: "object", properties: {} } }];

async function refused(asking) {
  try {
    await asking;
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, code: error.code ?? error.error?.error?.type };
  }
}

async function chat(model) {
  const whole = await openai.chat.completions.create({ model, messages });
  let text = "";
  let usage;
  const options = { model, messages, stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await openai.chat.completions.create(options)) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  return { whole: whole.choices[0].message.content, streamed: text, tokens: usage.completion_tokens };
}

async function chatTool(model) {
  const functions = tools.map(({ schema, ...tool }) => ({ type: "function", function: { ...tool, parameters: schema } }));
  const stream = openai.chat.completions.stream({ model, messages, tools: functions });
  const [call] = (await stream.finalChatCompletion()).choices[0].message.tool_calls;
  return { name: call.function.name, arguments: JSON.parse(call.function.arguments) };
}

async function responses(model) {
  const whole = await openai.responses.create({ model, input: "count" });
  const stream = openai.responses.stream({ model, input: "count" });
  const numbers = [];
  for await (const event of stream) numbers.push(event.sequence_number);
  const inOrder = numbers.every((number, index) => number === index);
  return { whole: whole.output_text, streamed: (await stream.finalResponse()).output_text, inOrder };
}

async function messagesOf(model) {
  const whole = await anthropic.messages.create({ model, max_tokens: 100, messages });
  const stream = anthropic.messages.stream({ model, max_tokens: 100, messages });
  return { whole: whole.content[0].text, streamed: await stream.finalText(), stop: whole.stop_reason };
}

async function messagesTool(model) {
  const offered = tools.map(({ schema, ...tool }) => ({ ...tool, input_schema: schema }));
  const stream = anthropic.messages.stream({ model, max_tokens: 100, messages, tools: offered });
  const call = (await stream.finalMessage()).content.find((block) => block.type === "tool_use");
  return { name: call.name, arguments: call.input };
}

const told = { chat: {}, chatTool: {}, responses: {}, messages: {}, messagesTool: {} };
for (const vendor of ["openai", "anthropic", "gemini", "ollama", "responses"]) {
  told.chat[vendor] = await chat(`${vendor}-tok8`);
  told.chatTool[vendor] = await chatTool(`${vendor}-tool`);
  told.responses[vendor] = await responses(`${vendor}-tok8`);
  told.messages[vendor] = await messagesOf(`${vendor}-tok8`);
  told.messagesTool[vendor] = await messagesTool(`${vendor}-tool`);
}
told.unknownModel = await refused(openai.chat.completions.create({ model: "nobody", messages }));
told.unknownModelAnthropic = await refused(anthropic.messages.create({ model: "nobody", max_tokens: 5, messages }));
const stranger = new OpenAI({ baseURL: `${base}/v1`, apiKey: "nobody", maxRetries: 0 });
told.unknownKey = await refused(stranger.chat.completions.create({ model: "openai-tok8", messages }));
console.log(JSON.stringify(told));
