// The doctor: asked when somebody asks, and then the report is shown.
import { put } from "./live.js";

const form = document.getElementById("examine"), told = document.getElementById("told");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  form.querySelector("button").disabled = true;
  put(told, "looking at everything");
  try {
    const answer = await fetch("/doctor", { method: "POST" });
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    location.reload();
  } catch (error) {
    put(told, `not examined: ${error.message}`);
    form.querySelector("button").disabled = false;
  }
});
