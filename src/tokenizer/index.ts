export { CLIPTokenizer } from "./clip-tokenizer.js";
export { readTokenizerFiles, TokenizerError, type TokenizerFiles } from "./files.js";
export { JsonTokenizer } from "./json-tokenizer.js";
