"""Pictures, files and long outputs: seen as what they are, opened, saved, and never loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import struct
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import allow
from tests.browser.runs import Event, Run, call, said, update
from tests.browser.test_accessible import AXE, Axe
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def png(width: int, height: int) -> bytes:
    """A picture: an oblong with a gradient."""
    rows = b"".join(
        b"\0" + b"".join(bytes((x * 255 // width, y * 255 // height, 120)) for x in range(width)) for y in range(height)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def stored(run: Run, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    """Content that was put beside the log: the reference to it."""
    name = hashlib.sha256(data).hexdigest()
    address = f"{run.url.replace('/traces/', '/api/traces/')}/blobs/{name}"
    request = urllib.request.Request(address, data, {"Content-Type": media_type}, method="PUT")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status in (200, 201)
    return {"blob": name, "bytes": len(data), "media_type": media_type, **more}


def returned(name: str, result: Any) -> list[Event]:
    whole = {"tool_name": name, "arguments": {"of": "the page"}, "result": result}
    return [call(name, tool_name=name), update(name, content=whole, status="complete")]


def a_run(url: str) -> Run:
    """A picture in each of the forms, a long output, and a file."""
    run = Run(url, "It looks at pictures")
    wide, small = png(640, 360), base64.b64encode(png(60, 90)).decode()
    ref = stored(run, wide, "image/png", preview="image/png", name="shot.png")
    text = "".join(f"line {n} of the output\n" for n in range(60_000)).encode()
    run.add(
        *returned(
            "screenshot", [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ref}}]
        ),
        *returned("mcp", {"content": [{"type": "image", "data": small, "mimeType": "image/png"}], "isError": False}),
        *returned("build", stored(run, text, "text/plain", preview=text[:300].decode() + "…")),
        *returned("report", stored(run, b"%PDF-1.7", "application/pdf", preview="application/pdf", name="a.pdf")),
        said(
            [
                {"type": "text", "text": "Look:"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{small}"}},
            ]
        ),
        said([{"type": "image_url", "image_url": {"url": "https://elsewhere.example/pixel.png"}}]),
    )
    return run


async def test_they_are_seen_opened_and_saved(server: ServerProcess, page: Page, tmp_path: Path) -> None:
    run = a_run(server.url)
    await page.goto(run.url)
    pictures = page.locator(".thumb img")
    await expect(pictures).to_have_count(3)  # of calls that are folded, too; none is loaded from elsewhere
    for n in range(3):
        await expect(pictures.nth(n)).to_have_js_property("complete", True)
        assert await pictures.nth(n).evaluate("one => one.naturalWidth") in (60, 640)
        assert str(await pictures.nth(n).get_attribute("src")).startswith("blob:")
    await page.get_by_role("button", name="Open the picture: shot.png, image/png").press("Enter")
    dialog = page.get_by_role("dialog", name="shot.png")
    await expect(dialog.locator("img")).to_be_visible()
    assert await dialog.locator("img").evaluate("one => one.clientWidth") == 640
    async with page.expect_download() as saving:
        await dialog.get_by_role("button", name="Save").click()
    saved = await saving.value
    assert saved.suggested_filename == "shot.png"
    await saved.save_as(tmp_path / "shot.png")
    assert (tmp_path / "shot.png").read_bytes() == png(640, 360)
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await page.locator(".line", has_text="build").click()
    output = page.locator(".row", has_text="build")
    await expect(output.locator(".attached .term")).to_contain_text("line 0 of the output")
    await output.get_by_role("button", name="Open").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.locator(".term").first).to_contain_text("line 1000 of the output")
    while await dialog.get_by_role("button", name="Show more").count():
        parts = await dialog.locator(".term").count()
        await dialog.get_by_role("button", name="Show more").click()
        await expect(dialog.locator(".term")).to_have_count(parts + 1)
    await expect(dialog).to_contain_text("line 59999 of the output")
    await page.keyboard.press("Escape")
    await page.locator(".line", has_text="report").click()
    async with page.expect_download() as saving:
        await page.locator(".row", has_text="report").get_by_role("button", name="Save").click()
    assert (await saving.value).suggested_filename == "a.pdf"
    await expect(page.get_by_text("elsewhere.example")).to_be_visible()


async def test_what_is_not_there_or_no_picture_is_said(server: ServerProcess, page: Page) -> None:
    allow(page, "status of 404")
    run = Run(server.url, "Gone")
    ref = stored(run, png(10, 10), "image/png", name="gone.png")
    fake = stored(run, b"<svg onload=alert(1)>", "image/png", name="fake.png")
    run.add(said([{"type": "image", "source": ref}]), said([{"type": "image", "source": fake}]))
    await page.route(f"**/blobs/{ref['blob']}", lambda route: route.fulfill(status=404, json={
        "error": "unknown_blob", "message": "this trace has no such content", "details": []}))  # fmt: skip
    await page.goto(run.url)
    await expect(page.locator(".thumb[role=alert]").first).to_contain_text("this trace has no such content")
    await expect(page.locator(".thumb[role=alert]").last).to_contain_text("no picture that can be drawn")
    await page.unroute(f"**/blobs/{ref['blob']}")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("button", name="Open the picture: gone.png")).to_be_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_on_a_phone_and_for_axe(server: ServerProcess, browser: Browser, scheme: Any) -> None:
    run = a_run(server.url)
    context = await browser.new_context(
        viewport={"width": 390, "height": 740}, has_touch=True, is_mobile=True, color_scheme=scheme
    )
    page = await context.new_page()
    await page.goto(run.url)
    await expect(page.locator(".thumb img")).to_have_count(3)
    width = "document.documentElement.scrollWidth"
    assert await page.evaluate(width) == 390
    if AXE.is_file():
        axe = Axe(page)
        await axe.look("pictures")
        await page.locator("button.thumb").first.tap()
        await expect(page.get_by_role("dialog").locator("img")).to_be_visible()
        await axe.look("a picture")
        assert axe.found == []
    await context.close()
