"""The pages as a person uses them, in a real browser: no message, nothing too wide, contrast."""

import re
import shlex

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
PATIENCE = 300_000  # milliseconds: a busy machine is no failure
WIDTHS = (390, 800, 1600)


@pytest.fixture
def tab(browser, studio, request):
    """Return a tab on the start page. Console messages and requests to elsewhere are errors."""
    messages, requests = [], []
    mistakes = 1 if request.node.name.startswith(("test_what_is_wrong", "test_data")) else 0
    context = browser.new_context(viewport={"width": 1600, "height": 900})
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(studio.url)
    tab.wait_for_url(f"http://127.0.0.1:{studio.port}/")
    yield tab
    context.close()
    # Chromium reports each answer that is no success, such as the sentence about a mistake
    assert [text for text in messages if not text.startswith("Failed to load resource")] == []
    assert len(messages) <= mistakes
    own = f"http://127.0.0.1:{studio.port}/"
    assert [url for url in requests if not url.startswith((own, "data:", "blob:"))] == []


@pytest.fixture
def looks_right(contrasts):
    """looks_right(tab): nothing is wider than the screen, and all text has contrast."""

    def check(tab):
        for dark in (False, True):
            tab.emulate_media(color_scheme="dark" if dark else "light")
            for width in WIDTHS:
                tab.set_viewport_size({"width": width, "height": 900})
                tab.wait_for_function("width => innerWidth === width", arg=width)
                wide, there = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
                assert wide <= there == width
            found = tab.evaluate(contrasts)
            assert len(found) > 5
            assert min(found)[0] >= 4.5, min(found)
        tab.emulate_media(color_scheme="light")

    return check


def test_pictures_are_made_watched_compared_and_saved(tab, looks_right, home, cli, tmp_path):
    looks_right(tab)
    card = tab.locator("li", has_text="digits").first
    card.get_by_role("link", name="Sample images", exact=True).click()
    tab.get_by_label("Number").fill("6")
    tab.get_by_label("Steps", exact=True).fill("9")
    tab.locator("summary", has_text="More").click()
    tab.get_by_label("Show").select_option("1")
    tab.get_by_label("an animation").check()
    before = tab.locator(".results").bounding_box()
    tab.get_by_role("button", name="Sample images").click()
    tiles = tab.locator("#live .tiles figure")
    tiles.nth(5).wait_for()
    place = "t => [t.offsetLeft, t.offsetTop, t.offsetWidth, t.offsetHeight]"  # however it scrolls
    boxes = [tile.evaluate(place) for tile in tiles.all()]
    tab.locator("#live .files").wait_for()
    assert [tile.evaluate(place) for tile in tiles.all()] == boxes  # nothing moves
    assert tab.locator(".results").bounding_box()["x"] == before["x"]
    slider = tab.get_by_label("Step of the denoising")
    assert slider.get_attribute("max") == "8"
    assert slider.get_attribute("aria-valuetext") == "9 of 9, t = 0"
    pixels = "c => c.toDataURL()"
    last = tiles.first.locator("canvas").evaluate(pixels)
    slider.press("Home")
    tab.get_by_text("step 1 of 9").wait_for()
    tab.wait_for_timeout(300)
    assert tiles.first.locator("canvas").evaluate(pixels) != last
    slider.press("End")
    tab.get_by_label("noisy image").check()
    tab.wait_for_timeout(300)
    assert tiles.first.locator("canvas").evaluate(pixels) == last  # at t = 0 both are the picture

    with tab.expect_download() as saved:
        tiles.nth(3).locator("a").click()
    tab.locator("#live summary", has_text="Command line").click()
    words = shlex.split(tab.locator("#live details code").inner_text())
    assert cli(*words[1:], "--out", tmp_path / "out").code == 0
    own = (tmp_path / "out" / "000003.png").read_bytes()
    assert saved.value.path().read_bytes() == own
    assert saved.value.suggested_filename == "000003.png"

    row = tab.locator("li[data-label='3']")
    row.get_by_label("present").focus()
    row.get_by_label("open").press("ArrowRight")  # by the keyboard
    assert row.get_by_label("present").is_checked()
    tab.locator("[name=guidance]").fill("2.5")
    tab.locator("#make summary", has_text="Command line").click()
    tab.locator("#command", has_text="--guidance 2.5 --labels 3").wait_for()
    tab.get_by_role("button", name="Sample images").click()
    tab.locator(".files").nth(1).wait_for()
    for _ in range(2):
        tab.get_by_role("button", name="Pin", exact=True).first.click()
    compared = tab.locator("#compare")
    compared.locator(".two").nth(5).wait_for()
    assert compared.locator("tbody th").all_inner_texts() == ["labels", "guidance"]
    looks_right(tab)
    tab.reload()
    compared.locator(".two").nth(5).wait_for()  # pins and pictures are found again
    assert tab.locator(".gallery").count() >= 2


def test_what_is_wrong_is_one_sentence_on_the_page(tab, studio):
    tab.goto(f"http://127.0.0.1:{studio.port}/runs/{studio.run}")
    tab.get_by_label("Seeds").fill("5-1")
    tab.get_by_role("button", name="Sample images").click()
    problem = tab.get_by_role("alert")
    problem.wait_for()
    assert problem.inner_text() == "--seeds '5-1': 5-1 runs backwards. Write 0-63, or 0,5."


def test_data_are_checked_uploaded_and_trained_on(tab, looks_right, home, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(9):
        pixels = rng.integers(0, 256, (10, 12, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    (tmp_path / "text.txt").write_text("text")
    tab.get_by_role("link", name="Data").click()
    looks_right(tab)
    tab.get_by_label("Name of the new folder").fill("noise")
    files = sorted(tmp_path.iterdir())
    tab.locator("#files").set_input_files(files)
    tab.locator(".crops img").nth(17).wait_for()
    assert "9 images" in tab.locator("#report h2").inner_text()
    assert "text.txt is not an image" in tab.locator("#refused").inner_text()
    looks_right(tab)
    tab.get_by_role("link", name="Train on these").click()
    tab.get_by_label("Minutes").fill("")
    tab.get_by_label("Size in pixels").fill("8")
    settings = "network.channels=8 network.groups=4 network.num_res_blocks=1 steps=6 batch_size=2 "
    settings += "preview_every=3 checkpoint_every=3 log_every=1 diffusion.T=100 preview_images=4"
    tab.get_by_label("More settings").fill(settings)
    tab.locator("#command", has_text="log_every=1").wait_for(state="attached")
    looks_right(tab)
    tab.get_by_role("button", name="Start training").click()
    tab.locator(".state", has_text=re.compile("finished")).wait_for()
    tab.locator(".charts figure").nth(2).wait_for()
    slider = tab.get_by_label("Step of the preview of noise")
    slider.wait_for()
    slider.press("Home")
    assert slider.get_attribute("aria-valuetext") == "step 3"
    assert tab.locator(".run-card img").get_attribute("src").endswith("step=3&whole")
    looks_right(tab)
    tab.get_by_role("link", name="Sample images").click()
    tab.get_by_label("Number").wait_for()
    assert (home / "runs" / "noise" / "checkpoints" / "000006").is_dir()


def test_a_mask_is_painted_erased_undone_and_inpainted(tab, looks_right, studio, tmp_path):
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(tmp_path / "grey.png")
    tab.goto(f"http://127.0.0.1:{studio.port}/runs/{studio.run}/edit")
    tab.locator("#image").set_input_files(tmp_path / "grey.png")
    tab.get_by_text("Paint the area to inpaint.").wait_for()
    canvas = tab.locator("#picture")
    box = canvas.bounding_box()

    def stroke(y):
        tab.mouse.move(box["x"] + 5, box["y"] + y * box["height"])
        tab.mouse.down()
        tab.mouse.move(box["x"] + box["width"] - 5, box["y"] + y * box["height"], steps=5)
        tab.mouse.up()

    pixels = "c => c.toDataURL()"
    plain = canvas.evaluate(pixels)
    stroke(0.2)
    first = canvas.evaluate(pixels)
    stroke(0.8)
    both = canvas.evaluate(pixels)
    tab.get_by_label("erase").check()
    stroke(0.8)
    assert len({plain, first, both}) == 3
    undo = tab.get_by_role("button", name="Undo")
    undo.click()
    assert canvas.evaluate(pixels) == both
    undo.click()
    assert canvas.evaluate(pixels) == first
    undo.click()
    assert canvas.evaluate(pixels) == plain
    assert undo.is_disabled()
    tab.get_by_role("button", name="lower half").click()
    tab.get_by_label("Steps").fill("3")
    tab.get_by_role("button", name="Edit", exact=True).click()
    compared = tab.get_by_label("Before and after")
    compared.wait_for()
    compared.press("Home")
    looks_right(tab)
    tab.get_by_label("interpolate between seeds").check()
    tab.get_by_label("Seeds", exact=True).fill("1,2")
    tab.get_by_label("Number of images").fill("3")
    tab.get_by_role("button", name="Edit", exact=True).click()
    slider = tab.get_by_label("Position in the interpolation")
    slider.wait_for()
    slider.press("End")
    assert slider.get_attribute("aria-valuetext") == "2 of 2"
