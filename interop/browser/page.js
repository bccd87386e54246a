// What runs in the browser: a peer that has no way in but a WebSocket to its
// relay. The driver calls `window.peer`; arguments and results are plain text.
import { multiaddr } from '@multiformats/multiaddr'
import { webSockets } from '@libp2p/websockets'
import { exchange } from './exchange.js'
import { createPeer } from './peer.js'

let node, relay

// Starts a peer that listens through the relay: it dials it and reserves. Says
// what the connection is made of and where the peer is then reached.
async function start (address, milliseconds) {
  relay = multiaddr(address)
  node = await createPeer(webSockets(), [`${address}/p2p-circuit`])
  const signal = AbortSignal.timeout(milliseconds)
  while (node.getMultiaddrs().length === 0) {
    signal.throwIfAborted()
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  const [connection] = node.getConnections()
  return {
    id: node.peerId.toString(),
    dialed: connection.remoteAddr.toString(),
    made: `${connection.encryption}, ${connection.multiplexer}`,
    announced: node.getMultiaddrs().map(String)
  }
}

// Has the relay send back 32 bytes.
async function ping (milliseconds) {
  await node.services.ping.ping(relay, { signal: AbortSignal.timeout(milliseconds) })
}

// Speaks to a peer that has come through the relay, over the circuit that it
// has opened.
async function answer (id, milliseconds) {
  const connection = node.getConnections().find(connection => connection.remotePeer.toString() === id)
  if (connection == null) {
    throw new Error(`no connection of ${id} has come`)
  }
  return exchange(connection, AbortSignal.timeout(milliseconds))
}

async function stop () {
  await node.stop()
}

window.peer = { start, ping, answer, stop }
