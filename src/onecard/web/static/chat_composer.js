// Where a message is written: text with its draft, pictures, speech.

import { $, action, el, fill, headers, refusal, t, toast } from "./api.js";

const MAX_PICTURES = 8;
const MAX_PICTURE_BYTES = 10 * 2 ** 20;
const MAX_SPEECH_S = 15 * 60;
const TYPES = ["image/png", "image/jpeg", "image/webp"];

export class Composer {
  /** `send({text, pictures})` is awaited and keeps what was written where it throws; `stop()` ends
   *  the answer; `sees()`: whether the model takes pictures; `offerVision()` turns to one that
   *  does. */
  constructor({ send, stop, sees, offerVision }) {
    Object.assign(this, { send, stop, sees, offerVision });
    this.text = $("#question");
    this.pictures = [];
    this.draftKey = "";
    this.busy = false;
    $("#composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    $("#stop").addEventListener("click", action(() => stop()));
    this.text.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229) return; // an input method is choosing a word
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        this.submit();
      }
      if (event.key === "Escape" && !$("#stop").hidden) $("#stop").click();
    });
    let timer = null;
    this.text.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.keepDraft(), 400);
      this.grow();
    });
    addEventListener("pagehide", () => this.keepDraft());
    this.text.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files || [])];
      if (files.length) {
        event.preventDefault();
        this.attach(files);
      }
    });
    $("#attach").addEventListener("click", () => $("#picture-input").click());
    $("#picture-input").addEventListener("change", (event) => {
      this.attach([...event.target.files]);
      event.target.value = "";
    });
    this.listenToDrops();
    this.speech = new Speech((text) => this.insert(text));
  }

  listenToDrops() {
    const main = $("#chat-main"), box = $("#composer-box");
    const hasFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
    main.addEventListener("dragover", (event) => {
      if (hasFiles(event)) {
        event.preventDefault();
        box.classList.add("drop");
      }
    });
    main.addEventListener("dragleave", (event) => {
      if (!main.contains(event.relatedTarget)) box.classList.remove("drop");
    });
    main.addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      box.classList.remove("drop");
      this.attach([...event.dataTransfer.files]);
    });
  }

  /** Browsers without field-sizing: as many rows as lines. */
  grow() {
    if (!CSS.supports("field-sizing", "content")) {
      this.text.rows = Math.min(12, this.text.value.split("\n").length);
    }
  }

  async submit() {
    const text = this.text.value;
    if (this.busy || !$("#stop").hidden || (!text.trim() && !this.pictures.length)) return;
    this.busy = true;
    $("#send").disabled = true;
    try {
      await this.send({ text, pictures: this.pictures });
      this.text.value = "";
      this.clearPictures();
      this.keepDraft();
      this.grow();
    } catch (fault) {
      toast(fault);
    } finally {
      this.busy = false;
      $("#send").disabled = false;
    }
  }

  answering(is) {
    $("#stop").hidden = !is;
    $("#send").hidden = is;
  }

  insert(text) {
    const field = this.text, before = field.value.slice(0, field.selectionStart);
    const gap = before && !/\s$/.test(before) ? " " : "";
    field.setRangeText(gap + text, field.selectionStart, field.selectionEnd, "end");
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.focus();
  }

  // A draft outlives a reload

  load(key) {
    this.keepDraft();
    this.draftKey = key;
    this.clearPictures();
    let draft = "";
    try {
      draft = localStorage.getItem(key) || "";
    } catch { /* storage is off */ }
    this.text.value = draft;
    this.grow();
  }

  keepDraft() {
    if (!this.draftKey) return;
    try {
      if (this.text.value.trim()) {
        localStorage.setItem(this.draftKey, this.text.value.slice(0, 50000));
      } else localStorage.removeItem(this.draftKey);
    } catch { /* storage is off or full */ }
  }

  // Pictures

  attach(files) {
    const pictures = files.filter((file) => TYPES.includes(file.type));
    if (pictures.length < files.length) {
      toast(t("Only PNG, JPEG and WebP pictures can be attached."));
    }
    if (!pictures.length) return;
    if (!this.sees()) {
      toast(t("This model sees no pictures."), {
        text: t("Take one that does"),
        run: async () => {
          await this.offerVision();
          this.attach(files);
        },
      });
      return;
    }
    for (const file of pictures) {
      if (file.size > MAX_PICTURE_BYTES) {
        toast(t("{name} is larger than 10 MiB.", { name: file.name }));
      } else if (this.pictures.length >= MAX_PICTURES) {
        toast(t("At most {n} pictures in one message.", { n: MAX_PICTURES }));
        break;
      } else this.pictures.push({ file, url: URL.createObjectURL(file) });
    }
    this.drawPictures();
  }

  clearPictures() {
    for (const { url } of this.pictures) URL.revokeObjectURL(url);
    this.pictures = [];
    this.drawPictures();
  }

  drawPictures() {
    $("#attached").hidden = !this.pictures.length;
    fill(
      $("#attached"),
      this.pictures.map((row) =>
        el(
          "li",
          {},
          el("img", { src: row.url, alt: row.file.name }),
          el("button", {
            type: "button",
            "aria-label": t("Remove {name}", { name: row.file.name }),
            onclick: () => {
              URL.revokeObjectURL(row.url);
              this.pictures = this.pictures.filter((each) => each !== row);
              this.drawPictures();
              this.text.focus();
            },
          }, "×"),
        )
      ),
    );
  }
}

/** The microphone: records, sends, gives the text. */
class Speech {
  constructor(give) {
    this.give = give;
    this.button = $("#microphone");
    this.note = $("#voice");
    this.recorder = null;
    this.request = null;
    this.button.addEventListener("click", () => this.toggle());
    $("#transcribe-file").addEventListener("click", () => {
      $("#all-menu").hidePopover();
      $("#sound-input").click();
    });
    $("#sound-input").addEventListener("change", (event) => {
      const file = event.target.files[0];
      event.target.value = "";
      if (file) this.send(file);
    });
  }

  async toggle() {
    if (this.request) {
      this.request.abort();
      return;
    }
    if (this.recorder) {
      this.recorder.stop();
      return;
    }
    if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) {
      toast(
        t(
          "The browser gives this page no microphone: open it on this machine (127.0.0.1) " +
            "or over https.",
        ),
      );
      return;
    }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch {
      toast(t("The microphone is not there, or the browser was told to keep it closed."));
      return;
    }
    this.record(stream);
  }

  record(stream) {
    const pieces = [], begin = performance.now();
    const recorder = this.recorder = new MediaRecorder(stream);
    const tick = setInterval(() => {
      const seconds = Math.round((performance.now() - begin) / 1000);
      this.note.textContent = t("Listening … {n} s", { n: seconds });
      if (seconds >= MAX_SPEECH_S) recorder.stop();
    }, 1000);
    this.note.textContent = t("Listening …");
    this.draw(true);
    recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
    recorder.addEventListener("stop", () => {
      clearInterval(tick);
      for (const track of stream.getTracks()) track.stop();
      this.recorder = null;
      this.send(new Blob(pieces, { type: recorder.mimeType }));
    });
    recorder.start();
  }

  draw(active) {
    this.button.setAttribute("aria-pressed", String(active));
    const label = active ? t("Stop listening") : t("Speak");
    this.button.setAttribute("aria-label", label);
    this.button.title = label;
  }

  async send(sound) {
    this.draw(false);
    this.note.textContent = t("Transcribing …");
    this.request = new AbortController();
    try {
      const reply = await fetch("/api/transcriptions", {
        method: "POST",
        headers: headers(),
        body: sound,
        signal: this.request.signal,
      });
      if (!reply.ok) throw await refusal(reply);
      const { text } = await reply.json();
      if (text.trim()) this.give(text.trim());
      else toast(t("No speech was heard."));
    } catch (fault) {
      if (fault.name !== "AbortError") toast(fault);
    } finally {
      this.request = null;
      this.note.textContent = "";
    }
  }
}
