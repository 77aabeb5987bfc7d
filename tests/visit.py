"""A browser window for tests of the site: it reaches the site alone."""


class Visit:
    """A browser window that reaches the site alone and notes everything that goes wrong."""

    def __init__(self, browser, address, **options):
        self.address, self.trouble = address, []
        self.page = browser.new_context(**options).new_page()
        self.page.route("**/*", self._let_through)
        self.page.on("requestfailed", lambda r: self.trouble.append(f"failed: {r.url}"))
        self.page.on("pageerror", lambda e: self.trouble.append(f"script: {e}"))
        self.page.on("response", self._note)

    def _let_through(self, route):
        if route.request.url.startswith((self.address, "data:", "blob:")):
            route.continue_()
        else:
            self.trouble.append(f"asked for {route.request.url}")
            route.abort()

    def _note(self, response):
        if response.status >= 400:
            self.trouble.append(f"{response.status}: {response.url}")

    def open(self, name):
        self.page.goto(f"{self.address}/{name}", wait_until="load")
        self.page.wait_for_function(
            "!document.querySelector('.math') || window.MathJax?.startup?.promise"
        )
        self.page.evaluate("window.MathJax?.startup?.promise")
        return self.page
