// The labels of a request: three states each, or weights.

const rows = form => [...form.querySelectorAll("li[data-label]")];
const composing = form => form.elements.how?.value === "compose";

// Return the labels as on the command line: absent ones with a minus.
export function conditioning(form) {
  if (!form.elements.how) return {};
  if (composing(form)) {
    const weights = rows(form).map(row => [row.dataset.label, row.querySelector(".weight").value]);
    const given = weights.filter(([, weight]) => weight !== "" && Number(weight) !== 0);
    return given.length ? { compose: given.map(([name, weight]) => `${name}=${weight}`).join(", ") } : {};
  }
  const states = rows(form).map(row => [row.dataset.label, row.querySelector("input:checked").value]);
  const given = states.filter(([, state]) => state);
  if (!given.length) return {};
  const labels = given.map(([name, state]) => (state === "-" ? `-${name}` : name)).join(", ");
  const { guidance } = form.elements;
  return { labels, ...(guidance.value === guidance.defaultValue ? {} : { guidance: Number(guidance.value) }) };
}

export function watchLabels(form) {
  if (!form.elements.how) return;
  const { guidance } = form.elements, output = document.querySelector("#guidance output");
  const update = () => {
    for (const row of rows(form)) {
      row.querySelector(".states").hidden = composing(form);
      row.querySelector(".weight").hidden = !composing(form);
    }
    guidance.disabled = composing(form) || !conditioning(form).labels;
    output.textContent = guidance.value;
  };
  form.addEventListener("input", update);
  document.getElementById("find")?.addEventListener("input", event => {
    const wanted = event.target.value.toLowerCase();
    for (const row of rows(form)) row.hidden = !row.dataset.label.toLowerCase().includes(wanted);
  });
  update();
}
