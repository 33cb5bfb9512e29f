// One reader's way through a study. The token is behind # in the link, where no server and no log sees it.
const token = location.hash.slice(1);
const $ = (id) => document.getElementById(id);
const KEYS = { abnormality: ["a", "b", "c", "d"], grade: ["j", "k"] };
let texts, study, state, watch, waiting = false;

class Refused extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

async function ask(path, body) {
  // A server that hangs is as good as none.
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 15000);
  const options = { headers: { Authorization: `Bearer ${token}` }, signal: stop.signal };
  if (body) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  if (body) options.headers["Content-Type"] = "application/json";
  const response = await fetch(path, options);
  if (!response.ok) throw new Refused(response.status, await response.text());
  return response;
}

const askJSON = async (path, body) => (await ask(path, body)).json();
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const filled = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

// Ask until there is an answer: a server that is down, full or slow loses nothing.
async function insist(path, body) {
  for (let pause = 300; ; pause = Math.min(2 * pause, 5000)) {
    try {
      const answer = await askJSON(path, body);
      trouble("");
      return answer;
    } catch (error) {
      const hopeless = error instanceof Refused && error.status < 500 && error.status !== 429;
      if (hopeless) throw error;
      trouble(whyNot(error));
      await sleep(pause);
    }
  }
}

// No connection, a server that was asked too often, or one that can't save.
function whyNot(error) {
  if (!(error instanceof Refused)) return texts.lost;
  return error.status === 429 ? texts.too_many : texts.unsaved;
}

// Say what is wrong where the reader looks: beside the questions, or under a text to read.
function trouble(what) {
  $("trouble").textContent = $("message-trouble").textContent = what;
}

// Time that the reader looks: from when the images show, while the page is in front and not paused.
class Watch {
  constructor() { this.seconds = 0; this.since = null; this.go(); }
  go() { if (this.since === null && !document.hidden) this.since = performance.now(); }
  stop() { this.seconds += this.since === null ? 0 : (performance.now() - this.since) / 1000; this.since = null; return this.seconds; }
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// -- texts to read and agree to ---------------------------------------------------------------------------------------

function tell(heading, paragraphs, button, action, extra) {
  $("reading").hidden = true;
  $("message").hidden = false;
  $("message-heading").textContent = heading;
  $("message-body").replaceChildren(...paragraphs.map((text) => element("p", {}, text)), ...(extra ? [extra] : []));
  $("message-button").hidden = !button;
  $("message-button").textContent = button || "";
  $("message-button").onclick = action;
  (button ? $("message-button") : $("message-heading")).focus();
}

function instructions() {
  const told = [study.instructions];
  if (study.abnormalities.length) told.push(texts.abnormality_told);
  if (study.practice) told.push(filled(texts.practice_told, { number: study.practice }));
  return told;
}

function keysTold() {
  const choices = study.question === "real_or_synthetic" ? [texts.real, texts.synthetic] : [texts.left, texts.right];
  const rows = [["←", choices[0]], ["→", choices[1]], ["Enter", texts.next], ["Backspace", texts.back], ["P", texts.pause]];
  if (study.confidences > 1) rows.splice(2, 0, [`1 – ${study.confidences}`, texts.confidence_question]);
  if (study.abnormalities.length) {
    const kinds = KEYS.abnormality.slice(0, study.abnormalities.length + 1).map((key) => key.toUpperCase());
    rows.splice(-3, 0, [`${kinds[0]} – ${kinds.at(-1)}`, texts.abnormality_question]);
    rows.splice(-3, 0, [KEYS.grade.map((key) => key.toUpperCase()).join(" "), texts.grade_question]);
  }
  rows.push(["+ −", texts.zoom]);
  if (study.comments) rows.push(["Esc", texts.leave_comment]);
  const list = element("dl", { "aria-label": texts.keys_heading });
  for (const [key, what] of rows) list.append(element("dt", {}, element("kbd", {}, key)), element("dd", {}, what));
  return list;
}

// -- questions --------------------------------------------------------------------------------------------------------

function radios(name, legend, options) {
  const row = element("div", { class: "options" });
  for (const { value, text, key } of options) {
    const input = element("input", { type: "radio", name, value, "data-key": key || "" });
    const words = element("span", {}, text);
    if (key) words.append(element("kbd", { "aria-hidden": "true" }, { ArrowLeft: "←", ArrowRight: "→" }[key] || key.toUpperCase()));
    row.append(element("label", {}, input, words));
  }
  const group = element("fieldset", { id: `group-${name}` });
  if (legend) group.append(element("legend", {}, legend));
  else group.setAttribute("aria-labelledby", "question");
  group.append(row);
  return group;
}

function makeQuestions() {
  const sides = study.question === "real_or_synthetic" ? ["real", "synthetic"] : ["left", "right"];
  const arrows = ["ArrowLeft", "ArrowRight"];
  const groups = [radios("choice", "", sides.map((value, i) => ({ value, text: texts[value], key: arrows[i] })))];
  if (study.confidences > 1) {
    const steps = texts.confidences[study.confidences];
    groups.push(radios("confidence", texts.confidence_question, steps.map((text, i) => ({ value: i + 1, text, key: String(i + 1) }))));
  }
  if (study.abnormalities.length) {
    const kinds = ["none", ...study.abnormalities];
    groups.push(radios("abnormality", texts.abnormality_question, kinds.map((value, i) => ({ value, text: texts[value], key: KEYS.abnormality[i] }))));
    const grades = [{ value: 1, text: texts.slight, key: KEYS.grade[0] }, { value: 2, text: texts.severe, key: KEYS.grade[1] }];
    groups.push(radios("grade", texts.grade_question, grades));
  }
  if (study.comments) {
    const label = element("label", {}, texts.comment, element("textarea", { name: "comment", rows: 2, maxlength: 1000 }));
    groups.push(element("fieldset", {}, label));
  }
  $("groups").replaceChildren(...groups);
  $("groups").onchange = showGrade;
}

function showGrade() {
  const group = $("group-grade");
  if (!group) return;
  const kind = new FormData($("form")).get("abnormality");
  group.inert = !kind || kind === "none";
}

function firstUnanswered() {
  return [...document.querySelectorAll("#groups fieldset:not([inert])")].find((group) => group.querySelector("input[type=radio]") && !group.querySelector("input:checked"));
}

function answerGiven() {
  const data = new FormData($("form"));
  const answer = { choice: data.get("choice") };
  if (study.confidences > 1) answer.confidence = Number(data.get("confidence")) || null;
  if (study.abnormalities.length) {
    answer.abnormality = data.get("abnormality");
    if (answer.abnormality !== "none") answer.grade = Number(data.get("grade")) || null;
  }
  const comment = (data.get("comment") || "").replace(/\p{Surrogate}/gu, "\ufffd").trim();
  const complete = Object.values(answer).every((value) => value !== null);
  if (comment) answer.comment = comment;
  return complete ? answer : null;
}

function fill(answer) {
  for (const input of $("groups").querySelectorAll("input")) input.checked = false;
  for (const comment of $("groups").querySelectorAll("textarea")) comment.value = "";
  for (const [name, value] of Object.entries(answer || {})) {
    const field = $("form").elements[name];
    if (field) field.value = String(value);
  }
  showGrade();
}

// -- images -----------------------------------------------------------------------------------------------------------

const view = { zoom: 1, x: 0, y: 0, pointers: new Map() };

function place() {
  const bound = (1 - 1 / view.zoom) * 50;
  view.x = Math.max(-bound, Math.min(bound, view.x));
  view.y = Math.max(-bound, Math.min(bound, view.y));
  for (const image of document.querySelectorAll(".view img")) {
    image.style.transform = `scale(${view.zoom}) translate(${view.x}%, ${view.y}%)`;
    image.style.filter = `brightness(${$("brightness").value}%)`;
  }
  $("zoom").value = view.zoom;
}

function zoomTo(zoom) {
  view.zoom = Math.max(1, Math.min(6, zoom));
  place();
}

function moved(event) {
  const before = view.pointers.get(event.pointerId);
  if (!before) return;
  const box = event.currentTarget.getBoundingClientRect();
  const others = [...view.pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
  if (others.length) {
    const span = (at) => Math.hypot(at.clientX - others[0].clientX, at.clientY - others[0].clientY);
    zoomTo((view.zoom * span(event)) / Math.max(span(before), 1));
  } else {
    view.x += (100 * (event.clientX - before.clientX)) / box.width / view.zoom;
    view.y += (100 * (event.clientY - before.clientY)) / box.height / view.zoom;
    place();
  }
  view.pointers.set(event.pointerId, { clientX: event.clientX, clientY: event.clientY });
}

function frame(image) {
  const made = element("div", { class: "view" }, image);
  made.style.setProperty("--ratio", study.size[0] / study.size[1]);
  made.onpointerdown = (event) => {
    made.setPointerCapture(event.pointerId);
    view.pointers.set(event.pointerId, { clientX: event.clientX, clientY: event.clientY });
  };
  made.onpointermove = moved;
  made.onpointerup = made.onpointercancel = (event) => view.pointers.delete(event.pointerId);
  made.onwheel = (event) => { event.preventDefault(); zoomTo(view.zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15)); };
  return made;
}

async function fetchImages(position, number) {
  const names = study.question === "real_or_synthetic" ? [filled(texts.image, { number })] : [texts.image_left, texts.image_right];
  return Promise.all(names.map(async (alt, side) => {
    for (let pause = 300; ; pause = Math.min(2 * pause, 5000)) {
      try {
        const blob = await (await ask(`api/images/${position}/${side}`)).blob();
        const image = element("img", { alt, draggable: "false" });
        image.src = URL.createObjectURL(blob);
        await image.decode();
        URL.revokeObjectURL(image.src);
        return image;
      } catch (error) {
        if (error instanceof Refused && error.status < 500 && error.status !== 429) throw error;
        trouble(whyNot(error));
        await sleep(pause);
      }
    }
  }));
}

// -- the way through --------------------------------------------------------------------------------------------------

async function show(next) {
  if (next.phase === "done") {
    $("where").textContent = "";
    $("progress").value = 1;
    state = next;
    tell(texts.done_heading, [texts.done], state.may_go_back ? texts.back : "", goBack);
    return $("message-heading").focus();  // Enter must not go back
  }
  const images = await fetchImages(next.position, next.number);
  state = next;
  $("message").hidden = true;
  $("reading").hidden = false;
  $("stage").replaceChildren(...images.map(frame));
  Object.assign(view, { zoom: 1, x: 0, y: 0 });
  view.pointers.clear();
  fill(state.answer);
  $("brightness").value = 100;
  place();
  const where = filled(texts.progress, state);
  $("where").textContent = state.practice ? `${texts.training}: ${where}` : where;
  $("progress").value = (state.number - 1) / state.total;
  $("feedback").hidden = true;
  $("groups").hidden = false;
  $("trouble").textContent = "";
  $("back").disabled = !state.may_go_back;
  $("next").disabled = false;
  scrollTo(0, 0);
  $("question").focus({ preventScroll: true });
  watch = new Watch();
}

// One thing at a time: what is sent or fetched can't be changed or sent again meanwhile.
async function alone(action) {
  if (waiting) return;
  waiting = true;
  $("groups").inert = true;
  $("next").disabled = true;
  try {
    await action();
  } catch (error) {
    await recover(error);
  } finally {
    waiting = false;
    $("groups").inert = false;
    $("next").disabled = false;
  }
}

async function submit() {
  if (waiting) return;
  if (!$("feedback").hidden) return alone(() => show(state.after));
  const answer = answerGiven();
  if (!answer) {
    $("trouble").textContent = texts.missing;
    firstUnanswered()?.scrollIntoView({ block: "center" });
    return;
  }
  await alone(async () => {
    $("trouble").textContent = texts.saving;
    const next = await insist("api/answers", { position: state.position, revision: state.revision, seconds: watch.stop(), ...answer });
    if (next.truth) giveTruth(next, answer.choice);
    else await show(next);
  });
}

function giveTruth(next, choice) {
  const right = next.truth === choice ? texts.told_right : texts.told_wrong;
  state.after = next;
  $("groups").hidden = true;
  $("feedback").hidden = false;
  $("feedback").textContent = `${right} ${texts[`truth_${next.truth}`]}`;
  $("trouble").textContent = "";
  $("back").disabled = true;
  $("next").disabled = false;
  $("next").focus();
}

async function goBack() {
  if (state.may_go_back && (state.phase === "done" || $("feedback").hidden)) await alone(async () => show(await insist("api/back")));
}

function pause() {
  if (waiting || $("reading").hidden) return;
  watch.stop();
  insist("api/events", { kind: "paused" });
  tell(texts.pause, [texts.paused], texts.resume, () => {
    insist("api/events", { kind: "resumed" });
    $("message").hidden = true;
    $("reading").hidden = false;
    $("question").focus();
    watch.go();
  });
}

// What another tab or machine answered is no error of this one's: show what is due now, and say so.
async function recover(error) {
  if (!(error instanceof Refused)) throw error;
  if (error.status === 401) return tell(study.title, [texts.link_unknown]);
  await show(await insist("api/state"));
  $("trouble").textContent = error.status === 409 ? texts.changed : error.message;
}

function pressed(event) {
  if (event.key === "Escape" && event.target.matches("textarea")) return $("question").focus();
  // A key that is held must not agree to, answer or skip what nobody has read.
  if (event.key === "Enter" && event.repeat) return event.preventDefault();
  const typing = event.target.matches("textarea, input[type=range]");
  if (event.ctrlKey || event.metaKey || event.altKey || typing || $("reading").hidden) return;
  if (event.key === "Enter" && !event.target.matches("button")) {
    event.preventDefault();
    return submit();
  }
  if (waiting || !$("shortcuts").checked || !$("feedback").hidden) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  // Left and right are the choice wherever the focus is, as after a click; up and down step through the group that has it.
  const inGroup = event.target.matches("input[type=radio]") && ["ArrowUp", "ArrowDown"].includes(key);
  const option = !inGroup && [...document.querySelectorAll("#groups input[type=radio]")].find((each) => each.dataset.key === key && !each.closest("[inert]"));
  if (option) {
    option.checked = true;
    showGrade();
    $("trouble").textContent = "";
  } else if (key === "Backspace") goBack();
  else if (key === "p") pause();
  else if (key === "+" || key === "=") zoomTo(view.zoom * 1.25);
  else if (key === "-") zoomTo(view.zoom / 1.25);
  else return;
  event.preventDefault();
}

async function start() {
  texts = await (await fetch("texts")).json();
  document.documentElement.lang = texts.language;
  document.documentElement.dir = texts.direction;
  window.addEventListener("hashchange", () => location.reload());  // another reader's link
  if (!token) return tell(texts.no_link, []);
  for (;;) {
    try {
      study = await askJSON("api/study");
      break;
    } catch (error) {
      if (error instanceof Refused && error.status === 401) return tell(texts.link_unknown, []);
      tell(whyNot(error), []);
      await sleep(5000);
    }
  }
  document.title = $("title").textContent = study.title;
  $("question").textContent = texts[study.asked];
  for (const name of ["next", "back", "pause"]) $(name).textContent = texts[name];
  for (const name of ["zoom", "brightness", "shortcuts"]) $(`${name}-name`).textContent = texts[name];
  makeQuestions();
  $("form").onsubmit = (event) => { event.preventDefault(); submit(); };
  $("back").onclick = goBack;
  $("pause").onclick = pause;
  $("zoom").oninput = () => zoomTo(Number($("zoom").value));
  $("brightness").oninput = place;
  $("shortcuts").onchange = () => document.body.classList.toggle("off", !$("shortcuts").checked);
  document.addEventListener("keydown", pressed);
  document.addEventListener("visibilitychange", () => { if (watch) document.hidden ? watch.stop() : $("reading").hidden || watch.go(); });
  const begin = () => alone(async () => show(await insist("api/state")));
  const first = await insist("api/events", { kind: "opened" });
  if (first.phase === "consent") {
    return tell(texts.consent_heading, [study.consent], texts.agree, () => alone(async () => {
      await insist("api/events", { kind: "consented" });
      tell(texts.instructions_heading, instructions(), texts.begin, begin, keysTold());
    }));
  }
  if (first.phase === "done") return show(first);
  tell(texts.instructions_heading, instructions(), first.begun ? texts.resume : texts.begin, begin, keysTold());
}

start();
