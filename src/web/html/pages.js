"use strict";
// What stands behind `#` never reaches a server, so the sign-in page hands it on.
for (const link of document.querySelectorAll("a[data-sign-in]")) {
  const url = new URL(link.href);
  if (location.hash) url.searchParams.set("return_to", (url.searchParams.get("return_to") || "/") + location.hash);
  link.href = url.href;
  if (link.dataset.signIn === "now") location.replace(url.href);
}
for (const field of document.querySelectorAll("input[name=return_to]")) field.value += location.hash;

for (const button of document.querySelectorAll("button[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
