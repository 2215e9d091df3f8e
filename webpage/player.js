// <speech-player src="clips/KEY/NAME.wav" title="..." [live rate="22050"]>: a browser's audio element; a live one is
// first heard through Web Audio while it is being made, because audio elements wait for seconds of a wav to begin.
// What it shows is in a shadow tree: the page's own updates leave that alone, and change the attributes at most.
const contexts = {};

// a browser lets sound begin only with something that a person did
document.addEventListener("click", () => Object.values(contexts).forEach((context) => context.resume()), true);

class SpeechPlayer extends HTMLElement {
  static observedAttributes = ["src", "title"];

  constructor() {
    super();
    this.heading = document.createElement("div");
    this.heading.style.fontWeight = 600;
    this.audio = Object.assign(document.createElement("audio"), { controls: true, preload: "auto" });
    this.audio.style.width = "100%";
    this.audio.addEventListener("play", () => this.silence());
    this.attachShadow({ mode: "open" }).append(this.heading, this.audio);
  }

  attributeChangedCallback() {
    if (this.changing) return;
    this.changing = true;
    queueMicrotask(() => {  // when all of them are changed
      this.changing = false;
      this.heading.textContent = this.title;
      const src = this.getAttribute("src");
      if (src === this.src) return;
      this.src = src;
      this.silence();
      if (this.hasAttribute("live")) this.playLive(src, Number(this.getAttribute("rate")));
      else this.showWhole();
    });
  }

  disconnectedCallback() {
    this.silence();
  }

  showWhole() {
    this.audio.src = this.src;
    this.dataset.state = "whole";
  }

  async playLive(src, rate) {
    const context = (contexts[rate] ??= new AudioContext({ sampleRate: rate, latencyHint: "interactive" }));
    context.resume();
    const gain = (this.gain = context.createGain());
    gain.connect(context.destination);
    this.audio.removeAttribute("src");
    this.dataset.state = "live";
    let rest = new Uint8Array(0), header = 44, next = 0, heard = 0;
    const reader = (await fetch(src)).body.getReader();
    for (let block; !(block = await reader.read()).done; ) {
      const bytes = new Uint8Array(rest.length + block.value.length);
      bytes.set(rest);
      bytes.set(block.value, rest.length);
      const begin = Math.min(header, bytes.length);
      header -= begin;
      const count = (bytes.length - begin) >> 1;
      rest = bytes.slice(begin + 2 * count);
      if (!count || this.gain !== gain) continue;
      const view = new DataView(bytes.buffer, begin);
      const buffer = context.createBuffer(1, count, rate);
      const samples = buffer.getChannelData(0);
      for (let i = 0; i < count; i++) samples[i] = view.getInt16(2 * i, true) / 32768;
      const source = context.createBufferSource();
      source.buffer = buffer;
      source.connect(gain);
      next = Math.max(next, context.currentTime + 0.02);
      source.start(next);
      const wait = next - context.currentTime + (context.outputLatency || 0);
      if (!heard) this.dataset.firstSound = performance.now() + 1000 * wait;
      next += buffer.duration;
      this.dataset.heard = heard += buffer.duration;
    }
    if (this.src === src) this.showWhole();
  }

  silence() {
    this.gain?.disconnect();
    this.gain = null;
  }
}

customElements.define("speech-player", SpeechPlayer);
