// A route for SMS: takes texts from a node, gives them to a network (here: prints them) and reports what
// became of them.
//
//   node smsworker.mjs nats://127.0.0.1:4222 carrier.creds
import { readFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { connect, credsAuthenticator } from '@nats-io/transport-node'

const [servers, creds] = process.argv.slice(2)
if (!creds) throw new Error('usage: smsworker.mjs URL CREDENTIALS')
const nc = await connect({ servers, authenticator: credsAuthenticator(readFileSync(creds)), maxReconnectAttempts: -1 })
// In a queue group one of all your workers gets each text; otherwise each of them would send it.
const texts = nc.subscribe('bluejay.sms.submit', { queue: 'sms' })
await nc.flush()
console.error('serving')
for await (const m of texts) {
  const q = m.json()
  console.log(`SMS to ${q.to}: ${q.text}`) // your network goes here; print neither in earnest
  m.respond(JSON.stringify({ status: 'accepted' })) // or throttled, retry, permanent
  report({ event: 'receipt', id: q.id, to: q.to, state: 'delivered' })
}

// report repeats a receipt until the node has stored it.
async function report (receipt) {
  for (;;) {
    const answer = await nc.request('bluejay.sms.receipt', JSON.stringify(receipt), { timeout: 10_000 }).catch(() => null)
    if (answer?.string() === '+OK') return
    await setTimeout(1000)
  }
}
