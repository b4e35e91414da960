"A small CSV for the recipe of the lesson on anomalies: orders of a kitchen are normal, and a few letters about money are not."
import csv
import random

DISHES, WAYS, SIDES = "soup trout lentils omelette risotto cabbage dumplings salad".split(), "fried boiled baked smoked raw grilled".split(), "rice bread beans leeks butter".split()
LETTERS = ["Your invoice {} is overdue and a fee was added to the account", "The bank has refused transfer {} and asks for a signature",
           "Please confirm the tax return {} before the end of the quarter", "Shares of fund {} were sold at a loss this morning"]


def make(folder):
    rng = random.Random(0)
    orders = [f"Table {i}: {rng.choice(WAYS)} {rng.choice(DISHES)} with {rng.choice(SIDES)}, and {rng.choice(WAYS)} {rng.choice(DISHES)} after it" for i in range(60)]
    letters = [rng.choice(LETTERS).format(100 + i) for i in range(12)]
    with open(folder / "mine.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("text", "label"), *((t, "order") for t in orders), *((t, "letter") for t in letters)])
    return folder / "mine.csv"
