import sys

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch.utils.tensorboard import SummaryWriter

import plot_curves
from plotting import curves_figure, mel_figure, save_figure, usage_figure
from training_logs import read_curves


def test_mel_figure_has_a_row_per_mel_on_one_scale():
    figure = mel_figure({"a": torch.zeros(80, 10), "b": torch.ones(80, 30)})
    images = [axes.images[0] for axes in figure.axes]
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    assert {image.get_clim() for image in images} == {(0.0, 1.0)}
    assert {axes.get_xlim() for axes in figure.axes} == {(0.0, 30.0)}


def test_curves_use_a_log_axis_only_for_positive_values_wide_apart():
    figure = curves_figure({"loss": {"a": ([1, 2], [20.0, 1.0]), "b": ([1], [2.0])},
                            "flat": {"": ([1, 2], [2.0, 1.9])}, "score": {"": ([1, 2], [-1.0, 9.0])}})
    assert [axes.get_yscale() for axes in figure.axes[:3]] == ["log", "linear", "linear"]
    assert not any(axes.axison for axes in curves_figure({"one": {"": ([1], [1.0])}}).axes[1:])


def test_usage_shows_the_codes_that_occur_by_frequency():
    axes = usage_figure({"a": torch.tensor([3, 0, 5]), "b": torch.tensor([0, 0, 1])}).axes[0]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[5, 3], [1]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a: 2 of 3 used", "b: 1 of 3 used"]


def test_save_figure_writes_a_png(tmp_path):
    save_figure(Figure(figsize=(2, 1)), tmp_path / "new" / "picture.png")
    assert imread(tmp_path / "new" / "picture.png").shape[:2] == (100, 200)


def test_curves_of_a_resumed_run_keep_the_later_value(tmp_path, monkeypatch):
    folder = tmp_path / "logs" / "model" / "llm"
    for values in ([3.0, 2.0], [1.5, 1.0]):
        with SummaryWriter(folder) as writer:
            for step, value in enumerate(values, start=1 if values[0] == 3.0 else 2):
                writer.add_scalar("training/llm", value, step)
                writer.add_scalar("training/learning_rate", 1.0, step)
    assert read_curves(folder)["training/llm"] == ([1, 2, 3], [3.0, 1.5, 1.0])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["plot_curves.py", "-m", "model", "-o", "curves.png"])
    plot_curves.main()
    assert (tmp_path / "curves.png").stat().st_size > 1000
    monkeypatch.setattr(sys, "argv", ["plot_curves.py", "-m", "model", "-o", "one.png", "--stages", "codec"])
    with pytest.raises(ValueError, match="no logs of codec; there are those of llm"):
        plot_curves.main()


def test_no_logs_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["plot_curves.py", "-m", "nobody", "-o", "curves.png"])
    with pytest.raises(ValueError, match="no TensorBoard logs"):
        plot_curves.main()
