// What a model can do, as examples with one click each. The world that a model was trained on knows them; others are asked for what any can.

import { element, find } from "./page.js";

const GENERAL = [
  { ability: "Draw", text: "a red lighthouse by the sea", kind: "draw" },
  { ability: "Look at a picture", text: "What is in this picture?", kind: "chat", picture: "cats.png" },
  { ability: "Think, then answer", text: "Tom has 8 coins. Tom finds 5 more. How many coins does Tom have now?", kind: "chat", think: true },
  { ability: "Answer", text: "Name three animals that live in the sea.", kind: "chat" },
];

/** Fill the lists of both tabs. run(example) is what a click does. */
export function showExamples(facts, run) {
  const can = (ability) => facts.abilities.includes(ability);
  const isPossible = ({ kind, picture }) => (kind === "chat" ? !picture || can("look") : can("draw"));
  const list = (facts.examples.length ? facts.examples : GENERAL).filter(isPossible);
  const drawn = list.find((example) => example.kind === "draw");
  const asked = [...list.filter((example) => example.kind === "chat"), ...(drawn ? [{ ...drawn, kind: "chat", text: `draw ${drawn.text}` }] : [])];
  const compared = [drawn, list.find((example) => example.kind === "chat" && !example.picture)].filter(Boolean);
  const pairs = compared.map((example) => ({ ability: example === drawn ? "Many steps or few" : "Sure or quick", text: example.text, kind: "compare", of: example.kind }));
  for (const [tab, mine] of Object.entries({ draw: list, chat: asked, compare: pairs })) {
    find(`${tab}-examples`).replaceChildren(...mine.map((example) => exampleButton(example, run)));
  }
  for (const box of document.querySelectorAll(".limits")) {
    box.hidden = !facts.limits;
    box.textContent = facts.limits;
  }
}

function exampleButton(example, run) {
  const words = element("span", { dir: "auto" }, example.text);
  const shown = element("button", { type: "button", className: "example" }, element("small", {}, example.ability), " ", words);
  if (example.picture) shown.prepend(element("img", { src: example.picture, alt: "", className: "pixels", width: 36, height: 36 }));
  shown.addEventListener("click", (event) => event.detail < 2 && run(example));
  return element("li", {}, shown);
}
