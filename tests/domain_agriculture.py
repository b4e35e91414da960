"Photographs of one's own for the recipe of the lesson on agriculture: three crops, two states, several plants, sizes and modes."
import csv

import numpy as np
from PIL import Image, ImageDraw


def _photo(rng, sick, long):
    "A green shape on grey noise, long or round, with brown dots when sick."
    w, h = rng.integers(70, 150, 2).tolist()
    im = Image.fromarray(np.uint8(np.clip(rng.normal(120, 25, (h, w, 3)), 0, 255)))
    d = ImageDraw.Draw(im)
    box = [0.1 * w, 0.35 * h, 0.9 * w, 0.65 * h] if long else [0.15 * w, 0.15 * h, 0.85 * w, 0.85 * h]
    d.ellipse(box, fill=(70, int(rng.uniform(110, 170)), 60))
    for _ in range(12 * sick):
        x, y = rng.uniform(0.3, 0.7) * w, rng.uniform(0.4, 0.6) * h
        d.ellipse([x, y, x + 6, y + 6], fill=(110, 60, 20))
    return im


def make(tmp_path):
    "The path of a CSV with the columns image, label, plant and crop; among the images are grey, 16-bit and transparent ones."
    rng, rows, modes = np.random.default_rng(3), [], ("RGB", "RGBA", "RGB", "L")
    for crop, plants in (("beet", 6), ("leek", 6), ("chard", 4)):
        for plant in range(plants):
            for i in range(2):
                sick, name = bool(plant % 2), f"{crop}-{plant}-{i}.png"
                im = _photo(rng, sick, crop == "leek").convert(modes[(plant + i) % 4])
                if crop == "beet" and plant == 0: im = Image.fromarray(np.asarray(im.convert("L")).astype(np.uint16) * 257)
                im.save(tmp_path / name)
                rows.append((name, "sick" if sick else "sound", f"{crop} {plant}", crop))
    path = tmp_path / "photos.csv"
    with open(path, "w", newline="") as f: csv.writer(f).writerows([("image", "label", "plant", "crop"), *rows])
    return path


def make_folder(tmp_path):
    "The same kind of photographs as a folder with one subfolder for each class, of which nothing else is known."
    rng = np.random.default_rng(4)
    for label, sick in (("sick", True), ("sound", False)):
        (tmp_path / "mine" / label).mkdir(parents=True)
        for i in range(8): _photo(rng, sick, False).save(tmp_path / "mine" / label / f"{i}.jpg")
    return tmp_path / "mine"
