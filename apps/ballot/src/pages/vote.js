// Votes without a page load, and counts attempts: a try whose answer got lost is overtaken by the next one, whichever
// front each of them reached. Without this script the form works as it is.
"use strict";
(() => {
  const form = document.querySelector("form[data-api]");
  if (!form) return;
  const said = document.getElementById("said");
  const button = form.querySelector("button");
  const key = "ballot-attempt-" + form.dataset.poll;
  const say = (kind, text, receipt) => {
    said.replaceChildren();
    const p = document.createElement("p");
    p.className = kind;
    p.textContent = text;
    said.append(p);
    if (receipt) {
      const hint = document.createElement("p");
      hint.textContent = "Your receipt. Keep it to yourself: with it you can check, after the poll closes, that your vote was counted.";
      const code = document.createElement("code");
      code.textContent = receipt;
      const line = document.createElement("p");
      line.className = "receipt";
      line.append(code);
      said.append(hint, line);
    }
  };
  const once = async (ballot) => {
    const attempt = Number(localStorage.getItem(key) || 0) + 1;
    localStorage.setItem(key, String(attempt));
    const answer = await fetch(form.dataset.api, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...ballot, attempt }),
      signal: AbortSignal.timeout(20000),
    });
    const body = await answer.json();
    if (answer.status === 201) localStorage.removeItem(key);
    return { status: answer.status, body };
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const data = new FormData(form);
    const ballot = { option: data.get("option") };
    if (data.get("ticket")) ballot.ticket = data.get("ticket");
    button.disabled = true;
    say("hint", "Recording your vote…");
    for (let again = 0; ; again++) {
      try {
        const { status, body } = await once(ballot);
        if (status === 201) say("good", "Your vote is recorded.", body.receipt);
        else if (status === 503 && again < 5) {
          await new Promise((r) => setTimeout(r, 500 * 2 ** again));
          continue;
        } else say("bad", "Your vote was not taken: " + (body.detail || "try again") + ".");
        break;
      } catch {
        if (again >= 5) { say("bad", "No answer came. Your vote may or may not be recorded: vote again to be sure."); break; }
        await new Promise((r) => setTimeout(r, 500 * 2 ** again));
      }
    }
    button.disabled = false;
  });
})();
