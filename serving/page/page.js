// Pictures that a person drops, picks or pastes go to POST /classify; answers become bars.

const drop = document.querySelector("#drop");
const input = document.querySelector("#files");
const status = document.querySelector("#status");
const problem = document.querySelector("#problem");
const results = document.querySelector("#results");
const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const milliseconds = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

let sending = null; // the request under way; a newer one replaces it
let previews = []; // object URLs on the page, freed when new pictures come

input.addEventListener("change", () => {
  classify([...input.files]);
  input.value = ""; // so that the same file can be chosen again
});

document.addEventListener("paste", (event) => classify([...event.clipboardData.files]));

for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}

document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) drop.classList.remove("over");
});

document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const files = [...event.dataTransfer.files];
  if (files.length === 0) {
    complain("What was dropped is not a file. Save the picture first, then drop it here.");
    return;
  }
  classify(files);
});

async function classify(files) {
  if (files.length === 0) return;
  sending?.abort();
  const mine = (sending = new AbortController());
  clear();
  status.textContent = files.length === 1 ? `Classifying ${files[0].name}…` : `Classifying ${files.length} pictures…`;
  const form = new FormData();
  for (const file of files) form.append("files", file, file.name);
  try {
    const response = await fetch("/classify", { method: "POST", body: form, signal: mine.signal });
    const answer = await response.json();
    if (response.ok) show(answer, files);
    else refuse(answer, response, files);
  } catch (error) {
    if (mine.signal.aborted) return; // a newer request has taken over the page
    complain("The service did not answer. Is it still running? Check the connection and try again.");
  } finally {
    if (sending === mine) sending = null;
  }
}

function show(answer, files) {
  const failed = answer.results.filter((result) => result.status === "error").length;
  const done = answer.results.length - failed;
  status.textContent =
    `${done} ${done === 1 ? "picture" : "pictures"} classified in ${milliseconds.format(answer.timing.total_ms)} ms` +
    (failed ? `, ${failed} could not be.` : ".");
  describe(answer.model);
  for (const result of answer.results) {
    const file = files[result.index];
    if (result.status === "ok") addCard(file, result.predictions, result.timing);
    else addError(file, result.error.detail);
  }
}

function refuse(answer, response, files) {
  if (answer.errors?.length) {
    for (const error of answer.errors) addError(files[error.index], error.detail);
    complain("None of the pictures could be classified.");
    return;
  }
  const wait = response.headers.get("Retry-After");
  complain(`${answer.title}: ${answer.detail}.` + (wait ? ` Try again in ${wait} s.` : ""));
}

function complain(text) {
  status.textContent = "";
  problem.textContent = text;
  problem.hidden = false;
}

function clear() {
  problem.hidden = true;
  results.replaceChildren();
  for (const url of previews) URL.revokeObjectURL(url);
  previews = [];
}

function describe(model) {
  document.querySelector("#model").textContent = `${model.name}, ${model.artifact}, checkpoint ${model.checkpoint}`;
}

function newCard(file) {
  const card = document.querySelector("#card").content.firstElementChild.cloneNode(true);
  const url = URL.createObjectURL(file);
  previews.push(url);
  const image = card.querySelector("img");
  image.addEventListener("error", () => image.remove(), { once: true }); // no browser shows TIFF
  image.src = url;
  card.querySelector("h2").textContent = file.name;
  card.querySelector("h2").title = file.name;
  results.append(card);
  return card;
}

function addCard(file, predictions, timing) {
  const card = newCard(file);
  const bars = document.createElement("ol");
  bars.className = "bars";
  bars.setAttribute("aria-label", "Classes, most likely first");
  for (const { label, probability } of predictions) {
    const bar = document.querySelector("#bar").content.firstElementChild.cloneNode(true);
    bar.querySelector(".name").textContent = label;
    bar.querySelector(".share").textContent = percent.format(probability);
    bar.querySelector(".fill").style.width = `${probability * 100}%`;
    bars.append(bar);
  }
  card.querySelector(".body").append(bars);
  const { decode_ms, queue_ms, infer_ms } = timing;
  const parts = { decoded: decode_ms, waited: queue_ms, inferred: infer_ms };
  card.querySelector(".timing").textContent = Object.entries(parts)
    .map(([name, time]) => `${name} ${milliseconds.format(time)} ms`)
    .join(" · ");
}

function addError(file, detail) {
  const card = newCard(file);
  const text = document.createElement("p");
  text.className = "error";
  text.textContent = `Not classified: ${detail}.`;
  card.querySelector(".body").append(text);
  card.querySelector(".timing").remove();
}
