"""The tab that speaks a text."""

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from webpage.asked import Request, Snapshot
from webpage.backend import Backend, mistakes_told
from webpage.clips import download_links, player
from webpage.examples import example, language_label

SLIDERS = {
    "rate": ("Speed", "times as fast"),
    "pitch": ("Pitch", "semitones higher"),
    "energy": ("Energy", "decibels louder, as the voice would say it"),
    "temperature": ("Temperature", "0 always takes the most likely code"),
    "top_k": ("Top k", "the k most likely codes alone; 0 is off"),
    "top_p": ("Top p", "the most likely codes of so much probability; 1 is off"),
    "retries": ("Retries", "of a part that did not end well, where it is not played while it is made"),
}
"""Every slider that some system follows: its label and what it does."""
REFERENCE_HELP = ("A few seconds of one speaker, and the words that are said in them, in the language chosen above. "
                  "The model goes on in this voice.")
SILENCE = "() => document.querySelectorAll('speech-player').forEach((player) => player.silence())"
WORD_HEADERS = ["word", "begins, s", "ends, s"]


def build(backend: Backend, page: gr.Blocks) -> None:
    """Lays out the tab and connects it."""
    with gr.Row():
        with gr.Column(scale=5):
            text = gr.Textbox(label="Text", lines=4, max_lines=12, autofocus=True, elem_id="text",
                              placeholder="What is to be said")
            with gr.Row():
                stop = gr.Button("Stop", elem_id="stop")
                start = gr.Button("Loading the model ...", variant="primary", interactive=False, elem_id="speak")
            examples = gr.Dataset(label="Examples", components=[gr.Textbox(visible=False)], samples=[], type="index",
                                  elem_id="examples")
            with gr.Row():
                model = gr.Dropdown([], label="Model", elem_id="model")
                language = gr.Dropdown([], label="Language", elem_id="language")
                speaker = gr.Dropdown([], label="Speaker", elem_id="speaker")
            with gr.Accordion("In the voice of a recording", open=False, visible=False) as of_recording:
                gr.Markdown(REFERENCE_HELP)
                reference = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Recording",
                                     buttons=[], elem_id="reference")
                reference_text = gr.Textbox(label="What it says", elem_id="reference-text")
            with gr.Accordion("How to speak", open=True):
                sliders = {name: gr.Slider(0, 1, label=label, info=info, visible=False, elem_id=name)
                           for name, (label, info) in SLIDERS.items()}
                seed = gr.Number(None, precision=0, label="Seed", visible=False, elem_id="seed",
                                 info="the same one gives the same speech; empty: another speech every time")
                live = gr.Checkbox(True, label="Play while it is being made", visible=False, elem_id="live")
        with gr.Column(scale=6):
            sound = gr.HTML(elem_id="sound")
            status = gr.Markdown("Press **Speak**.", elem_id="status", sanitize_html=True)
            picture = gr.Plot(show_label=False, elem_id="picture", visible=False)
            downloads = gr.HTML(elem_id="downloads")
            with gr.Accordion("When each word is said", open=False, visible=False) as times:
                words = gr.Dataframe(headers=WORD_HEADERS, interactive=False, elem_id="words", max_height=300)

    known = [language, examples, *sliders.values(), seed, live, of_recording, start]
    offered = page.load(lambda: _offered(backend), None, model, show_progress="hidden", api_visibility="private")
    for chosen in (offered.then, model.input):
        chosen(lambda name: _described(backend, name), model, known, show_progress="minimal", show_progress_on=model,
               api_visibility="private").then(
            lambda *values: _speakers(backend, *values), [model, language], speaker, show_progress="hidden",
            api_visibility="private")
    language.change(lambda *values: _speakers(backend, *values), [model, language], speaker, show_progress="hidden",
                    api_visibility="private")
    examples.click(lambda index, name: _example(backend, index, name), [examples, model], [text, language],
                   show_progress="hidden", api_visibility="private")

    def spoken(*values: Any) -> Iterator[list]:
        yield from _spoken(backend, *values)

    inputs = [model, text, language, speaker, reference, reference_text, seed, live, *sliders.values()]
    outputs = [sound, status, picture, downloads, times, words]
    speaking = gr.on([start.click, text.submit], spoken, inputs, outputs, show_progress="hidden",
                     concurrency_limit=1, concurrency_id="speech", api_visibility="private")
    stop.click(None, cancels=[speaking], js=SILENCE, queue=False, api_visibility="private")


def example_sentences(languages: list[str]) -> list[tuple[str, str]]:
    """(language, sentence) for every language that there is one in."""
    return [(language, sentence) for language in languages if (sentence := example(language))]


def _offered(backend: Backend) -> gr.Dropdown:
    """The models that there are, once the first one is loaded."""
    names = backend.models.names()
    return gr.Dropdown(names, value=names[0], visible=len(names) > 1)


def _described(backend: Backend, name: str) -> list:
    """What fits a model: languages, examples, and the controls that it follows."""
    with mistakes_told():
        abilities = backend.models.abilities(name)
    chosen = "en-us" if "en-us" in abilities.languages else abilities.languages[0]
    sentences = example_sentences(abilities.languages)
    shown = []
    for control in (abilities.controls.get(slider) for slider in SLIDERS):
        shown.append(gr.Slider(visible=False) if control is None else gr.Slider(
            control.minimum, control.maximum, value=control.value, step=control.step, visible=True))
    return [
        gr.Dropdown([(language_label(language), language) for language in abilities.languages], value=chosen),
        gr.Dataset(samples=[[sentence] for _, sentence in sentences], visible=bool(sentences),
                   sample_labels=[language_label(language) for language, _ in sentences]),
        *shown, gr.Number(None, visible=abilities.seed), gr.Checkbox(visible="retries" in abilities.controls),
        gr.Accordion(visible=abilities.reference), gr.Button("Speak", interactive=True),
    ]


def _speakers(backend: Backend, name: str, language: str) -> gr.Dropdown:
    """Who can be chosen: first whoever the model would take, then those who speak the language."""
    with mistakes_told():
        abilities = backend.models.abilities(name)
    speakers = abilities.speakers_of(language)
    choices = [(f"{speaker} ({abilities.speakers[speaker]})", speaker) for speaker in speakers]
    return gr.Dropdown([(f"whoever speaks it ({speakers[0]})", ""), *choices], value="")


def _example(backend: Backend, index: int, name: str) -> tuple[str, str]:
    language, sentence = example_sentences(backend.models.abilities(name).languages)[index]
    return sentence, language


def _spoken(
    backend: Backend, name: str, text: str, language: str, speaker: str, reference: str | None, reference_text: str,
    seed: int | None, live: bool, *values: float,
) -> Iterator[list]:
    """The outputs of the tab while a text is spoken."""
    speaking = backend.speaking
    request = Request(Snapshot(name), text, language, speaker, dict(zip(SLIDERS, values, strict=True)), seed, reference,
                      reference_text, live)
    unchanged = [gr.skip()] * 6
    spoken, begun = None, False
    with mistakes_told(reference):
        for spoken in speaking.speak(backend.models, backend.clips, request):
            # the player is set once: another time it would begin anew
            sound = gr.skip() if begun else player(spoken.wav)
            yield [sound, speaking.summary(spoken), *unchanged[2:]]
            begun = True
    lines = [speaking.summary(spoken), *(f"- {escape(line)}" for line in speaking.complaints(spoken.parts))]
    if why := speaking.untimed(spoken.parts):
        lines.append(f"- the times of its words are not known: {escape(why)}")
    rows = speaking.word_rows(spoken.parts)
    yield [gr.skip(), "\n".join([lines[0], "", *lines[1:]]), gr.Plot(speaking.picture(spoken), visible=True),
           download_links(speaking.files(spoken, backend.clips)), gr.Accordion(visible=bool(rows)), rows]
