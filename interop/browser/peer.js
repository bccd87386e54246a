// A js-libp2p peer as applications set one up, apart from its transports.
import { circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { yamux } from '@libp2p/yamux'
import { createLibp2p } from 'libp2p'
import { serve } from './exchange.js'

export async function createPeer (transport, listen = []) {
  const node = await createLibp2p({
    addresses: { listen },
    transports: [transport, circuitRelayTransport()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: { identify: identify(), ping: ping() },
    // In a browser, loopback is refused by default.
    connectionGater: { denyDialMultiaddr: () => false }
  })
  await serve(node)
  return node
}
