"""A real browser without a window, for tests of pages; they are skipped where there is none."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
needs_chromium = pytest.mark.skipif(not PROGRAM, reason="no Chromium is installed here")
# What it asks for without being told to is no request of the page.
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--no-first-run",
    "--disable-default-apps", "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars",
)  # fmt: skip
_CONSOLE = re.compile(r'CONSOLE:\d+\] "(.*)", source')
_PROBE = """
<script>
addEventListener("load", () => {
  const box = element => { const r = element.getBoundingClientRect(); return [r.width, r.height]; };
  const all = selector => [...document.querySelectorAll(selector)];
  document.querySelectorAll("details").forEach(one => { one.open = true; });
  const report = {
    sections: Object.fromEntries(all("section").map(one => [one.id, box(one)])),
    pictures: all("img").map(one => [one.complete && one.naturalWidth > 0, one.alt, box(one)[0]]),
    overflow: document.documentElement.scrollWidth - innerWidth,
    width: innerWidth,
  };
  parent.postMessage(JSON.stringify(report), "*");
});
</script>
"""
_FRAME = """<!DOCTYPE html>
<script>
addEventListener("message", event => { document.getElementById("told").textContent = event.data; });
</script>
<iframe width="%d" height="800" style="border:0" src="%s"></iframe><pre id="told"></pre>
"""


def run(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page from the disk."""
    own = page.parent / "chromium"
    return subprocess.run(
        [PROGRAM, *QUIET, f"--user-data-dir={own}", *flags, page.absolute().as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


def asked_for(page: Path) -> set[str]:
    """Addresses in a network that a page makes the browser ask for."""
    log = page.with_suffix(".net.json")
    run(page, f"--log-net-log={log}", "--dump-dom")
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    started = [event["params"] for event in events if "initiator" in event.get("params", {})]
    # What the browser asks its makers has no page as its initiator.
    urls = {one.get("url", "") for one in started if one["initiator"] != "not an origin"}
    return {url for url in urls if re.match(r"(https?|wss?|ftp):", url)}


def console(page: Path) -> list[str]:
    """What the browser's console says of a page."""
    return _CONSOLE.findall(run(page, "--enable-logging=stderr", "--dump-dom").stderr)


def measured(page: Path, width: int) -> dict[str, Any]:
    """Sizes of sections and pictures when all that is folded is open, in a frame of that width."""
    probed = page.with_name("probed.html")
    text = page.read_text(encoding="utf-8")
    policy = re.search(r"<meta http-equiv=.Content-Security-Policy[^>]*>", text)
    text = text.replace(policy[0], "") if policy else text  # it lets no script in
    probed.write_text(text.replace("</body>", f"{_PROBE}</body>"), encoding="utf-8")
    frame = page.with_name("frame.html")
    frame.write_text(_FRAME % (width, probed.name), encoding="utf-8")
    # A window is never narrower than 500 pixels, a frame in it can be.
    found = run(frame, "--dump-dom", "--virtual-time-budget=20000").stdout
    told = re.search(r'id="told">(.*?)</pre>', found, re.DOTALL)
    return dict(json.loads(html.unescape(told[1] if told else "")))
