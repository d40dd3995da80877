// Pictures that a person drops, picks or pastes go to POST /classify, one by one; answers become bars.

const drop = document.querySelector("#drop");
const input = document.querySelector("#files");
const status = document.querySelector("#status");
const problem = document.querySelector("#problem");
const results = document.querySelector("#results");
const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const milliseconds = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

const picker = document.querySelector("#picker");
const gate = document.querySelector("#gate");
const key = document.querySelector("#key");

const AT_ONCE = 4; // pictures under way; each is a request of its own, so that none holds others up
const TRIES = 4; // of a picture while the service is busy

let sending = null; // stops the pictures under way; newer ones replace them
let waiting = []; // pictures that an API key is asked for
let previews = []; // object URLs on the page, freed when new pictures come

listModels();

// Models come and go while the page is open.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) listModels();
});

gate.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", key.value);
  gate.hidden = true;
  listModels();
  if (waiting.length) classify(waiting);
});

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
  const started = performance.now();
  const left = files.map((file) => ({ file, card: newCard(file) }));
  const done = [];
  results.setAttribute("aria-busy", "true");
  const worker = async () => {
    while (left.length && !mine.signal.aborted) {
      const { file, card } = left.shift();
      done.push(await classifyOne(file, card, mine));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  if (sending !== mine) return; // newer pictures have taken over the page
  sending = null;
  results.removeAttribute("aria-busy");
  if (!mine.signal.aborted) conclude(done, performance.now() - started);
}

// One picture into its card; returns the problem, or null where it was classified.
async function classifyOne(file, card, mine) {
  try {
    const { response, answer } = await post(file, mine.signal);
    if (response.status === 401) {
      if (!mine.signal.aborted) askForKey(mine); // the first of them asks
      return answer;
    }
    if (!response.ok) {
      if (response.status === 404) listModels(); // the model that was chosen is gone
      fillError(card, answer.detail);
      return answer;
    }
    describe(answer.model);
    fillCard(card, answer.results[0]);
    return null;
  } catch (error) {
    if (mine.signal.aborted) return null;
    mine.abort();
    for (const other of results.querySelectorAll(".waiting")) other.remove();
    complain("The service did not answer. Is it still running? Check the connection and try again.");
    return null;
  }
}

// POST a picture, again after a while when the service is busy.
async function post(file, signal) {
  const form = new FormData();
  form.append("files", file, file.name);
  for (let attempt = 1; ; attempt += 1) {
    const response = await fetch(`classify?${chosen()}`, { method: "POST", body: form, headers: credentials(), signal });
    const seconds = Number(response.headers.get("Retry-After"));
    if (response.status !== 503 || !seconds || attempt === TRIES) return { response, answer: await answerOf(response) };
    status.textContent = `The service is busy. Trying again in ${seconds} s…`;
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    signal.throwIfAborted();
  }
}

// The service's answer; a proxy before it, which answers pages, is put into the same words.
async function answerOf(response) {
  try {
    return await response.json();
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    const detail = response.status === 413 ? "a proxy does not let pictures of this size through" : "a proxy could not reach the service";
    return { title: `Answer ${response.status}`, detail };
  }
}

function conclude(problems, duration) {
  const failed = problems.filter((problem) => problem !== null);
  const good = problems.length - failed.length;
  if (good === 0) {
    const [only] = failed;
    complain(problems.length === 1 ? `${only.title}: ${only.detail}.` : "None of the pictures could be classified.");
    return;
  }
  status.textContent =
    `${good} ${good === 1 ? "picture" : "pictures"} classified in ${milliseconds.format(duration)} ms` +
    (failed.length ? `, ${failed.length} could not be.` : ".");
}

async function listModels() {
  const response = await fetch("models", { headers: credentials() }).catch(() => null);
  if (response?.status === 401) gate.hidden = false;
  if (!response?.ok) return; // the first picture will say what is wrong
  const { models } = await response.json();
  const before = picker.value;
  picker.replaceChildren(
    ...models.map(({ name, version, ready, default: first }) => {
      const option = new Option(`${name}, version ${version}${ready ? "" : " (not ready)"}`, "", first, first);
      option.value = JSON.stringify({ model: name, version });
      return option;
    }),
  );
  if ([...picker.options].some((option) => option.value === before)) picker.value = before;
  document.querySelector("#choice").hidden = models.length < 2;
  const current = models[picker.selectedIndex];
  if (current) describe(current);
}

function chosen() {
  return picker.value ? new URLSearchParams(JSON.parse(picker.value)) : "";
}

function credentials() {
  const kept = sessionStorage.getItem("key");
  return kept ? { Authorization: `Bearer ${kept}` } : {};
}

function askForKey(mine) {
  const again = sessionStorage.getItem("key") !== null;
  mine.abort();
  sessionStorage.removeItem("key");
  waiting = previews.map((preview) => preview.file);
  clear();
  status.textContent = "";
  gate.hidden = false;
  if (again) {
    complain("This API key is not known here. Check it and try again.");
    key.value = "";
  }
  key.focus();
}

function complain(text) {
  status.textContent = "";
  problem.textContent = text;
  problem.hidden = false;
}

function clear() {
  problem.hidden = true;
  results.replaceChildren();
  for (const { url } of previews) URL.revokeObjectURL(url);
  previews = [];
}

function describe(model) {
  document.querySelector("#model").textContent = `${model.name}, ${model.artifact}, checkpoint ${model.checkpoint}`;
}

function newCard(file) {
  const card = document.querySelector("#card").content.firstElementChild.cloneNode(true);
  const url = URL.createObjectURL(file);
  previews.push({ url, file });
  const image = card.querySelector("img");
  image.addEventListener("error", () => image.remove(), { once: true }); // no browser shows TIFF
  image.src = url;
  card.querySelector("h2").textContent = file.name;
  card.querySelector("h2").title = file.name;
  results.append(card);
  return card;
}

function fillCard(card, { predictions, unknown, timing }) {
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
  card.classList.remove("waiting");
  card.querySelector(".body").replaceChildren(...(unknown ? [unknownNote()] : []), bars);
  const { decode_ms, queue_ms, infer_ms } = timing;
  const parts = { decoded: decode_ms, waited: queue_ms, inferred: infer_ms };
  card.querySelector(".timing").textContent = Object.entries(parts)
    .map(([name, time]) => `${name} ${milliseconds.format(time)} ms`)
    .join(" · ");
}

function unknownNote() {
  const note = document.createElement("p");
  note.className = "unknown";
  note.textContent = "Unknown: unlike the pictures of every class. The nearest are";
  return note;
}

function fillError(card, detail) {
  const text = document.createElement("p");
  text.className = "error";
  text.textContent = `Not classified: ${detail}.`;
  card.classList.remove("waiting");
  card.querySelector(".body").replaceChildren(text);
  card.querySelector(".timing").remove();
}
