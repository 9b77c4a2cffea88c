"use strict";
// Draws each panel in the colours of the style sheet, and again when those change (dark, print).
(() => {
  const config = { responsive: true, displaylogo: false, displayModeBar: false, doubleClick: false };
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const translucent = (hex, alpha) => {
    const part = (at) => parseInt(hex.slice(at, at + 2), 16);
    return `rgba(${part(1)}, ${part(3)}, ${part(5)}, ${alpha})`;
  };

  const paint = (trace) => {
    const own = color(`--series-${trace.meta.color % 6}`);
    const painted = { ...trace, line: { ...trace.line, color: own } };
    if (trace.marker) painted.marker = { ...trace.marker, color: own };
    if (trace.meta.role === "band") painted.fillcolor = translucent(own, 0.18);
    return painted;
  };

  const axis = (layout) => ({
    ...layout,
    gridcolor: color("--grid"),
    linecolor: color("--rule"),
    tickcolor: color("--rule"),
    fixedrange: true,
  });

  const dress = (layout) => ({
    ...layout,
    font: { color: color("--ink"), family: getComputedStyle(document.body).fontFamily, size: 12.5 },
    hoverlabel: { bgcolor: color("--page"), bordercolor: color("--rule"), font: { color: color("--ink") } },
    xaxis: axis(layout.xaxis),
    yaxis: axis(layout.yaxis),
  });

  const plots = [...document.querySelectorAll(".plot")].map((div) => ({
    div,
    spec: JSON.parse(div.parentElement.querySelector(".plot-data").textContent),
  }));

  const draw = () =>
    plots.forEach(({ div, spec }) => Plotly.react(div, spec.data.map(paint), dress(spec.layout), config));

  draw();
  dark.addEventListener("change", draw);
  window.addEventListener("beforeprint", draw);
  window.addEventListener("afterprint", draw);
})();
