"""The style sheet and the script of the page of claims."""

CSS = """
.repro-claims{font-size:.9em}
.repro-claims fieldset{border:0;padding:0 0 0 6em;margin:.15em 0;min-width:0}
.repro-claims legend{float:left;width:6em;margin-left:-6em;padding:0;font-size:1em;font-weight:bold}
.repro-claims form label{margin-right:.7em;white-space:nowrap;display:inline-block}
.repro-claims .matrix{display:flex;flex-wrap:wrap;align-items:flex-start;gap:.5em 1.4em;
  margin:.8em 0}
.repro-claims .matrix table{border-collapse:separate;border-spacing:1px;margin:0;width:auto}
.repro-claims .matrix caption{caption-side:top;text-align:left;font-weight:bold;padding:0;
  color:inherit;white-space:nowrap}
.repro-claims .matrix th{font-weight:normal;text-align:left;padding:0 .5em 0 0;border:0;
  white-space:nowrap;line-height:1.1;font-size:.9em}
.repro-claims .matrix td{padding:0;border:0;line-height:1}
.repro-claims .sign{display:inline-block;width:1.35em;text-align:center;border-radius:.25em;
  line-height:1.35;color:inherit;text-decoration:none;border:1px solid transparent}
.repro-claims .matrix .sign{display:block;width:1.2em;line-height:1.2;font-size:.85em}
.repro-claims .chip{padding:.05em .4em;border-radius:.3em;white-space:nowrap}
.repro-claims .counts{line-height:1.8}
.repro-claims .not-testable-here{color:inherit;opacity:.75}
.repro-claims h2{margin:.8em 0 .1em;font-size:1.05em;color:inherit}
.repro-claims details.claim{border-bottom:1px solid rgba(128,128,128,.3)}
.repro-claims details.claim>summary{display:flex;gap:.6em;align-items:baseline;
  padding:.08em 0;line-height:1.45;  cursor:pointer;list-style:none}
.repro-claims details.claim>summary::-webkit-details-marker{display:none}
.repro-claims summary:focus-visible,.repro-claims a:focus-visible{outline:2px solid}
.repro-claims .signs{flex:none;white-space:nowrap}
.repro-claims .says{flex:1;min-width:0;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.repro-claims details[open]>summary .says{white-space:normal;font-weight:bold}
.repro-claims .where{flex:none;opacity:.75;font-size:.85em}
.repro-claims .body{padding:.2em 0 .8em 1em;overflow-wrap:anywhere}
.repro-claims blockquote{margin:.2em 0;padding:.1em .8em;border-left:3px solid rgba(128,128,128,.5);
  background:none;color:inherit}
.repro-claims .body ul{list-style:none;margin:.3em 0;padding:0}
.repro-claims .body li{margin:.2em 0}
.repro-claims .body p{margin:.2em 0}
.repro-claims .rows p{font-size:.85em;line-height:1.35;margin:.15em 0 .15em 1em;text-indent:-1em}
.repro-claims .body a{color:inherit}
.repro-claims :target{outline:2px solid;outline-offset:.2em}
@media (max-width:600px){
  .repro-claims legend{float:none;width:auto;margin:0}
  .repro-claims fieldset{padding:0}
  .repro-claims .says{white-space:normal}
  .repro-claims details.claim>summary{flex-wrap:wrap}
  .repro-claims .says{flex-basis:100%;order:3}
  .repro-claims .matrix table{display:block;overflow-x:auto;max-width:100%}
  .repro-claims .matrix{display:block}
}
"""


SCRIPT = """
(() => {
  const page = document.querySelector(".repro-claims"), form = page.querySelector("form");
  const read = text => {
    for (const [name, value] of new URLSearchParams(text))
      for (const button of form.elements)
        if (button.name === name && button.value === value) button.checked = true;
  };
  const write = () => {
    const chosen = new URLSearchParams();
    for (const button of form.querySelectorAll("input:checked"))
      if (button.value !== "all") chosen.set(button.name, button.value);
    const url = new URL(location);
    url.search = chosen;
    try { history.replaceState(null, "", url); }
    catch { location.hash = chosen; }  // a page that was opened from a folder
  };
  const open = () => {
    const named = location.hash && document.getElementById(location.hash.slice(1));
    const claim = named && named.closest("details.claim");
    if (claim) { claim.open = true; claim.scrollIntoView(); }
  };
  read(location.search);
  read(location.hash.slice(1));
  form.addEventListener("change", write);
  form.addEventListener("reset", () => setTimeout(write));
  addEventListener("hashchange", open);
  open();
})();
"""
