"""Images drawn elsewhere are matched to prompts in every layout that people have them in."""

import json

import pytest
from PIL import Image

from leanlens.evaluate.draw import SEED_STEP, draw_items
from leanlens.evaluate.export import write_prompts
from leanlens.evaluate.image_models.image_folder import ImageFolder, parse_folders
from leanlens.evaluate.suite import ImageFailed, Item, Suite
from leanlens.pipeline.metadata import save_picture

ITEMS = [Item("00", "a duck"), Item("01", "a frog, in the rain"), Item("x_1", "a car")]
COLORS = {"00": (255, 0, 0), "01": (0, 255, 0), "x_1": (0, 0, 255)}


def paint(path, color, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), tuple(max(0, level - number) for level in color)).save(path)
    return path


def shown(model, item, number=0, seed=0):
    return model.draw(item, seed + ITEMS.index(item) + number * SEED_STEP).image.getpixel((0, 0))


def test_names_as_they_are_exported(tmp_path):
    suite = Suite("s", "S", tuple(ITEMS), 2, (), lambda items, judged: [])
    write_prompts(suite, tmp_path / "prompts.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    for row in rows:
        paint(tmp_path / row["file_name"], COLORS[row["id"]], int(row["file_name"][-5]))
    for seed in (0, 50):
        model = ImageFolder(tmp_path, ITEMS, seeds=2, seed=seed)
        for item in ITEMS:
            assert shown(model, item, 0, seed) == COLORS[item.id]
            assert shown(model, item, 1, seed) == tuple(max(0, level - 1) for level in COLORS[item.id])
    (tmp_path / "prompts.jsonl").unlink()
    assert ImageFolder(tmp_path, ITEMS, seeds=2).identity() == model.identity()
    assert (model.name, model.costs()) == (tmp_path.name, {})


def test_numbers_may_count_from_one_and_a_single_image_needs_none(tmp_path):
    for item in ITEMS:
        paint(tmp_path / "many" / f"{item.id}_1.png", COLORS[item.id])
        paint(tmp_path / "many" / f"{item.id}_2.png", COLORS[item.id], 2)
        paint(tmp_path / "one" / f"{item.id}.webp", COLORS[item.id])
    model = ImageFolder(tmp_path / "many", ITEMS, seeds=2)
    assert shown(model, ITEMS[2], 1) == (0, 0, 253)
    assert ImageFolder(tmp_path / "one", ITEMS).draw(ITEMS[0], 0).image.size == (16, 16)


@pytest.mark.parametrize("table", ["prompts.jsonl", "metadata.jsonl"])
def test_a_table_of_prompts(tmp_path, table):
    rows = [{"file_name": f"images/{index}.png", "prompt": item.prompt} for index, item in enumerate(ITEMS)]
    (tmp_path / table).write_text("\n".join(map(json.dumps, rows)))
    for index, item in enumerate(ITEMS):
        paint(tmp_path / "images" / f"{index}.png", COLORS[item.id])
    model = ImageFolder(tmp_path, ITEMS)
    assert [shown(model, item) for item in ITEMS] == list(COLORS.values())


def test_genevals_folders(tmp_path):
    for index, item in enumerate(ITEMS):
        folder = tmp_path / f"{index:05d}"
        for number in range(4):
            paint(folder / "samples" / f"{number:04d}.png", COLORS[item.id], number)
        (folder / "metadata.jsonl").write_text(json.dumps({"tag": "single_object", "prompt": item.prompt}))
    model = ImageFolder(tmp_path, ITEMS, seeds=4)
    assert shown(model, ITEMS[1], 3) == (0, 252, 0)


def test_prompts_beside_the_images_and_in_them(tmp_path):
    for index, item in enumerate(ITEMS):
        for number in range(2):
            paint(tmp_path / f"pic{10 * number + index}.png", COLORS[item.id], number).with_suffix(".txt").write_text(
                f"{item.prompt}\n"
            )
    assert shown(ImageFolder(tmp_path, ITEMS, seeds=2), ITEMS[0], 1) == (254, 0, 0)
    own = tmp_path / "own"
    own.mkdir()
    request = {"prompt": "a duck, flat", "negative_prompt": "", "num_inference_steps": 1, "guidance_scale": 1.0,
               "seed": 0, "width": 16, "height": 16, "strength": None, "loras": [],
               "reasoner": {"original": "a duck", "prompt": "a duck, flat", "source": "r"}}  # fmt: skip
    record = {"request": request, "model": {"fingerprint": "0" * 64, "name": "nano"}, "inputs": {"loras": []},
              "leanlens": "1", "marking": None}  # fmt: skip
    save_picture(Image.new("RGB", (16, 16), "red"), own / "a.png", record)
    assert shown(ImageFolder(own, ITEMS), ITEMS[0]) == (255, 0, 0)


def test_missing_images_have_failed_and_surplus_ones_are_named(tmp_path, caplog):
    paint(tmp_path / "00_0.png", COLORS["00"])
    paint(tmp_path / "00_5.png", COLORS["00"])
    paint(tmp_path / "holiday.png", COLORS["00"])
    (tmp_path / "01_0.png").write_bytes(b"no image")
    model = ImageFolder(tmp_path, ITEMS)
    assert "for none of the prompts, or too many for one: 2 (00_5.png, holiday.png)" in caplog.text
    with pytest.raises(ImageFailed, match="has no image 0 of prompt x_1"):
        shown(model, ITEMS[2])
    with pytest.raises(ImageFailed, match=r"01_0\.png cannot be read"):
        shown(model, ITEMS[1])
    rows = draw_items(model, ITEMS, 1, 0, tmp_path / "kept")
    assert [bool(row[0].failed) for row in rows] == [False, True, True]


def test_duplicates_are_errors(tmp_path):
    paint(tmp_path / "00_0.png", COLORS["00"])
    paint(tmp_path / "00_0.jpg", COLORS["00"])
    with pytest.raises(ValueError, match=r"00_0\.jpg and .*00_0\.png are both image 0 of prompt 00"):
        ImageFolder(tmp_path, ITEMS)
    other = tmp_path / "other"
    paint(other / "a.png", COLORS["00"]).with_suffix(".txt").write_text("a duck")
    with pytest.raises(ValueError, match=r"a prompt that 2 items have \(1, 2\); name it by the id"):
        ImageFolder(other, [Item("1", "a duck"), Item("2", "a duck")])
    (other / "prompts.jsonl").write_text('{"file_name": "a.png", "id": "1"}\n{"file_name": "a.png", "id": "2"}\n')
    with pytest.raises(ValueError, match=r"line 2 names a\.png, which another line names too"):
        ImageFolder(other, ITEMS)


def test_a_folder_without_a_match_is_an_error(tmp_path):
    paint(tmp_path / "holiday.png", COLORS["00"])
    with pytest.raises(ValueError, match=r"has no image for these prompts \(image files: 1\): .* such as 00_0\.png"):
        ImageFolder(tmp_path, ITEMS)


def test_identity_follows_the_content(tmp_path):
    paint(tmp_path / "00.png", COLORS["00"])
    first = ImageFolder(tmp_path, ITEMS).identity()
    (tmp_path / "moved").mkdir()
    (tmp_path / "00.png").rename(tmp_path / "moved" / "00.png")
    assert ImageFolder(tmp_path / "moved", ITEMS).identity() == first
    paint(tmp_path / "moved" / "00.png", COLORS["01"])
    assert ImageFolder(tmp_path / "moved", ITEMS).identity() != first


def test_folders_and_their_names(tmp_path):
    for name in ("a", "b=c"):
        (tmp_path / name).mkdir()
    a, odd = tmp_path / "a", tmp_path / "b=c"
    assert parse_folders([f"theirs={a}", str(odd)]) == [("theirs", a), ("b=c", odd)]
    assert parse_folders([f"x={odd}"]) == [("x", odd)]
    with pytest.raises(ValueError, match="two folders of images have the name 'a'"):
        parse_folders([str(a), f"a={odd}"])
    with pytest.raises(ValueError, match="invalid images 'gone': expected a folder"):
        parse_folders(["gone"])
