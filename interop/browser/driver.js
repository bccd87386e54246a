// Starts the server, a browser and a TCP peer, and has them meet, once for each
// way that a browser has to a relay. Says what held; fails at the first thing
// that does not. Whatever it started is gone when it ends.
import './node18.js'
import { execFileSync, spawn } from 'node:child_process'
import { createHash, X509Certificate } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { build } from 'esbuild'
import puppeteer from 'puppeteer-core'
import { exchange } from './exchange.js'
import { createPeer } from './peer.js'

// Below what `run` grants, so that there is time left to clean up.
const RUN_MILLISECONDS = 100_000
const STEP_MILLISECONDS = 20_000
const HERE = dirname(fileURLToPath(import.meta.url))
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium'
// Nobody but the browser below knows where this is.
const NAME = 'relay.test'
// As the server tells it; both spellings without the name lead there too.
const SECURE = `/tls/sni/${NAME}/ws`
const WAYS = ['/ws', SECURE, '/tls/ws', '/wss']

// Undone in reverse order.
const started = []

async function main (binary) {
  const directory = mkdtempSync(join(tmpdir(), 'waystation-browser-'))
  started.push(() => rmSync(directory, { recursive: true, force: true }))
  const certificate = issueCertificate(directory)
  const server = await startServer(binary, directory, certificate)
  const site = await serveSite(await bundle())
  const browser = await startBrowser(directory, certificate)
  for (const way of WAYS) {
    await meet(server, browser, site, way)
  }
  await server.stop()
  held('the server stops cleanly')
}

// A page that reserves over `way`, and a peer that reaches it over TCP.
async function meet (server, browser, site, way) {
  const relay = server.address(way)
  const context = await browser.createBrowserContext()
  const page = await context.newPage()
  const said = []
  page.on('console', message => said.push(message.text()))
  page.on('pageerror', error => said.push(error.message))
  const inPage = (call, ...given) => page.evaluate(
    (call, given) => window.peer[call](...given), call, [...given, STEP_MILLISECONDS])
  try {
    await page.goto(site)
    const { id, dialed, made, announced } = await inPage('start', relay)
    expect(`${way}: dialed with ${made}`, dialed === relay, dialed)
    expect(`${way}: a reservation is held`, await server.metric('waystation_relay_reservations') === 1)
    expect(`${way}: the page announces the relay's address`,
      announced.includes(`${relay}/p2p-circuit/p2p/${id}`), announced)
    await inPage('ping')
    held(`${way}: ping answered`)
    await reach(server, inPage, id, way)
    await inPage('stop')
  } catch (error) {
    for (const line of said) {
      console.log(`page: ${line}`)
    }
    throw error
  } finally {
    await context.close()
  }
  for (const gauge of ['connections', 'relay_reservations', 'relay_circuits']) {
    await server.until(`waystation_${gauge}`, 0)
  }
  held(`${way}: nothing of it is left in the server`)
}

async function reach (server, inPage, id, way) {
  const peer = await createPeer(tcp())
  try {
    const target = multiaddr(`${server.address('')}/p2p-circuit/p2p/${id}`)
    const signal = AbortSignal.timeout(STEP_MILLISECONDS)
    const circuit = await peer.dial(target, { signal })
    expect(`${way}: reached over TCP through the relay`, circuit.remotePeer.toString() === id)
    expect(`${way}: with the relay's limits told`, circuit.limits?.bytes > 0n && circuit.limits?.seconds > 0)
    held(`${way}: TCP peer to page: ${await exchange(circuit, signal)}`)
    held(`${way}: page to TCP peer: ${await inPage('answer', peer.peerId.toString())}`)
  } finally {
    await peer.stop()
  }
}

// Valid for a day, and trusted by nobody but the browser below.
function issueCertificate (directory) {
  const files = { chain: join(directory, 'chain.pem'), key: join(directory, 'key.pem') }
  execFileSync('openssl', [
    'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '1',
    '-subj', `/CN=${NAME}`, '-addext', `subjectAltName=IP:127.0.0.1,DNS:${NAME}`,
    '-keyout', files.key, '-out', files.chain
  ], { stdio: 'pipe' })
  const key = new X509Certificate(readFileSync(files.chain)).publicKey
  files.pin = createHash('sha256').update(key.export({ type: 'spki', format: 'der' })).digest('base64')
  return files
}

async function startServer (binary, directory, certificate) {
  const configuration = join(directory, 'waystation.toml')
  const listen = ['', '/ws', SECURE].map(way => `/ip4/127.0.0.1/tcp/0${way}`)
  writeFileSync(configuration, [
    '[listen]', `addresses = ${JSON.stringify(listen)}`,
    '[admin]', 'address = "127.0.0.1:0"',
    '[tls]',
    `certificate_files = ${JSON.stringify([certificate.chain])}`,
    `key_files = ${JSON.stringify([certificate.key])}`,
    ''
  ].join('\n'))
  const child = spawn(resolve(binary), ['--config', configuration], {
    env: { STATE_DIRECTORY: join(directory, 'state') },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  const ended = new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code, signal) => resolve(signal ?? code))
  })
  ended.catch(() => {})
  started.push(() => child.kill('SIGKILL'))
  const log = []
  createInterface({ input: child.stderr }).on('line', line => log.push(line))
  showOnFailure = () => log.slice(-40).forEach(line => console.log(`server: ${line}`))

  const addresses = []
  let admin
  const served = new Promise(resolve => {
    createInterface({ input: child.stdout }).on('line', line => {
      const [word, value] = line.split(/\s+/)
      if (word === 'listening') {
        addresses.push(value)
      } else if (word === 'admin') {
        admin = value.startsWith('http') ? value : `http://${value}`
        resolve()
      }
    })
  })
  await within('the server starts', Promise.race([
    served,
    ended.then(how => { throw new Error(`the server ended with ${how}`) })
  ]))

  // The address that is listened on for `way`, spelled as `way` is.
  const address = way => {
    const listened = way === '/wss' || way === '/tls/ws' ? SECURE : way
    const found = addresses.find(address => address.replace(/\/p2p\/.*/, '').replace(/^.*\/tcp\/\d+/, '') === listened)
    if (found == null) {
      throw new Error(`the server does not tell of ${listened}: ${addresses}`)
    }
    return found.replace(`${listened}/p2p/`, `${way}/p2p/`)
  }
  const metric = async name => {
    const answer = await fetch(new URL('/metrics', admin), { signal: AbortSignal.timeout(STEP_MILLISECONDS) })
    const values = (await answer.text()).split('\n')
      .filter(line => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
      .map(line => Number(line.slice(line.lastIndexOf(' '))))
    if (values.length === 0) {
      throw new Error(`the server has no metric ${name}`)
    }
    return values.reduce((sum, value) => sum + value, 0)
  }
  const until = async (name, wanted) => {
    const signal = AbortSignal.timeout(STEP_MILLISECONDS)
    for (let value = await metric(name); value !== wanted; value = await metric(name)) {
      if (signal.aborted) {
        throw new Error(`${name} stays ${value} and does not become ${wanted}`)
      }
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  }
  const stop = async () => {
    child.kill('SIGTERM')
    const how = await within('the server stops', ended)
    if (how !== 0) {
      throw new Error(`the server ended with ${how}`)
    }
  }
  return { address, metric, until, stop }
}

async function bundle () {
  const { outputFiles } = await build({
    entryPoints: [join(HERE, 'page.js')],
    bundle: true,
    write: false,
    format: 'iife',
    platform: 'browser',
    target: 'chrome120',
    logLevel: 'warning'
  })
  return outputFiles[0].text
}

// Served over loopback, since browsers grant WebCrypto to no page without an
// origin. Returns the page's URL.
async function serveSite (script) {
  const types = { '/': 'text/html', '/page.js': 'text/javascript' }
  const texts = { '/': '<!doctype html><title>peer</title><link rel="icon" href="data:,"><script src="/page.js"></script>', '/page.js': script }
  const site = createServer((request, response) => {
    response.writeHead(request.url in texts ? 200 : 404, { 'content-type': types[request.url] ?? 'text/plain' })
    response.end(texts[request.url] ?? '')
  })
  await new Promise(resolve => site.listen(0, '127.0.0.1', resolve))
  started.push(() => site.close())
  return `http://127.0.0.1:${site.address().port}/`
}

async function startBrowser (directory, certificate) {
  const browser = await puppeteer.launch({
    executablePath: CHROMIUM,
    userDataDir: join(directory, 'browser'),
    timeout: 30_000,
    args: [
      // Trusts the one certificate above and still checks every other.
      `--ignore-certificate-errors-spki-list=${certificate.pin}`,
      `--host-resolver-rules=MAP ${NAME} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1`,
      '--disable-dev-shm-usage',
      '--disable-gpu',
      // Chromium's own sandbox refuses to run as root, and in most containers.
      ...(process.getuid() === 0 ? ['--no-sandbox'] : [])
    ]
  })
  started.push(() => browser.close())
  held(`${await browser.version()} runs`)
  return browser
}

let showOnFailure = () => {}

function held (promise) {
  console.log(`ok: ${promise}`)
}

function expect (promise, kept, found = '') {
  if (!kept) {
    throw new Error(`BROKEN: ${promise} ${found}`)
  }
  held(promise)
}

async function within (what, promise, milliseconds = STEP_MILLISECONDS) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${milliseconds / 1000} s: ${what}`)), milliseconds)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

async function interrupted () {
  const signal = await new Promise(resolve => {
    for (const signal of ['SIGINT', 'SIGTERM']) {
      process.once(signal, () => resolve(signal))
    }
  })
  throw new Error(`interrupted by ${signal}`)
}

let status = 0
try {
  if (process.argv.length !== 3) {
    throw new Error('usage: run BINARY')
  }
  await within('the whole run', Promise.race([main(process.argv[2]), interrupted()]), RUN_MILLISECONDS)
} catch (error) {
  status = 1
  showOnFailure()
  console.log(error.stack)
}
for (const undo of started.reverse()) {
  try {
    await within('cleaning up', Promise.resolve(undo()), 5_000)
  } catch (error) {
    console.log(`cleaning up: ${error.message}`)
  }
}
process.exit(status)
