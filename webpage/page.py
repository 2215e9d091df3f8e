"""The page: three tabs, and the server that gives it to browsers."""

from pathlib import Path

import gradio as gr
from fastapi import FastAPI

from webpage import compare_tab, speak_tab, training_tab
from webpage.backend import Backend

TITLE = "Text to speech"
FOLDER = Path(__file__).parent
MAX_UPLOAD = "10mb"  # what `check_upload` takes
# the fonts of the browser: others would be fetched from elsewhere
THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def build_page(backend: Backend) -> gr.Blocks:
    """The page's layout, whose parts fill themselves when the backend is ready."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(f"# {TITLE}")
        with gr.Tabs():
            with gr.Tab("Speak") as speak:
                speak_tab.build(backend, page)
            with gr.Tab("Training") as training:
                timer = training_tab.build(backend, training)
            with gr.Tab("Compare") as compare:
                compare_tab.build(backend, page, compare)
        for other in (speak, compare):
            other.select(lambda: gr.Timer(active=False), None, timer, show_progress="hidden", api_visibility="private")
    return page


def create_app(backend: Backend) -> FastAPI:
    """The page and the clips that it links to."""
    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(backend.clips.router())
    page = build_page(backend).queue(max_size=32)
    script = (FOLDER / "player.js").read_text(encoding="utf-8")
    return gr.mount_gradio_app(
        app, page, path="/", theme=THEME, css_paths=FOLDER / "page.css",
        head=f'<script type="module">{script}</script>', max_file_size=MAX_UPLOAD, footer_links=[], run_history=False,
        ssr_mode=False, mcp_server=False, pwa=False, enable_monitoring=False, show_error=True,
    )
