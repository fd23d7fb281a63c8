// Looks at the status page of a running director in Chromium: two nodes are there, one is killed and turns red
// without a reload, comes back and turns green; incidents and maintenance are told; the page is read without
// JavaScript, at the widths of a phone and of a desktop, in light and dark, and by axe.
//
//   node status.mjs PROGRAM FOLDER     the pictures go to FOLDER

import { AxeBuilder } from '@axe-core/playwright';
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createWriteStream, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const [program, folder] = process.argv.slice(2).map((it) => path.resolve(it));
mkdirSync(folder, { recursive: true });
const own = mkdtempSync(path.join(tmpdir(), 'rezcache-status-'));
const HOSTILE = '</title><script>alert(1)</script> & "Co"';

/** The real program; its first line of output is JSON. */
class Program {
  static async start(name, ...words) {
    const it = new Program();
    it.name = name;
    const data = path.join(own, name);
    mkdirSync(data, { recursive: true });
    it.log = path.join(data, 'log');
    it.child = spawn(program, [...words, '--log-format', 'json', '--data-dir', data], {
      env: { PATH: process.env.PATH, HOME: '/nonexistent' }, stdio: ['ignore', 'pipe', 'pipe'],
    });
    it.child.stderr.pipe(createWriteStream(it.log, { flags: 'a' }));
    it.gone = new Promise((done) => it.child.once('exit', done));
    const line = await new Promise((done) => {
      const lines = createInterface({ input: it.child.stdout });
      lines.once('line', done);
      lines.once('close', () => done(undefined));
    });
    if (line === undefined) throw new Error(`${name} did not start: ${readFileSync(it.log, 'utf8')}`);
    it.ready = JSON.parse(line);
    return it;
  }

  async kill() {
    this.child.kill('SIGKILL');
    await this.gone;
  }
}

const running = {};
const store = `file://${path.join(own, 'store')}`;
async function node(name, listen) {
  running[name] = await Program.start(name, 'serve', '--listen', listen, '--store', store);
  return running[name].ready;
}

async function director(name, nodes) {
  const file = path.join(own, `${name}.toml`);
  const listed = nodes.map(([animal, ready]) => `[[node]]\nname = "${animal}"\nurl = "https://${ready.listening}"\n`);
  writeFileSync(file, `[director]
zone = "cache.example.org."
ns = ["ns1.example.org.", "ns2.example.org."]
name = "${name}"
dns_listen = "127.0.0.1:0"
status_listen = "127.0.0.1:0"
store = "${store}"
pins = ["${nodes[0][1].pin}"]
probe_interval_s = 1
slow_start_s = 0
${listed.join('')}`);
  running[name] = await Program.start(name, 'director', '--config', file);
  return { file, url: `http://${running[name].ready.status}/` };
}

const say = (file, ...words) =>
  execFileSync(program, ['director', ...words, '--config', file, '--data-dir', path.join(own, 'cli')], {
    encoding: 'utf8', env: { PATH: process.env.PATH, HOME: '/nonexistent' },
  });

/** 90 days of a past that nobody waits for: good ones, a restart, an hour away, maintenance, and nothing known. */
function past(catalog) {
  const today = Math.floor(Date.now() / 86_400_000);
  const rows = [];
  for (const [n, member] of ['nodes/otter', 'nodes/lynx', 'directors/owl', 'storage/store'].entries()) {
    for (let ago = 1; ago < 90 - 15 * n; ago += 1) {
      const day = { healthy: 86_400, amber: 0, lost: 0, maintenance: 0, unknown: 0 };
      const take = (what, seconds) => { day.healthy -= seconds; day[what] += seconds; };
      if (member === 'nodes/lynx' && ago === 9) take('lost', 3720);
      if (member === 'nodes/lynx' && ago === 33) take('lost', 40);
      if (member === 'nodes/otter' && ago === 20) take('maintenance', 86_400);
      if (member === 'nodes/otter' && ago > 60 && ago < 64) continue;
      if (member === 'storage/store' && (ago === 9 || ago === 10)) take('amber', 7000);
      rows.push([`${member}/${today - ago}`, (today - ago) * 86_400, JSON.stringify({ ...day, until: (today - ago + 1) * 86_400 })]);
    }
  }
  const script = 'import json,sqlite3,sys\nc=sqlite3.connect(sys.argv[1],timeout=20)\n'
    + 'c.executemany("insert into fact (kind,name,at,term,record) values (3,?,?,0,?)",[(n,a,r.encode()) for n,a,r in json.load(sys.stdin)])\nc.commit()';
  execFileSync('python3', ['-c', script, catalog], { input: JSON.stringify(rows) });
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});

const VARIANTS = [
  { name: 'phone-light', width: 375, scheme: 'light' },
  { name: 'phone-dark', width: 375, scheme: 'dark' },
  { name: 'desktop-light', width: 1280, scheme: 'light' },
  { name: 'desktop-dark', width: 1280, scheme: 'dark' },
  { name: 'phone-plain', width: 375, scheme: 'dark', javaScriptEnabled: false },
  { name: 'desktop-plain', width: 1280, scheme: 'light', javaScriptEnabled: false },
];

async function open({ width, scheme, javaScriptEnabled = true }, address) {
  const context = await browser.newContext({
    viewport: { width, height: 900 }, colorScheme: scheme, javaScriptEnabled,
  });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.problems = [];
  page.on('pageerror', (error) => page.problems.push(String(error)));
  page.on('console', (message) => { if (message.type() === 'error') page.problems.push(message.text()); });
  await page.goto(address);
  return page;
}

async function close(page) {
  assert.deepEqual(page.problems, [], 'the browser complained');
  await page.context().close();
}

async function axe(page, name) {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const bad = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
  const told = bad.map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => html.slice(0, 160) + failureSummary)]);
  assert.deepEqual(told, [], name);
}

/** Pictures in all variants, with nothing wider than the window, and axe over those with JavaScript. */
async function pictures(stage, address, wanted) {
  for (const variant of VARIANTS) {
    const page = await open(variant, address);
    const name = `status-${stage}-${variant.name}`;
    await page.getByText(wanted).first().waitFor();
    if (variant.javaScriptEnabled !== false) await page.getByText('This page is live.').waitFor();
    await page.screenshot({ path: path.join(folder, `${name}.png`), fullPage: true });
    if (variant.javaScriptEnabled === false) {
      await page.getByText(/Without JavaScript this page loads itself again|Last updated/).first().waitFor();
    } else {
      const wide = await page.evaluate(() => ({ page: document.documentElement.scrollWidth, window: innerWidth }));
      assert.ok(wide.page <= wide.window, `${name} is ${wide.page} wide in a window of ${wide.window}`);
      await page.evaluate(() => document.querySelectorAll('details').forEach((it) => { it.open = true; }));
      await axe(page, name);
    }
    await close(page);
  }
  console.log(`${stage}: looked at after ${Math.round(performance.now() / 1000)} s`);
}

async function run() {
  const nodes = [['otter', await node('otter', '127.0.0.2:0')], ['lynx', await node('lynx', '127.0.0.3:0')]];
  past(path.join(own, 'store', 'catalog.sqlite'));
  const first = await director('owl', nodes);
  const second = await director('fox', nodes);

  const page = await open(VARIANTS[2], first.url);
  const member = (name, where = page) => where.locator(`[data-member="${name}"]`);
  const looks = (name, words, where = page) => member(name, where).getByText(words, { exact: true }).waitFor();
  for (const name of ['otter', 'lynx', 'owl', 'fox', 'store', 'catalog']) await looks(name, 'Works');
  await page.getByText('All is well.', { exact: true }).waitFor();
  // The same in words for those who do not see the bars.
  await page.getByRole('img', { name: /^lynx, last 90 days: uptime 9\d\.\d+ %; 7\d days known, 2 days with trouble$/ }).waitFor();
  await member('lynx').locator('summary').click();
  await member('lynx').getByText(/did not answer 1 h 2 min$/).waitFor();
  await pictures('well', first.url, 'All is well.');

  // A mark in the page shows that it is never loaded again.
  await page.evaluate(() => { window.neverReloaded = true; });
  const other = await open(VARIANTS[0], second.url);
  await running.lynx.kill();
  await looks('lynx', 'Does not answer');
  await page.locator('[data-member="lynx"] .sign.down').waitFor();
  await page.getByText('The cache works, but lynx does not answer; the other node does the work.').waitFor();
  await looks('lynx', 'Does not answer', other);
  await page.getByRole('heading', { name: 'lynx does not answer' }).waitFor();
  assert.match(await page.title(), /^Impaired/);
  // What is unfolded stays so, and whoever is there with the keyboard stays there.
  assert.equal(await member('lynx').locator('details').evaluate((it) => it.open), true);
  assert.equal(await page.evaluate(() => document.activeElement.textContent), '3 days with trouble');
  await pictures('lost', first.url, 'lynx does not answer');

  await node('lynx', nodes[1][1].listening);
  await looks('lynx', 'Works');
  await page.getByText('All is well.', { exact: true }).waitFor();
  assert.equal(await page.evaluate(() => window.neverReloaded), true);
  await page.getByRole('heading', { name: 'What is going on' }).waitFor({ state: 'detached' });
  await page.locator('#past').getByText('lynx is back').waitFor();
  await looks('lynx', 'Works', other);

  // What operators say, on both directors, with nothing of it read as markup.
  say(first.file, 'incident', 'open', HOSTILE, '--affects', 'otter', '--text', `We look into it.\n${HOSTILE}`);
  say(second.file, 'incident', 'update', '2', 'A disk is slow; it is being replaced tonight.');
  say(first.file, 'maintain', 'otter', '--until', '2h', '--reason', 'A new disk');
  for (const where of [page, other]) {
    await where.getByText('A disk is slow; it is being replaced tonight.').waitFor();
    await where.getByRole('heading', { name: HOSTILE }).waitFor();
    await looks('otter', 'Planned maintenance', where);
    await member('otter', where).getByText(/^Planned until .* UTC: A new disk$/).waitFor();
  }
  await pictures('told', first.url, 'A disk is slow');
  say(second.file, 'incident', 'close', '2', 'The disk is replaced.');
  await page.locator('#past').getByText('The disk is replaced.').waitFor();
  await page.getByText(/^All is well. otter is away for planned maintenance until/).waitFor();

  // A director that dies is told by the other one.
  await running.fox.kill();
  other.problems.length = 0;
  await other.getByText('The line to the director is lost').waitFor();
  await looks('fox', 'Does not answer');
  other.problems.length = 0;
  await close(other);

  // Keyboard alone: each link is reached and seen.
  await page.evaluate(() => document.activeElement.blur());
  const reached = new Set();
  for (let n = 0; n < 40; n += 1) {
    await page.keyboard.press('Tab');
    reached.add(await page.evaluate(() => document.activeElement.textContent.trim()));
  }
  for (const name of ['status as JSON', 'monitoring', 'metrics']) assert.ok(reached.has(name), `${name} is not reached`);
  await close(page);

  // Operators' plots, once there is something to plot.
  const bytes = (url) => new Promise((done, failed) => http.get(url, (it) => { it.resume(); it.once('end', () => done(it.statusCode)); }).once('error', failed));
  assert.equal(await bytes(`${first.url}metrics`), 200);
  await pictures('monitoring', `${first.url}monitoring`, 'Hit ratio');
  const plots = await open(VARIANTS[3], `${first.url}monitoring`);
  await plots.getByRole('link', { name: 'Last 24 hours' }).click();
  await plots.getByText('24 hours ago').first().waitFor();
  await close(plots);
}

let failure;
try {
  await run();
  console.log(`pictures are in ${path.relative(process.cwd(), folder)}`);
} catch (error) {
  failure = error;
}
await browser.close();
for (const it of Object.values(running)) await it.kill();
if (failure) {
  console.error(failure);
  console.error(`logs are in ${own}`);
  process.exit(1);
}
rmSync(own, { recursive: true, force: true });
