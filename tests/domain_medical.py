"Scans for *Take it to your domain* of the lesson on medical images: a CSV with patients, images of several modes and sizes."
import numpy as np
from PIL import Image


def scan(rng, ill, side=72):
    "Noise with bright stripes in the ill, and with bright spots in the others: float (side, side) from 0 to 1."
    picture = rng.uniform(0.2, 0.5, (side, side))
    for start in rng.integers(0, side - 6, 8):
        if ill: picture[start:start + 3] += 0.4
        else: picture[start:start + 5, (at := rng.integers(side - 5)):at + 5] += 0.4
    return picture.clip(0, 1)


def as_mode(picture, mode):
    "The picture as a PIL image: grey, RGB, RGBA or with 16 bits."
    if mode == "16": return Image.fromarray((picture * 65535).astype(np.uint16))
    return Image.fromarray((picture * 255).astype(np.uint8)).convert(mode)


def make(tmp_path):
    "The path of a CSV of 24 patients with two scans each; half of the patients are ill."
    rng, lines = np.random.default_rng(0), ["image,label,patient"]
    for patient in range(24):
        for n in range(2):
            name, ill = f"p{patient}-{n}.png", patient % 2
            as_mode(scan(rng, ill, 64 + 8 * n), ("L", "RGB", "RGBA", "16")[patient % 4]).save(tmp_path / name)
            lines.append(f"{name},{'ill' if ill else 'healthy'},p{patient}")
    path = tmp_path / "scans.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
