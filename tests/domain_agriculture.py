"Data of one's own for the recipe of the lesson on agriculture; see `domains6_agriculture`."
from domains6_agriculture import make_agriculture as make  # noqa: F401
