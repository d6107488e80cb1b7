// Search, movement by keys, light and dark. The pages work without it.
(() => {
  "use strict";
  const page = document.documentElement;
  const root = page.dataset.root || "";
  const remembered = {
    get() { try { return localStorage.getItem("light"); } catch { return null; } },
    set(value) { try { localStorage.setItem("light", value); } catch { /* no storage from disk */ } },
  };
  if (remembered.get()) page.dataset.light = remembered.get();
  document.getElementById("light").addEventListener("click", () => {
    const dark = page.dataset.light
      ? page.dataset.light === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    page.dataset.light = dark ? "light" : "dark";
    remembered.set(page.dataset.light);
  });

  const query = document.getElementById("query");
  const results = document.getElementById("results");
  const list = results.querySelector("ul");
  const heading = results.querySelector("h2");
  const most = 60;

  const rankOf = ([slug, name, group, number], words) => {
    const text = `${name} ${group} ${number}`.toLowerCase();
    if (!words.every((word) => text.includes(word))) return -1;
    const whole = words.join(" ");
    if (String(number) === whole || name.toLowerCase() === whole) return 0;
    if (words.some((word) => String(number) === word || text.split(/[\s:,]+/).includes(word))) return 1;
    return name.toLowerCase().startsWith(whole) ? 2 : 3;
  };

  const tile = ([slug, name, , , made]) => {
    const item = document.createElement("li");
    const link = item.appendChild(document.createElement("a"));
    link.href = `${root}unit/${slug}.html`;
    if (made) {
      const image = link.appendChild(document.createElement("img"));
      image.src = `${root}thumbs/${slug}.webp`;
      image.alt = "";
      image.loading = "lazy";
      image.width = image.height = 160;
    }
    const label = link.appendChild(document.createElement("span"));
    label.className = "name";
    label.textContent = name;
    return item;
  };

  const search = () => {
    const words = query.value.toLowerCase().split(/[\s:,]+/).filter(Boolean);
    results.hidden = !words.length;
    if (!words.length) return;
    const found = window.UNITS.map((unit) => [rankOf(unit, words), unit]).filter(([rank]) => rank >= 0);
    found.sort((a, b) => a[0] - b[0]);
    heading.textContent = found.length ? `Found ${found.length}` : `Nothing called “${query.value}”`;
    list.replaceChildren(...found.slice(0, most).map(([, unit]) => tile(unit)));
  };
  query.addEventListener("input", search);
  document.getElementById("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const first = list.querySelector("a");
    if (first && !results.hidden) location.href = first.href;
  });

  const follow = (selector) => {
    const link = document.querySelector(selector);
    if (link) location.href = link.href;
    return Boolean(link);
  };
  const among = (key) => {
    const links = [...document.querySelectorAll(results.hidden ? "main .grid a" : "#results a")];
    if (!links.length) return false;
    const at = links.indexOf(document.activeElement);
    if (at < 0) { links[0].focus(); return true; }
    const here = links[at].getBoundingClientRect();
    const rows = (down) => links.filter((link) => {
      const there = link.getBoundingClientRect();
      return down ? there.top > here.top + 8 : there.top < here.top - 8;
    }).sort((a, b) => {
      const [p, q] = [a.getBoundingClientRect(), b.getBoundingClientRect()];
      return Math.abs(p.top - here.top) - Math.abs(q.top - here.top)
        || Math.abs(p.left - here.left) - Math.abs(q.left - here.left);
    });
    const next = { ArrowLeft: links[at - 1], ArrowRight: links[at + 1], ArrowUp: rows(false)[0], ArrowDown: rows(true)[0] }[key];
    if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
    return Boolean(next);
  };

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") { query.value = ""; search(); query.blur(); return; }
    if (event.target === query && event.key !== "ArrowDown") return;
    const onUnit = document.querySelector(".steps") && results.hidden;
    let done = false;
    if (event.key === "/") { query.focus(); query.select(); done = true; }
    else if (event.key === "u") done = follow(".steps a[rel=up]") || follow(".home");
    else if (onUnit && event.key === "ArrowLeft") done = follow(".steps a[rel=prev]");
    else if (onUnit && event.key === "ArrowRight") done = follow(".steps a[rel=next]");
    else if (event.key.startsWith("Arrow") && !onUnit) done = among(event.key);
    if (done) event.preventDefault();
  });

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const text = document.getElementById(button.dataset.copy);
      try { await navigator.clipboard.writeText(text.textContent); button.textContent = "Copied"; } catch {
        getSelection().selectAllChildren(text);
        button.textContent = "Selected";
      }
    });
  }
})();
