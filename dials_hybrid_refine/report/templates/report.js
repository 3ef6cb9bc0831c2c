"use strict";
(function () {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const buttons = Array.from(document.querySelectorAll("nav button"));
  const config = { responsive: true, displaylogo: false };

  function draw(element) {
    if (element.dataset.drawn) { return; }
    element.dataset.drawn = "started";
    const plot = plots[element.dataset.plot];
    const narrow = element.clientWidth < 420;
    const layout = Object.assign({
      margin: { l: 55, r: 12, t: 30, b: plot.layout.showlegend === false ? 48 : 78 },
      font: { size: narrow ? 11 : 12, family: getComputedStyle(document.body).fontFamily },
      paper_bgcolor: "#fff", plot_bgcolor: "#fff", dragmode: "zoom",
    }, plot.layout);
    delete layout.title; // the heading above the plot
    for (const name of ["xaxis", "yaxis"]) {
      if (layout[name]) {
        layout[name] = Object.assign(
          { gridcolor: "#e8e8e8", linecolor: "#999", showline: true, ticks: "outside" }, layout[name]);
      }
    }
    Plotly.newPlot(element, plot.data, layout, config).then(function () {
      element.dataset.drawn = "done";
    });
  }

  function show(identifier) {
    for (const button of buttons) {
      const chosen = button.dataset.panel === identifier;
      button.setAttribute("aria-selected", chosen);
      button.tabIndex = chosen ? 0 : -1;
      if (chosen) { button.scrollIntoView({ block: "nearest", inline: "nearest" }); }
      const panel = document.getElementById(button.dataset.panel);
      panel.classList.toggle("shown", chosen);
      // only a plot that is seen has a size
      if (chosen) { panel.querySelectorAll(".plot").forEach(draw); }
    }
  }

  document.body.classList.add("scripted");
  for (const button of buttons) {
    button.addEventListener("click", function () {
      show(button.dataset.panel);
      history.replaceState(null, "", "#" + button.dataset.panel);
    });
  }
  document.querySelector("nav").addEventListener("keydown", function (event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = buttons.indexOf(document.activeElement);
    if (!step || at < 0) { return; }
    const next = buttons[(at + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
  });
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll(".plot").forEach(draw);
  });
  const wanted = decodeURIComponent(location.hash.slice(1));
  show(buttons.some(b => b.dataset.panel === wanted) ? wanted : buttons[0].dataset.panel);
})();
