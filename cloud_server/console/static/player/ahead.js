// The frames that are shown next: which there is time for, and their pictures, prepared in order and ahead.
import { BATCH } from "featherwire-player/log.js";

const AHEAD = 12; // frames that are prepared
const AHEAD_BYTES = 96e6; // of pictures that are decoded for them
const IN_FLIGHT = 2; // pictures asked for at a time
const SHOWN_S = 1 / 50; // frames that follow closer upon each other are passed over

export class Ahead {
  // words(error): what is told of it.
  constructor(log, pictures, words) {
    Object.assign(this, { log, pictures, words, plan: [], coming: 0 });
  }
  // The next one: a frame, and what it looks like as soon as that is there.
  get next() {
    return this.plan[0];
  }
  take() {
    return this.plan.shift();
  }
  // Nothing is prepared any more; what is under way is given up.
  clear() {
    for (const one of this.plan) {
      one.stop.abort();
      if (one.ready && one.ready.bitmap) one.ready.bitmap.close();
    }
    this.plan = [];
  }
  // Prepares what follows the frame that is shown; false: the log has to give more first.
  fill(shown, speed) {
    const [width, height] = shown.size;
    const most = Math.max(2, Math.min(AHEAD, Math.floor(AHEAD_BYTES / (4 * width * height + 1))));
    while (this.plan.length < most) {
      const next = this.following(this.plan.length ? this.plan.at(-1).frame : shown, speed);
      if (!next) break;
      this.plan.push({ frame: next, ready: null, begun: false, stop: new AbortController() });
    }
    for (const one of this.plan) {
      if (this.coming >= IN_FLIGHT) break;
      if (!one.begun) this.prepare(one);
    }
    const last = this.plan.length ? this.plan.at(-1).frame : shown;
    return this.log.frames.length - this.log.place(last) >= BATCH;
  }
  // The next frame that there is time for: at the speed that is wanted, and that pictures come at.
  following(from, speed) {
    const { frames, atEnd } = this.log;
    const least = Math.max(SHOWN_S, this.pictures.some(from) ? this.pictures.cost / IN_FLIGHT : 0) * speed;
    const start = this.log.place(from) + 1;
    if (!start) return null;
    for (let at = start; at < frames.length; at++) {
      const one = frames[at];
      const apart = one.at - from.at;
      if (one.session !== from.session || apart < 0 || apart >= least - 1e-3) return one;
    }
    return atEnd && start < frames.length ? frames.at(-1) : null;
  }
  async prepare(one) {
    one.begun = true;
    this.coming += 1;
    try {
      const ready = await this.pictures.prepared(one.frame, one.stop.signal);
      if (this.plan.includes(one)) one.ready = ready;
      else if (ready.bitmap) ready.bitmap.close();
    } catch (error) {
      if (error.name !== "AbortError") one.ready = { bitmap: null, problem: this.words(error), masks: "" };
    } finally {
      this.coming -= 1;
    }
  }
}
