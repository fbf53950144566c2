"use strict";
(() => {
  const data = JSON.parse(document.getElementById("plan").textContent);
  const panel = document.getElementById("open");
  const search = document.getElementById("find");
  const ROWS = 200; // made at once; more when asked for

  // Texts of specs come in as text only, never as HTML.
  const h = (tag, attributes, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value) made.setAttribute(name, value);
    made.append(...children.flat(Infinity));
    return made;
  };
  const plural = (n, word) => n.toLocaleString("en") + " " + word + (n === 1 ? "" : "s");
  const to = (query) => "#" + new URLSearchParams(Object.entries(query).filter(([, value]) => value));

  // ---------------------------------------------------------------- unfold the table of nodes

  const at = (column, i) => (Array.isArray(column) ? column[i] : column);
  const unfold = (runs) => {
    const found = [];
    for (const n of runs) {
      if (n >= 0) found.push(n);
      else for (let i = n; i < 0; i++) found.push(found.at(-1) + 1);
    }
    return found;
  };
  const nodes = new Map(); // by step
  const byId = new Map();
  const stages = new Map(data.stages.map((stage) => [stage.name, stage]));
  for (const stage of data.stages) {
    stage.nodes = unfold(stage.steps).map((step, i) => {
      const labels = stage.axes.map(([, values, numbers]) => values[at(numbers, i)]);
      const inside = stage.axes.map(([name], a) => name + "=" + labels[a]).join(",");
      const id = stage.name + (inside && "[" + inside + "]");
      const key = stage.keys.slice(i * data.digits, (i + 1) * data.digits);
      const sign = stage.actions[i];
      const node = { step, stage, i, labels, id, key, sign, action: data.actions[sign][0] };
      nodes.set(step, node);
      byId.set(id, node);
      return node;
    });
  }
  const needs = (node) => unfold(node.stage.needs[node.i]);
  const words = (action) => Object.values(data.actions).find(([name]) => name === action)?.[1] ?? action;
  const lazily = (make) => {
    let made;
    return () => (made ??= make());
  };
  const users = lazily(() => {
    const found = new Map();
    for (const node of nodes.values())
      for (const step of needs(node)) found.has(step) ? found.get(step).push(node.step) : found.set(step, [node.step]);
    return found;
  });
  const tasksOf = (job) => {
    const found = [];
    for (const step of unfold(job.steps))
      if (found.length && found.at(-1).length < at(job.sizes, found.length - 1)) found.at(-1).push(step);
      else found.push([step]);
    return found;
  };
  const tasks = lazily(() => {
    const found = new Map();
    for (const job of data.jobs)
      tasksOf(job).forEach((steps, task, all) => {
        for (const step of steps) if (nodes.has(step)) found.set(nodes.get(step).key, { job, task, tasks: all.length });
      });
    return found;
  });

  // ---------------------------------------------------------------- one node

  const chip = (node, text, href) =>
    h("a", { class: "chip a-" + node.action, href, title: node.id + ": " + data.actions[node.sign][1] }, text);
  const linked = (step, text) => {
    const node = nodes.get(step);
    return node ? h("a", { href: to({ node: node.id }) }, text || node.id) : "a node that is not listed";
  };
  const spaced = (links) => links.flatMap((one) => [one, " "]);
  const why = (node) => {
    const [text, ...named] = [at(node.stage.why, node.i)].flat();
    return data.strings[text].split("\u0001").flatMap((part, i) => (i ? [linked(named[i - 1]), part] : [part]));
  };
  const fold = (title, ...text) => h("details", {}, h("summary", {}, title), ...text);

  // Steps by stage: `score (20): [seed=0] [seed=1] ...`
  const neighbours = (steps) => {
    const groups = new Map();
    for (const step of steps) {
      const name = nodes.get(step)?.stage.name ?? "";
      groups.has(name) ? groups.get(name).push(step) : groups.set(name, [step]);
    }
    return [...groups].map(([name, members]) => {
      if (members.length === 1) return h("div", {}, linked(members[0]));
      if (!name) return h("div", {}, plural(members.length, "node") + " that are not listed");
      const short = (step) => linked(step, nodes.get(step).id.slice(name.length));
      const shown = members.length > 12 ? 8 : 12;
      const rest = members.slice(shown, shown + 300);
      const all = [h("a", { href: to({ stage: name }) }, name), " (" + members.length + "): "];
      all.push(...spaced(members.slice(0, shown).map(short)));
      if (rest.length) all.push(fold(members.length - shown + " more", ...spaced(rest.map(short))));
      return h("div", {}, all);
    });
  };

  const specLines = (stage) => {
    const numbered = stage.lines.map((line, i) => String(stage.line + i).padStart(5) + " | " + line);
    return fold("spec: " + stage.place, h("pre", {}, [...numbered, ...stage.set].join("\n")));
  };
  const script = (job, task) => {
    const text = job.lines.map((line) => data.strings[line]).join("\n");
    return fold("job: " + job.name + task, h("pre", {}, "$ " + job.call), h("pre", {}, text));
  };

  const card = (node) => {
    const stage = node.stage;
    const rows = [
      ["action", h("span", { class: "chip a-" + node.action }, node.sign + " " + words(node.action)), " ", ...why(node)],
      ["key", h("code", {}, node.key)],
      ...stage.facts.map(([label, texts]) => [label, data.strings[at(texts, node.i)] || []].flat()),
      ["needs", ...neighbours(needs(node))],
      ["needed by", ...neighbours(users().get(node.step) ?? [])],
    ];
    const made = h("div", { class: "node" }, h("h3", {}, node.id), h("dl", {}));
    for (const [name, ...told] of rows)
      if (told.length) made.lastChild.append(h("dt", {}, name), h("dd", {}, told));
    made.append(specLines(stage));
    const found = tasks().get(node.key);
    const place = found?.tasks > 1 ? ", task " + found.task + " of 0-" + (found.tasks - 1) : "";
    if (found) made.append(script(found.job, place));
    return made;
  };

  // ---------------------------------------------------------------- lists of nodes

  // A table that makes its rows when they are asked for; `open(node)` puts the node below its row.
  const listing = (name, head, rows, query) => {
    const body = h("tbody", {});
    const more = h("button", { class: "more", type: "button" });
    const row = new Map(rows.flatMap(({ members }, i) => members.map((node) => [node, i])));
    let made = 0;
    const grow = (count) => {
      for (const end = Math.min(count, rows.length); made < end; made++) body.append(h("tr", {}, rows[made].cells()));
      more.hidden = made === rows.length;
      more.textContent = "Show more (" + plural(rows.length - made, "row") + " left)";
    };
    more.onclick = () => grow(made + 5 * ROWS);
    grow(ROWS);
    const table = h("table", { class: name }, h("thead", {}, h("tr", {}, head.map((text) => h("th", {}, text)))), body);
    const open = (node) => {
      body.querySelector(".opened")?.remove();
      body.querySelector("[aria-current]")?.removeAttribute("aria-current");
      if (!row.has(node)) return;
      grow(row.get(node) + 1);
      const line = body.children[row.get(node)];
      const own = to({ ...query, node: node.id });
      [...line.querySelectorAll(".chip")].find((chip) => chip.hash === own)?.setAttribute("aria-current", "true");
      const opened = h("tr", { class: "opened" }, h("td", { colspan: String(head.length) }, card(node)));
      line.after(opened);
      return opened;
    };
    return { element: h("div", { class: "nodes" }, h("div", { class: "scroll" }, table), more), open };
  };

  const varying = (stage) => stage.axes.map(([, values], a) => [values.length, a]).filter(([n]) => n > 1);

  // Two axes as a grid: the one with fewer values across.
  const grid = (stage, query) => {
    const [[across, columns], [, down]] = varying(stage).sort(([n], [m]) => n - m);
    const place = (node) => at(stage.axes[down][2], node.i) * across + at(stage.axes[columns][2], node.i);
    const cells = new Map(stage.nodes.map((node) => [place(node), node]));
    const rows = stage.axes[down][1].map((label, r) => {
      const members = Array.from({ length: across }, (_, c) => cells.get(r * across + c));
      const cell = (node) => h("td", {}, node ? chip(node, node.sign, to({ ...query, node: node.id })) : "");
      return { members: members.filter(Boolean), cells: () => [h("th", {}, label), members.map(cell)] };
    });
    const title = stage.axes[down][0] + " \\ " + stage.axes[columns][0];
    return listing("grid", [title, ...stage.axes[columns][1]], rows, query);
  };

  const table = (members, stage, query) => {
    const axes = stage ? varying(stage).map(([, a]) => a) : [];
    const head = axes.length ? axes.map((a) => stage.axes[a][0]) : ["node"];
    const rows = members.map((node) => {
      const href = to({ ...query, node: node.id });
      const cells = () => [
        h("td", {}, chip(node, node.sign, href)),
        (axes.length ? axes.map((a) => node.labels[a]) : [node.id]).map((text) => h("td", {}, h("a", { href }, text))),
        h("td", { class: "why" }, why(node)),
        h("td", {}, h("code", {}, node.key.slice(0, 12))),
      ];
      return { members: [node], cells };
    });
    return listing("plain", ["", ...head, "why", "key"], rows, query);
  };

  const list = (members, stage, query) => {
    const axes = stage ? varying(stage) : [];
    const full = stage && members.length === stage.nodes.length;
    const dense = axes.length === 2 && axes[0][0] * axes[1][0] <= 3 * members.length;
    return full && dense ? grid(stage, query) : table(members, stage, query);
  };

  // ---------------------------------------------------------------- what the address asks for

  const lines = [...document.querySelectorAll(".graph path")].map((path) => path.dataset);

  const stageHead = (stage) => {
    const name = stage.name;
    const others = (word, names) => {
      const links = names.map((other) => h("a", { href: to({ stage: other }) }, other));
      return links.length ? h("p", { class: "note" }, word, spaced(links)) : "";
    };
    const actions = Object.entries(data.actions).filter(([sign]) => stage.counts[sign]);
    const chips = actions.map(([sign, [action, words]]) => {
      const text = sign + " " + stage.counts[sign].toLocaleString("en") + " " + words;
      return h("a", { class: "chip a-" + action, href: to({ stage: name, action }) }, text);
    });
    const cut = stage.left_out ? ", of which the first " + stage.nodes.length.toLocaleString("en") + " are listed" : "";
    const own = data.jobs.filter((job) => job.stage === name);
    const jobs = own.map((job) => script(job, ", " + plural(tasksOf(job).length, "task")));
    return [
      h("h2", {}, name + " ", h("span", { class: "axes" }, stage.matrix)),
      h("p", {}, spaced(chips), stage.kind + ", " + plural(stage.nodes.length + stage.left_out, "node") + cut),
      others("reads ", lines.filter((line) => line.to === name).map((line) => line.from)),
      others("read by ", lines.filter((line) => line.from === name).map((line) => line.to)),
      specLines(stage),
      ...(jobs.length > 3 ? [fold(plural(jobs.length, "job"), ...jobs)] : jobs),
    ];
  };

  const foundHead = (count, stage, find, action) => {
    const told = [plural(count, "node")];
    if (find) told.push(' with "' + find + '" in the name');
    if (action) told.push(", " + words(action));
    if (stage) told.push(". ", h("a", { href: to({ stage: stage.name }) }, "Show all of the stage"));
    return h("p", {}, told);
  };

  const mark = (stage, members) => {
    const matched = members && new Set(members.map((node) => node.stage.name));
    for (const box of document.querySelectorAll(".box")) {
      box.classList.toggle("on", box.dataset.stage === stage?.name);
      box.classList.toggle("dim", Boolean(matched) && !matched.has(box.dataset.stage));
    }
    for (const path of document.querySelectorAll(".graph path"))
      path.classList.toggle("on", Boolean(stage) && [path.dataset.from, path.dataset.to].includes(stage.name));
  };

  let shown = "";
  let current = null;
  const show = (typing) => {
    const asked = new URLSearchParams(location.hash.slice(1));
    const [find, action] = [asked.get("find") ?? "", asked.get("action") ?? ""];
    const node = byId.get(asked.get("node"));
    const filtered = find || action;
    const stage = stages.get(asked.get("stage")) ?? (filtered ? undefined : node?.stage);
    const view = JSON.stringify([stage?.name, find, action, !node && asked.get("node")]);
    const rebuilt = view !== shown;
    if (rebuilt) {
      const part = find.toLowerCase();
      const match = (one) => one.id.toLowerCase().includes(part) && (!action || one.action === action);
      const members = (stage?.nodes ?? [...nodes.values()]).filter(match);
      const close = h("a", { class: "close", href: "#graph" }, "close");
      const told = stage ? stageHead(stage) : [h("h2", {}, "Found")];
      if (filtered) told.push(foundHead(members.length, stage, find, action));
      const nothing = !stage && !filtered;
      if (nothing && asked.get("node")) told.push(h("p", {}, "This page lists no node " + asked.get("node")));
      current = list(nothing ? [] : members, stage, { stage: stage?.name, find, action });
      panel.replaceChildren(close, ...told, members.length && !nothing ? current.element : "");
      panel.hidden = nothing && !asked.get("node");
      mark(stage, filtered && !stage ? members : null);
      for (const one of document.querySelectorAll(".tools .chip"))
        one.setAttribute("aria-current", String(one.dataset.action === action));
      if (!typing) search.value = find;
      shown = view;
    }
    const opened = current.open(node ?? (stage?.nodes.length === 1 ? stage.nodes[0] : undefined));
    if (typing || panel.hidden) return;
    if (rebuilt && filtered && !stage) search.form.scrollIntoView({ block: "nearest" });
    else if (rebuilt) {
      panel.focus({ preventScroll: true });
      panel.scrollIntoView();
    }
    if (node) opened?.scrollIntoView({ block: "nearest" });
  };

  search.oninput = () => {
    const action = new URLSearchParams(location.hash.slice(1)).get("action");
    history.replaceState(null, "", to({ find: search.value, action }));
    show(true);
  };
  search.form.onsubmit = () => false;
  // A chip chosen again lets all actions in; what is typed stays.
  search.form.onclick = (event) => {
    const chosen = event.target.closest(".chip");
    if (!chosen) return;
    event.preventDefault();
    const action = chosen.getAttribute("aria-current") === "true" ? "" : chosen.dataset.action;
    location.hash = to({ find: search.value, action });
  };
  addEventListener("hashchange", () => show(false));
  show(false);
})();
