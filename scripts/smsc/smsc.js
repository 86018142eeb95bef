// An SMSC on npm's smpp that does what each text says, in square brackets:
//
//   [status=0x0b]   refuse every part with this command_status
//   [first=0x08*2]  refuse the first two submissions of this text with this status
//   [part=3,0x0b]   refuse the third part only
//   [silent]        take it, answer nothing        [drop]   take it, cut the link without an answer
//   [hold]          take it, answer when told "answer"
//   [once]          the three above at the first submission of this text only
//   [early]         report before the answer       [late=300]  report after so many ms, answered or not
//   [double]        report twice                   [orphan] report under an id nobody was given
//   [state=UNDELIV] report this state              [mute]   report nothing
//
// Usage: smsc.js --port 0 --password P [--rate N] [--ids fresh|hex|hexdec|constant|empty] [--mute-bind]
//          [--key FILE --cert FILE]: with TLS
// A line on standard input "say FROM TO TEXT" sends a text from a phone; "answer" answers what was held;
// "garble" sends broken PDUs on every link, "fuzz N SEED" N damaged ones whose length is right. Each event
// is one JSON line on standard output.
'use strict'
const smpp = require('smpp')
const args = process.argv.slice(2)
const flag = (name, otherwise) => { const i = args.indexOf('--' + name); return i < 0 ? otherwise : args[i + 1] }
const has = name => args.includes('--' + name)
const print = o => process.stdout.write(JSON.stringify(o) + '\n')

const password = flag('password', 'secret')
const rate = Number(flag('rate', 0))
const ids = flag('ids', 'fresh')
const sessions = new Set()
const tried = new Map() // text → submissions
let seq = 0
let second = 0
let inSecond = 0
const held = []

// text is what a part says, and which part it is. The library splits the header into elements:
// 00 03 | reference | of | index (3GPP TS 23.040 section 9.2.3.24.1).
function text (pdu) {
  const { message, udh } = pdu.short_message
  const joined = (udh || []).find(e => e.length === 5 && e[0] === 0)
  const part = joined ? { ref: joined[2], of: joined[3], index: joined[4] } : { ref: 0, of: 1, index: 1 }
  return { body: Buffer.isBuffer(message) ? message.toString('latin1') : message, part }
}

function newIDs () {
  seq++
  switch (ids) {
    case 'hex': return [seq.toString(16).padStart(8, '0'), seq.toString(16).padStart(8, '0')]
    case 'hexdec': return [(seq + 4096).toString(16), String(seq + 4096)]
    case 'constant': return ['7', '7']
    case 'empty': return ['', '']
  }
  return [String(seq), String(seq)]
}

function report (session, pdu, id, state) {
  const receipt = {
    source_addr: pdu.destination_addr, source_addr_ton: 1, source_addr_npi: 1, destination_addr: pdu.source_addr,
    esm_class: 4, short_message: { message: `id:${id} sub:001 dlvrd:001 submit date:2601010000 done date:2601010000 stat:${state} err:000 text:sent` }
  }
  const again = after => setTimeout(() => report(session, pdu, id, state), after)
  const live = session.closed ? [...sessions].pop() : session
  if (!live) return again(100) // as an SMSC does that stores what it cannot deliver
  const lost = () => again(20)
  live.once('close', lost)
  live.deliver_sm(receipt, answer => {
    live.removeListener('close', lost)
    if (answer.command_status === 0x64) return again(20)
    print({ event: 'reported', to: pdu.destination_addr })
  })
}

// throttled reports whether this second has had its share.
function throttled () {
  if (!rate) return false
  const now = Math.floor(Date.now() / 1000)
  if (now !== second) { second = now; inSecond = 0 }
  return ++inSecond > rate
}

function submit (session, pdu) {
  const { body, part } = text(pdu)
  const find = name => { const m = body.match(new RegExp('\\[' + name + '(?:=([^\\]]*))?\\]')); return m && (m[1] === undefined ? true : m[1]) }
  const line = {
    event: 'submit', to: pdu.destination_addr, from: pdu.source_addr, ton: pdu.source_addr_ton, coding: pdu.data_coding,
    validity: pdu.validity_period, text: body, ...part, status: 0, at: Date.now()
  }
  const refuse = status => { print({ ...line, status }); session.send(pdu.response({ command_status: status })) }
  if (throttled()) return refuse(0x58)
  const key = pdu.destination_addr + '|' + body
  const times = (tried.get(key) || 0) + 1
  tried.set(key, times)
  const first = find('first')
  if (first) { const [status, n] = first.split('*'); if (times <= Number(n)) return refuse(Number(status)) }
  if (find('status')) return refuse(Number(find('status')))
  if (find('part')) { const [index, status] = find('part').split(','); if (part.index === Number(index)) return refuse(Number(status)) }
  const [answer, reported] = newIDs()
  print({ ...line, id: answer })
  const state = find('state') || 'DELIVRD'
  const tell = () => {
    if (find('mute')) return
    if (find('orphan')) report(session, pdu, '999999999', state)
    report(session, pdu, reported, state)
    if (find('double')) report(session, pdu, reported, state)
  }
  const early = find('early')
  const late = find('late')
  const now = times === 1 || !find('once')
  if (early) tell()
  if (now && (find('silent') || find('drop'))) {
    if (late) setTimeout(tell, Number(late))
    if (find('drop')) session.socket.destroy()
    return
  }
  const accept = () => {
    session.send(pdu.response({ message_id: answer }))
    if (!early && pdu.registered_delivery) setTimeout(tell, Number(late || 1))
  }
  if (now && find('hold')) held.push(accept)
  else accept()
}

// fuzz sends n damaged PDUs on a link, the same for one seed: valid ones of several kinds with bytes
// changed, cut off or added behind the command. The length is right, so that the link could go on.
function fuzz (session, n, seed) {
  const random = below => {
    seed ^= seed << 13; seed ^= seed >>> 17; seed ^= seed << 5
    return (seed >>> 0) % below
  }
  const address = { source_addr: '447409999999', destination_addr: '12345' }
  const kinds = [
    { command: 'deliver_sm', ...address, short_message: 'damaged' },
    { command: 'deliver_sm', ...address, esm_class: 4, receipted_message_id: '4711', message_state: 2, short_message: { message: 'id:4711 stat:DELIVRD' } },
    { command: 'deliver_sm', ...address, esm_class: 0x40, short_message: { udh: Buffer.from([5, 0, 3, 1, 2, 1]), message: 'one of two' } },
    { command: 'submit_sm_resp', message_id: '4711' }, { command: 'query_sm', message_id: '4711' },
    { command: 'data_sm', ...address, message_payload: 'damaged' }, { command: 'generic_nack' }
  ]
  for (let i = 0; i < n; i++) {
    const { command, ...fields } = kinds[random(kinds.length)]
    let b = new smpp.PDU(command, { ...fields, sequence_number: 0x40000000 + i }).toBuffer()
    for (let k = random(5); k > 0; k--) if (b.length > 16) b[16 + random(b.length - 16)] = random(256)
    if (random(3) === 0) b = b.subarray(0, 16 + random(b.length - 15))
    if (random(3) === 0) b = Buffer.concat([b, Buffer.from(Array.from({ length: random(300) }, () => random(256)))])
    b.writeUInt32BE(b.length, 0)
    session.socket.write(b)
  }
  print({ event: 'fuzzed' })
}

const pem = name => flag(name) && require('fs').readFileSync(flag(name))
const server = smpp.createServer({ key: pem('key'), cert: pem('cert') }, session => {
  print({ event: 'connected' })
  session.setMaxListeners(0) // one for each receipt on its way
  session.on('error', () => {})
  session.on('close', () => { session.closed = true; sessions.delete(session); print({ event: 'closed' }) })
  if (has('mute-bind')) return
  const bind = pdu => {
    const ok = pdu.password === password
    print({ event: 'bind', ok })
    session.send(pdu.response({ command_status: ok ? 0 : 0x0e }))
    if (ok) sessions.add(session)
  }
  session.on('bind_transceiver', bind)
  session.on('bind_transmitter', bind)
  session.on('bind_receiver', bind)
  session.on('enquire_link', pdu => session.send(pdu.response()))
  session.on('unbind', pdu => { session.send(pdu.response()); session.close() })
  session.on('submit_sm', pdu => submit(session, pdu))
})
server.listen(Number(flag('port', 0)), '127.0.0.1', () => print({ event: 'listening', port: server.address().port }))

require('readline').createInterface({ input: process.stdin }).on('line', line => {
  const [what, from, to, ...words] = line.split(' ')
  if (what === 'say') {
    for (const s of [...sessions].slice(-1)) s.deliver_sm({ source_addr: from, source_addr_ton: 1, destination_addr: to, short_message: words.join(' ') })
  } else if (what === 'answer') {
    held.splice(0).forEach(accept => accept())
  } else if (what === 'fuzz') {
    for (const s of [...sessions].slice(-1)) fuzz(s, Number(from), Number(to))
  } else if (what === 'garble') {
    for (const s of sessions) s.socket.write(Buffer.from('0000001000000005000000000000000a' + '00000014000000030000000000000001deadbeef', 'hex'))
  }
}).on('close', () => process.exit(0))
