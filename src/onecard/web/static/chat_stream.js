// The answer that is being made: the events of its message, drawn as they come.

/** `done(state)` after its last word, `lost()` where the server gives no more, `closed(stream)` in
 * any case. */
export class Stream {
  constructor(chat, view, { done, lost, closed }) {
    this.view = view;
    this.address = `/api/chats/${chat}/messages/${view.message.id}/events`;
    Object.assign(this, { done, lost, closed });
    this.visible = () => (document.hidden ? this.pause() : this.open());
    document.addEventListener("visibilitychange", this.visible);
    this.open();
  }

  open() {
    if (this.source) return;
    // browsers allow six connections to a server: a hidden page gives its own back
    this.source = new EventSource(this.address);
    this.source.addEventListener("message", (event) => this.take(JSON.parse(event.data)));
    this.source.addEventListener("error", () => {
      if (this.source?.readyState === EventSource.CLOSED) {
        this.close();
        this.lost();
      }
    });
  }

  pause() {
    this.source?.close();
    this.source = null;
  }

  close() {
    this.pause();
    document.removeEventListener("visibilitychange", this.visible);
    this.closed(this);
  }

  take(row) {
    const view = this.view, message = view.message;
    message.content = message.content.slice(0, row.from) + row.text;
    message.html = row.html;
    if (row.model) message.model = row.model;
    const ended = ["complete", "stopped", "failed"].includes(row.state);
    if (!ended) {
      view.drawText(message.content, row.html);
      view.progress(row.state, row.note);
      return;
    }
    Object.assign(message, { status: row.state, stats: row.stats || {}, error: row.error });
    view.draw();
    this.close();
    this.done(row.state);
  }
}
