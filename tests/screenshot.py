"""Takes the picture of the front page that README.md shows: `python tests/screenshot.py`.

Build the book first. It needs a Chromium, and the packages of `pip install -e '.[test]'`.
"""

from pathlib import Path

from conftest import CHROMIUM, FLAGS
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "book" / "_static" / "book.png"
SIZE = {"width": 1400, "height": 1000}


def main() -> None:
    """Open the built front page, and write what it looks like over the picture."""
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = chromium.new_page(viewport=SIZE, color_scheme="light")
        page.goto((ROOT / "book" / "_build" / "html" / "index.html").as_uri(), wait_until="load")
        page.wait_for_timeout(500)  # for the icons, which a script draws
        page.screenshot(path=PICTURE)
        chromium.close()


if __name__ == "__main__":
    main()
