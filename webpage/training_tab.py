"""The tab that follows a training run by its TensorBoard logs."""

import time
from functools import lru_cache
from html import escape
from pathlib import Path

import gradio as gr

from plotting import curves_figure
from training_logs import Progress, RunLog, Sample, grouped, is_loss, run_names
from webpage.backend import Backend
from webpage.clips import player

REFRESH_SECONDS = 10.0
QUIET_SECONDS = 600.0
"""A run that has written nothing for so long may not be running any more."""


def build(backend: Backend, tab: gr.Tab) -> gr.Timer:
    """Lays out the tab and connects it; the timer, begun when the tab is chosen, has it look for news."""
    with gr.Row():
        run = gr.Dropdown([], label="Run", scale=3, elem_id="run")
        smoothing = gr.Slider(0, 0.99, value=0.8, step=0.01, label="Smoothing", scale=2, elem_id="smoothing")
        everything = gr.Checkbox(False, label="All figures", scale=1, min_width=140, elem_id="everything",
                                 info="speed, learning rate, gradients, ...")
    progress = gr.HTML("No run is chosen.", elem_id="progress")
    curves = gr.Plot(show_label=False, visible=False, elem_id="curves")
    samples = gr.HTML(elem_id="samples")
    seen = gr.State(None)
    timer = gr.Timer(REFRESH_SECONDS, active=False)

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    tab.select(lambda name: _runs(backend, name), run, [run, timer], **quiet)
    gr.on([timer.tick, run.change, smoothing.release, everything.change], lambda *values: _shown(backend, *values),
          [run, smoothing, everything, seen], [progress, curves, samples, seen], **quiet)
    return timer


def _runs(backend: Backend, chosen: str | None) -> list:
    """What runs there are; the last written one unless another is chosen."""
    names = run_names(backend.logs)
    value = chosen if chosen in names else names[0] if names else None
    return [gr.Dropdown(names, value=value), gr.Timer(active=True)]


def _shown(backend: Backend, name: str | None, smoothing: float, everything: bool, seen: tuple | None) -> list:
    """The run's progress and, if it is not what was `seen`, everything else."""
    if name not in run_names(backend.logs):
        return _nothing(f"There is no training run under {escape(str(backend.logs))} yet.")
    log = followed(backend.logs / name)
    with log.lock:
        log.reload()
        curves, samples = log.curves(), [*log.sounds(), *log.pictures()]
        if not curves:
            return _nothing("It has begun; its first figures come with the first validation.")
        progress = log.progress()
    drawn = name, smoothing, everything, sum(len(steps) for steps, _ in curves.values())
    heard = name, tuple((sample.name, sample.step) for sample in samples)
    # what has not changed must neither flicker nor be silenced while it is heard
    drawn_before, heard_before = seen or (None, None)
    wanted = grouped({tag: curve for tag, curve in curves.items() if everything or is_loss(tag)})
    plot = gr.skip() if drawn == drawn_before else gr.Plot(curves_figure(wanted, smoothing=smoothing), visible=True)
    listed = gr.skip() if heard == heard_before else samples_html(backend, samples)
    return [progress_html(progress, time.time()), plot, listed, (drawn, heard)]


def _nothing(why: str) -> list:
    return [why, gr.Plot(visible=False), "", None]


@lru_cache(maxsize=8)
def followed(folder: Path) -> RunLog:
    """The log of a folder, of which only what is new is read the next time."""
    return RunLog(folder)


def progress_html(progress: Progress, now: float) -> str:
    """Step, speed, learning rate, and when it will be finished or how it ended; `now` in seconds since the epoch."""
    of = f" of {progress.max_steps}" if progress.max_steps else ""
    facts = {"step": f"{progress.step}{of}"}
    if progress.steps_per_second is not None:
        facts["steps a second"] = f"{progress.steps_per_second:.3g}"
    if progress.learning_rate is not None:
        facts["learning rate"] = f"{progress.learning_rate:.3g}"
    quiet = now - progress.written
    if progress.ended:
        facts["it has"] = f"{progress.ended}, {duration(quiet)} ago"
    else:
        if progress.seconds_left is not None and quiet < QUIET_SECONDS:
            clock = time.strftime("%H:%M", time.localtime(now + progress.seconds_left))
            facts["finished in"] = f"about {duration(progress.seconds_left)}, at {clock}"
        facts["last news"] = f"{duration(quiet)} ago" + (" - is it still running?" if quiet >= QUIET_SECONDS else "")
    bar = f'<progress max="{progress.max_steps}" value="{progress.step}"></progress>' if progress.max_steps else ""
    return bar + '<div class="facts">' + "".join(
        f"<span><b>{escape(value)}</b> {name}</span>" if name == "steps a second" else
        f"<span>{name} <b>{escape(value)}</b></span>" for name, value in facts.items()) + "</div>"


def duration(seconds: float) -> str:
    """As one reads it: 40 s, 12 min, 3 h 20 min, 2 days."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 2 * 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} days"


def samples_html(backend: Backend, samples: list[Sample]) -> str:
    """Players of the sounds and, below, the pictures."""
    parts = []
    for sample in samples:
        title, name = f"{sample.name}, step {sample.step}", sample.name.replace("/", "_")
        if sample.content.startswith(b"RIFF"):
            parts.append(player(backend.clips.file(f"{name}_{sample.step}.wav", "audio/wav", sample.content), title))
        else:
            clip = backend.clips.file(f"{name}_{sample.step}.png", "image/png", sample.content)
            parts.append(f'<figure><img src="{escape(clip.url)}" alt="{escape(title)}">'
                         f"<figcaption>{escape(title)}</figcaption></figure>")
    return f'<div class="samples">{"".join(parts)}</div>'
