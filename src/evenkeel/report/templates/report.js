"use strict";
// Draws each panel when it comes near the window, in the colours of the style sheet; again when
// those change (dark) or the width does; all of them before printing.
(() => {
  const config = { displaylogo: false, displayModeBar: false, doubleClick: false };
  const root = document.documentElement;

  const painter = () => {
    const style = getComputedStyle(root);
    const color = (name) => style.getPropertyValue(name).trim();
    return { color, font: getComputedStyle(document.body).fontFamily };
  };

  const translucent = (hex, alpha) => {
    const part = (at) => parseInt(hex.slice(at, at + 2), 16);
    return `rgba(${part(1)}, ${part(3)}, ${part(5)}, ${alpha})`;
  };

  const paint = (trace, { color }, hidden) => {
    const own = color(`--series-${trace.meta.color % 8}`);
    const painted = { ...trace, visible: !hidden.has(trace.meta.entry), line: { ...trace.line, color: own } };
    if (trace.marker) painted.marker = { ...trace.marker, color: own };
    if (trace.error_y) painted.error_y = { ...trace.error_y, color: own };
    if (trace.meta.role === "band") painted.fillcolor = translucent(own, 0.18);
    return painted;
  };

  const axis = (layout, { color }) => ({
    ...layout,
    gridcolor: color("--grid"),
    linecolor: color("--rule"),
    tickcolor: color("--rule"),
    fixedrange: true,
  });

  const dress = (layout, div, brush) => ({
    ...layout,
    width: div.clientWidth,
    height: div.clientHeight,
    font: { color: brush.color("--ink"), family: brush.font, size: 12.5 },
    hoverlabel: {
      bgcolor: brush.color("--page"),
      bordercolor: brush.color("--rule"),
      font: { color: brush.color("--ink"), size: 12 },
      namelength: -1,
    },
    xaxis: axis(layout.xaxis, brush),
    yaxis: axis(layout.yaxis, brush),
  });

  const plots = new Map(
    [...document.querySelectorAll(".plot")].map((div) => [
      div,
      { source: div.parentElement.querySelector(".plot-data"), hidden: new Set(), width: 0 },
    ]),
  );

  // The library takes longer to start than all the rest of the page, so it waits until the page is
  // shown; starting it twice does nothing.
  const start = () => {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  };

  const draw = (div, brush = painter()) => {
    start();
    const plot = plots.get(div);
    plot.spec ??= JSON.parse(plot.source.textContent);
    plot.width = div.clientWidth;
    const traces = plot.spec.data.map((trace) => paint(trace, brush, plot.hidden));
    Plotly.react(div, traces, dress(plot.spec.layout, div, brush), config);
  };

  const redraw = (which) => {
    const brush = painter();
    plots.forEach((plot, div) => which(plot, div) && draw(div, brush));
  };

  // Near the window, and not before the page is shown
  const near = new IntersectionObserver(
    (seen) =>
      seen.forEach(({ isIntersecting, target }) => {
        if (isIntersecting && !plots.get(target).spec) draw(target);
      }),
    { rootMargin: "500px 0px" },
  );
  // The event fires once at the start, before anything is drawn.
  const resized = new ResizeObserver((seen) =>
    seen.forEach(({ target }) => {
      const plot = plots.get(target);
      if (plot.spec && plot.width !== target.clientWidth) draw(target);
    }),
  );
  const watch = () => {
    plots.forEach((_, div) => near.observe(div));
    plots.forEach((_, div) => resized.observe(div));
    window.requestIdleCallback?.(start, { timeout: 2000 });
  };
  if (document.readyState === "complete") watch();
  else window.addEventListener("load", () => setTimeout(watch));

  // Legends
  document.querySelectorAll(".legend button").forEach((button) =>
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      const scope = button.closest(".panel, .plots");
      redraw((plot, div) => {
        if (!scope.contains(div)) return false;
        plot.hidden[shown ? "delete" : "add"](Number(button.dataset.entry));
        return Boolean(plot.spec);
      });
    }),
  );

  // Dark and print
  const print = window.matchMedia("print");
  const printing = (on) => {
    if (root.classList.contains("print") === on) return;
    root.classList.toggle("print", on);
    document.querySelectorAll("details.measures").forEach((details) => {
      if (on) details.dataset.open = String(details.open);
      details.open = on || details.dataset.open === "true";
    });
    redraw((plot) => on || plot.spec);
  };
  const drawn = (plot) => plot.spec;
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(drawn));
  window.addEventListener("beforeprint", () => printing(true));
  window.addEventListener("afterprint", () => printing(false));
  print.addEventListener("change", () => printing(print.matches));

  // Navigation: mark the section that is being read, and keep its link in sight; but never move
  // links under a mouse that is about to click.
  const pointed = () => window.matchMedia("(hover: hover)").matches && bar.matches(":hover");
  const bar = document.querySelector("nav > div");
  const links = new Map([...bar.querySelectorAll("a")].map((a) => [a.hash.slice(1), a]));
  const mark = (link) => {
    links.forEach((other) => other.removeAttribute("aria-current"));
    link.setAttribute("aria-current", "true");
    if (!pointed()) bar.scrollTo({ left: link.offsetLeft - (bar.clientWidth - link.offsetWidth) / 2 });
  };
  const reading = new IntersectionObserver(
    (seen) => seen.forEach(({ isIntersecting, target }) => isIntersecting && mark(links.get(target.id))),
    { rootMargin: "-25% 0px -74% 0px" },
  );
  links.forEach((_, id) => reading.observe(document.getElementById(id)));
})();
