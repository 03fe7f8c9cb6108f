// A Yjs client as any web app would have it, driven by lines of JSON; says how it sees the document after
// everything that happens.
import * as Y from 'yjs'
import { WebsocketProvider } from 'y-websocket'
import WebSocket from 'ws'
import readline from 'node:readline'

const [url, name, params] = process.argv.slice(2)
let doc = new Y.Doc(), provider, closed = null

const say = (pong) => {
  const here = [...provider.awareness.getStates().values()]
  const fields = doc.getMap('doc').toJSON()
  const body = doc.getText('body').toString()
  const list = doc.getArray('list').toJSON()
  const pending = doc.store.pendingStructs !== null
  console.log(JSON.stringify({ synced: provider.synced, fields, body, list, here, closed, pending, pong }))
}

const open = () => {
  closed = null
  provider = new WebsocketProvider(url, name, doc, {
    WebSocketPolyfill: WebSocket, disableBc: true, params: JSON.parse(params), maxBackoffTime: 200
  })
  provider.on('sync', () => say())
  provider.on('connection-close', (event) => { closed = event && [event.code, event.reason]; say() })
  provider.awareness.on('change', () => say())
  doc.on('update', () => say())
}

const commands = {
  set: (key, value) => doc.getMap('doc').set(key, value),
  nest: (key) => doc.getMap('doc').set(key, new Y.Map()),
  delete: (key) => doc.getMap('doc').delete(key),
  insert: (at, text) => doc.getText('body').insert(at, text),
  cut: (at, length) => doc.getText('body').delete(at, length),
  bold: (at, length) => doc.getText('body').format(at, length, { bold: true }),
  push: (...values) => doc.getArray('list').push(values),
  aware: (state) => provider.awareness.setLocalState(state),
  offline: () => provider.disconnect(),
  online: () => provider.connect(),
  afresh: () => { provider.destroy(); doc = new Y.Doc(); open() },
  ping: (pong) => say(pong)
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const [command, ...values] = JSON.parse(line)
  commands[command](...values)
}).on('close', () => process.exit())
open()
