"""axe-core, which tells where a page of the book is hard to use: its script, and what it finds.

It is the one npm package of the project, and only the tests load it, into a page they have opened.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPT = HERE / "node_modules" / "axe-core" / "axe.min.js"

# Violations of what the book does not write: by rule, the elements and who makes them.
THEIRS = {
    "label-content-name-mismatch": ".search-button-field, .theme-switch-button,"  # the theme
    " summary[aria-label='Toggle hidden content']",  # folded code, by MyST-NB
    "region": ".sidebar-primary-items__start *, .bd-sidebar-primary *",  # the theme's sidebar
    "summary-name": "nav.bd-links summary",  # the theme's arrows in the contents
    # The list of references, by Sphinx.
    "aria-allowed-role": "div.citation[role]",
    "aria-deprecated-role": "div.citation[role]",
    "aria-required-children": "div.citation-list",
}

# Hides, while contrast is measured, all but one of the cells, signs and words of a page that have
# the same size and colours: the contrast of one is that of all, and tables have thousands. Nor
# does axe-core judge the text of drawings.
RUN_CONTRAST = """async () => {
  const seen = new Set(), where = "td, th, .sign, .highlight span, .rows p, .says, .where";
  const look = e => {
    const parts = [];
    for (let at = e; at && at.matches(`${where}, tr, table, pre`); at = at.parentElement) {
      const s = getComputedStyle(at);
      parts.push(at.localName, s.color, s.backgroundColor, s.fontSize, s.fontWeight, s.opacity);
    }
    return parts.join("|") + e.firstElementChild?.localName + !e.textContent.trim();
  };
  const alike = [...document.querySelectorAll(where)].filter(e => {
    const key = look(e), known = seen.has(key);
    seen.add(key);
    return known;
  });
  const hidden = [...alike, ...document.querySelectorAll("svg")];
  hidden.forEach(e => { e.style.visibility = "hidden"; });
  const rule = {type: "rule", values: ["color-contrast"]};
  const found = await axe.run(document, {resultTypes: ["violations"], runOnly: rule});
  hidden.forEach(e => { e.style.visibility = ""; });
  return found.violations;
}"""
RUN_OTHERS = """async () => {
  const rules = {"color-contrast": {enabled: false}};
  return (await axe.run(document, {resultTypes: ["violations"], rules})).violations;
}"""


def script() -> str:
    """Return axe-core's code at the version that package-lock.json names; skip without npm."""
    wanted = json.loads((HERE / "package-lock.json").read_text())["packages"][
        "node_modules/axe-core"
    ]["version"]
    package = SCRIPT.with_name("package.json")
    if not package.is_file() or json.loads(package.read_text())["version"] != wanted:
        if not shutil.which("npm"):
            pytest.skip("there is no npm: install it to test the pages with axe-core")
        words = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(words, cwd=HERE, check=True, capture_output=True)
    return SCRIPT.read_text(encoding="utf-8")


def violations(page, contrast_only: bool = False) -> list[str]:
    """Return what axe-core finds on a page that has its script, less what others write."""
    runs = [RUN_CONTRAST] if contrast_only else [RUN_CONTRAST, RUN_OTHERS]
    return [
        f"{rule['id']}: {node['html'][:150]}"
        for rule in (rule for run in runs for rule in page.evaluate(run))
        for node in rule["nodes"]
        if not _is_theirs(page, rule["id"], node["target"][-1])
    ]


def _is_theirs(page, rule: str, target: str) -> bool:
    selector = THEIRS.get(rule)
    return bool(selector) and page.evaluate(
        "([target, selector]) => document.querySelector(target).matches(selector)",
        [target, selector],
    )
