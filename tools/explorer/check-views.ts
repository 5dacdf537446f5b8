import { toBigint } from '../../src/core/bits.ts';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { openTrace } from '../../src/trace/node.ts';
import type { Checks } from '../live/checks.ts';
import { ExplorerPage } from './driver.ts';
import { changesBetween } from './model/changes.ts';
import { compareRuns, stepsOf } from './model/compare.ts';
import { accessOf, whoMaps, whoReaches } from './model/questions.ts';
import { Search } from './model/search.ts';
import { TraceSession } from './model/session.ts';
import { type Pictures, picture } from './picture.ts';

/** Above the first row of the timeline, and a row of it (CSS pixels), as a user measures them on the page. */
const ROW = '.row-names li';

/** An access that went through tables, in the later half of the recording. */
function someAccess(s: TraceSession): number {
  const half = Math.floor(s.events.length / 2);
  const at = (e: { readonly i: number }) => s.moments.firstOf(e.i);
  const through = s.events.find((e) => e.i > half && e.t === 'xlat' && !s.moments.has(at(e), 'tables'));
  const any = s.events.find((e) => e.i > half && e.t === 'xlat');
  return (through ?? any)!.i;
}

async function selected(page: ExplorerPage): Promise<number> {
  return Number(new URLSearchParams((await page.hash()).slice(1)).get('moment') ?? -1);
}

/** Every view, as somebody goes through them who looks for the cause of something. */
export async function checkViews(
  c: Checks,
  page: ExplorerPage,
  s: TraceSession,
  path: string,
  pictures: Pictures,
): Promise<void> {
  const name = s.file.replace(/\..*$/, '');
  await page.go();
  await page.ready();
  await timeline(c, page, s);
  await picture(page, pictures, `${name}-run`);
  const event = someAccess(s);
  await moment(c, page, s, event);
  await picture(page, pictures, `${name}-moment`);
  await state(c, page, s, event);
  await picture(page, pictures, `${name}-state`);
  await changes(c, page, s, event);
  await picture(page, pictures, `${name}-changes`);
  await findings(c, page, s);
  await picture(page, pictures, `${name}-findings`);
  await questions(c, page, s, event);
  await picture(page, pictures, `${name}-questions`);
  await search(c, page, s);
  await picture(page, pictures, `${name}-search`);
  await compare(c, page, s, path);
  await picture(page, pictures, `${name}-compare`);
}

/** Another recording is chosen on the page and compared with the one that is open, and again the other way round. */
export async function checkTwoFiles(c: Checks, paths: readonly string[], pictures: Pictures): Promise<void> {
  const sessions: TraceSession[] = [];
  for (const path of paths) sessions.push(await TraceSession.open(await openTrace(path), { make: makeReplayMachine }));
  const page = await ExplorerPage.start(paths);
  try {
    for (const [n, own] of sessions.entries()) {
      const other = sessions[1 - n]!;
      await page.go(`#tab=compare&trace=${n}`);
      await page.ready();
      await page.click('.compare button', `with ${other.file}`);
      await page.until('document.querySelector(".compare-lines")', 'the comparison');
      await page.still();
      const is = compareRuns(stepsOf(own), stepsOf(other));
      const words = (await page.text('.compare > p')).replaceAll(',', '');
      const expected = `${is.differing} of ${is.lines.length} steps differ; the first is step ${is.first}.`;
      c.check(`${own.file} is compared with ${other.file}`, is.differing > 0 && words.startsWith(expected), words);
      const sides = await page.text('.compare-line.current');
      const first = is.lines[is.first]!;
      c.check('its first difference stands there', sides.includes((first.a ?? first.b)!.key), sides.slice(0, 60));
      await picture(page, pictures, `two-${own.file.replace(/\..*$/, '')}-compare`);
    }
    c.check('the browser complains of nothing', page.browser.said.length === 0, page.browser.said.join(' '));
  } finally {
    await page.close();
  }
}

async function timeline(c: Checks, page: ExplorerPage, s: TraceSession): Promise<void> {
  const labels = await page.texts(`${ROW} .row-name`);
  const expected = s.rows.rows.map((r) => r.label);
  c.check('the timeline has the rows of the run', labels.join() === expected.join(), labels.join(', '));
  const counts = (await page.texts(`${ROW} .count`)).map((t) => Number(t.replaceAll(',', '')));
  c.check('with as many moments', counts.join() === s.rows.rows.map((r) => r.count).join());
  c.check('and the recording is named', (await page.text('.file-name')) === s.file);
  const colours = await page.browser.evaluate<number>(
    '(() => { const c = document.querySelector("canvas"); const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;' +
      'const seen = new Set(); for (let n = 0; n < d.length; n += 4) seen.add(d[n] << 16 | d[n + 1] << 8 | d[n + 2]); return seen.size; })()',
  );
  c.check('the picture is drawn in many colours', colours > 8, colours);
  // A click in the middle of the busiest row of commands selects a moment of that row.
  const row = s.rows.rows.findIndex((r) => r.lane === 'commands');
  const place = await page.browser.evaluate<{ x: number; y: number }>(
    `(() => { const l = [...document.querySelectorAll("${ROW}")].find((e) => e.title.startsWith("commands:")).getBoundingClientRect();` +
      'const p = document.querySelector("canvas").getBoundingClientRect(); return { x: p.left + p.width / 2, y: l.top + l.height / 2 }; })()',
  );
  await page.point(place.x, place.y);
  const clicked = await selected(page);
  c.check('a click selects the nearest moment of its row', s.rows.row[clicked] === row, clicked);
  const before = await page.browser.evaluate<string>('document.querySelector("canvas").toDataURL()');
  await page.mouse('mouseWheel', place.x, place.y, { deltaX: 0, deltaY: -400 });
  await page.still();
  const after = await page.browser.evaluate<string>('document.querySelector("canvas").toDataURL()');
  c.check('the wheel zooms', before !== after);
  await page.focus('canvas');
  await page.press('ArrowRight');
  const next = await selected(page);
  c.check('an arrow key goes to the next of the row', next > clicked && s.rows.row[next] === row);
  await page.press('c');
  c.check('c goes to the cause', (await selected(page)) === s.moments.cause.at(next));
  await page.press('e');
  const effect = await selected(page);
  c.check('e to an effect', s.moments.cause.at(effect) === s.moments.cause.at(next), effect);
  await page.press('0');
}

async function moment(c: Checks, page: ExplorerPage, s: TraceSession, event: number): Promise<void> {
  await page.go(`#event=${event}`);
  await page.ready();
  await page.until('document.querySelector(".walk table")', 'the way of the access');
  await page.still();
  const n = s.moments.firstOf(event);
  const told = s.moments.get(n);
  c.check('a link selects the event', (await selected(page)) === n);
  c.check('its name is shown', (await page.text('.details h2')) === told.name);
  const line = await page.text('.moment-line[aria-selected=true]');
  c.check('the list has it selected', line.includes(`${event}`) && line.includes(told.name), line.slice(0, 60));
  const active = await page.browser.evaluate<string>(
    'document.querySelector(".moments").getAttribute("aria-activedescendant")',
  );
  c.check('and tells screen readers', active === `moment-${n}`);
  const { stream, lo, hi } = accessOf(s.events[event])!;
  const walk = s.walk(event, stream, lo, hi);
  const shown = await page.texts('.walk tbody td:first-child');
  c.check('every entry on its way is shown', shown.join() === walk.entries.map((e) => e.what).join(), shown.join(', '));
  const end = await page.text('.walk .arrives, .walk .stops');
  c.check(
    'and where it ends',
    walk.out < 0 ? end.startsWith('It stops') : end.includes(`0x${walk.out.toString(16)}`),
    end,
  );
  const stored = walk.entries.findLast((e) => e.store >= 0);
  if (stored !== undefined) {
    await page.browser.evaluate('[...document.querySelectorAll(".walk .link")].at(-1).click()');
    await page.still();
    c.check('a click leads to the store behind an entry', (await selected(page)) === stored.store);
  }
  await page.focus('.moments');
  const at = await selected(page);
  await page.press('ArrowDown');
  c.check('the list goes on by keyboard', (await selected(page)) === at + 1);
  await page.go(`#event=${event}`);
  await page.ready();
  await page.focus('canvas');
  for (let k = 0; k < 3; k++) await page.press('+');
}

async function state(c: Checks, page: ExplorerPage, s: TraceSession, event: number): Promise<void> {
  await page.go(`#event=${event}&tab=state`);
  await page.ready();
  await page.until('document.querySelector(".registers tbody tr")', 'registers');
  const is = s.state(event);
  const set = is.registers.filter((r) => r.value !== '0x0');
  const values = await page.texts('.registers tbody td.mono');
  c.check('registers read as they do', values.join() === set.map((r) => r.value).join(), `${values.length} of them`);
  const fields = (await page.texts('.registers .field')).length;
  const expected = set.reduce((sum, r) => sum + r.fields.filter((f) => f.value !== 0).length, 0);
  c.check('field by field', fields === expected, fields);
  const objects = await page.texts('.graph .title');
  c.check('the host objects are drawn', objects.length === Math.min(60, is.objects.length), objects.join(', '));
  const title = await page.text('.caches h3');
  c.check('cached translations are counted', title.replaceAll(',', '').includes(`(${is.cachedCount})`), title);
  const atcs = await page.text('.atcs h3');
  c.check('and what ATCs may hold', atcs.replaceAll(',', '').includes(`(${is.grantedCount})`), atcs);
  const nodes = await page.texts('.tree [role=treeitem]');
  c.check('the tree has every stream', nodes.length === is.streams.length, nodes.length);
  const closed = is.streams.findIndex((n) => n.children === null);
  if (closed >= 0) {
    await page.browser.evaluate(`document.querySelectorAll(".tree [role=treeitem]")[${closed}].focus()`);
    await page.press('ArrowRight');
    const id = is.streams[closed]!.id;
    const open = s.state(event, [id]).streams[closed]!.children!;
    const more = await page.texts('.tree [role=treeitem]');
    c.check('a key opens a branch', more.length === nodes.length + open.length, more[closed + 1] ?? '');
    await page.press('ArrowRight');
    await page.press('ArrowRight');
  }
  const other = Math.floor(event / 3);
  await page.browser.evaluate(
    `(() => { const e = document.querySelector("#scrub"); e.value = "${other}"; e.dispatchEvent(new Event("input", { bubbles: true })); })()`,
  );
  await page.still();
  const then = s.state(other).registers.filter((r) => r.value !== '0x0');
  c.check(
    'the slider shows another state',
    (await page.texts('.registers tbody td.mono')).join() === then.map((r) => r.value).join(),
  );
  await page.browser.evaluate(
    `(() => { const e = document.querySelector("#scrub"); e.value = "${event}"; e.dispatchEvent(new Event("input", { bubbles: true })); })()`,
  );
  await page.still();
}

async function changes(c: Checks, page: ExplorerPage, s: TraceSession, event: number): Promise<void> {
  const a = Math.floor(event * 0.6);
  await page.go(`#event=${event}&tab=changes&a=${a}&b=${event}`);
  await page.ready();
  await page.until('document.querySelector(".changes h3")', 'changes');
  const is = changesBetween(s, a, event);
  const names = await page.texts('.changes tbody th');
  c.check(
    'registers that changed are named',
    names.join() === is.registers.map((r) => r.name).join(),
    names.join(', '),
  );
  const come = (await page.texts('.changes li.come')).length;
  const all = [is.streams, is.mappings, is.objects, is.attachments, is.cached];
  const expected = all.reduce((sum, x) => sum + Math.min(60, x.come.length), 0);
  c.check('and what is new', come === expected, come);
  await page.click('.fields button', 'between');
  const found = (await page.text('.search .count')).replaceAll(',', '');
  const between = new Search(s).find(`event:${a}..${event - 1}`).length;
  c.check('what happened between is listed', found.startsWith(`${between} `), found);
}

async function findings(c: Checks, page: ExplorerPage, s: TraceSession): Promise<void> {
  await page.go('#tab=findings');
  await page.ready();
  await page.until('!document.querySelector(".findings .waiting")', 'findings');
  await page.still();
  const is = s.findings();
  const rules = await page.texts('.findings .severity + b');
  c.check('every finding is listed', rules.join() === is.map((f) => f.rule).join(), rules.join(', '));
  if (is.length === 0) return;
  c.check('and has a row of the timeline', (await page.text('.row-names li')) === 'findings');
  await page.click('.findings .ends .link');
  c.check('a click leads to its first event', s.moments.event.at(await selected(page)) >= is[0]!.events[0]!);
  await page.focus('canvas');
  await page.press('0');
}

async function questions(c: Checks, page: ExplorerPage, s: TraceSession, event: number): Promise<void> {
  const { lo, hi } = accessOf(s.events[event])!;
  const iova = toBigint(lo, hi);
  await page.go(`#event=${event}&tab=questions&ask=maps:0x${iova.toString(16)}`);
  await page.ready();
  const maps = whoMaps(s, iova);
  const rows = (await page.texts('.answer tbody tr')).length;
  c.check('who maps an address, and when', rows === maps.length, `${rows} times`);
  await page.focus('#ask-pasid');
  await page.type('0x5');
  await page.browser.evaluate('document.querySelector("#ask-pasid").form.requestSubmit()');
  await page.still();
  const of = whoMaps(s, iova, 5);
  const own = (await page.texts('.answer tbody tr')).length;
  const title = await page.text('.answer h3');
  c.check('and for a PASID', own === of.length && /(PASID|SubstreamID) 0x5/.test(title), title);
  const e = s.events[event]!;
  if (e.t !== 'xlat') return;
  await page.focus('#ask-reaches');
  await page.type(`0x${e.out.toString(16)}`);
  await page.press('Enter');
  await page.browser.evaluate('document.querySelector("#ask-reaches").form.requestSubmit()');
  await page.still();
  const reach = whoReaches(s, e.out, event);
  const lines = (await page.texts('.answer li')).length;
  c.check('who reaches the page behind it', lines === reach.mapped.length + reach.accesses.length, `${lines} ways`);
}

async function search(c: Checks, page: ExplorerPage, s: TraceSession): Promise<void> {
  await page.go();
  await page.ready();
  await page.press('/');
  await page.type('lane:comm');
  const offers = await page.texts('#offers [role=option]');
  c.check('a query is completed', offers.includes('lane:commands'), offers.join(', '));
  await page.press('ArrowDown');
  await page.press('Enter');
  await page.browser.evaluate('document.querySelector("#search").form.requestSubmit()');
  await page.still();
  const found = new Search(s).find('lane:commands').length;
  const shown = (await page.text('.search .count')).replaceAll(',', '');
  c.check('and finds what it says', shown.startsWith(`${found} `), shown);
  const options = await page.browser.evaluate<string>(
    'document.querySelector(".moment-line").getAttribute("aria-setsize")',
  );
  c.check('the list has these only', Number(options) === found, options);
  const about = s.rows.rows.find((r) => r.stream >= 0);
  if (about === undefined) return;
  await page.go(`#stream=0x${about.stream.toString(16)}&event=${Math.floor(s.events.length / 2)}`);
  await page.ready();
  const all = new Search(s).find(`about:0x${about.stream.toString(16)}`).length;
  const told = (await page.text('.search .count')).replaceAll(',', '');
  c.check('a link to a stream shows everything about it', told.startsWith(`${all} `), told);
}

async function compare(c: Checks, page: ExplorerPage, s: TraceSession, path: string): Promise<void> {
  await page.go('#tab=compare');
  await page.ready();
  await page.click('.compare button', 'invalidations ignored');
  await page.until('document.querySelector(".compare-lines")', 'the comparison');
  await page.still();
  const replay = { ignoreInvalidations: true };
  const other = await TraceSession.open(await openTrace(path), { make: makeReplayMachine, replay });
  const is = compareRuns(stepsOf(s), stepsOf(other));
  const words = (await page.text('.compare > p')).replaceAll(',', '');
  const expected =
    is.differing === 0 ? `${is.lines.length} steps` : `${is.differing} of ${is.lines.length} steps differ`;
  c.check('two runs are aligned', words.startsWith(expected), words.slice(0, 70));
  if (is.differing === 0) return;
  const current = await page.text('.compare-line.current');
  const first = is.lines[is.first]!;
  c.check('the first difference is shown', current.includes((first.a ?? first.b)!.key), current.slice(0, 60));
}
