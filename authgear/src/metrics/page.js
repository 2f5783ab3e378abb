
"use strict";
const page = document.getElementById("page");
let lost = false;

// Everything that is shown goes through here: text is text, and never HTML.
function make(space, name, attributes, children) {
  const element = space ? document.createElementNS(space, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  for (const child of children.flat()) if (child !== null && child !== undefined) element.append(child);
  return element;
}
const h = (name, attributes, ...children) => make(null, name, attributes, children);
const s = (name, attributes, ...children) =>
  make("http://www.w3.org/2000/svg", name, attributes, children);

const sum = table => Object.values(table).reduce((all, n) => all + n, 0);
const number = n => n.toLocaleString("en");
const share = (n, of) => of ? (100 * n / of).toFixed(n === of || n === 0 ? 0 : 1) + " %" : "–";
const compact = n => n < 10000 ? number(n) : new Intl.NumberFormat("en", {notation: "compact"}).format(n);
function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return +(value * 1000).toPrecision(3) + " ms";
  return +value.toPrecision(3) + " s";
}
function bytes(n) {
  return n >= 1048576 ? (n / 1048576).toFixed(1) + " MB" : Math.round(n / 1024) + " kB";
}
function span(gone) {
  if (gone < 90) return gone + " s";
  if (gone < 5400) return Math.round(gone / 60) + " min";
  if (gone < 129600) return Math.round(gone / 3600) + " h";
  return Math.round(gone / 86400) + " days";
}
const ago = (time, now) => span(Math.max(0, now - time)) + " ago";
const utc = time => new Date(time * 1000).toISOString().slice(0, 16).replace("T", " ") + " UTC";

const failures = table => Object.entries(table).filter(([name]) => !["valid", "invalid", "none"].includes(name));

// Numbers of a project: since the start, and in the last minutes.
function numbersOf(project) {
  const {cache, resolver, recent} = project;
  const all = {allow: 0, anonymous: 0, deny: 0, error: 0};
  for (const table of Object.values(project.requests))
    for (const [result, n] of Object.entries(table)) all[result] += n;
  const buckets = recent.lookups.map((count, n) => ({le: resolver.latency.buckets[n].le, count}));
  const whole = {
    ...all, requests: sum(all), served: cache.hit + cache.shared + cache.stale + cache.updating,
    looked: sum(cache) - cache.bypass, bypass: cache.bypass, asked: resolver.latency.count,
    failed: failures(resolver.requests).reduce((n, row) => n + row[1], 0), buckets: resolver.latency.buckets,
  };
  const now = {
    ...recent.requests, requests: sum(recent.requests), served: recent.cache.served,
    looked: recent.cache.asked, bypass: 0, asked: sum(recent.lookups), failed: recent.failed, buckets,
  };
  return {project, whole, now, state: stateOf(project, now), series: recent.series};
}

// Badges of a project, and how urgent it is: 0 is fine.
function stateOf(project, now) {
  const badges = [], time = data.time, outage = project.resolver.outage, keys = project.jwks;
  let urgency = 0;
  const add = (kind, text, weight) => { badges.push([kind, text]); urgency = Math.max(urgency, weight); };
  if (outage && outage.failing)
    add("bad", `failing since ${ago(outage.since, time)}: ${outage.reason}`, 5);
  if (keys.outage && keys.outage.since !== null) {
    const none = keys.keys === 0;
    add(none ? "bad" : "warn",
      (none ? "no keys, " : "old keys, ") + `fetches fail since ${ago(keys.outage.since, time)}`, none ? 4 : 2);
  }
  if (now.error && !badges.length) add("bad", `${number(now.error)} errors in the last minutes`, 3);
  if (outage && !outage.failing)
    add("warn", `answers again; last failed ${ago(outage.last, time)}: ${outage.reason}`, 1);
  if (!badges.length)
    add(project.resolver.latency.count ? "good" : "rest", project.resolver.latency.count ? "answers" : "not asked yet", 0);
  return {badges, urgency};
}
const badgesOf = state => state.badges.map(([kind, text]) => h("span", {class: "badge " + kind}, text));

// The time that this part of the look-ups took no longer than, by the histogram.
function quantile(buckets, part) {
  let before = 0, from = 0;
  const rank = part * buckets.reduce((all, bucket) => all + bucket.count, 0);
  if (!rank) return null;
  for (const bucket of buckets) {
    if (bucket.count && before + bucket.count >= rank) {
      if (bucket.le === null) return from;
      return from + (bucket.le - from) * (rank - before) / bucket.count;
    }
    before += bucket.count;
    if (bucket.le !== null) from = bucket.le;
  }
  return null;
}

function stack(what, parts) {
  const all = parts.reduce((all, part) => all + part[1], 0);
  let x = 0;
  const bars = parts.map(([name, n, kind]) => {
    const width = all ? 100 * n / all : 0;
    const bar = s("rect", {x, y: 0, width, height: 10, class: kind}, s("title", {}, name + ": " + number(n)));
    x += width;
    return bar;
  });
  const shown = parts.filter(part => part[1] || part[3]);
  return h("section", {},
    h("h3", {}, what),
    s("svg", {class: "stack", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": what}, bars),
    h("ul", {class: "legend"}, shown.map(([name, n, kind]) =>
      h("li", {}, h("i", {class: kind}), name + " ", h("b", {}, number(n)), h("span", {class: "faint"}, " " + share(n, all))))));
}

// Bars by step, the newest on the right: requests, and in them what was denied and what failed.
function spark(series, kind, label) {
  const steps = 21, {requests, denied, errors} = series, most = Math.max(1, ...requests);
  const left = steps - requests.length;
  const bar = (n, value, from, kind) => value ? s("rect",
    {x: (left + n) * 10 + 1, width: 8, y: 40 - 40 * (from + value) / most, height: Math.max(1, 40 * value / most), class: kind}) : null;
  const bars = requests.map((all, n) => [
    bar(n, all - denied[n] - errors[n], denied[n] + errors[n], "accent"),
    bar(n, denied[n], errors[n], "warn"), bar(n, errors[n], 0, "bad")]);
  return s("svg", {class: kind, viewBox: `0 0 ${steps * 10} 40`, preserveAspectRatio: "none", role: "img",
    "aria-label": label}, s("title", {}, label), bars.flat());
}

function histogram(what, buckets) {
  const width = 560, height = 190, top = 16, bottom = 22;
  const most = Math.max(1, ...buckets.map(bucket => bucket.count));
  const step = width / buckets.length;
  const room = height - top - bottom;
  const bars = buckets.map((bucket, n) => {
    const tall = bucket.count ? Math.max(2, room * bucket.count / most) : 0;
    const bound = bucket.le === null ? "more" : seconds(bucket.le);
    const label = bucket.le === null ? "more" : bucket.le < 1 ? bucket.le * 1000 : bound;
    const middle = n * step + step / 2;
    return [
      s("rect", {x: n * step + 2, y: height - bottom - tall, width: step - 4, height: tall, rx: 2, class: "accent"},
        s("title", {}, (bucket.le === null ? bound : "up to " + bound) + ": " + number(bucket.count))),
      bucket.count ? s("text", {x: middle, y: height - bottom - tall - 4, class: "count"}, compact(bucket.count)) : null,
      s("text", {x: middle, y: height - 6}, String(label)),
    ];
  });
  return h("section", {},
    h("h3", {}, what),
    s("svg", {class: "histogram", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": what},
      bars.flat(), s("line", {x1: 0, x2: width, y1: height - bottom, y2: height - bottom})));
}

function list(what, rows) {
  if (!rows.length) return null;
  return h("section", {}, h("h3", {}, what),
    h("table", {class: "list"}, h("tbody", {}, rows.map(([name, value]) => h("tr", {}, h("td", {}, name), h("td", {}, value))))));
}
function counted(table) {
  const all = sum(table);
  return Object.entries(table).filter(row => row[1]).sort((a, b) => b[1] - a[1])
    .map(([name, n]) => [name, `${number(n)} (${share(n, all)})`]);
}

const hits = part => part.looked ? share(part.served, part.looked) : part.bypass ? "no cache" : "–";
const covered = () => data.recent_seconds >= 290 ? "last 5 min" : "last " + span(data.recent_seconds);

const anchor = name => "project-" + encodeURIComponent(name);

function numbers({whole, now}) {
  const row = (name, of) => h("tr", {}, h("th", {scope: "row"}, name), h("td", {}, of(now)), h("td", {}, of(whole)));
  const part = result => part => `${number(part[result])} (${share(part[result], part.requests)})`;
  return h("table", {class: "numbers"},
    h("thead", {}, h("tr", {}, h("th", {scope: "col"}, ""), h("th", {scope: "col"}, covered()), h("th", {scope: "col"}, "since start"))),
    h("tbody", {},
      row("requests", part => number(part.requests)),
      row("allowed with a session", part("allow")), row("anonymous", part("anonymous")),
      row("denied", part("deny")), row("errors (503)", part("error")),
      row("served from the cache", hits),
      row("look-ups", part => number(part.asked)), row("look-ups that failed", part => number(part.failed)),
      row("half of the look-ups within", part => seconds(quantile(part.buckets, .5))),
      row("99 % within", part => seconds(quantile(part.buckets, .99)))));
}

function card(one) {
  const {project, whole, series} = one, {resolver, cache, jwks} = project, now = data.time;
  const reuse = resolver.connections.opened + resolver.connections.reused;
  const keys = jwks.last_success === null ? "never fetched" : ago(jwks.last_success, now);
  const {valid, invalid, none} = resolver.requests;
  const details = h("details", {class: "card", id: anchor(project.name)},
    h("summary", {id: "head-" + anchor(project.name)}, h("h2", {}, project.name), badgesOf(one.state)),
    h("div", {class: "halves"},
      h("div", {class: "stacks"}, numbers(one),
        stack("Requests since the start", [
          ["allow", whole.allow, "good", true], ["anonymous", whole.anonymous, "rest", true],
          ["deny", whole.deny, "warn", true], ["error", whole.error, "bad", true]]),
        stack("Cache since the start", [
          ["hit", cache.hit, "accent", true], ["stale", cache.stale + cache.updating, "warn"],
          ["shared", cache.shared, "accent"], ["joined", cache.joined, "good"], ["miss", cache.miss + cache.expired, "rest", true],
          ["no cache", cache.bypass, "rest"]]),
        stack("Look-ups since the start", [
          ["valid", valid, "good", true], ["invalid", invalid, "warn"], ["none", none, "rest"],
          ["failed", whole.failed, "bad"]])),
      h("div", {class: "stacks"},
        h("section", {}, h("h3", {}, `Requests, ${covered()}, each bar ${data.recent_step} s`),
          spark(series, "chart", "Requests by time; denied ones and errors are marked")),
        histogram("Time that look-ups took since the start, up to so many milliseconds", resolver.latency.buckets))),
    h("div", {class: "columns"},
      list("Resolver", [
        ["under way", number(resolver.inflight)],
        ["connections opened", number(resolver.connections.opened)],
        ["connections reused", share(resolver.connections.reused, reuse)]]),
      list("Denied, by reason", counted(project.denied)),
      list("Errors, by reason", counted(project.errors)),
      list("Would have been denied (dry run)", counted(project.dry_run_denied)),
      list("Open responses ended", counted(project.ended)),
      list("Look-ups that failed, by reason", counted(Object.fromEntries(failures(resolver.requests)))),
      list("Tokens verified here", counted(project.jwt_verifications)),
      jwks.keys || sum(jwks.fetches) ? list("Keys", [
        ["keys", number(jwks.keys)], ["fetched", keys],
        ["fetches that failed", number(jwks.fetches.error)]]) : null));
  details.open = open.has(project.name) ? open.get(project.name) : data.projects.length <= 3;
  details.addEventListener("toggle", () => { if (details.isConnected) open.set(project.name, details.open); });
  return details;
}

function overview(all, shown) {
  const cell = (name, value, kind) => h("td", {class: kind, "data-name": name}, value);
  return h("table", {class: "overview"},
    h("caption", {}, `${shown.length === all.length ? all.length : shown.length + " of " + all.length} projects, what fails first; numbers of the ${covered()}`),
    h("thead", {}, h("tr", {}, [["Project"], ["State"], ["Requests", "wide"], ["", "n"], ["Denied", "n"], ["Errors", "n"], ["From cache", "n"], ["99 % within", "n"]]
      .map(([name, kind]) => h("th", {scope: "col", class: kind || ""}, name)))),
    h("tbody", {}, shown.map(({project, now, whole, state, series}) => h("tr", {},
      h("td", {class: "whole"}, h("a", {href: "#" + anchor(project.name), id: "to-" + anchor(project.name)}, project.name)),
      h("td", {class: "whole"}, badgesOf(state)),
      h("td", {class: "wide whole"}, spark(series, "spark", `Requests of ${project.name} by time`)),
      cell("requests", compact(now.requests), "n"),
      cell("denied", share(now.deny, now.requests), "n"),
      cell("errors", share(now.error, now.requests), now.error ? "n bad" : "n"),
      cell("from cache", hits({...now, bypass: whole.looked ? 0 : whole.bypass}), "n"),
      cell("99 % within", seconds(quantile(now.buckets, .99)), "n")))));
}

function zone(zone) {
  const used = zone.size ? 100 * zone.bytes / zone.size : 0;
  return h("div", {class: "zone"}, h("span", {}, zone.name),
    s("svg", {class: "stack", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": `${zone.name}: ${used.toFixed(0)} % full`},
      s("rect", {x: 0, y: 0, width: used, height: 10, class: used > 95 ? "warn" : "accent"})),
    h("span", {class: "faint"}, `${number(zone.entries)} entries, ${bytes(zone.bytes)} of ${bytes(zone.size)}, ${number(zone.evictions)} evicted`));
}

function locations(rows) {
  const results = ["allow", "anonymous", "deny", "error"];
  return h("article", {class: "card"}, h("div", {class: "head"}, h("h2", {}, "Status zones")),
    h("table", {class: "numbers"},
      h("thead", {}, h("tr", {}, ["", ...results].map(name => h("th", {scope: "col"}, name)))),
      h("tbody", {}, rows.map(row => h("tr", {}, h("th", {scope: "row"}, row.name),
        results.map(result => h("td", {}, compact(row.requests[result]))))))));
}

function tile(what, value, more, bad) {
  return h("div", {class: bad ? "tile bad" : "tile"}, h("span", {class: "faint small"}, what), h("b", {}, value), h("span", {class: "faint small"}, more || "\u00a0"));
}

const open = new Map();
const filter = {
  text: h("input", {type: "search", id: "filter", placeholder: "Filter by name", "aria-label": "Filter projects by name"}),
  failing: h("input", {type: "checkbox", id: "failing"}),
};
const parts = Object.fromEntries(["top", "tiles", "table", "cards", "zones", "foot"].map(name => [name, h("section", {})]));
const bar = h("div", {class: "filter"}, filter.text, h("label", {}, filter.failing, " only what fails"));
const first = h("article", {class: "card"}, bar, parts.table);
parts.tiles.className = "tiles";
parts.cards.className = "cards";
page.replaceChildren(parts.top, parts.tiles, first, parts.cards, parts.zones, parts.foot);
filter.text.addEventListener("input", () => show());
filter.failing.addEventListener("change", () => show());
// A link to a project opens its card, and shows it whatever the filter says.
function openTarget() {
  const project = data.projects.find(project => "#" + anchor(project.name) === location.hash);
  if (!project) return;
  open.set(project.name, true);
  show();
  if (!document.getElementById(anchor(project.name))) {
    filter.text.value = "";
    filter.failing.checked = false;
    show();
  }
  document.getElementById(anchor(project.name))?.scrollIntoView();
}
addEventListener("hashchange", openTarget);
page.addEventListener("click", event => { if (event.target.closest?.(".overview a")) setTimeout(openTarget); });

function show() {
  const focused = document.activeElement?.id;
  const all = data.projects.map(numbersOf).sort((a, b) => b.state.urgency - a.state.urgency
    || b.now.error - a.now.error || b.now.requests - a.now.requests
    || b.whole.requests - a.whole.requests || a.project.name.localeCompare(b.project.name));
  const total = (when, name) => all.reduce((n, one) => n + one[when][name], 0);
  const wanted = filter.text.value.trim().toLowerCase();
  const shown = all.filter(one => one.project.name.toLowerCase().includes(wanted)
    && (!filter.failing.checked || one.state.urgency > 1));
  const failing = all.filter(one => one.project.resolver.outage?.failing).length;
  const minutes = data.recent_seconds || 1;
  const rate = name => `${(total("now", name) / minutes).toFixed(1)} per second; ${number(total("whole", name))} since start`;
  const sums = when => ({looked: total(when, "looked"), served: total(when, "served"), bypass: total(when, "bypass")});
  parts.top.replaceChildren(h("header", {}, h("h1", {}, "Authgear for nginx"),
    h("span", {class: "faint"}, `${data.build.version}, nginx ${data.build.nginx}, ${data.host}, ${data.workers} workers`),
    h("span", {class: "faint"}, `since ${utc(data.started)} (${span(Math.max(0, data.time - data.started))})`),
    h("span", {class: "grow"}),
    h("span", {class: lost ? "live lost" : "live", id: "live"}, lost ? "connection lost" : "live"),
    h("nav", {}, h("a", {href: "?format=json", id: "json"}, "JSON"), h("a", {href: "?format=prometheus", id: "prometheus"}, "Prometheus"))));
  parts.tiles.replaceChildren(
    tile(`Requests, ${covered()}`, compact(total("now", "requests")), rate("requests")),
    tile(`Hit ratio, ${covered()}`, hits({...sums("now"), bypass: total("whole", "looked") ? 0 : total("whole", "bypass")}), `${hits(sums("whole"))} since start`),
    tile(`Look-ups, ${covered()}`, compact(total("now", "asked")), rate("asked")),
    tile(`Denied, ${covered()}`, compact(total("now", "deny")), `${share(total("now", "deny"), total("now", "requests"))}; ${number(total("whole", "deny"))} since start`),
    tile(`Errors, ${covered()}`, compact(total("now", "error")),
      (failing ? `${failing} failing now; ` : "") + `${number(total("whole", "error"))} since start`, failing || total("now", "error")));
  first.hidden = !all.length;
  parts.table.replaceChildren(overview(all, shown));
  parts.cards.replaceChildren(...(all.length ? shown.map(card) : [h("p", {class: "card"}, "No location uses a project.")]));
  parts.zones.replaceChildren(...[
    data.fleet ? fleet(data.fleet) : null,
    data.locations.length ? locations(data.locations) : null,
    h("article", {class: "card"}, h("div", {class: "head"}, h("h2", {}, "Cache zones")),
      data.zones.length ? data.zones.map(zone) : h("p", {class: "faint"}, "There are none: each request is asked about."))].filter(part => part));
  parts.foot.replaceChildren(h("p", {class: "faint small"},
    `Purges: ${number(data.purges.user)} of users, ${number(data.purges.self)} by users themselves, ${number(data.purges.all)} of everything. ` +
    `Webhooks: ${number(data.webhook_events.handled)} handled, ${number(data.webhook_events.ignored)} ignored, ` +
    `${number(data.webhook_events.forged)} with a wrong signature, ${number(data.webhook_events.invalid)} that made no sense. ` +
    `Users whose older tokens are refused: ${number(data.revocations)}.`));
  page.dataset.time = data.time;
  if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus({preventScroll: true});
}

// The fleet: whether this host has all events, and what became of them.
function fleet(report) {
  const {events, delay} = report;
  const since = report.last_sync === null ? "never in sync" : `cut off, in sync ${ago(report.last_sync, data.time)}`;
  const row = (name, value) => h("tr", {}, h("th", {}, name), h("td", {}, value));
  return h("article", {class: "card", id: "fleet"}, h("div", {class: "head"}, h("h2", {}, "Fleet"),
    h("span", {class: "badge " + (report.in_sync ? "good" : "bad")}, report.in_sync ? "in sync" : since)),
    h("table", {}, h("tbody", {},
      row("Events told, heard", `${number(events.published)}, ${number(events.applied)}`),
      row("Waiting for Redis", number(report.ring_waiting)),
      row("Mean delay", delay.count ? seconds(delay.sum / delay.count) : "–"),
      row("Unreadable, forged", `${number(events.unreadable)}, ${number(events.forged)}`),
      row("Losses noticed", number(sum(report.losses))),
      row("Verdicts of other hosts", number(report.cache.hit + report.cache.follow)))));
}

let data = JSON.parse(document.getElementById("data").textContent);
show();
openTarget();
// Many projects make a long answer.
const pause = () => data.projects.length > 50 ? 5000 : 2000;
async function refresh() {
  try {
    const answer = await fetch("?format=json", {cache: "no-store"});
    if (!answer.ok) throw new Error(answer.status);
    data = await answer.json();
    lost = false;
  } catch (error) {
    lost = true;
  }
  show();
  setTimeout(refresh, pause());
}
setTimeout(refresh, pause());
