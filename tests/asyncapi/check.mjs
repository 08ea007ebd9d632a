// Whether a file is a valid AsyncAPI document, and what AsyncAPI's own parser makes of it.
//
//     node check.mjs FILE
import { readFileSync } from 'node:fs';
import parser from '@asyncapi/parser';

const { document, diagnostics } = await new parser.Parser().parse(readFileSync(process.argv[2], 'utf8'));
// Severity 0 is an error, 1 a warning; the rest is advice about style.
const found = diagnostics.filter(({ severity }) => severity <= 1);
for (const { path, message, code } of found) console.error(`${code}: ${path.join('.')}: ${message}`);
const channels = document?.allChannels().all() ?? [];
const messages = document?.allMessages().all() ?? [];
console.log(`${channels.length} channels, ${messages.length} messages, ${found.length} errors and warnings`);
if (found.length || channels.length < 2 || messages.length < 5) process.exit(1);
