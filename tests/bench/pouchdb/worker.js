// PouchDB (on LevelDB, synced over HTTP) as a process of the benchmark of documents: commands are JSON lines.
import { readFileSync } from 'node:fs'
import http from 'node:http'
import { createInterface } from 'node:readline'
import express from 'express'
import expressPouchDB from 'express-pouchdb'
import PouchDB from 'pouchdb'
import find from 'pouchdb-find'

PouchDB.plugin(find)

let Databases, database, server, folder

const seconds = since => Number(process.hrtime.bigint() - since) / 1e9

const commands = {
  async start (options) {
    folder = options.folder
    Databases = PouchDB.defaults({ prefix: `${folder}/` })
    database = new Databases('tasks')
    await database.info()
  },

  // The documents come in a file, so that they are the same ones as everybody's.
  async fill ({ path, count, together }) {
    const documents = JSON.parse(readFileSync(path)).slice(0, count)
    const started = process.hrtime.bigint()
    if (together === 1) {
      for (const document of documents) await database.put(document)
    } else {
      for (let at = 0; at < documents.length; at += together) {
        await database.bulkDocs(documents.slice(at, at + together))
      }
    }
    return seconds(started)
  },

  async listen () {
    const app = express()
    app.use('/', expressPouchDB(Databases, {
      mode: 'minimumForPouchDB', inMemoryConfig: true, logPath: `${folder}/log.txt`
    }))
    server = http.createServer(app)
    await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
    return `http://127.0.0.1:${server.address().port}/tasks`
  },

  async sync ({ url }) {
    const started = process.hrtime.bigint()
    await database.replicate.from(url, { batch_size: 1000 })
    return seconds(started)
  },

  async count () {
    return (await database.info()).doc_count
  },

  async query ({ selector, rounds }) {
    await database.createIndex({ index: { fields: Object.keys(selector) } })
    await database.find({ selector, limit: 1 }) // builds the index
    const times = []
    for (let i = 0; i < rounds; i++) {
      const started = process.hrtime.bigint()
      await database.find({ selector, limit: 1_000_000 })
      times.push(seconds(started))
    }
    return times.sort((a, b) => a - b)[Math.floor(rounds / 2)]
  },

  async usage () {
    const { user, system } = process.cpuUsage()
    const { rss } = process.memoryUsage()
    return { cpu: (user + system) / 1e6, rss: rss / 1e6, peak: process.resourceUsage().maxRSS * 1024 / 1e6 }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const [command, options] = JSON.parse(line)
  let answer
  try {
    answer = { result: (await commands[command](options)) ?? null }
  } catch (error) {
    answer = { error: String(error.stack ?? error) }
  }
  process.stdout.write(JSON.stringify(answer) + '\n')
}
process.exit(0)
