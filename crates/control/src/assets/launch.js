// Keeps the launch page up to date and opens the app, at the very address asked for, once it answers.
// The page works without this script: it then reloads itself every few seconds.
(() => {
  "use strict";
  const page = document.querySelector("[data-launch]");
  const retry = document.querySelector("form[data-retry]");

  // Try again from where we are, so that a fragment in the address survives.
  retry?.addEventListener("submit", async (event) => {
    event.preventDefault();
    retry.querySelector("button").disabled = true;
    try {
      await fetch(location.href, { method: "POST", headers: { "Skep-Launch": "retry" }, redirect: "manual" });
      location.reload();
    } catch {
      retry.submit();
    }
  });
  if (!page) return;

  const at = (id) => document.getElementById(id);
  const order = ["queue", "environment", "start", "boot", "ready"];
  let began = performance.now() - Number(page.dataset.elapsed);
  let usual = Number(page.dataset.usual) || 0;
  let opening = false;

  const spoken = (ms) => {
    const s = Math.ceil(ms / 1000);
    if (s < 60) return `${s} s`;
    const two = (n) => String(n).padStart(2, "0");
    if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
    return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
  };

  const tick = () => {
    const elapsed = performance.now() - began;
    at("elapsed").textContent = spoken(elapsed);
    // Linear to the usual time, then ever slower: the bar never claims to be done.
    const share = usual ? elapsed / usual : elapsed / 20000;
    const shown = usual && share < 0.9 ? share : 1 - 0.9 ** (share * 4) * 0.9;
    at("bar").value = opening ? 100 : Math.min(97, Math.max(at("bar").value, shown * 100));
  };
  setInterval(tick, 1000);

  const say = (text) => {
    if (at("says").textContent !== text) at("says").textContent = text;
  };

  const show = (status) => {
    began = performance.now() - status.elapsed_ms;
    if (status.usual_ms) {
      usual = status.usual_ms;
      at("usual").textContent = `usually about ${spoken(usual)}`;
    }
    const now = order.indexOf(status.stage);
    [...at("stages").children].forEach((item, index) => {
      item.className = index < now ? "done" : index === now ? "now" : "";
      if (index === now) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
      item.querySelector(".only-read").textContent = index < now ? "done: " : index === now ? "now: " : "";
      item.querySelector("small").textContent = index === now ? status.detail : "";
    });
    if (status.says) say(status.says);
    at("before").hidden = !status.before;
    at("before").textContent = status.before ? `The one before ended: ${status.before}.` : "";
    tick();
  };

  const log = (lines) => {
    const box = at("log");
    if (!box) return;
    box.hidden = false;
    const pre = at("lines");
    const atEnd = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 4;
    const kept = pre.textContent.split("\n").filter(Boolean).concat(lines).slice(-100);
    pre.textContent = kept.join("\n");
    if (atEnd) pre.scrollTop = pre.scrollHeight;
  };

  const open = () => {
    opening = true;
    tick();
    location.reload();
  };

  // Refusals that pass by themselves; a page load would only meet them as well.
  const BUSY = ["control-busy", "control-silent", "no-answer", "shutting-down", "too-many-streams"];

  // One answer of the server, line by line. Answers whether to ask again.
  const follow = async () => {
    const answer = await fetch(location.href, {
      headers: { "Skep-Launch": "follow", Accept: "application/x-ndjson" },
      cache: "no-store",
      redirect: "manual",
    });
    const type = answer.headers.get("content-type") || "";
    if (type.startsWith("application/problem+json") && BUSY.includes((await answer.json()).code)) {
      say("The server is busy. Trying again…");
      return true;
    }
    if (!type.startsWith("application/x-ndjson")) {
      // Whatever it is, it is not a start in progress: let the browser load it.
      open();
      return false;
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return true;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines.filter(Boolean)) {
        const news = JSON.parse(line);
        if (news.log) log(news.log);
        if (news.again) {
          open();
          return false;
        }
        if (!news.stage) continue;
        show(news);
        if (news.stage === "ready" || news.failure) {
          open();
          return false;
        }
      }
    }
  };

  (async () => {
    for (let pause = 500; ; ) {
      const asked = performance.now();
      try {
        if (!(await follow())) return;
      } catch {
        say("The connection is lost. Trying again…");
      }
      // An answer that lasted was a good one; short ones are not repeated in haste.
      pause = performance.now() - asked > 5000 ? 500 : Math.min(pause * 2, 10000);
      await new Promise((wake) => setTimeout(wake, pause * (0.75 + Math.random() / 2)));
    }
  })();
})();
