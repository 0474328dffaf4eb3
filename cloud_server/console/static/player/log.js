// The part of a device's log that is remembered: frames in the order they were sent in, which results need
// not come in; it grows at both ends as it is wanted there, and what is far behind is forgotten.
export const BATCH = 60; // frames asked for at a time
const WINDOW = 400; // frames that are remembered
const BEHIND = 60; // of those, before the one that is shown
const AGAIN_MS = 1000;
const OUT_OF_ORDER = 32; // places that a frame may be behind those it was sent before

export class FrameLog {
  // ask(query): a batch of frames of the log. learn(frames): called with what has come. failed(error): with
  // why nothing did; it is tried again a second later at the earliest.
  constructor(ask, learn, failed) {
    Object.assign(this, { ask, learn, failed, turn: 0 });
    this.forget();
  }
  forget() {
    this.turn += 1; // what is on its way is not taken any more
    Object.assign(this, { frames: [], loading: null, atEnd: false, atStart: false, head: 0, tail: 0 });
  }
  get newest() {
    return this.frames.at(-1);
  }
  place(frame) {
    return frame ? this.frames.findIndex((one) => one.cursor === frame.cursor) : -1;
  }
  // The frame whose values an unchanged one has, as far as it is remembered, at the same state.
  like(frame) {
    if (frame.unchanged === null) return frame;
    const found = this.frames.find((one) => one.sequence === frame.unchanged && one.session === frame.session);
    return found && found.state === frame.state ? found : frame;
  }
  // The frame of a second, from here or from the log.
  find(second) {
    const { frames } = this;
    if (!frames.length || second < frames[0].done || second > this.newest.done) return this.read({ since: second });
    return frames.find((one) => one.done >= second - 1e-6);
  }
  // A window of the log in place of the one that is remembered; its first frame, or its last one.
  async read(query) {
    const turn = ++this.turn;
    this.loading = null;
    const answer = await this.ask({ count: BATCH, ...query });
    if (turn !== this.turn) return null;
    const back = "before" in query;
    const frames = joined([], answer.frames);
    if (!frames.length) return back || !("since" in query) ? null : this.read({ before: 0 });
    this.frames = frames;
    this.head = answer.frames[0].cursor;
    this.tail = answer.frames.at(-1).cursor;
    this.atEnd = back ? query.before === 0 : answer.end;
    this.atStart = back ? answer.end : query.after === 0;
    this.learn(frames);
    return back ? frames.at(-1) : frames[0];
  }
  // What comes behind the window, or (back) before it. shown: the frame that must stay.
  more(back, shown) {
    if (this.loading || (back ? this.atStart : this.atEnd)) return this.loading;
    const turn = this.turn;
    const query = back ? { before: this.head } : { after: this.tail };
    this.loading = this.ask({ count: BATCH, ...query })
      .then((answer) => {
        if (turn !== this.turn) return;
        if (back) this.prepend(answer);
        else this.append(answer, shown);
        this.learn(answer.frames);
      })
      .catch((error) => {
        this.failed(error);
        return new Promise((later) => setTimeout(later, AGAIN_MS));
      })
      .finally(() => {
        if (turn === this.turn) this.loading = null;
      });
    return this.loading;
  }
  prepend({ frames, end }) {
    this.atStart = end;
    if (frames.length) this.head = frames[0].cursor;
    this.frames = joined(joined([], frames), this.frames).slice(0, 2 * WINDOW);
    if (this.tail !== this.newest.cursor && this.frames.length === 2 * WINDOW) {
      this.tail = this.newest.cursor;
      this.atEnd = false;
    }
  }
  append({ frames, end }, shown) {
    this.atEnd = end;
    if (frames.length) this.tail = frames.at(-1).cursor;
    this.frames = joined(this.frames, frames);
    const cut = Math.min(this.frames.length - WINDOW, this.place(shown) - BEHIND);
    if (cut <= 0) return;
    this.frames.splice(0, cut);
    this.head = this.frames[0].cursor;
    this.atStart = false;
  }
}

// Frames in the order they were sent in; and each once, also where it was refined and has several results.
function joined(before, behind) {
  const found = [...before];
  const seen = new Set(found.map((one) => `${one.session} ${one.sequence}`));
  for (const one of behind) {
    const name = `${one.session} ${one.sequence}`;
    if (seen.has(name)) continue;
    seen.add(name);
    let at = found.length;
    const least = Math.max(0, at - OUT_OF_ORDER);
    while (at > least && found[at - 1].session === one.session && found[at - 1].sequence > one.sequence) at--;
    found.splice(at, 0, one);
  }
  return found;
}
