// Looks at the page of a running proxy in Chromium: pictures of it in all variants, a press on every button with
// a look at what it did, and axe over all of it.
//
//   node pages.mjs PROGRAM FOLDER     the pictures go to FOLDER

import { AxeBuilder } from '@axe-core/playwright';
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';

import { Avatar, World, assetsOf, history, until } from './world.mjs';

const [program, folder] = process.argv.slice(2).map((it) => path.resolve(it));
mkdirSync(folder, { recursive: true });
const world = new World(program);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});

const VARIANTS = [
  { name: 'phone-light', width: 390, scheme: 'light' },
  { name: 'phone-dark', width: 390, scheme: 'dark' },
  { name: 'desktop-light', width: 1280, scheme: 'light' },
  { name: 'desktop-dark', width: 1280, scheme: 'dark' },
  { name: 'phone-plain', width: 390, scheme: 'light', javaScriptEnabled: false },
  { name: 'desktop-plain', width: 1280, scheme: 'dark', javaScriptEnabled: false },
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

/** Nothing is wider than the window, and no two texts lie on each other. */
async function looksRight(page, name) {
  const wide = await page.evaluate(() => ({ page: document.documentElement.scrollWidth, window: innerWidth }));
  assert.ok(wide.page <= wide.window, `${name} is ${wide.page} wide in a window of ${wide.window}`);
}

/** axe needs JavaScript: the same markup is looked at in another page, every part unfolded and our script left out. */
async function axePlain(page, variant, name) {
  const looked = await open({ ...variant, javaScriptEnabled: true }, 'about:blank');
  const html = (await page.content()).replace(/<script[\s\S]*?<\/script>/, '').replaceAll('<details', '<details open');
  await looked.setContent(html);
  await axe(looked, name);
  await close(looked);
}

async function axe(page, name) {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const bad = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
  assert.deepEqual(bad.map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => html.slice(0, 120) + failureSummary)]), [], name);
  return violations.length - bad.length;
}

async function pictures(stage, address) {
  for (const variant of VARIANTS) {
    const page = await open(variant, address);
    if (variant.javaScriptEnabled !== false) {
      await page.getByText('These numbers are kept up to date.').waitFor();
    }
    await looksRight(page, variant.name);
    await page.screenshot({ path: path.join(folder, `${stage}-${variant.name}.png`), fullPage: true });
    if (variant.javaScriptEnabled === false) {
      await axePlain(page, variant, `${stage} ${variant.name}`);
    } else {
      await page.evaluate(() => document.querySelectorAll('details').forEach((it) => { it.open = true; }));
      await axe(page, `${stage} ${variant.name}`);
    }
    await close(page);
    console.log(`${stage} ${variant.name}: looked at after ${Math.round(performance.now() / 1000)} s`);
  }
}

const SHOW = ['Da Boom', 'Lbsa Plaza', '<script>alert(1)</script> & "Co"'];

async function run() {
  await world.start({ history: history() });
  const { proxy } = world;
  await pictures('empty', proxy.page);

  // The address bar loses the key at once; the page works with it, and a page opened without it does not.
  const page = await open(VARIANTS[2], proxy.address);
  await page.getByText('it was opened with its key').waitFor();
  assert.equal(page.url(), proxy.page);
  const locked = await open(VARIANTS[0], proxy.page);
  assert.ok(await locked.getByText('Looking is free; the buttons need the key').isVisible());
  await locked.getByRole('button', { name: 'Pause uploads' }).click();
  await locked.getByText('The buttons need the key: see').waitFor();
  assert.equal((await world.status()).uploads.paused, false);
  await locked.getByLabel('Key', { exact: true }).fill('0'.repeat(32));
  await locked.getByRole('button', { name: 'Try the key' }).click();
  await locked.getByText('This key is not the right one.').waitFor();
  // The browser tells of every answer that is no success.
  locked.problems = locked.problems.filter((it) => !it.includes('401'));
  await locked.getByLabel('Key', { exact: true }).fill(`  ${proxy.address}  `);
  await locked.getByLabel('Key', { exact: true }).press('Enter');
  await locked.getByText('it was opened with its key').waitFor();
  await close(locked);

  // Live: what a viewer does shows without a reload. Pausing first, so that uploads wait.
  const press = async (name, isSo, where = page) => {
    await where.getByRole('button', { name, exact: true }).first().click();
    await until(name, async () => isSo(await world.status()));
  };
  await press('Pause uploads', (status) => status.uploads.paused);
  await page.getByRole('button', { name: 'Go on uploading' }).waitFor();
  for (const [n, name] of SHOW.entries()) {
    const avatar = await new Avatar(world, { name, x: 256_000 + n * 256, y: 256_000 }).enter();
    const assets = assetsOf(name, 120 + 40 * n);
    await avatar.fetchAll(assets);
    await avatar.fetchAll(assets.slice(0, 90));
  }
  await page.getByText('This scene completed in').nth(2).waitFor();
  assert.ok(await page.locator('#scene').getByText(SHOW[2]).first().isVisible());
  assert.ok((await world.status()).uploads.waiting > 0);
  assert.equal((await world.status()).regions.scenes_completed, 3);
  assert.ok((await world.status()).saved.ms_saved > 0);
  await press('Go on uploading', (status) => !status.uploads.paused);
  await page.getByRole('button', { name: 'Pause uploads' }).waitFor();

  // What is typed is not overwritten by what comes meanwhile, and Enter means the button beside the field.
  const limit = page.getByLabel('At most, in kilobytes a second');
  await limit.fill('77');
  await new Avatar(world, { name: 'Hippotropolis', x: 260_000, y: 256_000 }).enter();
  await page.locator('#regions').getByText('Hippotropolis').first().waitFor();
  assert.equal(await limit.inputValue(), '77');
  await limit.press('Enter');
  await until('the limit', async () => (await world.status()).uploads.limit === 77_000);
  await limit.fill('0');
  await press('Set the limit', (status) => status.uploads.limit === 0);

  await press('Pin: Da Boom', (status) => status.regions.pinned === 1 && status.store.pinned_bytes > 0);
  await press('Pin: Lbsa Plaza', (status) => status.regions.pinned === 2);
  await press('Unpin: Lbsa Plaza', (status) => status.regions.pinned === 1);
  await page.getByRole('button', { name: 'Warm up: Da Boom' }).click();
  await page.getByText('Da Boom is warmed up: 120 of 120 looked at, 120 were here').waitFor();

  const size = page.getByLabel('Size in MiB');
  await size.fill('12');
  await page.getByRole('button', { name: 'Change the size' }).click();
  await page.getByText('Say a whole number of MiB').waitFor();
  page.problems = page.problems.filter((it) => !it.includes('400'));
  await size.fill('2048');
  await press('Change the size', (status) => status.store.limit === 2048 * 1024 * 1024);
  const test = page.getByRole('button', { name: 'Run the self-test' });
  if (await test.count()) {
    await test.click();
    await page.getByText('Tested at').waitFor({ timeout: 90_000 });
    console.log('the self-test ran');
  }

  await pictures('used', proxy.page);
  await close(await (async () => {
    const unlocked = await open(VARIANTS[3], proxy.address);
    await unlocked.getByText('it was opened with its key').waitFor();
    await unlocked.evaluate(() => document.querySelectorAll('details').forEach((it) => { it.open = true; }));
    await axe(unlocked, 'unlocked');
    await unlocked.screenshot({ path: path.join(folder, 'used-unlocked-desktop-dark.png'), fullPage: true });
    return unlocked;
  })());

  // Without JavaScript: plain forms, one field for the key.
  const plain = await open(VARIANTS[4], proxy.page);
  await plain.getByRole('button', { name: 'Pause uploads' }).click();
  await plain.getByText('The key is missing or is not the right one').waitFor();
  plain.problems = plain.problems.filter((it) => !it.includes('401'));
  await axePlain(plain, VARIANTS[4], 'trouble');
  await plain.getByRole('link', { name: 'Back to the page' }).click();
  const submit = async (name, said, isSo) => {
    await plain.getByLabel('Key', { exact: true }).fill(proxy.key);
    await plain.getByRole('button', { name, exact: true }).first().click();
    await plain.getByText(said).waitFor();
    assert.equal(new URL(plain.url()).pathname, '/');
    assert.ok(isSo(await world.status()), name);
  };
  await submit('Pause uploads', 'Uploads are paused.', (status) => status.uploads.paused);
  await submit('Go on uploading', 'Uploads go on.', (status) => !status.uploads.paused);
  await plain.getByLabel('At most, in kilobytes a second').fill('50');
  await submit('Set the limit', 'The limit of uploads is set.', (status) => status.uploads.limit === 50_000);
  await submit('Pin: Lbsa Plaza', 'The region is pinned.', (status) => status.regions.pinned === 2);
  await submit('Unpin: Lbsa Plaza', 'The region is not pinned any more.', (status) => status.regions.pinned === 1);
  await submit('Warm up: Lbsa Plaza', 'The region is being warmed up.', () => true);
  await plain.getByLabel('Size in MiB').fill('1024');
  await submit('Change the size', 'The size of the store is set.', (status) => status.store.limit === 1 << 30);
  await plain.screenshot({ path: path.join(folder, 'used-plain-after-form.png') });
  await plain.getByLabel('Yes, remove all assets').check();
  await submit('Clear the store', 'The store is being cleared', () => true);
  await until('an empty store', async () => (await world.status()).store.objects === 0);
  await close(plain);

  // And with: not before it is confirmed.
  await page.getByRole('button', { name: 'Clear the store' }).click();
  await page.getByText('Nothing was removed: tick the box').waitFor();
  page.problems = page.problems.filter((it) => !it.includes('400'));
  await page.getByLabel('Yes, remove all assets').check();
  await page.getByRole('button', { name: 'Clear the store' }).click();
  await page.getByText('The store is being cleared').waitFor();
  await until('no pins', async () => (await world.status()).regions.pinned === 0);

  // The grid goes away: the first sentence says so.
  world.grid.away = true;
  const lost = assetsOf('lost', 12);
  const avatar = world.avatars[0];
  await Promise.all(lost.map((asset) => fetch(`${avatar.assets}/${asset.query}`.replace('//?', '/?')).then((it) => it.text())));
  await page.getByText('Something is wrong. The grid does not answer').waitFor();
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: path.join(folder, 'away-desktop-light.png') });
  await close(page);
}

let failure;
try {
  await run();
  console.log(`pictures are in ${path.relative(process.cwd(), folder)}`);
} catch (error) {
  failure = error;
}
await browser.close();
await world.stop();
if (failure) {
  console.error(failure);
  process.exit(1);
}
