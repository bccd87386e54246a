// The protocols that the two peers speak with each other, the same in the page
// and in Node.js. Messages fit in what a circuit may carry by default.

// Sends back each chunk as it comes.
const ECHO = '/waystation-interop/echo/1.0.0'
// Sends back everything, reversed, once the other side has closed its half: an
// answer proves that the close came through and that it was of one half only.
const REVERSE = '/waystation-interop/reverse/1.0.0'

const CHUNKS = 8
const CHUNK_BYTES = 1021
const WHOLE_BYTES = 20_011
// Both peers are told of a circuit's limits and so call it limited.
const OVER_CIRCUITS = { runOnLimitedConnection: true }

export async function serve (node) {
  await node.handle(ECHO, async stream => {
    for await (const chunk of stream) {
      stream.send(chunk.slice())
    }
    await stream.close()
  }, OVER_CIRCUITS)
  await node.handle(REVERSE, async stream => {
    const whole = await collect(stream)
    stream.send(whole.reverse())
    await stream.close()
  }, OVER_CIRCUITS)
}

// Both exchanges over this connection; says what went through.
export async function exchange (connection, signal) {
  for (const [protocol, talk] of [[ECHO, echo], [REVERSE, reverse]]) {
    const stream = await connection.newStream(protocol, { signal, ...OVER_CIRCUITS })
    // Ends whatever waits for the other side.
    const late = () => stream.abort(signal.reason)
    signal.addEventListener('abort', late, { once: true })
    await talk(stream)
    signal.removeEventListener('abort', late)
  }
  return `${CHUNKS} chunks one by one, ${WHOLE_BYTES} bytes past a half-close`
}

// Each chunk is sent when the one before is back.
async function echo (stream) {
  const answers = stream[Symbol.asyncIterator]()
  for (let turn = 0; turn < CHUNKS; turn++) {
    const sent = pattern(CHUNK_BYTES, turn)
    // Listening starts with the first call, so before anything is sent.
    let next = answers.next()
    stream.send(sent.slice())
    let held = new Uint8Array(0)
    while (true) {
      const { done, value } = await next
      if (done) {
        throw new Error(`echo ended after ${turn} of ${CHUNKS} chunks`)
      }
      held = joined([held, value.subarray()])
      if (held.length >= sent.length) {
        break
      }
      next = answers.next()
    }
    same(held, sent, 'echo')
  }
  const end = answers.next()
  await stream.close()
  if (!(await end).done) {
    throw new Error('echo sent more than it got')
  }
}

async function reverse (stream) {
  const sent = pattern(WHOLE_BYTES, 7)
  const answer = collect(stream)
  stream.send(sent.slice())
  await stream.close()
  same(await answer, sent.reverse(), 'reverse')
}

async function collect (stream) {
  const chunks = []
  for await (const chunk of stream) {
    chunks.push(chunk.subarray())
  }
  if (stream.status === 'reset' || stream.status === 'aborted') {
    throw new Error(`the stream ended as ${stream.status}`)
  }
  return joined(chunks)
}

function joined (chunks) {
  const whole = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0))
  let at = 0
  for (const chunk of chunks) {
    whole.set(chunk, at)
    at += chunk.length
  }
  return whole
}

function pattern (length, seed) {
  return Uint8Array.from({ length }, (_, index) => (index * 31 + (index >> 8) + seed) & 0xff)
}

function same (got, wanted, what) {
  if (got.length !== wanted.length || got.some((byte, index) => byte !== wanted[index])) {
    throw new Error(`${what}: ${got.length} bytes came back, not the ${wanted.length} that were due`)
  }
}
