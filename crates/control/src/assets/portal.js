// Filters the list while one types, and lets the arrow keys walk through it. Without this script the search is a form.
(() => {
  "use strict";
  const box = document.getElementById("q");
  const grid = document.getElementById("apps");
  const count = document.getElementById("count");
  if (!box || !grid) return;

  const parts = [...grid.querySelectorAll("section")];
  const cards = [...grid.querySelectorAll("li")].map((card) => {
    const heading = card.closest("section")?.querySelector("h2").textContent ?? "";
    return { card, text: `${card.textContent} ${heading}`.toLowerCase() };
  });
  const shown = () => cards.filter(({ card }) => !card.hidden).map(({ card }) => card.firstElementChild);
  let announce;

  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let hits = 0;
    for (const { card, text } of cards) {
      const hit = words.every((word) => text.includes(word));
      if (card.hidden === hit) card.hidden = !hit;
      if (hit) hits += 1;
    }
    for (const part of parts) part.hidden = !part.querySelector("li:not([hidden])");
    // Not at every key stroke: a screen reader would stumble.
    clearTimeout(announce);
    announce = setTimeout(() => {
      const total = cards.length.toLocaleString("en");
      const apps = cards.length === 1 ? "app" : "apps";
      count.textContent = words.length ? `${hits.toLocaleString("en")} of ${total} ${apps}` : `${total} ${apps}`;
    }, 200);
  };
  box.addEventListener("input", filter);
  box.form.addEventListener("submit", (event) => {
    event.preventDefault();
    shown()[0]?.focus();
  });

  // An image that cannot be had leaves its place to the app's initials.
  const stand = (image) => {
    const tile = image.closest?.(".tile");
    if (!tile) return;
    tile.classList.remove("image");
    tile.textContent = tile.dataset.short;
  };
  grid.addEventListener("error", (event) => stand(event.target), true);
  for (const image of grid.querySelectorAll(".tile img")) if (image.complete && !image.naturalWidth) stand(image);

  // A star is kept without loading the page anew; where that fails, the form does it.
  grid.addEventListener("click", async (event) => {
    const star = event.target.closest(".star");
    if (!star) return;
    event.preventDefault();
    const body = new URLSearchParams({ [star.name]: star.value });
    const answer = await fetch(star.form.action, { method: "POST", body, headers: { accept: "application/json" } });
    if (!answer.ok) {
      location.reload();
      return;
    }
    const marked = star.name === "add";
    star.name = marked ? "remove" : "add";
    star.setAttribute("aria-pressed", String(marked));
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target === box;
    if (event.key === "/" && !typing) {
      event.preventDefault();
      box.focus();
      box.select();
    } else if (event.key === "Escape" && (typing || grid.contains(event.target))) {
      if (typing && box.value) {
        box.value = "";
        filter();
      }
      box.focus();
    } else if (["ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight"].includes(event.key)) {
      walk(event, typing);
    }
  });

  const walk = (event, typing) => {
    const links = shown();
    if (typing) {
      if (event.key !== "ArrowDown" || !links.length) return;
      event.preventDefault();
      links[0].focus();
      return;
    }
    const here = links.indexOf(event.target.closest?.("a"));
    if (here < 0) return;
    event.preventDefault();
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) links[Math.min(links.length - 1, Math.max(0, here + step))].focus();
    else (beyond(links, links[here], event.key === "ArrowDown") ?? (event.key === "ArrowUp" ? box : links.at(-1))).focus();
  };

  // The link in the next row down or up that is nearest to the one we come from; rows of different sections differ in length.
  const beyond = (links, from, down) => {
    const { top, left } = from.getBoundingClientRect();
    const places = links.map((link) => ({ link, at: link.getBoundingClientRect() }));
    const ahead = places.filter(({ at }) => (down ? at.top > top + 1 : at.top < top - 1));
    if (!ahead.length) return undefined;
    const tops = ahead.map(({ at }) => at.top);
    const row = down ? Math.min(...tops) : Math.max(...tops);
    const inRow = ahead.filter(({ at }) => Math.abs(at.top - row) <= 1);
    inRow.sort((a, b) => Math.abs(a.at.left - left) - Math.abs(b.at.left - left));
    return inRow[0].link;
  };
})();
