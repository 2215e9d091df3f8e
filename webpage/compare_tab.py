"""The tab in which several models, or steps of one, speak the same sentence."""

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from webpage.asked import Request, Snapshot
from webpage.backend import Backend, mistakes_told
from webpage.clips import player
from webpage.examples import example, language_label

MOST = 8
"""Models at a time."""


def build(backend: Backend, page: gr.Blocks, tab: gr.Tab) -> None:
    """Lays out the tab and connects it."""
    gr.Markdown("One sentence, spoken by several models or by earlier checkpoints of a stage of one, all of them with "
                "the same seed. The mels have one colour scale and one axis of time.")
    models = gr.Dropdown([], multiselect=True, max_choices=MOST, label="Models and checkpoints", elem_id="compared")
    with gr.Row():
        language = gr.Dropdown([], label="Language", allow_custom_value=True, elem_id="compared-language")
        speaker = gr.Dropdown([], label="Speaker", allow_custom_value=True, elem_id="compared-speaker")
        seed = gr.Number(1, precision=0, label="Seed", minimum=0, elem_id="compared-seed", min_width=80)
    with gr.Row(equal_height=True):
        text = gr.Textbox(example("en"), label="Sentence", scale=6, elem_id="compared-text")
        start = gr.Button("Compare", variant="primary", scale=1, elem_id="compare")
    cards = gr.HTML(elem_id="cards")
    picture = gr.Plot(show_label=False, visible=False, elem_id="compared-mels")

    filled = [models, language, speaker]
    page.load(lambda: _filled(backend), None, filled, show_progress="hidden", api_visibility="private")
    # models are trained while the page is open
    tab.select(lambda: gr.Dropdown(list(backend.models.snapshots())), None, models, show_progress="hidden",
               api_visibility="private")

    def compared(*values: Any) -> Iterator[list]:
        yield from _compared(backend, *values)

    gr.on([start.click, text.submit], compared, [models, text, language, speaker, seed], [cards, picture],
          show_progress="hidden", concurrency_limit=1, concurrency_id="speech", api_visibility="private")


def _filled(backend: Backend) -> list[gr.Dropdown]:
    """The choices, of languages and speakers those of the first model; others can be written."""
    labels = list(backend.models.snapshots())
    abilities = backend.models.abilities(backend.models.names()[0])
    languages = [(language_label(language), language) for language in abilities.languages]
    chosen = "en-us" if "en-us" in abilities.languages else abilities.languages[0]
    return [gr.Dropdown(labels, value=labels[:2]), gr.Dropdown(languages, value=chosen),
            gr.Dropdown([("whoever speaks it", ""), *abilities.speakers], value="")]


def _compared(
    backend: Backend, labels: list[str], text: str, language: str, speaker: str, seed: int
) -> Iterator[list]:
    """A card of each, as soon as it has spoken; the picture when all have."""
    with mistakes_told():
        if not labels:
            raise ValueError("choose at least one model to hear")
        if not text.strip():
            raise ValueError("write a sentence to speak first")
    cards, waves = [], {}
    for label in labels[:MOST]:
        yield [_grid([*cards, _card(label, "Speaking ...")]), gr.skip()]
        try:
            snapshot = backend.models.snapshots().get(label, Snapshot(label))
            spoken = _whole(backend, Request(snapshot, text, language, speaker, seed=seed, live=False))
        except ValueError as error:
            # the others may still speak
            cards.append(_card(label, f'<span class="wrong">{escape(str(error))}</span>'))
            continue
        waves[label] = spoken.samples, spoken.synthesizer
        cards.append(_card(label, player(spoken.wav), _figures(backend, spoken)))
    yield [_grid(cards), gr.Plot(backend.speaking.mels_picture(waves), visible=True) if waves
           else gr.Plot(visible=False)]


def _whole(backend: Backend, request: Request) -> Any:
    """What was spoken, when it is complete."""
    *_, spoken = backend.speaking.speak(backend.models, backend.clips, request)
    return spoken


def _figures(backend: Backend, spoken: Any) -> str:
    """What was measured."""
    rows = {
        "speech": f"{spoken.seconds:.2f} s",
        "made in": f"{spoken.wall_seconds:.2f} s",
        "times real time": f"{spoken.seconds / spoken.wall_seconds:.1f}",
        "ended by": ", ".join(dict.fromkeys(part.finish_reason for part in spoken.parts)),
        "spoken again": str(sum(part.retries for part in spoken.parts)),
    }
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows.items()) + "</dl>"


def _card(title: str, *content: str) -> str:
    return f'<div class="card"><h4>{escape(title)}</h4>{"".join(content)}</div>'


def _grid(cards: list[str]) -> str:
    return f'<div class="cards">{"".join(cards)}</div>'
