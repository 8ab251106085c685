const find = (id) => document.getElementById(id);
const divisor = (a, b) => (b ? divisor(b, a % b) : a);

function draw() {
  const ring = 100;
  const wheel = Number(find("wheel").value);
  const pen = Number(find("pen").value) / 100;
  const turns = wheel / divisor(ring, wheel);
  const points = [];
  for (let step = 0; step <= turns * 240; step += 1) {
    const angle = (step / 240) * 2 * Math.PI;
    const roll = ((ring - wheel) / wheel) * angle;
    const x = (ring - wheel) * Math.cos(angle) + wheel * pen * Math.cos(roll);
    const y = (ring - wheel) * Math.sin(angle) - wheel * pen * Math.sin(roll);
    points.push(`${x.toFixed(2)},${y.toFixed(2)}`);
  }
  find("curve").setAttribute("d", `M${points.join("L")}Z`);
  find("verdict").textContent = `A wheel of ${wheel} closes the curve after ${turns} ${turns === 1 ? "turn" : "turns"}.`;
}

find("wheel").addEventListener("input", draw);
find("pen").addEventListener("input", draw);
draw();
