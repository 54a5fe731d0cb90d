import string

from optimization.cascade.cost import CostPoint
from optimization.cascade.plots import MARKERS, Spot, draw_cost


def test_every_model_is_drawn_however_many_there_are() -> None:
    names = string.ascii_lowercase[: len(MARKERS) + 3]
    singles = [Spot(name, 1.0 + place, 0.9) for place, name in enumerate(names)]
    fields = CostPoint.__dataclass_fields__
    point = CostPoint(**dict.fromkeys(fields, 0.5))
    figure = draw_cost([point], singles, Spot("pair", 1.5, 0.95), best="b", where="ms")
    told = [text.get_text().partition("\n")[0] for text in figure.axes[0].get_legend().get_texts()]
    assert set(names) <= set(told)
    figure.canvas.draw()
    inside, whole = figure.axes[0].get_legend().get_window_extent(), figure.bbox
    assert 0 <= inside.y0 < inside.y1 <= whole.y1, "no name is cut off"
