// An HTTP gateway that knows of Bluejay what docs/configuration.md says: it takes texts as JSON, answers
// with an id of its own, and reports with signed events.
//
// Usage: gateway.js --token T --secret S --callback URL
// A line on standard input "say FROM TEXT" sends a text from a phone, "forge FROM TEXT" one that is signed
// with another secret, "token T" changes the token. Each event is one JSON line on standard output.
'use strict'
const { createHmac } = require('crypto')
const http = require('http')
const args = process.argv.slice(2)
const flag = name => args[args.indexOf('--' + name) + 1]
const print = o => process.stdout.write(JSON.stringify(o) + '\n')

let token = flag('token')
let seq = 0

function tell (event, secret = flag('secret')) {
  const body = JSON.stringify(event)
  const t = Math.floor(Date.now() / 1000)
  const v1 = createHmac('sha256', secret).update(t + '.' + body).digest('hex')
  const request = http.request(flag('callback') + '/event', { method: 'POST', headers: { 'Bluejay-Signature': `t=${t},v1=${v1}` } }, answer => {
    answer.resume()
    print({ event: 'told', status: answer.statusCode })
    if (answer.statusCode === 503) setTimeout(() => tell(event, secret), 50)
  })
  request.on('error', () => setTimeout(() => tell(event, secret), 50))
  request.end(body)
}

const server = http.createServer((request, answer) => {
  const say = (status, o) => { answer.writeHead(status, { 'Content-Type': 'application/json' }); answer.end(JSON.stringify(o)) }
  if (request.headers.authorization !== 'Bearer ' + token) return say(401, {})
  if (request.method === 'GET') return say(200, {})
  let body = ''
  request.on('data', chunk => { body += chunk }).on('end', () => {
    const { to, from, text, minutes } = JSON.parse(body)
    const id = 'g-' + (++seq)
    print({ event: 'submit', to, from, text, validity: String(minutes), id })
    say(202, { messages: [{ id }] })
    const state = (text.match(/\[state=(\w+)\]/) || [])[1] || 'delivered'
    tell({ event: 'receipt', id, to, state })
  })
})
server.listen(0, '127.0.0.1', () => print({ event: 'listening', port: server.address().port }))

require('readline').createInterface({ input: process.stdin }).on('line', line => {
  const [what, from, ...words] = line.split(' ')
  const incoming = { event: 'incoming', from, to: '12345', text: words.join(' ') }
  if (what === 'say') tell(incoming)
  else if (what === 'forge') tell(incoming, 'the secret of somebody else')
  else if (what === 'token') token = from
}).on('close', () => process.exit(0))
