
"use strict";
const PAUSE = 2000;
const page = document.getElementById("page");
let previous = null, lost = false;

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
const share = (n, of) => of ? (100 * n / of).toFixed(n === of ? 0 : 1) + " %" : "–";
function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return +(value * 1000).toPrecision(3) + " ms";
  return +value.toPrecision(3) + " s";
}
function bytes(n) {
  return n >= 1048576 ? (n / 1048576).toFixed(1) + " MB" : Math.round(n / 1024) + " kB";
}
function ago(time, now) {
  const gone = Math.max(0, now - time);
  if (gone < 90) return gone + " s ago";
  if (gone < 5400) return Math.round(gone / 60) + " min ago";
  if (gone < 129600) return Math.round(gone / 3600) + " h ago";
  return Math.round(gone / 86400) + " days ago";
}

function results(project) {
  const all = {allow: 0, anonymous: 0, deny: 0, error: 0};
  for (const table of Object.values(project.requests))
    for (const [result, n] of Object.entries(table)) all[result] += n;
  return all;
}
const served = cache => cache.hit + cache.stale + cache.updating;

// The time that this part of the look-ups took no longer than, by the histogram.
function quantile(latency, part) {
  let before = 0, from = 0;
  const rank = part * latency.count;
  for (const bucket of latency.buckets) {
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

function histogram(latency) {
  const width = 560, height = 190, top = 16, bottom = 22;
  const most = Math.max(1, ...latency.buckets.map(bucket => bucket.count));
  const step = width / latency.buckets.length;
  const room = height - top - bottom;
  const bars = latency.buckets.map((bucket, n) => {
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
    h("h3", {}, "Time that look-ups took, up to so many milliseconds"),
    s("svg", {class: "histogram", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Histogram of the resolver's latency"},
      bars.flat(), s("line", {x1: 0, x2: width, y1: height - bottom, y2: height - bottom})));
}
const compact = n => new Intl.NumberFormat("en", {notation: "compact"}).format(n);

function list(what, rows) {
  if (!rows.length) return null;
  return h("section", {}, h("h3", {}, what),
    h("table", {}, h("tbody", {}, rows.map(([name, value]) => h("tr", {}, h("td", {}, name), h("td", {}, value))))));
}
const counted = table =>
  Object.entries(table).filter(row => row[1]).sort((a, b) => b[1] - a[1]).map(([name, n]) => [name, number(n)]);

function badge(outage, asked, now) {
  if (outage && outage.failing)
    return h("span", {class: "badge bad"}, `failing since ${ago(outage.since, now)}: ${outage.reason}`);
  if (outage)
    return h("span", {class: "badge warn"}, `answers again; last failed ${ago(outage.last, now)}: ${outage.reason}`);
  return asked ? h("span", {class: "badge good"}, "answers") : h("span", {class: "badge rest"}, "not asked yet");
}

function card(project, now) {
  const {resolver, cache, jwks} = project, result = results(project);
  const asked = sum(resolver.requests);
  const reuse = resolver.connections.opened + resolver.connections.reused;
  const keys = jwks.last_success === null ? "never fetched" : ago(jwks.last_success, now);
  const failed = Object.entries(resolver.requests).filter(([name]) => !["valid", "invalid", "none"].includes(name));
  const {valid, invalid, none} = resolver.requests;
  const errors = failed.reduce((all, row) => all + row[1], 0);
  return h("article", {class: "card"},
    h("div", {class: "head"}, h("h2", {}, project.name), badge(resolver.outage, asked, now)),
    h("div", {class: "halves"},
      h("div", {class: "stacks"},
        stack("Requests", [
          ["allow", result.allow, "good", true], ["anonymous", result.anonymous, "rest", true],
          ["deny", result.deny, "warn", true], ["error", result.error, "bad", true]]),
        stack("Cache", [
          ["hit", cache.hit, "accent", true], ["stale", cache.stale + cache.updating, "warn"],
          ["joined", cache.joined, "good"], ["miss", cache.miss + cache.expired, "rest", true],
          ["bypass", cache.bypass, "bad"]]),
        stack("Look-ups", [
          ["valid", valid, "good", true], ["invalid", invalid, "warn"], ["none", none, "rest"],
          ["failed", errors, "bad"]])),
      histogram(resolver.latency)),
    h("div", {class: "columns"},
      list("Resolver", [
        ["half of the look-ups within", seconds(quantile(resolver.latency, .5))],
        ["99 % within", seconds(quantile(resolver.latency, .99))],
        ["under way", number(resolver.inflight)],
        ["connections opened", number(resolver.connections.opened)],
        ["connections reused", share(resolver.connections.reused, reuse)]]),
      list("Denied, by reason", counted(project.denied)),
      list("Would have been denied (dry run)", counted(project.dry_run_denied)),
      list("Failures, by reason", counted(Object.fromEntries(failed))),
      list("Tokens verified here", counted(project.jwt_verifications)),
      jwks.keys || sum(jwks.fetches) ? list("Keys", [
        ["keys", number(jwks.keys)], ["fetched", keys],
        ["fetches that failed", number(jwks.fetches.error)]]) : null));
}

function zone(zone) {
  const used = zone.size ? 100 * zone.bytes / zone.size : 0;
  return h("div", {class: "zone"}, h("span", {}, zone.name),
    s("svg", {class: "stack", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": "fill"},
      s("rect", {x: 0, y: 0, width: used, height: 10, class: used > 95 ? "warn" : "accent"})),
    h("span", {class: "faint"}, `${number(zone.entries)} entries, ${bytes(zone.bytes)} of ${bytes(zone.size)}, ${number(zone.evictions)} evicted`));
}

function tile(what, value, more) {
  return h("div", {class: "tile"}, h("span", {class: "faint small"}, what), h("b", {}, value), h("span", {class: "faint small"}, more || "\u00a0"));
}

function totals(data) {
  const all = {requests: 0, denied: 0, errors: 0, served: 0, looked: 0, asked: 0, inflight: 0};
  for (const project of data.projects) {
    const result = results(project);
    all.requests += sum(result);
    all.denied += result.deny;
    all.errors += result.error;
    all.served += served(project.cache);
    all.looked += sum(project.cache) - project.cache.bypass;
    all.asked += project.resolver.latency.count;
    all.inflight += project.resolver.inflight;
  }
  return all;
}

function show(data) {
  const all = totals(data), before = previous && totals(previous);
  const time = previous ? data.time - previous.time : 0;
  const rate = name => time > 0 && all[name] >= before[name]
    ? ((all[name] - before[name]) / time).toFixed(1) + " per second" : null;
  const failing = data.projects.filter(project => project.resolver.outage && project.resolver.outage.failing);
  page.replaceChildren(...[
    h("header", {}, h("h1", {}, "Authgear for nginx"),
      h("span", {class: "faint"}, `${data.build.version}, nginx ${data.build.nginx}`),
      h("span", {class: "grow"}),
      h("span", {class: lost ? "live lost" : "live", id: "live"}, lost ? "connection lost" : "live"),
      h("a", {href: "?format=json"}, "JSON"), h("a", {href: "?format=prometheus"}, "Prometheus")),
    h("section", {class: "tiles"},
      tile("Requests", number(all.requests), rate("requests")),
      tile("Hit ratio", share(all.served, all.looked), `${number(all.served)} of ${number(all.looked)} from the cache`),
      tile("Look-ups", number(all.asked), rate("asked") || `${number(all.inflight)} under way`),
      tile("Denied", number(all.denied), share(all.denied, all.requests)),
      tile("Errors", number(all.errors), failing.length ? `${failing.length} failing now` : share(all.errors, all.requests))),
    ...data.projects.map(project => card(project, data.time)),
    data.projects.length ? null : h("p", {class: "card"}, "No location uses a project."),
    h("article", {class: "card"}, h("div", {class: "head"}, h("h2", {}, "Cache zones")),
      data.zones.length ? data.zones.map(zone) : h("p", {class: "faint"}, "There are none: each request is asked about.")),
    h("p", {class: "faint small"},
      `Purges: ${number(data.purges.user)} of users, ${number(data.purges.self)} by users themselves, ${number(data.purges.all)} of everything. ` +
      `Webhooks: ${number(data.webhook_events.handled)} handled, ${number(data.webhook_events.ignored)} ignored, ` +
      `${number(data.webhook_events.forged)} with a wrong signature, ${number(data.webhook_events.invalid)} that made no sense. ` +
      `Users whose older tokens are refused: ${number(data.revocations)}.`),
  ].filter(part => part !== null));
  page.dataset.time = data.time;
}

let data = JSON.parse(document.getElementById("data").textContent);
show(data);
async function refresh() {
  try {
    const answer = await fetch("?format=json", {cache: "no-store"});
    if (!answer.ok) throw new Error(answer.status);
    const next = await answer.json();
    lost = false;
    previous = data;
    data = next;
  } catch (error) {
    lost = true;
  }
  show(data);
  setTimeout(refresh, PAUSE);
}
setTimeout(refresh, PAUSE);
