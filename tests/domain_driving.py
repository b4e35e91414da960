"A small folder of pictures of one's own for the recipe of the lesson on driving: other signs than the lesson's, in mixed sizes and modes."
import numpy as np
from PIL import Image, ImageDraw

SHAPES = {"arrow": [(10, 40), (40, 40), (40, 20), (70, 50), (40, 80), (40, 60), (10, 60)], "bar": [(15, 42), (65, 42), (65, 58), (15, 58)],
          "roof": [(40, 15), (72, 70), (8, 70)]}


def one(points, rng):
    "A shape in some colour on noise, moved a little."
    image = Image.fromarray(rng.integers(90, 150, (90, 80, 3), np.uint8))
    moved = [(x + rng.integers(-5, 6), y + rng.integers(-5, 6)) for x, y in points]
    ImageDraw.Draw(image).polygon(moved, fill=tuple(rng.integers(0, 60, 3).tolist()))
    return image


def variants(image, i):
    "As it is, in grey, with transparency, in 16 bits, or of another size: a real folder has them all."
    if i == 1: return image.convert("L")
    if i == 2: return image.convert("RGBA")
    if i == 3: return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.resize((200, 61)) if i == 4 else image


def make(tmp_path):
    "Three classes of nine pictures; returns the folder."
    rng, root = np.random.default_rng(5), tmp_path / "my signs"
    for name, points in SHAPES.items():
        (root / name).mkdir(parents=True)
        for i in range(9): variants(one(points, rng), i).save(root / name / f"{i}.png")
    return root
