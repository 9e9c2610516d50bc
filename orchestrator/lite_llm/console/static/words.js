// Small pieces of page and of language. Text only ever becomes text nodes.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "width") made.style.width = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export function table(titles, rows) {
  const cell = (value) => {
    const number = typeof value === "number";
    return element("td", number ? { class: "number" } : {}, number ? rounded(value) : value);
  };
  const title = (words, column) => {
    const number = rows.some((row) => typeof row[column] === "number");
    return element("th", number ? { class: "number" } : {}, words);
  };
  return element("table", {},
    element("thead", {}, element("tr", {}, ...titles.map(title))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell)))));
}

export function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

export function rounded(value) {
  return Number.isInteger(value) ? String(value) : value.toFixed(Math.abs(value) < 10 ? 3 : 1);
}

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = Number(bytes), unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function seconds(value) {
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 2 : 0)} s`;
}

// MEDIUM_OBJECT_STORE -> object_store
export function word(constant, prefix) {
  return (constant ?? `${prefix}UNSPECIFIED`).replace(prefix, "").toLowerCase();
}

export const MEDIA = ["unspecified", "gpu", "dram", "nvme", "sata", "object_store"];
export const MEDIUM_WORDS = {
  gpu: "hot", dram: "memory", nvme: "disk", sata: "slow disk", object_store: "store", unspecified: "nowhere",
};

export function nameOf(ref) {
  return ref.namespace === "default" ? ref.name : `${ref.namespace}/${ref.name}`;
}
