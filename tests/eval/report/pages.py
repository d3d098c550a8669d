# SPDX-License-Identifier: Apache-2.0
"""Reading the pages of reports."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

VOID = {"meta", "input", "br", "link", "img"}


def data_of(text):
    """What a page's script reads: `subjects` and `charts`."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1]

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(found, parse_constant=refuse)


class Checked(HTMLParser):
    """Reads HTML strictly: every element is closed in its turn; keeps attributes, ids, links and cells."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.cells = [], [], [], []
        self.urls = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.urls += [value for name, value in attributes if name in ("href", "src", "action", "data", "srcset")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append({"attributes": values, "text": "", "links": []})
        if tag == "a" and "td" in self.open:
            self.cells[-1]["links"].append(values)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1]["text"] += data
