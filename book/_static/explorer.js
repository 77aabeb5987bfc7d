// The restoration explorer: a slider moves what the page already shows. Everything is drawn in the
// page; here only the marker, the row of the table and the histograms change with the share.

function startExplorer(explorer) {
  const data = JSON.parse(explorer.querySelector("script").textContent);
  const slider = explorer.querySelector("input[type=range]");
  const moving = explorer.querySelector(".moving");
  const rings = [...moving.querySelectorAll(".ring")];
  const rows = [...explorer.querySelectorAll("tbody tr")];
  const says = explorer.querySelector(".says");
  const bars = ["fine-tuned .kept", "fine-tuned .back", "restored .kept"].map((name) =>
    explorer.querySelector(`figure.${name}`)
  );

  function show(place) {
    slider.value = place;
    slider.setAttribute("aria-valuetext", data.shares[place]);
    says.innerHTML = data.says[place];
    moving.setAttribute("transform", `translate(${data.at[place]} 0)`);
    rings.forEach((ring, level) => {
      const height = data.rings[place][level];
      ring.setAttribute("cy", height || 0);
      ring.setAttribute("visibility", height ? "visible" : "hidden");
    });
    rows.forEach((row, number) => {
      if (number === place) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    });
    const paths = data.histograms[place];
    bars.forEach((bar, number) => bar?.setAttribute("d", paths ? paths[number] : ""));
  }

  slider.hidden = false;
  explorer.querySelector("label").hidden = false;
  slider.addEventListener("input", () => show(Number(slider.value)));
  // A row of the table can be chosen too; the slider is the way without a mouse.
  rows.forEach((row, number) => row.addEventListener("click", () => show(number)));
  show(Number(slider.value)); // a browser may have kept the place of an earlier visit
}

document.addEventListener("DOMContentLoaded", () =>
  document.querySelectorAll(".repro-explorer").forEach(startExplorer)
);
