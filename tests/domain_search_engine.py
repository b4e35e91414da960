"Texts of one's own for the recipe of *A search engine*: notes of a bakery and of a bicycle workshop, as a CSV."
import csv
import random

PARTS = {"bakery": ("sourdough starter rye flour water salt oven crust crumb proofing basket steam butter croissant yeast baguette dough shift "
                    "early morning counter customer tray cooling rack sesame walnut").split(),
         "workshop": ("derailleur chain cassette spoke rim tyre tube pump brake cable lever pedal crank bearing grease saddle handlebar fork "
                      "frame customer bench wheel truing hub dynamo lamp").split()}
ENDINGS = ("before we open", "and it took longer than planned", "so please check it twice", "as the supplier was late again", "which nobody had noticed")


def make(folder, n=40):
    "The path of a CSV with the columns text and label."
    rng, path = random.Random(0), folder / "notes.csv"
    with open(path, "w", newline="", encoding="utf-8") as f:
        out = csv.writer(f)
        out.writerow(["text", "label"])
        for i in range(n):
            label = list(PARTS)[i % 2]
            out.writerow([f"note {i} about {' '.join(rng.sample(PARTS[label], 14))} {rng.choice(ENDINGS)}", label])
    return path
