"""Texts of figures stay inside them and apart, however long the names of runs are."""

import pytest

from analysis.drawing import fitted, legend_below, new_figure, set_suptitle, set_title, styled

NAMES = [f"ESVAE, 1 epoch of 100 images (cifar10-esvae-paper-fast-seed4{k}-of-another-width)" for k in (2, 3)]


@styled
@pytest.mark.parametrize("size", [(6.0, 4.0, 1, 1), (7.0, 3.2, 1, 2), (8.0, 5.0, 2, 2)])
def test_titles_and_legends_of_long_names_are_whole(size: tuple[float, float, int, int]) -> None:
    figure, axes = new_figure(*size)
    for axis in axes.flat:
        set_title(axis, f"{NAMES[0]}\nrates of all images and units")
    for name in NAMES:
        axes[0, 0].plot([0, 1], label=name)
    legend_below(figure, axes[0, 0])
    set_suptitle(figure, " beside ".join(NAMES))
    figure.draw_without_rendering()
    titles = [text.get_window_extent() for text in (figure._suptitle, *(axis.title for axis in axes.flat))]
    texts = [*titles, figure.legends[0].get_window_extent()]
    for k, text in enumerate(texts):
        assert 0 <= text.x0 < text.x1 <= figure.bbox.width and 0 <= text.y0 < text.y1 <= figure.bbox.height
        assert not any(text.overlaps(other) for other in texts[:k])


def test_a_short_text_stays_as_it_is_and_a_long_word_is_broken() -> None:
    assert fitted("ESVAE, 3 epochs\ntraining", 3) == "ESVAE, 3 epochs\ntraining"
    assert max(map(len, fitted("x" * 99, 1.45).split("\n"))) == 20
