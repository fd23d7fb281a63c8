// What stands around the proxy while its page is looked at: a grid with a simulator, a viewer that logs in and
// fetches what is there, a node of the shared cache, and the proxy itself. Assets are those of the fixtures,
// under many ids.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import dgram from 'node:dgram';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';

const FIXTURES = path.resolve(import.meta.dirname, '../../fixtures');
const PARAMETERS = { texture: 'texture_id', mesh: 'mesh_id', sound: 'sound_id', animation: 'animatn_id' };

const bodies = Object.fromEntries(Object.keys(PARAMETERS).map((kind) => [
  kind,
  readdirSync(path.join(FIXTURES, 'assets'))
    .filter((name) => name.endsWith('.' + kind)).sort()
    .map((name) => readFileSync(path.join(FIXTURES, 'assets', name))),
]));

function id(text) {
  const hex = createHash('sha256').update(text).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/** The assets of a region: so many of each kind. */
export function assetsOf(region, count) {
  const kinds = Object.keys(PARAMETERS);
  return Array.from({ length: count }, (_, n) => {
    const kind = kinds[[0, 0, 0, 1, 0, 1, 2, 3][n % 8]];
    return { kind, id: id(`${region} ${n}`), query: `?${PARAMETERS[kind]}=` };
  }).map((asset) => ({ ...asset, query: asset.query + asset.id }));
}

export async function until(what, isSo, limit = 30_000) {
  const end = Date.now() + limit;
  for (;;) {
    const found = await isSo();
    if (found) return found;
    if (Date.now() > end) throw new Error(`not within ${limit} ms: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** A grid of our making: it answers logins, grants one capability, and takes 30 ms for an asset. */
class Grid {
  async start() {
    this.logins = new Map();
    this.away = false;
    this.server = http.createServer((request, response) => this.answer(request, response));
    await new Promise((done) => this.server.listen(0, '127.0.0.1', done));
    this.url = `http://127.0.0.1:${this.server.address().port}`;
    return this;
  }

  answer(request, response) {
    if (this.away) return request.socket.destroy();
    const url = new URL(request.url, this.url);
    request.resume();
    request.on('end', () => {
      if (url.pathname === '/' && request.method === 'POST') {
        response.setHeader('Content-Type', 'text/xml');
        return response.end(this.reply);
      }
      if (url.pathname.startsWith('/CAPS/')) {
        response.setHeader('Content-Type', 'application/llsd+xml');
        return response.end(`<llsd><map><key>ViewerAsset</key><string>${this.url}/assets/</string></map></llsd>`);
      }
      const kind = Object.keys(PARAMETERS).find((name) => url.searchParams.has(PARAMETERS[name]));
      if (url.pathname.startsWith('/assets/') && kind) {
        const wanted = url.searchParams.get(PARAMETERS[kind]);
        const body = bodies[kind][parseInt(wanted.slice(0, 4), 16) % bodies[kind].length];
        return setTimeout(() => {
          response.setHeader('Content-Type', 'application/octet-stream');
          response.end(body);
        }, 30);
      }
      response.statusCode = 404;
      response.end();
    });
  }
}

/** A login of one avatar and its simulator. */
export class Avatar {
  constructor(world, region) {
    this.world = world;
    this.region = region;
    this.code = 2028978092 + world.avatars.length;
    this.agent = id(`agent ${this.code}`);
    this.session = id(`session ${this.code}`);
    world.avatars.push(this);
  }

  async enter() {
    const { grid, proxy } = this.world;
    this.simulator = dgram.createSocket('udp4');
    this.viewer = dgram.createSocket('udp4');
    await Promise.all([this.simulator, this.viewer].map((it) => new Promise((done) => it.bind(0, '127.0.0.1', done))));
    const places = [[this.region.x, 'region_x'], [this.region.y, 'region_y']];
    let reply = readFileSync(path.join(FIXTURES, 'login/hippo-reply.xml'), 'utf8')
      .replaceAll('d3fcb819-57ec-54be-a241-4bbde7cd5a8f', this.agent)
      .replaceAll('b7c5a6d6-a2b2-49f4-a4bc-8c175650e2df', this.session)
      .replace('<i4>2028978092</i4>', `<i4>${this.code}</i4>`)
      .replace('<name>sim_port</name><value><i4>9000<', `<name>sim_port</name><value><i4>${this.simulator.address().port}<`)
      .replaceAll('http://127.0.0.1:9000/CAPS/', `${grid.url}/CAPS/`);
    for (const [value, name] of places) {
      reply = reply.replace(new RegExp(`<name>${name}</name><value><i4>\\d+<`), `<name>${name}</name><value><i4>${value}<`);
    }
    grid.reply = reply;
    const granted = await (await fetch(proxy.login, { method: 'POST', headers: { 'Content-Type': 'text/xml' }, body: '<methodCall><methodName>login_to_simulator</methodName><params/></methodCall>' })).text();
    const port = Number(/<name>sim_port<\/name><value><i4>(\d+)/.exec(granted)[1]);
    const seed = /<name>seed_capability<\/name><value><string>([^<]+)/.exec(granted)[1];
    const ids = (text) => Buffer.from(text.replaceAll('-', ''), 'hex');
    const code = Buffer.alloc(4);
    code.writeUInt32LE(this.code);
    const message = (number, name, ...parts) => Buffer.concat([Buffer.from([0x40, 0, 0, 0, number, 0, 0xff, 0xff, 0, name]), ...parts]);
    const seen = new Promise((done) => this.simulator.once('message', (_, from) => done(from)));
    this.viewer.send(message(1, 3, code, ids(this.session), ids(this.agent)), port, '127.0.0.1');
    const from = await seen;
    this.viewer.send(message(2, 0xf9, ids(this.agent), ids(this.session), code), port, '127.0.0.1');
    const name = Buffer.from(`${this.region.name}\0`);
    const handshake = Buffer.concat([Buffer.alloc(5), Buffer.from([name.length]), name, Buffer.alloc(76)]);
    this.simulator.send(message(1, 0x94, handshake), from.port, from.address);
    const capabilities = await (await fetch(seed, { method: 'POST', body: '<llsd><array><string>ViewerAsset</string></array></llsd>' })).text();
    this.assets = /ViewerAsset<\/key><string>([^<]+)/.exec(capabilities)[1];
    await until('the region is known', async () => (await proxy.json('/regions.json')).some((it) => it.here));
    return this;
  }

  async fetchAll(assets, atOnce = 8) {
    const rest = [...assets];
    await Promise.all(Array.from({ length: atOnce }, async () => {
      for (let asset = rest.pop(); asset; asset = rest.pop()) {
        const answer = await fetch(`${this.assets}/${asset.query}`.replace('//?', '/?'));
        if (!answer.ok) throw new Error(`${asset.kind}: ${answer.status}`);
        await answer.arrayBuffer();
      }
    }));
  }

  leave() {
    this.viewer?.close();
    this.simulator?.close();
  }
}

function started(program, options, environment = {}) {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('REZCACHE_')));
  const child = spawn(program, options, { env: { ...env, ...environment }, stdio: ['ignore', 'pipe', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (data) => { errors = (errors + data).slice(-4000); });
  const ready = new Promise((done, failed) => {
    let text = '';
    child.stdout.on('data', (data) => {
      text += data;
      const end = text.indexOf('\n');
      if (end >= 0) done(JSON.parse(text.slice(0, end)));
    });
    child.once('exit', (code) => failed(new Error(`${path.basename(program)} ${options[0]} ended with ${code}: ${errors}`)));
  });
  return { child, ready };
}

function ended(child) {
  if (!child || child.exitCode !== null) return Promise.resolve();
  const gone = new Promise((done) => child.once('exit', done));
  child.kill('SIGTERM');
  return gone;
}

export class World {
  avatars = [];

  constructor(program) {
    this.program = program;
    this.folder = mkdtempSync(path.join(tmpdir(), 'rezcache-pages-'));
    this.data = path.join(this.folder, 'data');
  }

  async start({ history } = {}) {
    this.grid = await new Grid().start();
    const node = started(this.program, ['serve', '--listen', '127.0.0.1:0', '--store', `file://${this.folder}/store`,
      '--data-dir', `${this.folder}/node`, '--log-format', 'json']);
    this.node = node.child;
    const ready = await node.ready;
    mkdirSync(this.data, { recursive: true });
    if (history) writeFileSync(path.join(this.data, 'history.json'), JSON.stringify(history));
    const proxy = started(this.program, ['proxy', '--grid', `Test-Grid=${this.grid.url}/`, '--listen', '127.0.0.1:0',
      '--control', '127.0.0.1:0', '--data-dir', this.data, '--cache-server',
      `https://${ready.listening}#pin=${ready.pin}`, '--upload', 'yes', '--log-format', 'json']);
    this.child = proxy.child;
    const at = await proxy.ready;
    const control = `http://${at.control}`;
    this.proxy = {
      page: `${control}/`,
      address: at.page,
      key: at.page.split('#')[1],
      login: at.grids[0].login_uri,
      json: async (place) => (await fetch(control + place)).json(),
    };
    return this;
  }

  status() {
    return this.proxy.json('/status.json');
  }

  async stop() {
    this.avatars.forEach((avatar) => avatar.leave());
    await Promise.all([ended(this.child), ended(this.node)]);
    this.grid?.server.closeAllConnections();
    this.grid?.server.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A year of history such as a resident's evenings make, in the file's own form. */
export function history(now = Math.floor(Date.now() / 1000)) {
  const row = (seconds, count, busy) => {
    const spans = {};
    const last = Math.floor(now / seconds);
    for (let number = last - count + 1; number <= last; number += 1) {
      const level = busy(number * seconds, number);
      if (level > 0) {
        const requests = Math.round(level);
        const hits = Math.round(requests * (0.62 + 0.35 * Math.abs(Math.sin(number / 9))));
        spans[number] = [requests, hits, hits * 61_000, hits * 110, hits, 0];
      }
    }
    return spans;
  };
  const evening = (unix) => Math.max(0, Math.sin(((unix % 86_400) / 86_400 - 0.55) * Math.PI * 2.2));
  return {
    format: 'rezcache history',
    version: 1,
    content: {
      history: {
        minutes: row(60, 1440, (unix, n) => evening(unix) * (20 + 18 * Math.sin(n / 13)) + (n % 37 === 0 ? 30 : 0)),
        hours: row(3600, 720, (unix, n) => evening(unix) * (900 + 500 * Math.sin(n / 31))),
        days: row(86_400, 300, (_, n) => (n % 7 === 2 ? 0 : 4000 + 2500 * Math.sin(n / 17))),
      },
      paces: {},
    },
  };
}
