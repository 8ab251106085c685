// Keeps the results on the page current from the server's events. Without this script the page shows them as they were.
"use strict";
(() => {
  const main = document.querySelector("[data-live]");
  if (!main || !window.EventSource) return;
  const number = new Intl.NumberFormat("en");
  const put = (id, text) => {
    const place = document.getElementById(id);
    if (place && place.textContent !== text) place.textContent = text;
  };
  const source = new EventSource(main.dataset.live);
  source.onmessage = (event) => {
    const now = JSON.parse(event.data);
    for (const [option, n] of Object.entries(now.counts)) {
      const share = now.voters ? (100 * n) / now.voters : 0;
      put("n-" + option, number.format(n));
      put("p-" + option, share.toFixed(1) + " %");
      const bar = document.getElementById("b-" + option);
      if (bar) bar.setAttribute("width", share.toFixed(2) + "%");
    }
    put("voters", number.format(now.voters));
    put("rate", number.format(Math.round(now.rate)));
    put("pending", number.format(now.pending));
    put("state", now.final ? "Final" : now.closed ? "Closed, counting" : "Open");
    if (now.final) { source.close(); location.reload(); }
  };
})();
