"""What a table of the report shows: its rows of text, the CSS of its cells, its download."""

import base64
import re
from html.parser import HTMLParser
from io import StringIO

import pandas as pd


class Cells(HTMLParser):
    """The text of every table row, one list of cells per row."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.open = [], False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.open = True
            self.rows[-1].append("")
        if tag == "br":
            self.handle_data("|")

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data.strip()


def rows(table):
    return [row for row in Cells(table.html).rows if row]


def styles(table):
    """The CSS of every body cell, by the position pandas gives it."""
    rules = {}
    for selector, css in re.findall(r"((?:#T_\w+,?\s*)+)\{([^}]*)\}", table.html):
        for name in re.findall(r"#T_\w+_(row\d+_col\d+)\b", selector):
            rules[name] = rules.get(name, "") + " ".join(css.split())
    return rules


def csv_behind(table):
    encoded = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', table.html).group(1)
    return pd.read_csv(StringIO(base64.b64decode(encoded).decode()))
