(async (id) => {
  const figure = document.getElementById(id);
  const frame = figure.getBoundingClientRect();
  const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");
  const at = (box) => [box.left - frame.left, box.top - frame.top];
  const parts = [];

  const boxOf = (panel) => {
    const box = panel.getBoundingClientRect();
    const [x, y] = at(box);
    const fill = getComputedStyle(panel).backgroundColor;
    parts.push(`<rect x="${x}" y="${y}" width="${box.width}" height="${box.height}" rx="10" fill="${fill}"/>`);
  };

  const plotOf = async (div) => {
    const box = div.getBoundingClientRect();
    const [x, y] = at(box);
    const options = { format: "svg", width: Math.round(box.width), height: Math.round(box.height) };
    const drawn = decodeURIComponent((await Plotly.toImage(div, options)).split(",", 2).pop());
    parts.push(drawn.replace(/^<svg /, `<svg x="${x}" y="${y}" `));
  };

  const swatchOf = (swatch) => {
    const [x, y] = at(swatch.getBoundingClientRect());
    const style = getComputedStyle(swatch);
    const use = swatch.querySelector("use");
    const dash = style.strokeDasharray === "none" ? "" : ` stroke-dasharray="${style.strokeDasharray}"`;
    const marker = use ? document.querySelector(use.getAttribute("href")).innerHTML : "";
    parts.push(
      `<g transform="translate(${x} ${y})" fill="${style.color}">` +
        `<path d="M0 6H32" stroke="${style.color}" stroke-width="${style.strokeWidth}"${dash}/>${marker}</g>`,
    );
  };

  // A line of text is what stands at one height.
  const textOf = (element) => {
    const node = element.firstChild;
    const range = document.createRange();
    const lines = new Map();
    for (const { 0: word, index } of node.data.matchAll(/\S+/g)) {
      range.setStart(node, index);
      range.setEnd(node, index + word.length);
      const box = range.getBoundingClientRect();
      const line = lines.get(box.top) ?? { box, words: [] };
      lines.set(box.top, { ...line, words: [...line.words, word] });
    }
    const style = getComputedStyle(element);
    lines.forEach(({ box, words }) => {
      const [x, y] = at(box);
      parts.push(
        `<text x="${x}" y="${y + 0.78 * box.height}" fill="${style.color}" font-size="${style.fontSize}"` +
          ` font-weight="${style.fontWeight}">${escape(words.join(" "))}</text>`,
      );
    });
  };

  figure.querySelectorAll(".panel").forEach(boxOf);
  for (const div of figure.querySelectorAll(".plot")) await plotOf(div);
  figure.querySelectorAll(".swatch").forEach(swatchOf);
  figure.querySelectorAll(".panel-title, .axis, .legend button span").forEach(textOf);
  const top = figure.querySelector(".legend, .panels").getBoundingClientRect().top - frame.top;
  const bottom = figure.querySelector(".panels").getBoundingClientRect().bottom - frame.top;
  const font = getComputedStyle(document.body).fontFamily.replace(/"/g, "'");
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 ${top} ${frame.width} ${bottom - top}"` +
    ` width="${frame.width}" height="${bottom - top}" font-family="${font}">${parts.join("")}</svg>`
  );
})
