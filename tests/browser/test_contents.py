"""Big and binary content in the page: shown, opened and saved, and run nowhere."""

from __future__ import annotations

import asyncio
import struct
import sys
import zlib
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.runs import Run, completed, said
from tests.support import ServerProcess
from tracewatch.model.contents import reference

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
TEXT = "".join(f"line {n} of the output\n" for n in range(20_000))
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>parent.document.title = 'caught'</script></svg>"


def png(width: int, height: int) -> bytes:
    """A picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\x20\x90\x40" * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PNG = png(320, 200)


def recorded(url: str) -> Run:
    """A run with a picture in a block of a message, a long result, and what could run in a page."""
    run = Run(url)
    for data, media_type in ((PNG, "image/png"), (TEXT.encode(), "text/plain"), (SVG, "image/svg+xml")):
        run.api.put_blob(run.id, data, media_type)
    picture = reference(PNG, "image/png", "image/png, 1 KiB", form="base64", name="shot.png")
    output = reference(TEXT.encode(), "text/plain", "line 0 of the output\nline 1 …")
    drawing = reference(SVG, "image/svg+xml", "image/svg+xml, 96 bytes", name="a.svg")
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": picture}}
    tool = {"tool_name": "run", "arguments": {"cmd": "make"}, "result": output}
    run.add(
        {"event": "message_added", "message": {"role": "user", "content": [{"type": "text", "text": "See:"}, block]}},
        {"event": "message_added", "message": {"role": "tool", "content": tool}},
        {"event": "message_added", "message": {"role": "attachment", "content": drawing}},
        said("Seen."),
        completed(),
    )
    return run


async def is_seen(page: Page) -> None:
    """The picture is drawn, in its size."""
    image = page.locator(".row .thumb img")
    await expect(image).to_be_visible()
    assert await image.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [
        320,
        200,
    ]


async def test_a_picture_is_seen_and_a_long_output_is_read(server: ServerProcess, page: Page, tmp_path: Path) -> None:
    run = recorded(server.url)
    await page.goto(run.url)
    await is_seen(page)
    await page.locator(".row.tool button.line").click()
    output = page.locator(".row.tool .attached")
    await expect(output).to_contain_text("text/plain")
    await expect(output.locator("pre")).to_contain_text("line 1 …")
    async with page.expect_download() as download:
        await output.get_by_role("button", name="Save").click()
    await (await download.value).save_as(tmp_path / "saved")
    assert (tmp_path / "saved").read_text() == TEXT
    await output.get_by_role("button", name="Open").click()
    await expect(page.get_by_role("dialog")).to_contain_text("line 19999 of the output")


async def test_what_could_run_is_only_saved(server: ServerProcess, page: Page, tmp_path: Path) -> None:
    run = recorded(server.url)
    await page.goto(run.url)
    drawing = page.locator(".attached", has_text="a.svg")
    await expect(drawing).to_contain_text("image/svg+xml")
    await expect(drawing.locator("img")).to_have_count(0)
    await expect(drawing.get_by_role("button", name="Open")).to_have_count(0)
    async with page.expect_download() as download:
        await drawing.get_by_role("button", name="Save").click()
    saved = await download.value
    assert saved.suggested_filename == "a.svg"
    await saved.save_as(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == SVG
    assert "caught" not in await page.title()


@pytest.mark.parametrize("made_by", ["the page", "the command line"])
async def test_an_export_that_opens_offline_has_them(
    server: ServerProcess, page: Page, exported: Path, made_by: str
) -> None:
    run = recorded(server.url)
    if made_by == "the page":
        await page.goto(run.url)
        await page.locator(".export summary").click()
        async with page.expect_download() as download:
            await page.get_by_text("One HTML file").click()
        await (await download.value).save_as(exported)
    else:
        command = ["-m", "tracewatch", "export", run.id, "--html", "-O", str(exported), "--url", server.url]
        process = await asyncio.create_subprocess_exec(sys.executable, *command)
        assert await process.wait() == 0
    await page.context.set_offline(True)
    await page.goto(exported.as_uri())
    await is_seen(page)


async def test_lines_from_the_page_are_those_of_the_command_line(
    server: ServerProcess, page: Page, tmp_path: Path
) -> None:
    run = recorded(server.url)
    await page.goto(run.url)
    await page.locator(".export summary").click()
    async with page.expect_download() as download:
        await page.get_by_text("NDJSON").click()
    await (await download.value).save_as(tmp_path / "page.ndjson")
    command = ["-m", "tracewatch", "export", run.id, "-O", str(tmp_path / "cli.ndjson"), "--url", server.url]
    process = await asyncio.create_subprocess_exec(sys.executable, *command)
    assert await process.wait() == 0
    assert (tmp_path / "page.ndjson").read_bytes() == (tmp_path / "cli.ndjson").read_bytes()
